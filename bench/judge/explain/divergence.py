"""Where two paths part: the first operation whose results differ by more than rounding explains.

Both paths are fed the same tokens, so nothing that a late layer does wrong comes back by way of a token: an operation
differs only if it, or one before it, is wrong. The traces of tracing/tape.py are in order of computation, so the first
that differs is where the fault is, or what it reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ....reference.judge.difference import finite, gaps, rms
from ....reference.judge.ladder import UNSHIFTED
from ....reference.judge.rounding import roundoff
from ..tracing.tape import Activation

# The embedding is moved by this much, relatively, to see a path's own rounding. One float32 roundoff: a float32 inside
# must round anew, while the bend of the smooth part, of the order of the square, stays near float64's own rounding.
SHIFT = 2.0**-24
# Multiples of the measured noise that may part two correct paths. The worst of 270 correct runs parted by 1.04 of them
# (eager, sdpa against naive, NumPy; small, tiny; transformers' GPT-2 and Llama; ragged and equal rows): the gate is
# eight times that, and still seven orders below the smallest planted bug, a LayerNorm's epsilon ten times too large.
GATE = 8.0
FLOOR = 2.0**-53  # noise of an operation that the shift leaves exact

Gates = Mapping[tuple[int | None, str], float]


@dataclass(frozen=True)
class Divergence:
    """Where two paths part first.

    layer       None outside the blocks
    operation   as in bench/judge/tracing/tape.py; "logits" where nothing but they is known
    head        of the largest difference there; in c_attn 0 .. H-1 are queries', the keys' and values' follow. None
                where the operation has no heads
    step        index of the first position that differs, among those compared
    position    that position in its sequence: tokens before it
    sequence    row of the batch
    size        the largest difference at that place, relative to the operation's rms
    factor      the same in multiples of the gate; infinite where one path has NaN
    token       the id that both paths are fed there, where it is known
    """

    layer: int | None
    operation: str
    head: int | None
    step: int
    position: int
    sequence: int
    size: float
    factor: float
    token: int | None = None

    def record(self) -> dict[str, Any]:
        return finite(asdict(self))

    def __str__(self) -> str:
        where = self.operation if self.layer is None else f"layer {self.layer}, {self.operation}"
        head = "" if self.head is None else f", head {self.head}"
        token = "" if self.token is None else f" (token {self.token})"
        return (
            f"{where}{head}, position {self.position} of sequence {self.sequence}{token}: "
            f"{self.size:.1e} of its rms, {self.factor:.1e} times what rounding explains"
        )


def difference(a: Activation, b: Activation) -> np.ndarray:
    """|a - b| / rms(b), of their common shape; where one has NaN or infinity and the other has not, infinity."""
    if a.value.shape != b.value.shape:
        raise ValueError(f"{b.operation} is {a.value.shape} in one path and {b.value.shape} in the other")
    return gaps(a.value, b.value) / (rms(b.value) or 1.0)


def paired(trace_a: Sequence[Activation], trace_b: Sequence[Activation]) -> list[tuple[Activation, Activation]]:
    """The operations that both traces have, in b's order; ("cache") is what they leave behind and comes last."""
    found = {(x.layer, x.operation): x for x in trace_a}
    both = [(found[x.layer, x.operation], x) for x in trace_b if (x.layer, x.operation) in found]
    if not both:
        raise ValueError("the traces have no operation in common; trace both with bench/judge/tracing/tape.py")
    return sorted(both, key=lambda pair: pair[1].operation == "cache")


def first_divergence(
    trace_a: Sequence[Activation],
    trace_b: Sequence[Activation],
    gates: Gates | float,
    positions: np.ndarray | None = None,
) -> Divergence | None:
    """The first operation at which a differs from b by more than its gate, or None.

    gates      how far rounding may part them, relative to the operation's rms: one number, or one per
               (layer, operation) as `measured_gates` gives
    positions  (B, n) what positions the traces are of; 0 .. n-1 if not given

    Raises ValueError for traces of different positions.
    """
    for a, b in paired(trace_a, trace_b):
        gate = gates if isinstance(gates, (int, float)) else gates.get((b.layer, b.operation), 0.0)
        error = difference(a, b)
        if b.operation != "cache" and error.max() > gate:
            return locate(b, error, max(gate, FLOOR), positions)
    return None


