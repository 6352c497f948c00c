"""Attention in float64, and how far an honest computation of it may stray.

Honest means exact mathematics on the rounded inputs, the output rounded once to its dtype. What a kernel may lose on
top, because it sums in float32, is measured and not chosen: see SUM_ERROR.
"""

import ml_dtypes
import numpy as np

# What summing n terms may lose, in units of sqrt(n) * roundoff * `sensitivity`. Measured, not chosen: over 4864 random
# heads (head_dim 4..256, 1..4096 slots, scores of std 0.1..16, values of mean 0..10) the worst plain float32 formula,
# all its sums taken one term after another, lost 1.02 of them, pairwise sums 0.8 and the kernel's twin 0.8. The gate is
# twice the worst. It raised no false alarm in the 20000 draws of test_honest.py: fewer than 1 in 6600, 95 % confidence.
SUM_ERROR = 2.0


def weights(q, k, n, scale):
    """One head: q (D,), k (T, D) -> the attention weights (n,) and the scores' log-sum-exp, in float64."""
    s = k[:n].astype(np.float64) @ q.astype(np.float64) * scale
    p = np.exp(s - s.max())
    return p / p.sum(), s.max() + np.log(p.sum())


def attention(q, k, v, lengths, scale=None):
    """The plain formula, softmax(q k^T * scale) v, over the first lengths[b] slots, in float64.

    q (B, H, D), k and v (B, H, T, D) of any float dtype, lengths (B,) -> (B, H, D). Length 0 gives zeros.
    """
    B, H, _, D = k.shape
    scale = D**-0.5 if scale is None else scale
    o = np.zeros((B, H, D))
    for b, h in np.ndindex(B, H):
        if n := int(lengths[b]):
            p, _ = weights(q[b, h], k[b, h], n, scale)
            o[b, h] = p @ v[b, h, :n].astype(np.float64)
    return o


def honest_attention(q, k, v, lengths, scale=None):
    """`attention`, rounded once to q's dtype: the best any kernel with that output can do."""
    return attention(q, k, v, lengths, scale).astype(q.dtype)


def sensitivity(q, k, v, lengths, scale=None):
    """How far each output moves, at most, per relative error of one rounding inside the sums: (B, H, D), float64.

    A rounding error in a score, relative to sum |q_d k_d| * scale, changes that slot's weight by as much; one in the
    weighted sum is relative to sum p |v|.
    """
    B, H, _, D = k.shape
    scale = D**-0.5 if scale is None else scale
    moves = np.zeros((B, H, D))
    for b, h in np.ndindex(B, H):
        if n := int(lengths[b]):
            p, _ = weights(q[b, h], k[b, h], n, scale)
            terms = np.abs(k[b, h, :n].astype(np.float64)) @ np.abs(q[b, h].astype(np.float64)) * abs(scale)
            moves[b, h] = (p * (1 + terms)) @ np.abs(v[b, h, :n].astype(np.float64))
    return moves


def roundoff(dtype) -> float:
    """Largest relative error of rounding a number to `dtype`."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


def attention_gate(q, k, v, lengths, scale=None, inner=None):
    """The largest |o - attention(...)| that honest rounding explains, for each output: (B, H, D), float64.

    One rounding of the output to q's dtype, and sums in float32 (float64 for float64) as measured in SUM_ERROR. It
    shrinks with the output, like 1 / sqrt(T) on random data, where a fixed tolerance would forgive ever more.

    inner  the dtype to which scores and weights are rounded between the sums, as torch's own attention does in half
           precision; a rounded score moves its own weight and, through their sum, all others. None where they are not
    """
    return gate_around(attention(q, k, v, lengths, scale), q, k, v, lengths, scale, inner)


def gate_around(exact, q, k, v, lengths, scale=None, inner=None):
    """`attention_gate`, where attention(...) is known already."""
    sums = roundoff(np.float64 if q.dtype == np.float64 else np.float32)
    terms = np.sqrt(np.maximum(lengths, 1))[:, None, None]
    stored = roundoff(q.dtype) * np.abs(exact)
    subnormal = float(ml_dtypes.finfo(q.dtype).smallest_subnormal) / 2 * (np.asarray(lengths) > 0)[:, None, None]
    inside = SUM_ERROR * terms * sums + (0 if inner is None else 2 * roundoff(inner))
    return stored + subnormal + inside * sensitivity(q, k, v, lengths, scale)


def attention_error(o, q, k, v, lengths, scale=None, inner=None) -> float:
    """The largest error of an attention output o (B, H, D), in multiples of the gate: honest up to 1, NaN is infinite.

    Where the gate is zero (length 0, zero values) o must be exact.
    """
    exact = attention(q, k, v, lengths, scale)
    if o.shape != exact.shape:
        raise ValueError(f"o is {o.shape}; attention of these inputs is {exact.shape}")
    error, gate = np.abs(o.astype(np.float64) - exact), gate_around(exact, q, k, v, lengths, scale, inner)
    ratio = np.divide(error, gate, out=np.where(error == 0, 0.0, np.inf), where=gate > 0)
    return float(np.max(np.where(np.isnan(ratio), np.inf, ratio)))
