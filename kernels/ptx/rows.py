"""What is known of programs in lockstep: arrays with a row for each program, or one row while all are alike."""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from .arrays import chosen, merged


class Rows:
    """NAMES are the attributes that are such arrays, or tuples of them. After `fit` all have as many rows."""

    NAMES: tuple[str, ...] = ()

    def each(self, function: Callable[..., np.ndarray], *others: Any) -> None:
        """Put a function's results in place of the arrays; it is given those of others, too."""
        for name in self.NAMES:
            values = [getattr(x, name) for x in (self, *others)]
            many = isinstance(values[0], tuple)
            setattr(self, name, type(values[0])(*map(function, *values)) if many else function(*values))

    def fit(self, rows: int = 1) -> None:
        """Room for so many rows."""
        self.each(lambda x: np.repeat(x, rows, 0) if len(x) < rows else x)

    def take(self, rows: np.ndarray) -> Any:
        """Those of some of the programs."""
        other = copy(self)
        other.each(lambda x: chosen(x, rows))
        return other

    def join(self, P: int, other: Any, Q: int) -> None:
        """Take in those of Q more programs, after one's own P."""
        many = []
        self.each(lambda a, b: many.append(x := merged(a, P, b, Q)) or x, other)
        Rows.fit(self, max(map(len, many)))  # of one, all programs may be alike
