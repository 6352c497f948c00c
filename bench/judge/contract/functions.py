"""Any functions as paths to logits: what they may take and return, for the command and for pytest alike.

    f(dtype, shift), f(dtype, *, shift) or f(dtype) -> logits, dtype "float64", "float32", "bfloat16" or "float16"

They return logits (B, n, V) as a NumPy array or a torch tensor of any float dtype, with or without a gradient, on any
device, or as lists of them or of numbers; (n, V) is one sequence. NotImplementedError says that they do not run in a
dtype. Arrays stand for functions too: they exist in one dtype only.

The judge measures rounding by the shift, a small change of the embeddings. Paths without one are held to a multiple of
what one rounding of the logits does.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from ....reference.judge.parity import DTYPES, judge
from ....reference.judge.verdict import Verdict
from .user_errors import refusal

COARSE = ("bfloat16", "float16")  # which hold no other dtype's numbers
SIGNATURE = "write it as f(dtype, shift) or f(dtype)"


class Path:
    """One way to logits, given as a function or as an array of `dtype`: path(dtype, shift) -> (B, n, V) float64.

    name    what messages call it
    guard   opened around each call of the function, such as `user_code`

    Raises ValueError for a function of other arguments and for what holds no logits; TypeError never.
    """

    def __init__(
        self, given: Any, name: str, dtype: str, guard: Callable[[], AbstractContextManager[Any]] = nullcontext
    ):
        self.given, self.name, self.dtype, self.guard = given, name, dtype, guard
        self.call = calling(given, name) if callable(given) else None
        self.shape: tuple[int, ...] | None = None

    @property
    def shifts(self) -> bool:
        return self.call is not None and self.call[1]

    def __call__(self, dtype: str, shift: float = 0.0) -> np.ndarray:
        if self.call is None and dtype != self.dtype:
            raise NotImplementedError(f"{self.name} came as logits in {self.dtype} and not in {dtype}")
        if self.call is None and (narrow := dtype_of(self.given)) in COARSE and narrow != dtype:
            raise ValueError(f"{self.name} holds {narrow}, which no {dtype} logits fit in; ask in {narrow}")
        if shift and not self.shifts:
            raise NotImplementedError(f"{self.name} takes no shift")
        found = self.given
        if self.call:
            with self.guard():
                found = self.call[0](dtype, shift)
        logits = as_logits(found, self.name)
        if self.shape not in (None, logits.shape):
            raise ValueError(
                f"{self.name} gave logits {self.shape} at first and {logits.shape} in {dtype}; every call must give "
                "the same positions"
            )
        self.shape = logits.shape
        return logits


def dtype_of(logits: Any) -> str | None:
    """The dtype's name of an array, NumPy or torch; None for a function."""
    return None if callable(logits) else str(getattr(logits, "dtype", "float64")).removeprefix("torch.")


