"""What an exhibit is: a bug that a public Triton kernel had, in code of our own, as it was and as mended.

Where the thread is a review's remark, or a proposal that was not merged when it was read, `state` says so.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import _kernels
from .._kernels import Case

TARGETS = ("sm_80", "sm_90")
FLOAT8 = ("sm_90", "sm_100")  # targets that convert float8


class Wrong(NamedTuple):
    """Red: this result differs from the reference, which nothing but a comparison sees, by `text` in its words."""

    result: str
    text: str = ""


class Named(NamedTuple):
    """Red: the machine reports this kind of error at the line of the kernel that has this text, or at one of those
    that have it: which access of a race comes second is left to the schedule. Its message has `text`.

    unchecked  what becomes of the same launch without debug=True, which alone lets Triton look for overflow
    """

    kind: type[Exception]
    line: str = ""
    text: str = ""
    unchecked: Wrong | None = None


class Unwritten(NamedTuple):
    """Red: the report counts elements of this result that the launch never wrote. It is green with none."""

    result: str


class Exhibit(NamedTuple):
    thread: str  # repository#number, issue or pull request
    what: str  # what happened, one sentence
    red: Wrong | Named | Unwritten
    launches: Callable[[bool], list[Case]]  # of FIXED: one launch after the other, on the same arrays
    targets: tuple[str, ...]
    state: str  # of a thread that is no bug of a release, mended there; else ""

    def lines(self) -> int:
        """Lines of the exhibit: what launches it, and its kernels."""
        kernels = {launch.kernel.fn for launch in self.launches(True)}
        return sum(len(inspect.getsource(function).splitlines()) for function in (self.launches, *kernels))


EXHIBITS: dict[str, Exhibit] = {}


def exhibit(
    thread: str, red: Wrong | Named | Unwritten, what: str, targets: tuple[str, ...] = TARGETS, state: str = ""
):
    """Hang a function of FIXED, which gives the launch or launches, under its own name."""

    def hang(launches):
        def several(FIXED: bool) -> list[Case]:
            made = launches(FIXED)
            return [made] if isinstance(made, Case) else made

        several.__wrapped__ = launches
        assert launches.__name__ not in EXHIBITS
        EXHIBITS[launches.__name__] = Exhibit(thread, what, red, several, targets, state)
        return launches

    return hang


def launch(kernel, grid, truth=None, readable=None, **arguments) -> Case:
    return Case(kernel, grid, arguments, truth or {}, readable or {})


def unwritten(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return _kernels.unwritten(shape, dtype)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def softmax(s: np.ndarray) -> np.ndarray:
    """Of the last axis, in float64; zeros where all is -inf."""
    s = s.astype(np.float64)
    p = np.exp(s - np.maximum(s.max(-1, keepdims=True), -1e300))
    return p / np.maximum(p.sum(-1, keepdims=True), 1e-300)
