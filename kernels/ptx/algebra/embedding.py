"""Triton's fpsan in integers: how it maps the bits of a float to a ring, and what each operation is there.

A float of w bits becomes a number modulo 2**w, its payload; +0.0 is 0, 1.0 is 1, -1.0 is -1, and all others lie where a
mixing of the bits puts them. Payloads here are NumPy's unsigned ints of w bits, which wrap as the ring does. Read off
the code that Triton 3.8.0 and 3.9.0 emit: the suite holds every function to the installed 3.8.0, and 3.9.0's were held
to it once, by hand. The source is lib/Dialect/TritonInstrument and lib/Conversion/TritonInstrumentToLLVM of
triton-lang/triton.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np

# name -> (bits, the bits of 1.0)
FORMATS = {
    "float8_e4m3fn": (8, 0x38),
    "float8_e5m2": (8, 0x3C),
    "float16": (16, 0x3C00),
    "bfloat16": (16, 0x3F80),
    "float32": (32, 0x3F80_0000),
    "float64": (64, 0x3FF0_0000_0000_0000),
}
TAG = 314159
WRAPS = np.errstate(over="ignore")  # NumPy warns of scalars, though not of arrays
FOLD = 3511
# What Triton numbers, by name: a hash of the number marks the operation.
TAGGED = {"log": 1, "log2": 3, "sqrt": 6, "rsqrt": 7, "erf": 8, "floor": 9, "ceil": 10, "sqrt_rn": 11}


class Dialect(NamedTuple):
    """In what the versions of Triton differ."""

    multiplier: int  # that mixes the bits of floats
    reciprocal_log2: int  # exp(x) = exp2(x * this)
    folds: bool  # narrowing mixes the bits that it drops into those that stay


DIALECTS = {(3, 8): Dialect(922291, 0x236EE9BF, False), (3, 9): Dialect(14940041, 0x26A29A75, True)}


_as_of: ContextVar[Dialect | None] = ContextVar("as_of", default=None)


@cache
def installed() -> Dialect:
    """The dialect of the Triton that is installed, or the newest one known. Raises ImportError without Triton."""
    try:
        major, minor = map(int, re.findall(r"\d+", version("triton"))[:2])
    except PackageNotFoundError as error:
        raise ImportError("the ring is that of the installed Triton, and there is none; install triton>=3.8") from error
    return DIALECTS.get((major, minor), DIALECTS[max(DIALECTS)])


def dialect() -> Dialect:
    """The one to compute in."""
    return _as_of.get() or installed()


@contextmanager
def as_of(major: int, minor: int) -> Iterator[None]:
    """Inside, this thread's rings are those of that version of Triton. Raises KeyError for none known."""
    token = _as_of.set(DIALECTS[major, minor])
    try:
        yield
    finally:
        _as_of.reset(token)


def inverse(a: int) -> int:
    """Of an odd number, modulo 2**64."""
    return pow(a, -1, 1 << 64)


@cache
def mixing(name: str, multiplier: int) -> tuple[int, int, int, int]:
    """(shift, mask of the bits below the sign, the two multipliers) of a format; 1.0 comes to 1."""
    bits, one = FORMATS[name]
    mask, shift = (1 << bits - 1) - 1, (one & -one).bit_length() - 1
    first = multiplier & mask
    mixed = one * first & mask
    return shift, mask, first, inverse(mixed ^ mixed >> shift) & mask


@WRAPS
def embed(bits: np.ndarray, name: str) -> np.ndarray:
    """The bits of floats of a format -> their payloads, both unsigned ints of its width."""
    shift, mask, first, second = mixing(name, dialect().multiplier)
    size = bits.dtype.type
    negative = bits >> size(FORMATS[name][0] - 1) != 0
    z = bits * size(first) & size(mask)
    z ^= z >> size(shift)
    w = z * np.where(negative, size(second * mask & mask), size(second)) & size(mask)
    return np.where(negative, w ^ size(mask + 1), w)


