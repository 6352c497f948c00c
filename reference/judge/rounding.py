"""Attention in float64, and the largest error that rounding explains.

Exact-rounded: exact mathematics on the rounded inputs, the output rounded once to its dtype. What a kernel may lose
besides, since it sums in float32 or multiplies rounded weights, is measured and not chosen: SUM_ERROR, WEIGHT_ERROR.

All functions take q (B, H, D), or (B, M, H, D) for M tokens, the last ones of their sequences; k and v (B, H_kv, T, D),
head h reading KV head h // (H / H_kv); lengths (B,), M new tokens included; and as `features` any of causal, window,
sinks, softcap and alibi_slopes ((H,) or (B, H)), see features.py, where paged and 8-bit caches become plain ones.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .features import modified, seen_slots

# What summing n terms may lose, in units of sqrt(n) * roundoff * `sensitivity`. Measured, not chosen: over 4864 random
# heads (head_dim 4..256, 1..4096 slots, scores of std 0.1..16, values of mean 0..10) the worst plain float32 formula,
# all its sums taken one term after another, lost 1.02 of them, pairwise sums 0.8 and the kernel's twin 0.8. The gate is
# twice the worst. It raised no false alarm in the 20000 draws of test_rounding.py: under 1 in 6600, 95 % confidence.
SUM_ERROR = 2.0
# What rounding the weights to 16 bits may lose, in units of roundoff * sqrt(sum (p (|v| + |o|))^2): over 20000 such
# heads, softcap and ALiBi in half of them, in float16 and bfloat16 and with the weights' own sum taken before or after
# rounding, the worst lost 1.72. The gate is twice the worst. In 8000 of them float32 sums, those over head_dim taken
# one term after another too, lost 0.93 of SUM_ERROR's units, and lse 0.21 of its gate.
WEIGHT_ERROR = 3.5


class Row(NamedTuple):
    """One query row: its weights p (n,) over the slots it sees, the scores' log-sum-exp, v (n, D), and how far one
    relative error moves each score, terms (n,)."""

    p: np.ndarray
    lse: float
    v: np.ndarray
    terms: np.ndarray

    def sensitivity(self):
        """(D,), see the function of that name."""
        pulls = np.maximum(np.abs(self.v), np.abs(self.v - self.p @ self.v))
        return (self.p * (1 + self.terms)) @ pulls

    def weight_rounding(self, dtype):
        """How far the output moves when the weights are rounded to `dtype` between the sums, (D,): WEIGHT_ERROR.

        Independent roundings add up like their root mean square, never to more than all of one sign; p.max() turns
        the subnormal steps, which are relative to the largest weight, into steps of p.
        """
        pulls = self.p[:, None] * (np.abs(self.v) + np.abs(self.p @ self.v))
        step = float(ml_dtypes.finfo(dtype).smallest_subnormal) / 2 * self.p.max()
        together = np.minimum(pulls.sum(0), WEIGHT_ERROR * np.sqrt((pulls**2).sum(0)))
        return roundoff(dtype) * together + step * np.abs(self.v).sum(0)


def softmax(s):
    """Scores (n,) -> the weights (n,) and the scores' log-sum-exp."""
    p = np.exp(s - s.max())
    return p / p.sum(), s.max() + np.log(p.sum())


def weights(q, k, n, scale):
    """One head: q (D,), k (T, D) -> the attention weights (n,) and the scores' log-sum-exp, in float64."""
    return softmax(k[:n].astype(np.float64) @ q.astype(np.float64) * scale)


