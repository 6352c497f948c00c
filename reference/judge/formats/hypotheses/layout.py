"""Wrong packing: nibble order, sign extension, masks, signedness."""

import numpy as np

from ..computation import carry_step
from ..format import Format
from ..packing import pack, per_byte, unpack
from .base import Hypothesis, packed, signed, step, whole


def fills(f: Format, codes: np.ndarray) -> bool:
    """Whether codes fill whole bytes; those that do not are not packed."""
    return codes.shape[-1] % per_byte(f.packing) == 0


def read_as(packing: str):
    """Packed as the format says, unpacked otherwise."""

    def carry(f, codes):
        if not fills(f, codes) or codes.shape[-1] % per_byte(packing):
            return carry_step(f, codes)
        return unpack(pack(codes, f.packing), packing, signed(f))

    return carry


def mapped(change):
    """Codes after unpacking, changed: change(code without sign, bits)."""

    def carry(f, codes):
        return change(np.asarray(codes) & ((1 << f.codes.bits) - 1), f.codes.bits)

    return carry


def neighbours(f: Format, codes: np.ndarray) -> np.ndarray:
    """The mask keeps the bits of the code beside it."""
    if not fills(f, codes):
        return carry_step(f, codes)
    byte, per = pack(codes, f.packing).astype(np.int64), per_byte(f.packing)
    parts = [byte >> (8 // per * i) for i in range(per)]
    return np.stack(parts, -1).reshape(codes.shape)


def nibbles_of_two_bits(f: Format, codes: np.ndarray) -> np.ndarray:
    """A mask of 4 bits over codes of 2."""
    if not fills(f, codes):
        return carry_step(f, codes)
    byte = pack(codes, f.packing).astype(np.int64)
    return np.stack([byte >> (2 * i) & 15 for i in range(4)], -1).reshape(codes.shape)


def high_lost(f: Format, codes: np.ndarray) -> np.ndarray:
    """The second nibble is read as the first."""
    if not fills(f, codes):
        return carry_step(f, codes)
    low = carry_step(f, codes).copy()
    low[..., 1::2] = low[..., ::2]
    return low


def smeared(f: Format, codes: np.ndarray) -> np.ndarray:
    """A negative low nibble, not masked when packed, fills the high one."""
    if not fills(f, codes):
        return carry_step(f, codes)
    out = carry_step(f, codes).copy()
    out[..., 1::2] = np.where(codes[..., ::2] < 0, -1, out[..., 1::2])
    return out


def borrowed(f: Format, codes: np.ndarray) -> np.ndarray:
    """Four bytes at once are made signed by one subtraction: a negative code takes one from the byte above."""
    out = carry_step(f, codes).copy()
    lane = out.reshape(*out.shape[:-1], -1, 2)  # low and high nibbles are subtracted from apart
    borrow = np.zeros(lane[..., 0, :].shape, np.int64)
    for i in range(lane.shape[-2]):
        lane[..., i, :] -= borrow * (i % 4 != 0)
        borrow = (lane[..., i, :] < 0).astype(np.int64)
    return out


def no_group(f: Format, codes: np.ndarray) -> np.ndarray:
    """All groups are read from the first group's bytes."""
    return np.broadcast_to(codes[:1], codes.shape)


def four(f: Format) -> bool:
    return packed(f) and f.codes.bits == 4


def four_signed(f: Format) -> bool:
    return four(f) and signed(f)


HYPOTHESES: tuple[Hypothesis, ...] = (
    step("nibble order", "the two codes of a byte are swapped", lambda f: f.packing in ("low", "high"),
        carry=lambda f, c: read_as("low" if f.packing == "high" else "high")(f, c)),
    step("nibble order", "codes are read as if the block's halves, not its neighbours, shared a byte",
        lambda f: f.packing in ("low", "high"), carry=read_as("halves")),
    step("nibble order", "codes are read as if neighbours, not the block's halves, shared a byte",
        lambda f: f.packing == "halves", carry=read_as("low")),
    step("nibble order", "the second code of each byte is read as the first", four, carry=high_lost),
    step("nibble order", "the codes of a byte are read from the highest bits down", lambda f: f.packing == "quarters",
        carry=lambda f, c: carry_step(f, c).reshape(*c.shape[:-1], -1, 4)[..., ::-1].reshape(c.shape)
        if c.shape[-1] % 4 == 0 else c),
    step("sign extension", "codes are read without their sign", signed, carry=mapped(lambda c, bits: c)),
    step("sign extension", "codes are read as code - half, though two's complement is stored", four_signed,
        carry=mapped(lambda c, bits: c - (1 << (bits - 1)))),
    step("sign extension", "codes are read as code - 7", four_signed, carry=mapped(lambda c, bits: c - 7)),
    step("sign extension", "a negative code fills the other code of its byte", four_signed, carry=smeared),
    step("sign extension", "a negative code takes one from the code of the next byte of the same word",
        lambda f: four_signed(f) and f.packing != "halves", carry=borrowed),
    step("signedness", "codes without sign are read as signed", lambda f: f.codes.whole and not signed(f),
        carry=mapped(lambda c, bits: (c ^ (1 << (bits - 1))) - (1 << (bits - 1)))),
    step("mask", "the mask keeps one bit too few", lambda f: f.codes.bits in (2, 4, 8),
        carry=lambda f, c: mapped(lambda c, bits: c & ((1 << (bits - 1)) - 1))(f, c)),
    step("mask", "the mask is 2 bits wide, codes have 4", lambda f: f.codes.bits == 4,
        carry=mapped(lambda c, bits: c & 3)),
    step("mask", "the mask is 4 bits wide, codes have 8", lambda f: f.codes.bits == 8 and whole(f),
        carry=mapped(lambda c, bits: c & 15)),
    step("mask", "the mask is 4 bits wide, codes have 2: the neighbour's bits stay", lambda f: f.packing == "quarters",
        carry=nibbles_of_two_bits),
    step("mask", "codes are shifted and not masked: their neighbours' bits stay",
        lambda f: f.packing in ("low", "quarters") and whole(f), carry=neighbours),
    step("nibble index", "every group's codes are read from the first group", carry=no_group),
)  # fmt: skip
