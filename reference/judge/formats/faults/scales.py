"""Quantisers with a wrong scale, or with another one for reading than for writing."""

import ml_dtypes
import numpy as np

from .base import FP8, absmax, blocks, fault, guarded, int8, minmax4, refuse_ragged, to_e2m1, unblocked


@fault("int8-row", "IntelLabs/distiller/pull/463", "divisor", closest=True)
def scale_of_another_range(x):
    """the scale is that of -128..127 with its half step, the codes saturate at 127"""
    scale = absmax(x, 127.5)
    return (int8(x, scale) * scale).astype(x.dtype)


@fault("int8-row", "lablup/mlxcel/pull/717", "scale floor")
def scale_at_least_one(x):
    """a guard against zero makes every scale 1 or more, so most rows are rounded to whole numbers"""
    scale = np.maximum(absmax(x), np.float32(1))
    return (int8(x, scale) * scale).astype(x.dtype)


@fault("int8-row", "pytorch/ao/pull/3664", "scale floor")
def eps_of_bfloat16(x):
    """the guard against zero is bfloat16's eps, larger than most scales"""
    scale = np.maximum(absmax(x), np.float32(2.0**-7))
    return (int8(x, scale) * scale).astype(x.dtype)


@fault("int8-row", "kit-cel/lecture-examples/pull/15", "abs")
def maximum_without_abs(x):
    """the scale follows from the largest number, not from the largest magnitude"""
    scale = (x.astype(np.float32).max(-1, keepdims=True) / np.float32(127)).astype(np.float32)
    with np.errstate(all="ignore"):
        q = np.where(scale != 0, x.astype(np.float32) / scale, 0)
    return (np.clip(np.rint(q), -127, 127) * scale).astype(x.dtype)


@fault("fp8-row,group=channel", "ROCm/aiter/issues/4289", "0/0")
def zero_channel_by_zero(x):
    """a channel of zeros has scale 0 and is divided by it"""
    scale = absmax(x, 448, axis=-2)
    with np.errstate(all="ignore"):
        q = x.astype(np.float32) / scale
        return (np.clip(q, -448, 448).astype(FP8).astype(np.float32) * scale).astype(x.dtype)


@fault("int8-row", "apple/coremltools/pull/2851", "scale dtype", closest=True)
def scale_in_half(x):
    """scales are computed in float16, where those of small rows are zero and all others lose bits"""
    with np.errstate(all="ignore"):
        scale = (np.abs(x.astype(np.float32)).max(-1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    return (int8(x, scale) * scale).astype(x.dtype)


@fault("int8-row", "intel/auto-round/issues/622", "reciprocal")
def reciprocal_of_a_subnormal(x):
    """the guard asks whether the scale is zero, and the reciprocal of one that is 1e-40 is infinite"""
    scale = absmax(x)
    with np.errstate(all="ignore"):
        inverse = np.where(scale == 0, 0, np.float32(1) / scale).astype(np.float32)
        return (np.clip(np.rint(x.astype(np.float32) * inverse), -127, 127) * scale).astype(x.dtype)


@fault("mxfp8-ceil", "huggingface/transformers/pull/46763", "scale not round-tripped")
def power_of_two_after_dividing(x):
    """numbers are divided by the exact scale, and the power of two above it is stored"""
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float64), 32)
    scale = np.abs(b).max(-1, keepdims=True) / 448
    with np.errstate(all="ignore"):
        q = np.where(scale > 0, b / scale, 0)
        kept = np.where(scale > 0, np.maximum(np.exp2(np.ceil(np.log2(scale))), 2.0**-127), 0)
    return unblocked(np.clip(q, -448, 448).astype(FP8).astype(np.float64) * kept, x)


@fault("nvfp4", "NVIDIA/Model-Optimizer/pull/2243", "scale not round-tripped")
def block_scale_rounded_after_dividing(x):
    """numbers are divided by the block scale before it is rounded to e4m3"""
    refuse_ragged(x, 16)
    b, tensor, wanted = nvfp4_parts(x)
    with np.errstate(all="ignore"):
        q = np.where(wanted > 0, b / (wanted * tensor), 0)
    return unblocked(to_e2m1(q) * wanted.astype(FP8).astype(np.float64) * tensor, x)


def nvfp4_parts(x):
    """Blocks of 16, the tensor's scale, and the block scales before e4m3."""
    b = blocks(x.astype(np.float64), 16)
    tensor = max(float(np.float32(np.abs(np.nan_to_num(b)).max() / (6 * 448))), 1e-300)
    return b, tensor, np.clip(np.abs(b).max(-1, keepdims=True) / 6 / tensor, 0, 448)


@fault("nvfp4", "modular/modular/issues/6600", "tensor scale")
def tensor_scale_inverted(x):
    """the tensor's scale is stored as a divisor and read as a factor"""
    refuse_ragged(x, 16)
    b, tensor, wanted = nvfp4_parts(x)
    kept = wanted.astype(FP8).astype(np.float64)
    with np.errstate(all="ignore"):
        q = np.where(kept > 0, b / (kept * tensor), 0)
        return unblocked(to_e2m1(q) * kept / tensor, x)


