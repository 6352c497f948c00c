"""Cases that any decode attention must pass, ours, the twin's or a stranger's, against the plain float64 formula.

Random data does not see edges, so each case puts a needle in the last live slot of every other sequence, which a kernel
short by one misses, and NaN in every dead slot, which a kernel long by one drinks. The sequences without a needle see
what a needle outshines: wrong weights, dropped blocks. K and V are laid out differently.
"""

import warnings
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from kvproof.reference.judge.rounding import attention_error

DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Case:
    """One call of the op: what it is about, and the inputs to draw."""

    name: str
    dtype: str
    H: int
    T: int
    D: int
    lengths: tuple[int, ...]
    q_scale: float = 1.0  # standard deviation of q; scores have the same
    v_mean: float = 0.0
    scale: float | None = None
    shift: float = 0.0  # added to every score
    rising: bool = False  # scores grow along the context, so that the running maximum moves in every block


CASES = (
    Case("one slot", "float32", H=2, T=1, D=4, lengths=(1, 0)),
    Case("a block and a split, one less, one more", "float32", 2, 140, 32, (140, 1, 0, 31, 32, 33, 127, 128, 129)),
    Case("every residue of 16", "float64", 1, 40, 16, tuple(range(1, 36))),
    Case("25 heads", "float16", 25, 20, 8, (19,)),
    Case("splits, more than eight, the last one of one slot", "float16", 1, 1100, 64, (257, 1025, 1100)),
    Case("peaked scores that rise", "bfloat16", 1, 300, 80, (300, 299), q_scale=16.0, rising=True),
    Case("peaked scores that rise", "float32", 1, 300, 64, (300, 257), q_scale=16.0, rising=True),
    Case("scores far below zero", "float32", 1, 20, 16, (20, 3), shift=-300.0),
    Case("scores below a finite mask", "float64", 1, 20, 16, (20, 3, 7), shift=-1e12),
    Case("splits of 256", "float16", 1, 8200, 4, (8193,)),
    Case("long flat sums", "float32", 1, 700, 16, (700, 650), q_scale=0.1, v_mean=1.0),
    Case("a scale of its own, three columns", "float64", 2, 12, 3, (12, 11), scale=0.7),
)
DEAD = Case("dead slots", "float32", 1, 140, 32, (130, 33, 0))
POISONS = (np.inf, 1e4)  # after NaN


def draw(case: Case):
    """q (B, H, D), k (B, H, T, D), v the same over (B, T, H, D) memory, lengths (B,) int32: with needles and NaN."""
    rng = np.random.default_rng(0)
    B, H, T, D = len(case.lengths), case.H, case.T, case.D
    dtype, lengths = DTYPES[case.dtype], np.array(case.lengths, np.int32)
    q = case.q_scale * rng.standard_normal((B, H, D))
    k = rng.standard_normal((B, H, T, D))
    v = case.v_mean + rng.standard_normal((B, T, H, D)).swapaxes(1, 2)
    k += case.shift * (D**0.5 / np.sum(q * q, -1, keepdims=True) * q)[:, :, None]
    if case.rising:
        scores = np.einsum("bhd,bhtd->bht", q, k)
        k = np.take_along_axis(k, np.argsort(scores, axis=2)[..., None], axis=2)
    q, k = q.astype(dtype), k.astype(dtype)
    v = v.swapaxes(1, 2).astype(dtype).swapaxes(1, 2)
    for b, n in enumerate(lengths):
        if n and b % 2:
            k[b, :, n - 1] = 4 * q[b]
    poison(k, v, lengths, np.nan)
    return q, k, v, lengths


def poison(k, v, lengths, value):
    """Fill the dead slots of k and v, in place."""
    for b, n in enumerate(lengths):
        k[b, :, n:] = v[b, :, n:] = value


def check_attention(op, cases=CASES):
    """Raise AssertionError, naming the case, unless op is decode attention: op(q, k, v, lengths, scale=None) -> o.

    q (B, H, D), k and v (B, H, T, D) and o (B, H, D) are NumPy arrays of one float dtype, lengths (B,) int32.
    """
    for case in cases:
        label = f"{case.name} ({case.dtype}, D={case.D})"
        q, k, v, lengths = draw(case)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a wrong op may overflow; it is the answer that counts
            o = op(q, k, v, lengths, case.scale)
        assert o.shape == q.shape, f"{label}: o is {o.shape}, q {q.shape}"
        assert o.dtype == q.dtype, f"{label}: o is {o.dtype}, q {q.dtype}"
        error = attention_error(o, q, k, v, lengths, case.scale)
        assert error <= 1, f"{label}: the error is {error:.3g} times what honest rounding explains"
        lone = lengths == 1
        assert np.array_equal(o[lone], v[lone, :, 0]), f"{label}: one slot must return its value exactly"
    check_dead_slots(op)


def check_dead_slots(op, case: Case = DEAD):
    """Raise AssertionError unless NaN, inf and 1e4 in the dead slots give the same bits."""
    q, k, v, lengths = draw(case)
    o = op(q, k, v, lengths, case.scale)
    for value in POISONS:
        poison(k, v, lengths, value)
        again = op(q, k, v, lengths, case.scale)
        assert o.tobytes() == again.tobytes(), f"{case.name}: {value} in the dead slots changes the result"
