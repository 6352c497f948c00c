"""What any decode attention must keep: fn(q, k, v, lengths) -> o, a kernel of ours or a stranger's.

attention_checks.py has the checks. Each is held to the plain formula in float64, by a gate that was measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from . import attention_checks as checks
from .op import Op
from .report import BROKEN, ContractReport, Finding, NotChecked, run_checks
from .user_errors import described

# Around the blocks of 16 to 128 slots that kernels take, ragged, and the last one full.
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 140)
# (heads, KV heads): groups of 2, 3, 4, 7 and 5, none of as many heads as there are groups.
GROUPED = ((6, 3), (6, 2), (12, 3), (14, 2), (5, 1))

CHECKS: dict[str, Callable[[Op], Finding]] = {
    "random scores": checks.formula,
    "rising scores": partial(checks.formula, q_scale=16.0, rising=True),
    "flat scores": partial(checks.formula, q_scale=0.1, v_mean=1.0),
    "low scores": checks.low_scores,
    "grouped heads": checks.grouped_heads,
    "layouts": checks.layouts,
    "dead slots": checks.dead_slots,
    "last slot": checks.last_slot,
    "one past": checks.one_past,
    "rows apart": partial(checks.apart, axis=0),
    "heads apart": partial(checks.apart, axis=1),
    "rows permuted": checks.rows_permuted,
    "one slot": checks.one_slot,
    "no slot": checks.no_slot,
}


def check_attention(
    fn: Callable[..., Any],
    *,
    dtype: str = "float32",
    lengths: Sequence[int] = LENGTHS,
    heads: int = 3,
    head_dim: int = 32,
    inner: str | None = None,
    device: str | None = None,
    batch_invariant: bool = False,
    grouped: Sequence[tuple[int, int]] = GROUPED,
    only: Sequence[str] = (),
    require: Sequence[str] = (),
) -> ContractReport:
    """Hold a decode attention to the contract: fn(q, k, v, lengths) -> o, scores scaled by 1 / sqrt(D).

    q        (B, H, D), k and v (B, H, T, D) of `dtype`, lengths (B,) int32, o (B, H, D) of `dtype`
    dtype    "float64" | "float32" | "float16" | "bfloat16"
    lengths  one row each, from 1 up; all shapes follow from these, heads and head_dim
    inner    the dtype scores and weights are rounded to between the sums, as torch's own attention does in half
             precision; None where they stay in float32
    device   "cpu", "cuda": fn is called with torch tensors there. None: with NumPy arrays (bfloat16 as ml_dtypes has
             it) or, where it raises on those and not on torch's, with torch tensors on the CPU
    batch_invariant  True: a row's bits must not depend on its place in the batch
    grouped  (heads, KV heads) to draw with k and v (B, H_kv, T, D); what fn raises there is not checked. () for an fn
             that takes no groups and does not say so
    only     names of CHECKS to make; empty: all of them
    require  names of CHECKS that must be held, where otherwise "not checked" is only reported

    What fn raises is reported as broken, NotImplementedError as not checked, ValueError at length 0 as not checked.
    Where it raises on plain numbers, that is reported once, and the other checks as not made.
    """
    rows = np.array(lengths, np.int32)
    if rows.ndim != 1 or len(rows) < 2 or rows.min() < 1:
        raise ValueError(f"lengths are {lengths}; give two or more, each 1 or more")
    rounded = None if inner is None else np.dtype(inner)
    op = Op(fn, dtype, rows, heads, head_dim, rounded, device, batch_invariant, grouped)
    subject = f"{getattr(fn, '__name__', type(fn).__name__)} ({dtype})"
    op, error = with_its_arrays(op)
    to_run = {name: partial(check, op) for name, check in CHECKS.items()}
    if error:
        to_run |= once([name for name in only if name in CHECKS] or list(CHECKS), error)
    return run_checks(subject, to_run, only, require)


def with_its_arrays(op: Op) -> tuple[Op, str]:
    """The op with the arrays that fn takes, and what it raises on plain numbers, in words; empty if nothing."""
    error = raised(op)
    if not error:
        return op, ""
    other = replace(op, device="cpu" if op.device is None else None)
    second = raised(other)
    if op.device is not None:
        return op, f"raised {error}" + ("" if second else "; it takes NumPy arrays: leave device= out")
    return (op, f"raised {error} with NumPy arrays, and {second} with torch tensors") if second else (other, "")


def raised(op: Op) -> str:
    """What fn raises on plain numbers, in one line; empty where it raises nothing, or says that it cannot."""
    try:
        op.call(*op.draw(), op.lengths)
    except NotImplementedError:
        return ""
    except Exception as error:
        return described(error)
    return ""


def once(names: Sequence[str], words: str) -> dict[str, Callable[[], Finding]]:
    """These checks, of which the first says what fn raises and the others point at it."""

    def missing() -> Finding:
        raise NotChecked(f"fn raises before anything can be checked, see {names[0]}")

    return dict.fromkeys(names, missing) | {names[0]: lambda: Finding(BROKEN, words)}