@WRAPS
def unembed(payloads: np.ndarray, name: str) -> np.ndarray:
    """The reverse of `embed`."""
    shift, mask, first, second = mixing(name, dialect().multiplier)
    size, width = payloads.dtype.type, FORMATS[name][0]
    negative = payloads >> size(width - 1) != 0
    back = np.where(negative, size(inverse(second * mask & mask) & mask), size(inverse(second) & mask))
    z = payloads * back & size(mask)
    while shift < width:
        z ^= z >> size(shift)
        shift *= 2
    x = z * size(inverse(first) & mask) & size(mask)
    return np.where(negative, x ^ size(mask + 1), x)


def signed(payloads: np.ndarray) -> np.ndarray:
    """The same bits as signed ints: their order is that of max and min."""
    return payloads.view(f"i{payloads.itemsize}")


@WRAPS
def cast(payloads: np.ndarray, bits: int) -> np.ndarray:
    """To another width: the sign is extended, or high bits are dropped."""
    width, narrow = 8 * payloads.itemsize, payloads.astype(f"u{bits // 8}")
    if bits >= width or not dialect().folds:
        return signed(payloads).astype(f"i{bits // 8}").view(f"u{bits // 8}")
    dropped = payloads ^ signed(narrow).astype(f"i{payloads.itemsize}").view(payloads.dtype)
    # The product's top word is the sum of all dropped words, each times an odd number.
    factor = (FOLD & (1 << bits) - 1) * ((1 << width) - 1) // ((1 << bits) - 1)
    word = (dropped * constant(payloads, factor) >> payloads.dtype.type(width - bits)).astype(narrow.dtype)
    return narrow ^ word ^ word >> narrow.dtype.type(bits // 2)


@WRAPS
def exp2(x: np.ndarray) -> np.ndarray:
    """(1 + 2**k)**x with k a quarter of the width: exp2(x + y) = exp2(x) * exp2(y), and always odd."""
    size, width = x.dtype.type, 8 * x.itemsize
    k = (width + 3) // 4
    pairs = x * (x - size(1)) >> size(1)
    low = x & size((1 << width - 3 * k + 1) - 1)
    triples = low * (low - size(1)) * (low - size(2)) // size(6)
    return size(1) + (x << size(k)) + (pairs << size(2 * k)) + (triples << size(3 * k))


@WRAPS
def exp(x: np.ndarray) -> np.ndarray:
    return exp2(x * constant(x, dialect().reciprocal_log2))


@WRAPS
def reciprocal(x: np.ndarray) -> np.ndarray:
    """The inverse of an odd number; of an even one an even number, and no inverse."""
    size, odd = x.dtype.type, x | x.dtype.type(1)
    y = size(2) - odd
    for _ in range((8 * x.itemsize).bit_length() - 2):
        y = y * (size(2) - odd * y)
    return y & ~size(1) | x & size(1)


@WRAPS
def remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of signed division by y made odd; its sign is x's, as C has it."""
    return np.fmod(signed(x), signed(y | y.dtype.type(1))).view(x.dtype)


@WRAPS
def tagged(x: np.ndarray, name: str) -> np.ndarray:
    """A function with no algebra of its own: one-to-one, another for each name."""
    return (x * constant(x, TAG) ^ constant(x, _hash(TAGGED[name]))) * constant(x, TAG)


@WRAPS
def cos_sin(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The powers of (-3 + 4i) / 5, by squaring: the theorems of addition hold, and cos**2 + sin**2 = 1."""
    size, fifth = x.dtype.type, inverse(5)
    a, b = constant(x, -3 * fifth), constant(x, 4 * fifth)
    c, s = np.ones_like(x), np.zeros_like(x)
    for bit in reversed(range(8 * x.itemsize)):
        c, s = c * c - s * s, size(2) * c * s
        c, s = (np.where(x >> size(bit) & size(1), turned, kept)
                for kept, turned in ((c, a * c - b * s), (s, a * s + b * c)))  # fmt: skip
    return c, s


def constant(like: np.ndarray, value: int) -> np.integer:
    """A Python int as a payload of an array's width."""
    return like.dtype.type(value & (1 << 8 * like.itemsize) - 1)


def _hash(n: int) -> int:
    """The finalizer of MurmurHash3, 64 bits: the marks of TAGGED."""
    mask = (1 << 64) - 1
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        n = (n ^ n >> 33) * factor & mask
    return n ^ n >> 33