def locate(b: Activation, error: np.ndarray, gate: float, positions: np.ndarray | None) -> Divergence:
    """The first place in one operation's differences (B, n, ...): its step, then where they are largest."""
    places = error.reshape(*error.shape[:2], -1).max(-1)  # (B, n)
    step = int(np.argmax((places > gate).any(0)))
    sequence = int(np.argmax(places[:, step]))
    there = error[sequence, step]
    head = int(np.argmax(there.max(-1))) if there.ndim == 2 else None
    position = step if positions is None else int(positions[sequence, step])
    size = float(there.max())
    return Divergence(b.layer, b.operation, head, step, position, sequence, size, size / float(gate))


def measured_gates(subject: Any, dtype: str = "float64") -> dict[tuple[int | None, str], float]:
    """How far rounding may part the two paths at each operation, measured on the trusted path alone.

    Its results at embedding shifts 0, SHIFT and 2 SHIFT lie on a smooth curve but for its rounding, which the second
    difference lets through, sqrt(6) times as large, and the curve's own bend, which it all but removes. A layer that
    computes in float32 inside shows here as it does between the paths.
    Source: More and Wild 2011, "Estimating computational noise" (ECnoise), the first level of its difference table.
    """
    traces = [subject.trace_one("b", dtype, times * SHIFT) for times in (0, 1, 2)]
    gates, reached = {}, FLOOR
    for f0, f1, f2 in zip(*traces, strict=True):
        # What comes later reads what came before: an operation that hides its rounding still passes it on.
        reached = max(reached, bend(f0.value, f1.value, f2.value))
        gates[f0.layer, f0.operation] = GATE * reached
    return gates


def bend(f0: np.ndarray, f1: np.ndarray, f2: np.ndarray) -> float:
    """The largest second difference / sqrt(6), relative to f0's rms, of what is finite in f0."""
    fine = np.isfinite(f0)
    return float(np.abs(f0 - 2 * f1 + f2)[fine].max(initial=0.0)) / np.sqrt(6) / (rms(f0) or 1.0)


def gates_in(subject: Any, dtype: str) -> dict[tuple[int | None, str], float]:
    """`measured_gates` in float64, or, of paths that take no shift, what the judge assumes of their rounding.

    Below float64 GATE times what the trusted path errs by, held to itself in float64.
    """
    try:
        if dtype == "float64":
            return measured_gates(subject)
        wide = subject.trace_one("b", "float64")
    except NotImplementedError:
        assumed = UNSHIFTED * max(roundoff(dtype), roundoff("float32"))
        return {(x.layer, x.operation): assumed for x in subject.trace_one("b", dtype)}
    gates, reached = {}, roundoff(dtype)
    for a, b in paired(subject.trace_one("b", dtype), wide):
        error = difference(a, b)
        reached = max(reached, float(error[np.isfinite(error)].max(initial=0.0)))
        gates[b.layer, b.operation] = GATE * reached
    return gates


def error_in_ulps(trace_a: Sequence[Activation], trace_b: Sequence[Activation], dtype: str) -> np.ndarray:
    """The heat map of a page: (layers, n), the largest difference of any operation of a layer at each position.

    In units of the last place of `dtype` at the operation's rms; the largest over the sequences. Infinite where one
    path has NaN.
    """
    last_place = float(ml_dtypes.finfo(dtype).eps)
    layers = 1 + max(x.layer for x in trace_b if x.layer is not None)
    steps = next(x.value.shape[1] for x in trace_b if x.operation != "cache")
    found = np.zeros((layers, steps))
    for a, b in paired(trace_a, trace_b):
        if b.layer is not None and b.operation != "cache":
            error = difference(a, b).reshape(len(b.value), steps, -1).max((0, 2))
            found[b.layer] = np.maximum(found[b.layer], error / last_place)
    return found


@dataclass(frozen=True)
class TokenMargins:
    """Beside each other, (B, n) each: by how much b prefers its token, how far its logits moved, whether it flipped."""

    margin: np.ndarray
    error: np.ndarray
    flipped: np.ndarray

    @property
    def at_risk(self) -> np.ndarray:
        """Where a difference of this size could flip the token: two logits may move by it in opposite directions."""
        return self.margin <= 2 * self.error


def token_margins(a: np.ndarray, b: np.ndarray) -> TokenMargins:
    """What logits a (B, n, V) could do to the tokens that b (B, n, V), V >= 2, chooses."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or b.ndim != 3 or b.shape[-1] < 2:
        raise ValueError(f"logits are {a.shape} and {b.shape}; both must be (B, n, V) with V of 2 or more")
    top = np.partition(b, -2, axis=-1)
    return TokenMargins(top[..., -1] - top[..., -2], np.abs(a - b).max(-1), a.argmax(-1) != b.argmax(-1))
