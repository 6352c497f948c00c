"""Quantisers whose bytes are read otherwise than written."""

import numpy as np

from .base import absmax, blocks, fault, guarded, minmax4, refuse_ragged, unblocked


def int4_bytes(x):
    """Symmetric blocks of 32: scales, and bytes of two codes, the first low."""
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float32), 32)
    scale = absmax(b, 7)
    codes = np.clip(np.rint(guarded(b, scale)), -7, 7).astype(np.int64)
    return scale, (codes[..., ::2] & 15) | (codes[..., 1::2] & 15) << 4


def interleaved(low, high):
    return np.stack([low, high], -1).reshape(*low.shape[:-1], -1)


def signed4(nibble):
    return np.where(nibble > 7, nibble - 16, nibble)


@fault("int4-block", "Comfy-Org/comfy-kitchen/pull/41", "nibble order", closest=True)
def nibbles_swapped(x):
    """the writer packs the first number low, the reader takes it from the high nibble"""
    scale, byte = int4_bytes(x)
    return unblocked(interleaved(signed4(byte >> 4), signed4(byte & 15)) * scale, x)


@fault("int4-block", "onnxruntime/onnxruntime-qnn/pull/728", "sign extension")
def sign_masked_away(x):
    """unpacking masks the upper bits, and what reads the codes as int8 never sees a negative one"""
    scale, byte = int4_bytes(x)
    return unblocked(interleaved(byte & 15, byte >> 4) * scale, x)


@fault("int4-block", "tile-ai/tilelang/issues/2477", "sign extension")
def nibble_minus_seven(x):
    """two's complement is read as the nibble less 7"""
    scale, byte = int4_bytes(x)
    return unblocked(interleaved((byte & 15) - 7, (byte >> 4) - 7) * scale, x)


@fault("int4-block", "gittensor-ai-lab/sparkinfer/pull/723", "sign extension")
def borrow_across_bytes(x):
    """four bytes are made signed by one 32-bit subtraction, which borrows from the byte above"""
    scale, byte = int4_bytes(x)
    words = byte.reshape(*byte.shape[:-1], -1, 4)

    def lanes(nibbles):
        word = sum((nibbles[..., i] ^ 8) << (8 * i) for i in range(4))
        word = (word - 0x08080808) & 0xFFFFFFFF
        parts = np.stack([word >> (8 * i) & 255 for i in range(4)], -1)
        return np.where(parts > 127, parts - 256, parts).reshape(byte.shape)

    return unblocked(interleaved(lanes(words & 15), lanes(words >> 4)) * scale, x)


def uint4_codes(x):
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float32), 32)
    low, scale, codes = minmax4(b)
    return low, scale, np.nan_to_num(codes).astype(np.int64)


@fault("uint4-block", "vllm-project/vllm/pull/38479", "mask")
def mask_of_two_bits(x):
    """the kernel takes a width and masks two bits whatever it is"""
    low, scale, codes = uint4_codes(x)
    return unblocked((codes & 3) * scale + low, x)


@fault("uint4-block", "1bit-MONSTER/1bit-MONSTER/issues/153", "nibble index", closest=True)
def index_without_the_group(x):
    """the index of a code lacks its group's offset, so that all groups read one group's codes"""
    low, scale, codes = uint4_codes(x)
    first = codes.reshape(-1, 32)[:1]
    return unblocked(np.broadcast_to(first, codes.reshape(-1, 32).shape).reshape(codes.shape) * scale + low, x)


@fault("int8-row-zero-point", "llvm/torch-mlir/pull/3122", "signedness")
def unsigned_read_as_signed(x):
    """codes of 0..255 are sign-extended when they are widened"""
    w = x.astype(np.float32)
    low, high = np.minimum(w.min(-1, keepdims=True), 0), np.maximum(w.max(-1, keepdims=True), 0)
    scale = ((high - low) / np.float32(255)).astype(np.float32)
    zero = np.clip(np.rint(guarded(-low, scale)), 0, 255)
    codes = np.clip(np.rint(guarded(w, scale) + zero), 0, 255)
    wide = np.nan_to_num(codes).astype(np.uint8).astype(np.int8).astype(np.float32)
    return ((wide - zero) * scale).astype(x.dtype)