def calling(function: Callable[..., Any], name: str) -> tuple[Callable[[str, float], Any], bool]:
    """(f(dtype, shift), whether the function takes a shift).

    A shift goes to the parameter of that name, else to a second one that has no default: f(dtype, seed=0) takes none.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ValueError(f"{name} does not say what it takes; {SIGNATURE} around it") from None
    wants = signature.parameters
    places = [p for p in wants.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    kinds = {p.kind for p in wants.values()}
    by_name = "shift" in wants and wants["shift"].kind is not inspect.Parameter.POSITIONAL_ONLY
    second = len(places) > 1 and (places[1].default is inspect.Parameter.empty or places[1].name == "shift")
    if by_name or (inspect.Parameter.VAR_KEYWORD in kinds and not second):
        example, call = (("float64",), {"shift": 0.0}), lambda dtype, shift: function(dtype, shift=shift)
    elif second or inspect.Parameter.VAR_POSITIONAL in kinds:
        example, call = (("float64", 0.0), {}), function
    else:
        example, call = (("float64",), {}), lambda dtype, shift: function(dtype)
    try:
        signature.bind(*example[0], **example[1])
    except TypeError as error:
        raise ValueError(
            f"{name}{signature} cannot be called with a dtype and a shift ({error}); {SIGNATURE}"
        ) from None
    return call, example != (("float64",), {})


def as_logits(found: Any, name: str) -> np.ndarray:
    """What a path returned, as a float64 array (B, n, V) of its own.  Raises ValueError that says what came instead."""
    must = f"{name} must return logits (B, n, V), a NumPy array or a torch tensor"
    if found is None:
        raise ValueError(f"{must}; it returned None: is its return missing?")
    if inspect.iscoroutine(found):
        found.close()  # or Python warns that nobody awaited it
    if hasattr(found, "logits"):
        raise ValueError(f"{must}; it returned a {type(found).__name__}: return its .logits")
    try:
        logits = numbers(found)
    except Exception as error:  # whatever an unknown type's conversion raises
        raise ValueError(
            f"{must}; it returned a {type(found).__name__} ({' '.join(str(error).split())[:120]})"
        ) from None
    if not 1 <= logits.ndim <= 3 or not logits.size:
        raise ValueError(f"{must}; it returned the shape {logits.shape}")
    return logits.reshape((1,) * (3 - logits.ndim) + logits.shape)


def numbers(x: Any) -> np.ndarray:
    """x as float64, copied, since a path may write its next result into the same memory."""
    if hasattr(x, "detach"):  # torch's, of which NumPy knows neither bfloat16 nor other devices
        if x.is_complex():
            raise ValueError("complex numbers")
        x = x.detach().double().cpu().numpy()
    elif isinstance(x, (list, tuple)):
        x = np.stack([numbers(row) for row in x])
    elif not isinstance(x, (int, float)) and not hasattr(x, "__array__"):
        raise ValueError("no array of numbers")
    x = np.asarray(x)
    if x.dtype.kind in "cOUSmM":
        raise ValueError(f"numbers of dtype {x.dtype}")
    return np.array(x, np.float64)


class DtypeRefusals:
    """paths(dtype, shift) for the judge; records the dtypes that they do not run in, and why.

    dtype   the dtype in question: in another one also a clash of dtypes inside counts as "does not run"
    absent  dtype -> the reason
    """

    def __init__(self, paths: Callable[..., tuple], dtype: str):
        self.paths, self.dtype = paths, dtype
        self.absent: dict[str, str] = {}

    def __call__(self, dtype: str, shift: float = 0.0) -> tuple:
        try:
            return self.paths(dtype, shift)
        except Exception as error:
            why = refusal(error, dtype, self.dtype)
            if why is None:
                raise
            if not shift:
                self.absent[dtype] = why
            raise NotImplementedError(why) from error

    def with_refusals(self, verdict: Verdict) -> Verdict:
        """The verdict, whose reason names the rungs that there were not."""
        missing = " ".join(f"Not run in {dtype}: {why}." for dtype, why in self.absent.items())
        return replace(verdict, reason=f"{verdict.reason} {missing}") if missing else verdict


def check_decode(a: Any, b: Any, dtype: str | None = None, question: str = "cached against uncached") -> Verdict:
    """Whether path a is the same computation as the trusted path b.

    a, b      functions f(dtype, shift) or f(dtype) -> logits (B, n, V) of the same positions, computed in "float64",
              "float32", "bfloat16" or "float16", NotImplementedError where they cannot; shift multiplies the embedding
              table by 1 + shift. Or arrays of logits, which exist in one dtype only. See above
    dtype     the one in question; by default float32, or that of the arrays
    question  what b is, in words, as in `judge`

    Raises ValueError for a dtype that is no float, for what is no logits, and for shapes that differ; and what the
    functions raise.
    """
    if dtype is None:
        dtype = next((name for name in (dtype_of(a), dtype_of(b)) if name), "float32")
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    path_a, path_b = Path(a, "path A", dtype), Path(b, "path B", dtype)
    rungs = DtypeRefusals(lambda name, shift: (path_a(name, shift), path_b(name, shift)), dtype)
    return rungs.with_refusals(judge(rungs, dtype, question=question))
