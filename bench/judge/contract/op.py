"""One decode attention under test: its inputs, and whether its answers are right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ....reference.judge.cases import Case, draw_qkv
from ....reference.judge.rounding import attention_error, attention_gate
from ...measure.gate import to_numpy
from .report import BROKEN, HELD, Finding


@dataclass(frozen=True)
class Op:
    """The function under test and the sizes it is called with.

    inner   dtype to which scores and weights may be rounded, see rounding.attention_gate; None: float32 inside
    device  None gives NumPy arrays, else torch tensors on that device
    grouped  (heads, KV heads) to draw where heads are grouped, which all other draws leave ungrouped
    """

    fn: Callable[..., Any]
    dtype: str
    lengths: np.ndarray
    heads: int
    head_dim: int
    inner: np.dtype | None
    device: str | None
    batch_invariant: bool
    grouped: Sequence[tuple[int, int]] = ()

    def draw(self, room: int = 0, kv_heads: int | None = None, **how) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q (B, H, D), k and v (B, H_kv, T, D), contiguous, T `room` above the longest length; dead slots hold 0.

        how  fields of a `Case` that shape the numbers
        """
        H_kv = kv_heads or self.heads
        T = int(self.lengths.max()) + room
        case = Case(self.dtype, tuple(self.lengths), T, self.head_dim, H_kv, self.heads // H_kv, needles=False, **how)
        q, k, v, _ = draw_qkv(case, dead=0.0)
        return q, k, np.ascontiguousarray(v)

    def __call__(self, q, k, v, lengths=None) -> np.ndarray:
        """o (B, H, D) as the function gives it; raises TypeError for another shape or dtype."""
        o = self.call(q, k, v, self.lengths if lengths is None else np.asarray(lengths))
        o = to_numpy(o) if isinstance(o, torch.Tensor) else np.asarray(o)
        if o.shape != q.shape or o.dtype != q.dtype:
            raise TypeError(f"o is {o.shape} {o.dtype}; q is {q.shape} {q.dtype} and o must be alike")
        return o

    def call(self, q, k, v, lengths):
        arrays = (q, k, v, lengths.astype(np.int32))
        if self.device is not None:
            arrays = [to_torch(x).to(self.device) for x in arrays]
        return self.fn(*arrays)

    def hold(self, o, q, k, v, held: str, broken: str, lengths=None, **rounded) -> Finding:
        """Hold o to the plain formula; `rounded` as rounding.attention_gate takes it."""
        lengths = self.lengths if lengths is None else lengths
        return graded(attention_error(o, q, k, v, lengths, **({"inner": self.inner} | rounded)), held, broken)

    def alike(self, got, own, q, k, v, lengths, held: str, broken: str) -> Finding:
        """Hold two results of the same inputs to each other, right or wrong: each may stray by the gate."""
        gate = 2 * attention_gate(q, k, v, lengths, inner=self.inner)
        return graded(float(np.max(np.abs(got.astype(np.float64) - own.astype(np.float64)) / gate)), held, broken)


def graded(error: float, held: str, broken: str) -> Finding:
    """The finding for an error in multiples of its gate."""
    if error <= 1:
        return Finding(HELD, f"{held}, {error:.2f} of what rounding explains", {"error": error})
    return Finding(BROKEN, f"{broken}: {error:.3g} times what rounding explains", {"error": error})


def to_torch(x: np.ndarray) -> torch.Tensor:
    """The same numbers, dtype and strides; bfloat16 goes by its bits."""
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def same_bits(op: Op, got, want, held: str, broken: str) -> Finding:
    if got.tobytes() == want.tobytes():
        return Finding(HELD, held)
    got, want = got.astype(np.float64), want.astype(np.float64)
    apart = ~(got == want).reshape(len(got), -1).all(1)
    b = int(apart.argmax())
    length = f", first where length is {op.lengths[b]}" if len(got) == len(op.lengths) else ""
    worst = float(np.abs(got - want).max())
    how = "the result is NaN" if np.isnan(worst) else f"results differ by {worst:.1e}"
    return Finding(BROKEN, f"{broken}: {how} in {int(apart.sum())} of {len(got)} rows{length}", {"error": worst})
