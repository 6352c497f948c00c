"""Questions to a decode attention whose answers are known without computing an attention.

Where one weight is 1 and all others vanish, every honest kernel returns that value bit for bit, in whatever dtype it
sums; where all weights are equal, it returns a mean, chosen to be exact; where scores lie multiples of ln 2 apart, the
weights are powers of two.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .honest import attention_gate

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32, "float64": np.float64}
# Scores this far apart: e^-1024 is zero in float64, too; the products stay below float16's 65504 up to head_dim 256.
GAP = 1024.0


@dataclass(frozen=True)
class Shape:
    """One layout to probe: H heads of D columns, T slots, and how many of them are live in each sequence."""

    H: int
    D: int
    T: int
    lengths: tuple[int, ...]


# Either side of blocks and splits of 16, 32, 64, 128, 256; full and not; sums of 300 that overflow float16.
SHAPES = (
    Shape(3, 16, 80, (0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 79, 80)),
    Shape(2, 64, 325, (127, 128, 129, 65, 256, 257, 300, 319, 320)),
)


@dataclass(frozen=True)
class Question:
    """What is asked: q (B, H, D), k, v (B, H, T, D), lengths (B,), and the answer (B, H, D) in float64.

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
    """One shape's inputs: the same random keys and values for each question, K and V laid out differently."""

    def __init__(self, shape: Shape, dtype: str, scale: float | None, rng):
        H, D, T, lengths = shape.H, shape.D, shape.T, shape.lengths
        if D < 4:
            raise ValueError(f"head_dim is {D}; the probes need at least 4 columns")
        self.dtype, self.rng, self.D = DTYPES[dtype], rng, D
        self.scale = D**-0.5 if scale is None else scale
        self.lengths = np.array(lengths, np.int32)
        self.size = len(lengths), H, T, D
        self.noise = [rng.standard_normal(self.size).astype(self.dtype) for _ in range(2)]
        self.axes = np.argsort(rng.random((len(lengths), H, D)), axis=-1)  # which columns of a head carry its scores

    def fresh(self):
        """q of zeros, and k, v of noise, to be written to; v lies over (B, T, H, D) memory."""
        B, H, _, D = self.size
        k, v = self.noise
        v = np.ascontiguousarray(v.swapaxes(1, 2)).swapaxes(1, 2)
        return np.zeros((B, H, D), self.dtype), k.copy(), v

    def heads(self):
        """(b, n, h) of every head with something to see."""
        return [(b, int(n), h) for b, n in enumerate(self.lengths) if n for h in range(self.size[1])]

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
    kinds = ["plain", "below zero", "cancelling", "outshone by the dead"]
    kinds += ["beyond float16"] if beyond[1] < 65504 else []  # scaled, they must fit it
    for turn in range(-1, turns):
        kind = kinds[turn % len(kinds)]
        low, high = {"below zero": (-2 * GAP, -GAP), "beyond float16": beyond}.get(kind, (0.0, GAP))
        q, k, v = layout.fresh()
        answer = np.zeros(q.shape)
        for b, n, h in layout.heads():
            slot = n - 1 if turn < 0 else (offset.get(b, 0) + turn + 7 * h) % n
            x, y, z = layout.axes[b, h, :3]
            unit = 1 / (32 * layout.scale)
            q[b, h, x] = 32
            k[b, h, :, x] = low * unit
            k[b, h, slot, x] = high * unit
            if kind == "cancelling":  # 65536 comes and goes, which a float16 sum cannot hold and float32 does not mind
                q[b, h, [y, z]] = 256
                k[b, h, :, y], k[b, h, :, z] = 256, -256
            if kind == "outshone by the dead":
                k[b, h, n:, x] = 3 * GAP * unit
                v[b, h, n:] = 1e4
            answer[b, h] = v[b, h, slot].astype(np.float64)
        dead = None if kind == "outshone by the dead" else np.nan
        yield layout.question(f"needle, {kind}", q, k, v, answer, rounds=False, dead=dead)


def means(layout: Layout) -> Iterator[Question]:
    """q = 0 weighs all alike: the mean, a whole number here. Sums of 300 values overflow float16, means do not."""
    q, k, v = layout.fresh()
    answer = np.zeros(q.shape)
    for b, n, h in layout.heads():
        half = layout.rng.integers(-15, 16, (n // 2, layout.D))
        apart = np.concatenate([half, -half, np.zeros((n % 2, layout.D))])
        answer[b, h] = layout.rng.integers(225, 241, layout.D)
        v[b, h, :n] = (answer[b, h] + layout.rng.permutation(apart)).astype(layout.dtype)
    yield layout.question("mean", q, k, v, answer)


def powers(layout: Layout) -> Iterator[Question]:
    """Scores multiples of ln 2 apart make weights powers of two, known exactly: a wrong scale or maximum shows."""
    for kind in ("scattered", "rising", "falling"):
        q, k, v = layout.fresh()
        answer = np.zeros(q.shape)
        for b, n, h in layout.heads():
            rest, columns = np.log(2) / layout.scale, layout.axes[b, h, :3]
            for column in columns:  # ln 2 in three parts: 24 bits of it in bfloat16
                q[b, h, column] = rest
                rest -= float(q[b, h, column])
            falls = np.minimum(np.arange(n) // 4, 60)
            halvings = {"scattered": layout.rng.integers(0, 7, n), "rising": falls[::-1], "falling": falls}[kind]
            k[b, h, :n, columns] = -halvings.astype(layout.dtype)
            weight = 0.5**halvings
            answer[b, h] = weight @ v[b, h, :n].astype(np.float64) / weight.sum()
        yield layout.question(f"powers of two, {kind}", q, k, v, answer)


def questions(shape: Shape, dtype: str, scale: float | None = None, seed=0) -> Iterator[Question]:
    """Everything that is asked of one shape."""
    layout = Layout(shape, dtype, scale, np.random.default_rng(seed))
    for ask in (means, powers, needles):
        yield from ask(layout)
