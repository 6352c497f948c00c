"""How codes of 4 and 2 bits share a byte."""

import numpy as np

# "low": the first of two codes in the low nibble; "high": in the high one; "halves": byte j of a block of n codes holds
# codes j (low) and j + n / 2 (high), as GGUF packs; "quarters": four codes of 2 bits, the first in the lowest bits.
PACKINGS = ("bytes", "low", "high", "halves", "quarters")


def pack(codes: np.ndarray, packing: str) -> np.ndarray:
    """Codes (..., n), whole numbers, as bytes (..., n * bits / 8) uint8; "bytes" keeps one code per byte.

    Raises ValueError where n does not fill whole bytes, and for another word.
    """
    per = per_byte(packing)
    n = codes.shape[-1]
    if n % per:
        raise ValueError(f"{n} codes do not fill bytes of {per}; pad the row to a multiple of {per}")
    bits, c = 8 // per, codes.astype(np.int64)
    if per == 1:
        return (c & 255).astype(np.uint8)
    parts = [c[..., i * n // per : (i + 1) * n // per] if packing == "halves" else c[..., i::per] for i in range(per)]
    if packing == "high":
        parts = parts[::-1]
    mask = (1 << bits) - 1
    return sum((part & mask) << (bits * i) for i, part in enumerate(parts)).astype(np.uint8)  # type: ignore[union-attr]


def unpack(data: np.ndarray, packing: str, signed: bool) -> np.ndarray:
    """The codes (..., n) int64 in bytes of any integer dtype; signed: two's complement of a code's own width."""
    per = per_byte(packing)
    bits, byte = 8 // per, data.astype(np.int64) & 255
    parts = [byte >> (bits * i) & ((1 << bits) - 1) for i in range(per)]
    if packing == "high":
        parts = parts[::-1]
    if packing == "halves":
        codes = np.concatenate(parts, axis=-1)
    else:
        codes = np.stack(parts, axis=-1).reshape(*data.shape[:-1], data.shape[-1] * per)
    half = 1 << (bits - 1)
    return (codes ^ half) - half if signed else codes


def per_byte(packing: str) -> int:
    """How many codes share a byte.  Raises ValueError for a packing that is not known."""
    if packing not in PACKINGS:
        raise ValueError(f"no packing {packing!r}; there are {', '.join(PACKINGS)}")
    return {"bytes": 1, "quarters": 4}.get(packing, 2)
