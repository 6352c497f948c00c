"""Two ways to the same logits, given as functions or as arrays, before the judge of reference/judge/parity.py.

The judge measures rounding by shifting the embeddings a little. Who cannot shift them is held to a multiple of what one
rounding of the logits does.
"""

from typing import Any

from ....reference.judge.parity import DTYPES, judge
from ....reference.judge.verdict import Verdict
from .functions import Path, Rungs, dtype_of


def check_decode(a: Any, b: Any, dtype: str | None = None, question: str = "cached against uncached") -> Verdict:
    """Whether path a is the same computation as the trusted path b.

    a, b      functions f(dtype, shift) or f(dtype) -> logits (B, n, V) of the same positions, computed in "float64",
              "float32", "bfloat16" or "float16", NotImplementedError where they cannot; shift multiplies the embedding
              table by 1 + shift. Or arrays of logits, which exist in one dtype only. functions.py has all they may be
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
    rungs = Rungs(lambda name, shift: (path_a(name, shift), path_b(name, shift)), dtype)
    return rungs.said(judge(rungs, dtype, question=question))
