"""The numbers that codes stand for: whole numbers, or the values of a float of 4 or 8 bits; and rounding to them."""

from functools import cache
from typing import NamedTuple

import ml_dtypes
import numpy as np

FLOATS = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
WHOLE = {"int8": (-128, 127), "int8-narrow": (-127, 127), "uint8": (0, 255), "int4": (-8, 7), "int4-narrow": (-7, 7),
    "uint4": (0, 15), "uint2": (0, 3)}  # fmt: skip
TIES = ("even", "away", "up")


class Grid(NamedTuple):
    """The finite values of a code, ascending, and the code of each; a position is an index into both.

    values  (n,) float64
    codes   (n,) int64; of floats, their bits
    whole   whether the values are whole numbers, which are their own codes
    bits    of one code
    """

    name: str
    values: np.ndarray
    codes: np.ndarray
    whole: bool
    bits: int

    @property
    def top(self) -> float:
        return float(self.values[-1])

    @property
    def middles(self) -> np.ndarray:
        """Halfway between neighbours, exact in float64."""
        return (self.values[1:] + self.values[:-1]) / 2

    def below(self, q: np.ndarray) -> np.ndarray:
        """Positions of the nearest values, ties downwards; what lies beyond the ends goes to the end, NaN to 0."""
        return self.position(q, "down")

    def above(self, q: np.ndarray) -> np.ndarray:
        """`below`, with ties upwards."""
        return self.position(q, "up")

    def nearest(self, q: np.ndarray, ties: str) -> np.ndarray:
        """Positions of the nearest values, saturating; ties "even", "away" from zero or "up"."""
        return self.position(q, ties)

    def position(self, q: np.ndarray, ties: str) -> np.ndarray:
        """`nearest`, with ties "down", too."""
        q = np.where(np.isnan(q), self.values[0], q)
        if self.whole:  # a tenth of a search's time
            low, top = self.values[0], self.top
            near = np.clip(q, low - 1, top + 1)
            even = np.rint(near)
            rest = near - even  # exact
            up, down = even + (rest == 0.5), even - (rest == -0.5)
            chosen = {"even": even, "up": up, "down": down}.get(ties)
            at = np.where(q >= 0, up, down) if chosen is None else chosen
            return (np.clip(at, low, top) - low).astype(np.intp)
        middles = self.middles
        low = np.searchsorted(middles, q, side="left")
        tied = np.append(middles, np.nan)[low] == q
        rises = {"even": self.codes[low] % 2 == 1, "up": True, "down": False}.get(ties)
        return low + (tied & (q >= 0 if rises is None else rises))


@cache
def grid(name: str) -> Grid:
    """The grid of that name.  Raises ValueError for one that is not known."""
    if name in WHOLE:
        low, high = WHOLE[name]
        values = np.arange(low, high + 1)
        bits = int(name.removesuffix("-narrow").lstrip("uint"))
        return Grid(name, values.astype(np.float64), values.astype(np.int64), True, bits)
    if name not in FLOATS:
        raise ValueError(f"no grid {name!r}; there are {', '.join((*WHOLE, *FLOATS))}")
    bits = 4 if name == "e2m1" else 8
    codes = np.arange(1 << bits, dtype=np.uint8)
    values = codes.view(FLOATS[name]).astype(np.float64)
    kept = np.isfinite(values) & ~((values == 0) & np.signbit(values))
    order = np.argsort(values[kept])
    return Grid(name, values[kept][order], codes[kept][order].astype(np.int64), False, bits)
