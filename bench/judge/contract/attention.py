"""What any decode attention must keep: fn(q, k, v, lengths) -> o, a kernel of ours or a stranger's.

Random data does not see edges, so needles stand in the last live slot and one past it, poison in the dead ones, and
lengths lie around every usual block. Held to the plain formula in float64, by a gate that was measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ....reference.judge.cases import poison
from .extremes import GROUPED, grouped_heads, low_scores
from .foreign import described
from .memory import POISONS
from .op import Op, same_bits
from .report import BROKEN, HELD, ContractReport, Finding, NotChecked, run_checks

# Around the blocks of 16 to 128 slots that kernels take, ragged, and the last one full.
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 140)
NEEDLE = 16.0  # a key of so many queries: its score outshines all others


def formula(op: Op, **draw) -> Finding:
    """The plain formula, at every length."""
    q, k, v = op.draw(**draw)
    return op.hold(op(q, k, v), q, k, v, "the plain formula at all lengths", "not the plain formula")


def layouts(op: Op) -> Finding:
    """K and V may lie in memory in any order, each in its own."""
    q, k, v = op.draw()
    own = op(q, k, v)
    by_token = np.ascontiguousarray(k.swapaxes(1, 2)).swapaxes(1, 2)
    B, H, T, D = v.shape
    wide = np.zeros((B, H, T + 3, D), v.dtype)
    wide[:, :, :T] = v
    broken = "with strides of their own K or V are read where they do not lie"
    for keys, values in ((by_token, v), (k, wide[:, :, :T])):
        finding = op.alike(op(q, keys, values), own, q, k, v, op.lengths, "any strides of K and V", broken)
        if finding.outcome != HELD:
            return finding
    return finding


def dead_slots(op: Op) -> Finding:
    """NaN, inf and 1e4 from lengths[b] on change no bit."""
    q, k, v = op.draw()
    clean = op(q, k, v)
    for value in POISONS:
        poison(k, v, op.lengths, value)
        finding = same_bits(op, op(q, k, v), clean, "NaN, inf and 1e4 there change no bit", f"{value} there is read")
        if finding.outcome != HELD:
            return finding
    return finding


def needle(op: Op, past: int) -> tuple[np.ndarray, ...]:
    """`draw`, with a key that outshines all others, and values of 3, in slot lengths[b] - 1 + past."""
    q, k, v = op.draw(room=past)
    for b, n in enumerate(op.lengths):
        k[b, :, n - 1 + past] = NEEDLE * q[b]
        v[b, :, n - 1 + past] = 3.0
    return q, k, v


def last_slot(op: Op) -> Finding:
    """A needle in the last live slot is found, at every length."""
    q, k, v = needle(op, 0)
    broken = "a needle in the last live slot is missed: the length is short, or the last block is"
    return op.hold(op(q, k, v), q, k, v, "a needle in the last live slot is found", broken)


def one_past(op: Op) -> Finding:
    """A needle one past the last live slot changes no bit, at any length."""
    clean = op(*op.draw(room=1))
    got = op(*needle(op, 1))
    held = "a needle one past the last live slot changes no bit"
    broken = "a needle one past the last live slot is seen: the length is long, or the last block's mask is missing"
    return same_bits(op, got, clean, held, broken)


def apart(op: Op, axis: int) -> Finding:
    """Other numbers in one row (axis 0) or head (axis 1) change no bit of the others."""
    q, k, v = op.draw()
    name = ("row", "head")[axis]
    if q.shape[axis] < 2:
        raise NotChecked(f"one {name} only")
    clean, at = op(q, k, v), (slice(None),) * axis
    for i in (0, q.shape[axis] - 1):
        others = [j for j in range(q.shape[axis]) if j != i]
        changed = [x.copy() for x in (q, k, v)]
        for x in changed:
            x[(*at, i)] = -2 * x[(*at, i)] + np.asarray(1, x.dtype)
        got = op(*changed)
        if np.array_equal(got[(*at, i)], clean[(*at, i)]):
            return Finding(BROKEN, f"other numbers in {name} {i} do not change its result: another is read for it")
        rest = (*at, others)
        broken = f"other numbers in {name} {i} change other {name}s' results"
        finding = same_bits(op, got[rest], clean[rest], f"no {name} sees another", broken)
        if finding.outcome != HELD:
            return finding
    return finding


def rows_permuted(op: Op) -> Finding:
    """The rows of a batch may come in any order."""
    q, k, v = op.draw()
    order = np.arange(len(q))[::-1]
    own, got = op(q, k, v)[order], op(q[order], k[order], v[order], op.lengths[order])
    held, broken = "any order of rows", "a row's result depends on its place in the batch"
    if op.batch_invariant:
        return same_bits(op, got, own, f"{held}, bit for bit", broken)
    return op.alike(got, own, q[order], k[order], v[order], op.lengths[order], held, broken)


def one_slot(op: Op) -> Finding:
    """Length 1 returns V's first row as it is: its weight is 1."""
    q, k, v = op.draw()
    got = op(q, k, v, np.ones_like(op.lengths))
    return same_bits(op, got, np.ascontiguousarray(v[:, :, 0]), "length 1 returns V[0] exactly", "length 1 is not V[0]")


def no_slot(op: Op) -> Finding:
    """Length 0 gives zeros, also beside rows that are not empty."""
    q, k, v = op.draw()
    lengths = op.lengths.copy()
    lengths[::2] = 0
    try:
        got = op(q, k, v, lengths)
    except ValueError as refusal:
        raise NotChecked(f"length 0 is refused: {refusal}") from None
    broken = "length 0 does not give zeros: 0 / 0, or an output that nobody wrote"
    return op.hold(got[::2], q[::2], k[::2], v[::2], "length 0 gives zeros", broken, lengths[::2])


CHECKS: dict[str, Callable[[Op], Finding]] = {
    "random scores": formula,
    "rising scores": partial(formula, q_scale=16.0, rising=True),
    "flat scores": partial(formula, q_scale=0.1, v_mean=1.0),
    "low scores": low_scores,
    "grouped heads": grouped_heads,
    "layouts": layouts,
    "dead slots": dead_slots,
    "last slot": last_slot,
    "one past": one_past,
    "rows apart": partial(apart, axis=0),
    "heads apart": partial(apart, axis=1),
    "rows permuted": rows_permuted,
    "one slot": one_slot,
    "no slot": no_slot,
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
    op, error = settled(op)
    checks = {name: partial(check, op) for name, check in CHECKS.items()}
    if error:
        checks |= once([name for name in only if name in CHECKS] or list(CHECKS), error)
    return run_checks(subject, checks, only, require)


def settled(op: Op) -> tuple[Op, str]:
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
