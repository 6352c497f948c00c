"""Questions to a decode attention whose answers are known without computing an attention.

Where one weight is 1 and all others vanish, every correct kernel returns that value bit for bit, in whatever dtype it
sums; where all weights are equal, it returns a mean, chosen to be exact; where scores lie multiples of ln 2 apart, the
weights are powers of two.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .cases import DTYPES, Case
from .rounding import attention_gate

# Scores this far apart: e^-1024 is zero in float64, too; the products stay below float16's 65504 up to head_dim 256.
GAP = 1024.0
# All live scores between these: below every finite stand-in for -inf but the least numbers of a dtype. In float16 the
# scores may be kept in it, and be multiplied by log2(e) for exp2.
LOW = {"bfloat16": (-(2.0**41), -(2.0**40)), "float16": (-45056.0, -36864.0)}
LOW |= dict.fromkeys(("float32", "float64"), LOW["bfloat16"])

# Either side of blocks and splits of 16, 32, 64, 128, 256; full and not; sums of 300 that overflow float16.
SHAPES = (
    Case(lengths=(0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 79, 80), T=80, H_kv=3),
    Case(lengths=(127, 128, 129, 65, 256, 257, 300, 319, 320), T=325, D=64),
)
# Groups of 2, 3, 4 and 7, none of as many heads as there are groups.
GROUPED = tuple(
    Case(lengths=(0, 1, 17, 24), T=24, D=D, H_kv=H_kv, group=group)
    for D, H_kv, group in ((16, 3, 2), (16, 2, 3), (16, 3, 4), (32, 2, 7))
)


@dataclass(frozen=True)
class Question:
    """What is asked: q (B, H, D), k, v (B, H_kv, T, D), lengths (B,), and the answer (B, H, D) in float64.

    gate  what rounding may add to the answer, (B, H, D); zeros where it must be met bit for bit
    """

    name: str
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    lengths: np.ndarray
    answer: np.ndarray
    gate: np.ndarray


class Layout:
    """One case's inputs: the same random keys and values for each question, K and V laid out differently."""

    def __init__(self, case: Case, rng):
        B, H, D, group = len(case.lengths), case.H_kv * case.group, case.D, case.group
        if max(4, 3 * group) > D:
            raise ValueError(
                f"head_dim is {D}; with {group} query heads per KV head the probes need {max(4, 3 * group)} or more"
            )
        self.low, self.dtype, self.rng, self.D, self.group = LOW[case.dtype], DTYPES[case.dtype], rng, D, group
        self.scale = D**-0.5 if case.scale is None else case.scale
        self.lengths = np.array(case.lengths, np.int32)
        self.size = B, H, case.T, D
        self.noise = [rng.standard_normal((B, case.H_kv, case.T, D)).astype(self.dtype) for _ in range(2)]
        columns = np.argsort(rng.random((B, case.H_kv, D)), axis=-1)[..., : 3 * group]
        self.axes = columns.reshape(B, H, 3)  # which columns carry a head's scores, its own within its group

    def fresh(self):
        """q of zeros, and k, v of noise, to be written to; v lies over (B, T, H, D) memory."""
        B, H, _, D = self.size
        k, v = self.noise
        v = np.ascontiguousarray(v.swapaxes(1, 2)).swapaxes(1, 2)
        return np.zeros((B, H, D), self.dtype), k.copy(), v

    def heads(self):
        """(b, n, h, its KV head) of every head with something to see."""
        return [(b, int(n), h, h // self.group) for b, n in enumerate(self.lengths) if n for h in range(self.size[1])]

    def question(self, name, q, k, v, answer, rounds=True, dead: float | None = np.nan) -> Question:
        """Fill the dead slots and state what rounding may add: nothing, or what rounded scores and weights do."""
        gate = np.zeros(answer.shape)
        if rounds:
            gate = attention_gate(q, k, v, self.lengths, self.scale, inner=self.dtype)
        if dead is not None:
            for b, n in enumerate(self.lengths):
                k[b, :, n:] = v[b, :, n:] = dead
        return Question(name, q, k, v, self.lengths, answer, gate)


def needles(layout: Layout) -> Iterator[Question]:
    """One slot outshines all others by e^1024: its value comes back bit for bit. Every slot and head has its turn."""
    longest = int(layout.lengths.max())
    long = [int(b) for b in np.argsort(layout.lengths, kind="stable") if 2 * layout.lengths[b] > longest]
    turns = -(-longest // len(long))
    offset = {b: i * turns for i, b in enumerate(long)}
    beyond = 73728 * layout.scale, 81920 * layout.scale  # two products that float16 rounds to infinity alike
    limit, unit = float(ml_dtypes.finfo(layout.dtype).max), 1 / (32 * layout.scale)
    kinds = ["plain", "below zero", "cancelling", "outshone by the dead"]
    kinds += ["beyond float16"] if beyond[1] < 65504 else []  # scaled, they must fit it
    kinds += ["far below zero"] if -layout.low[0] * unit < limit else []
    scores = {"below zero": (-2 * GAP, -GAP), "beyond float16": beyond, "far below zero": layout.low}
    for turn in range(-1, turns):
        kind = kinds[turn % len(kinds)]
        low, high = scores.get(kind, (0.0, GAP))
        q, k, v = layout.fresh()
        answer = np.zeros(q.shape)
        for b, n, h, g in layout.heads():
            slot = n - 1 if turn < 0 else (offset.get(b, 0) + turn + 7 * h) % n
            x, y, z = layout.axes[b, h]
            q[b, h, x] = 32
            k[b, g, :, x] = low * unit
            k[b, g, slot, x] = high * unit
            if kind == "cancelling":  # 65536 comes and goes, which a float16 sum cannot hold and float32 does not mind
                q[b, h, [y, z]] = 256
                k[b, g, :, y], k[b, g, :, z] = 256, -256
            if kind == "outshone by the dead":
                k[b, g, n:, x] = 3 * GAP * unit
                v[b, g, n:] = 1e4
            answer[b, h] = v[b, g, slot].astype(np.float64)
        dead = None if kind == "outshone by the dead" else np.nan
        yield layout.question(f"needle, {kind}", q, k, v, answer, rounds=False, dead=dead)


def means(layout: Layout) -> Iterator[Question]:
    """q = 0 weighs all alike: the mean, a whole number here. Sums of 300 values overflow float16, means do not."""
    q, k, v = layout.fresh()
    answer = np.zeros(q.shape)
    for b, n, h, g in layout.heads():
        if h % layout.group:  # the values of its group are there
            answer[b, h] = answer[b, h - 1]
            continue
        half = layout.rng.integers(-15, 16, (n // 2, layout.D))
        apart = np.concatenate([half, -half, np.zeros((n % 2, layout.D))])
        answer[b, h] = layout.rng.integers(225, 241, layout.D)
        v[b, g, :n] = (answer[b, h] + layout.rng.permutation(apart)).astype(layout.dtype)
    yield layout.question("mean", q, k, v, answer)


def powers(layout: Layout) -> Iterator[Question]:
    """Scores multiples of ln 2 apart make weights powers of two, known exactly: a wrong scale or maximum shows."""
    for kind in ("scattered", "rising", "falling"):
        q, k, v = layout.fresh()
        answer = np.zeros(q.shape)
        for b, n, h, g in layout.heads():
            rest, columns = np.log(2) / layout.scale, layout.axes[b, h]
            for column in columns:  # ln 2 in three parts: 24 bits of it in bfloat16
                q[b, h, column] = rest
                rest -= float(q[b, h, column])
            falls = np.minimum(np.arange(n) // 4, 60)
            halvings = {"scattered": layout.rng.integers(0, 7, n), "rising": falls[::-1], "falling": falls}[kind]
            k[b, g, :n, columns] = -halvings.astype(layout.dtype)
            weight = 0.5**halvings
            answer[b, h] = weight @ v[b, g, :n].astype(np.float64) / weight.sum()
        yield layout.question(f"powers of two, {kind}", q, k, v, answer)


def questions(case: Case) -> Iterator[Question]:
    """Everything that is asked of one case: of its dtype, lengths, T, D, H_kv, group, scale and seed."""
    layout = Layout(case, np.random.default_rng(case.seed))
    for ask in (means, powers, needles):
        yield from ask(layout)
