"""What an exhibit is: a bug that a public Triton kernel had, in code of our own, as it was and as mended."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

TARGETS = ("sm_80", "sm_90")
FLOAT8 = ("sm_90", "sm_100")  # targets that convert float8


class Launch(NamedTuple):
    kernel: Any
    grid: Any
    arguments: dict[str, Any]  # results appear in its arrays
    truth: dict[str, tuple[Any, Any]]  # name of a result -> what it should be, and the largest error of each element
    readable: dict[str, Any]  # False: not before a program has written it; an array: which elements


class Wrong(NamedTuple):
    """Red: this result differs from the reference, which nothing but a comparison sees."""

    result: str


class Named(NamedTuple):
    """Red: the machine reports this kind of error at the line of the kernel that has this text, or at one of those
    that have it: which access of a race comes second is left to the schedule."""

    kind: type[Exception]
    line: str = ""


class Unwritten(NamedTuple):
    """Red: the report counts elements of this result that the launch never wrote. It is green with none."""

    result: str


class Exhibit(NamedTuple):
    thread: str  # repository#number, issue or pull request
    what: str  # what happened, one sentence
    red: Wrong | Named | Unwritten
    launches: Callable[[bool], list[Launch]]  # of FIXED: one launch after the other, on the same arrays
    targets: tuple[str, ...]

    def lines(self) -> int:
        """Lines of the exhibit: what launches it, and its kernels."""
        kernels = {launch.kernel.fn for launch in self.launches(True)}
        return sum(len(inspect.getsource(function).splitlines()) for function in (self.launches, *kernels))


EXHIBITS: dict[str, Exhibit] = {}


def exhibit(thread: str, red: Wrong | Named | Unwritten, what: str, targets: tuple[str, ...] = TARGETS):
    """Hang a function of FIXED, which gives the launch or launches, under its own name."""

    def hang(launches):
        def several(FIXED: bool) -> list[Launch]:
            made = launches(FIXED)
            return [made] if isinstance(made, Launch) else made

        several.__wrapped__ = launches
        assert launches.__name__ not in EXHIBITS
        EXHIBITS[launches.__name__] = Exhibit(thread, what, red, several, targets)
        return launches

    return hang


def launch(kernel, grid, truth=None, readable=None, **arguments) -> Launch:
    return Launch(kernel, grid, arguments, truth or {}, readable or {})


def unwritten(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Results before a launch: NaN, or -99, which no kernel here computes."""
    return np.full(shape, -99 if np.issubdtype(dtype, np.integer) else np.nan, dtype)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def softmax(s: np.ndarray) -> np.ndarray:
    """Of the last axis, in float64; zeros where all is -inf."""
    s = s.astype(np.float64)
    p = np.exp(s - np.maximum(s.max(-1, keepdims=True), -1e300))
    return p / np.maximum(p.sum(-1, keepdims=True), 1e-300)
