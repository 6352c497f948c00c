"""Two ways to the same logits, given as functions or as arrays, before the judge of reference/parity.py.

The judge measures rounding by shifting the embeddings a little. Who cannot shift them is held to a multiple of what one
rounding of the logits does.
"""

import inspect
from collections.abc import Callable
from typing import Any

from ...reference.parity import DTYPES, Verdict, judge

Path = Callable[[str, float], Any]


def check_decode(a: Any, b: Any, dtype: str | None = None, question: str = "cached against uncached") -> Verdict:
    """Whether path a is the same computation as the trusted path b.

    a, b      functions f(dtype, shift) or f(dtype) -> logits (B, n, V) of the same positions, NumPy or torch, computed
              in "float64", "float32", "bfloat16" or "float16", NotImplementedError where they cannot; shift multiplies
              the embedding table by 1 + shift. Or arrays of logits, which exist in one dtype only
    dtype     the one in question; by default float32, or that of the arrays
    question  what b is, in words, as in `judge`

    Raises ValueError for a dtype that is no float, and for shapes that differ.
    """
    if dtype is None:
        dtype = next((name for name in (dtype_of(a), dtype_of(b)) if name), "float32")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    (path_a, shifts_a), (path_b, shifts_b) = as_path(a, dtype), as_path(b, dtype)

    def paths(name: str, shift: float = 0.0) -> tuple:
        if shift and not (shifts_a and shifts_b):
            raise NotImplementedError("these paths take no shift")
        return path_a(name, shift), path_b(name, shift)

    return judge(paths, dtype, question=question)


def dtype_of(logits: Any) -> str | None:
    """The dtype's name of an array, NumPy or torch; None for a function."""
    return None if callable(logits) else str(getattr(logits, "dtype", "float64")).removeprefix("torch.")


def as_path(logits: Any, dtype: str) -> tuple[Path, bool]:
    """f(dtype, shift) of a function with or without a shift, or of an array of `dtype`; and whether it can shift."""
    if not callable(logits):

        def given(name: str, shift: float):
            if name != dtype:
                raise NotImplementedError(f"logits came in {dtype} and not in {name}")
            return on_cpu(logits)

        return given, False
    wants = inspect.signature(logits).parameters.values()
    shifts = len(wants) > 1 or any(p.kind is p.VAR_POSITIONAL for p in wants)
    return lambda name, shift: on_cpu(logits(name, shift) if shifts else logits(name)), shifts


def on_cpu(logits: Any) -> Any:
    """Logits in the CPU's memory, torch's as float64, which holds all their values."""
    return logits.detach().double().cpu().numpy() if hasattr(logits, "detach") else logits