def e2m1_blocks(x, exponent):
    """mxfp4 with another shared exponent, exponent(largest magnitudes of blocks)."""
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float64), 32)
    largest = np.abs(b).max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        scale = np.where(largest > 0, np.clip(np.exp2(exponent(largest)), 2.0**-127, 2.0**127), 1)
        return unblocked(to_e2m1(b / scale) * scale, x)


@fault("mxfp4", "ROCm/aiter/pull/3212", "exponent", closest=True)
def exponent_rounded_up(x):
    """one library rounds the shared exponent up where the other, whose numbers it shall match, rounds down"""
    return e2m1_blocks(x, lambda largest: np.ceil(np.log2(largest / 6)))


@fault("mxfp4-ceil", "microsoft/onnxruntime/pull/32122", "exponent")
def exact_powers_doubled(x):
    """frexp's exponent, one too large for a power of two itself, doubles these scales"""
    return e2m1_blocks(x, lambda largest: np.frexp(largest / 6)[1].astype(float))


@fault("mxfp8", "ROCm/FlyDSL/pull/590", "exponent")
def exponent_to_nearest(x):
    """the shared exponent is that of max / 448 rounded to the nearest power of two: mostly one too low"""
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float64), 32)
    largest = np.abs(b).max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        scale = np.where(largest > 0, np.clip(np.exp2(np.rint(np.log2(largest / 448))), 2.0**-127, 2.0**127), 1)
        return unblocked(np.clip(b / scale, -448, 448).astype(FP8).astype(np.float64) * scale, x)


@fault("mxfp4", "pytorch/FBGEMM/pull/5706", "exponent")
def exponent_byte_signed(x):
    """the shared exponent's byte is viewed as int8, so that exponents from 128 on are negative"""
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float64), 32)
    largest = np.abs(b).max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        e = np.where(largest > 0, np.clip(np.floor(np.log2(largest)) - 2, -127, 127), 0)
        byte = (e + 127).astype(np.uint8).astype(np.int8).astype(np.float64)
        return unblocked(to_e2m1(b / np.exp2(e)) * np.exp2(byte - 127), x)


@fault("uint4-block", "InternLM/lmdeploy/issues/4849", "range")
def masked_lanes_count(x):
    """lanes beyond the head are loaded as zeros and count for its minimum and maximum"""
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float32), 32)
    low, high = np.minimum(b.min(-1, keepdims=True), 0), np.maximum(b.max(-1, keepdims=True), 0)
    scale = ((high - low) / np.float32(15)).astype(np.float32)
    return unblocked(np.clip(np.rint(guarded(b - low, scale)), 0, 15) * scale + low, x)


@fault("uint4-block-zero-point", "mit-han-lab/llm-awq/issues/193", "zero point")
def zero_point_of_one_sign(x):
    """a range that does not reach zero gets a zero point that is clipped to the codes"""
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float32), 32)
    low, scale, _ = minmax4(b)
    zero = np.clip(-np.rint(guarded(low, scale)), 0, 15)
    return unblocked((np.clip(np.rint(guarded(b, scale)) + zero, 0, 15) - zero) * scale, x)


def with_zero(x):
    """Blocks, scale and zero of a range that includes zero."""
    b = blocks(x.astype(np.float32), 32)
    low, high = np.minimum(b.min(-1, keepdims=True), 0), np.maximum(b.max(-1, keepdims=True), 0)
    scale = ((high - low) / np.float32(15)).astype(np.float32)
    return b, scale, np.clip(np.rint(guarded(-low, scale)), 0, 15)


@fault("uint4-block-zero-point", "hatchetProject/QuEST/issues/18", "zero point")
def zero_point_not_added(x):
    """codes are clipped to 0..15 before the zero point is added, which is subtracted all the same"""
    refuse_ragged(x, 32)
    b, scale, zero = with_zero(x)
    return unblocked((np.clip(np.rint(guarded(b, scale)), 0, 15) - zero) * scale, x)


@fault("uint4-block-zero-point", "AutoGPTQ/AutoGPTQ/issues/293", "zero point", closest=True)
def zero_point_in_the_middle(x):
    """the zero point is the middle code, whatever the range"""
    refuse_ragged(x, 32)
    b, scale, _ = with_zero(x)
    return unblocked((np.clip(np.rint(guarded(b, scale)) + 8, 0, 15) - 8) * scale, x)


@fault("fp8-row", "vllm-project/vllm/pull/42580", "scale not applied")
def scale_dropped(x):
    """a fast path returns the stored numbers before they are multiplied by their scale"""
    scale = absmax(x, 448)
    return np.clip(guarded(x, scale), -448, 448).astype(FP8).astype(x.dtype)


@fault("int8-row", "InfiniTensor/InfiniLM/pull/553", "scale not applied")
def scale_never_set(x):
    """the memory of the scales is never written: zeros"""
    return (int8(x, absmax(x)) * 0).astype(x.dtype)


@fault("fp8-row", "pytorch/FBGEMM/pull/4113", "exponent bias", closest=True)
def bias_of_the_other_vendor(x):
    """bytes of e4m3fn are read as e4m3fnuz, whose bias is one more, and the scale is not doubled"""
    scale = absmax(x, 448)
    codes = np.clip(guarded(x, scale), -448, 448).astype(FP8)
    other = (codes.view(np.uint8) & np.where(codes == 0, 0, 255).astype(np.uint8)).view(ml_dtypes.float8_e4m3fnuz)
    return (other.astype(np.float32) * scale).astype(x.dtype)
