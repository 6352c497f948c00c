"""The record of a hypothesis, and how one is made from a replaced step."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..computation import RIGHT, round_trip
from ..format import Format


class Hypothesis(NamedTuple):
    """One wrong computation.

    sentence  what is wrong
    fits      whether it changes anything in that format
    apply     apply(format, x, pieces) -> what is read back, x's shape and dtype
    """

    name: str
    sentence: str
    fits: Callable[[Format], bool]
    apply: Callable[[Format, np.ndarray, tuple[int, ...]], np.ndarray]


def always(f: Format) -> bool:
    return True


def whole(f: Format) -> bool:
    """Codes are whole numbers."""
    return f.codes.whole


def signed(f: Format) -> bool:
    return f.codes.whole and f.codes.values[0] < 0


def floats(f: Format) -> bool:
    return not f.codes.whole


def scaled(f: Format) -> bool:
    """Scales follow the numbers."""
    return f.rule != "fixed"


def packed(f: Format) -> bool:
    return f.packing != "bytes"


def step(name: str, sentence: str, fits=always, **steps) -> Hypothesis:
    """The hypothesis that these steps of computation.Steps are computed otherwise."""
    wrong = RIGHT._replace(**steps)

    def apply(f, x, pieces):
        return round_trip(f, x, pieces, wrong)

    return Hypothesis(name, sentence, fits, apply)