def rows(
    q, k, v, lengths, scale=None, *, causal=True, window=None, sinks=0, softcap=None, alibi_slopes=None
) -> Iterator[tuple[Any, Row]]:
    """Every query row that sees a slot: its index in o, and its Row."""
    M, H, D = q.shape[1] if q.ndim == 4 else 1, q.shape[-2], q.shape[-1]
    group = H // k.shape[1]
    scale = D**-0.5 if scale is None else scale
    slopes = None if alibi_slopes is None else np.broadcast_to(alibi_slopes, (len(q), H)).astype(np.float64)
    for b, i, h in np.ndindex(len(q), M, H):
        at = (b, i, h) if q.ndim == 4 else (b, h)
        p = int(lengths[b]) - M + i
        t = seen_slots(p, int(lengths[b]), causal, window, sinks)
        if len(t):
            one, ks = q[at].astype(np.float64), k[b, h // group, t].astype(np.float64)
            s, terms = ks @ one * scale, np.abs(ks) @ np.abs(one) * abs(scale)
            s, terms = modified(s, terms, t, p, softcap, None if slopes is None else slopes[b, h])
            yield at, Row(*softmax(s), v[b, h // group, t].astype(np.float64), terms)


def attention(q, k, v, lengths, scale=None, **features):
    """The plain formula, softmax(q k^T * scale) v, in float64, with q's shape; a row that sees no slot gives zeros."""
    o = np.zeros(q.shape)
    for at, row in rows(q, k, v, lengths, scale, **features):
        o[at] = row.p @ row.v
    return o


def log_sum_exp(q, k, lengths, scale=None, **features):
    """The natural log of each row's sum of exponentials, (B, H) or (B, M, H) in float64; -inf if it sees no slot."""
    lse = np.full(q.shape[:-1], -np.inf)
    for at, row in rows(q, k, k, lengths, scale, **features):
        lse[at] = row.lse
    return lse


def exact_rounded_attention(q, k, v, lengths, scale=None, **features):
    """`attention`, rounded once to q's dtype: the best any kernel with that output can do."""
    return attention(q, k, v, lengths, scale, **features).astype(q.dtype)


def sensitivity(q, k, v, lengths, scale=None, **features):
    """How far each output moves, at most, per relative error of one rounding inside the sums: float64, q's shape.

    A rounding error in a score, relative to sum |q_d k_d| * scale, changes that slot's weight by as much and, through
    the weights' sum, the output by p |v - o|; one in the weighted sum is relative to sum p |v|. The larger one counts:
    under a softcap, the slot whose score is least certain may be the one whose value is nearly zero.
    """
    moves = np.zeros(q.shape)
    for at, row in rows(q, k, v, lengths, scale, **features):
        moves[at] = row.sensitivity()
    return moves


def roundoff(dtype) -> float:
    """Largest relative error of rounding a number to `dtype`."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


def sums(dtype):
    """The dtype of the sums behind an output of `dtype`: float64 for float64, else float32."""
    return np.float64 if dtype == np.float64 else np.float32


def attention_gate(q, k, v, lengths, scale=None, inner=None, rounded_weights=None, **features):
    """The largest |o - attention(...)| that rounding explains, for each output: float64, q's shape.

    One rounding of the output to q's dtype, and sums in float32 (float64 for float64) as measured in SUM_ERROR. It
    shrinks with the output, like 1 / sqrt(T) on random data, where a fixed tolerance would forgive ever more.

    inner            the dtype to which scores and weights are rounded between the sums, as torch's own attention does
                     in half precision; a rounded score moves its own weight and, through their sum, all others
    rounded_weights  the dtype to which the weights alone are rounded, as tensor cores need them before they multiply
                     values; scores stay float32. None, for both, where nothing is rounded
    """
    exact = attention(q, k, v, lengths, scale, **features)
    return gate_around(exact, q, k, v, lengths, scale, inner, rounded_weights, **features)


def gate_around(exact, q, k, v, lengths, scale=None, inner=None, rounded_weights=None, **features):
    """`attention_gate`, where attention(...) is known already."""
    gate = roundoff(q.dtype) * np.abs(exact)
    subnormal = float(ml_dtypes.finfo(q.dtype).smallest_subnormal) / 2
    flushed = float(np.finfo(sums(q.dtype)).smallest_normal)  # weights below it may be lost; the largest is about 1
    for at, row in rows(q, k, v, lengths, scale, **features):
        inside = SUM_ERROR * np.sqrt(len(row.p)) * roundoff(sums(q.dtype)) + (2 * roundoff(inner) if inner else 0)
        gate[at] += subnormal + inside * row.sensitivity() + flushed * np.abs(row.v).sum(0)
        if rounded_weights:
            gate[at] += row.weight_rounding(rounded_weights)
    return gate


def lse_gate(q, k, lengths, scale=None, **features):
    """The largest |lse - log_sum_exp(...)| that rounding explains: (B, H) or (B, M, H), float64.

    lse is kept in float32 (float64 for float64), and so is all it is made of; SUM_ERROR holds for it too. An error in
    a score moves it by that slot's weight; the maximum, the sum's logarithm and their total are rounded each.
    """
    gate = np.zeros(q.shape[:-1])
    for at, row in rows(q, k, k, lengths, scale, **features):
        n, longest = len(row.p), max(len(row.p), q.shape[-1])  # a lone score is all of lse: its own sum counts
        moves = 1 + row.p @ row.terms + abs(row.lse) + np.log(n)
        gate[at] = SUM_ERROR * np.sqrt(longest) * roundoff(sums(q.dtype)) * moves
    return gate


def attention_error(o, q, k, v, lengths, scale=None, inner=None, rounded_weights=None, **features) -> float:
    """The largest error of an attention output o, in multiples of the gate: rounding up to 1, NaN is infinite.

    Where the gate is zero (no slot seen, zero values) o must be exact.
    """
    exact = attention(q, k, v, lengths, scale, **features)
    if o.shape != exact.shape:
        raise ValueError(f"o is {o.shape}; attention of these inputs is {exact.shape}")
    return in_gates(o, exact, gate_around(exact, q, k, v, lengths, scale, inner, rounded_weights, **features))


def lse_error(lse, q, k, lengths, scale=None, **features) -> float:
    """The largest error of lse (B, H) or (B, M, H), in multiples of `lse_gate`; -inf where no slot is seen."""
    exact = log_sum_exp(q, k, lengths, scale, **features)
    if lse.shape != exact.shape:
        raise ValueError(f"lse is {lse.shape}; that of these inputs is {exact.shape}")
    return in_gates(lse, exact, lse_gate(q, k, lengths, scale, **features))


def in_gates(x, exact, gate) -> float:
    """The largest |x - exact| in multiples of the gate; NaN is infinite."""
    x = x.astype(np.float64)
    with np.errstate(invalid="ignore"):  # -inf - -inf
        error = np.where(x == exact, 0, np.abs(x - exact))
    ratio = np.divide(error, gate, out=np.where(error == 0, 0.0, np.inf), where=gate > 0)
    return float(np.max(np.where(np.isnan(ratio), np.inf, ratio), initial=0))
