"""One token before one layer's attention, and the formula that should give its output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Formula:
    """What the trusted path's attention computes beyond softmax(scale q k^T) v.

    softcap  s -> softcap tanh(s / softcap)
    window   only the last so many slots are seen
    sinks    (H,) one more score per head, whose weight nothing is multiplied by
    """

    scale: float
    softcap: float | None = None
    window: int | None = None
    sinks: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Query:
    """One token before one layer's attention, and what both paths' attention gave.

    q, a, b  (H, D)       its query; the outputs under suspicion and trusted
    k, v     (H_kv, T, D) of all tokens of its sequence, those after it too
    n        slots up to its own
    row      its sequence; step, its index among the compared positions
    prompt   tokens of its sequence that the prefill brought
    rows     every sequence's (k, v) and slots at this step
    pads     (k, v) of the padding before the sequence, beyond of that after its prompt, where known
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    n: int
    row: int
    step: int
    prompt: int
    a: np.ndarray
    b: np.ndarray
    rows: Sequence[tuple[np.ndarray, np.ndarray, int]] = ()
    pads: tuple[np.ndarray, np.ndarray] | None = None
    beyond: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def prefilled(self) -> bool:
        return self.n <= self.prompt


@dataclass(frozen=True)
class Hypothesis:
    """A wrong attention: its kind, the sentence that it is named by, and op(Query) -> (H, D)."""

    name: str
    sentence: str
    op: Callable[[Query], np.ndarray]


def scores(q: np.ndarray, k: np.ndarray, formula: Formula) -> np.ndarray:
    """q (H, D), k (H, n, D) -> (H, n)"""
    s = np.einsum("hd,hnd->hn", q, k) * formula.scale
    return s if formula.softcap is None else formula.softcap * np.tanh(s / formula.softcap)


def attend(
    q, k, v, formula: Formula, *, heads=None, zeros: int = 0, bias: np.ndarray | float = 0.0, rounded=None
) -> np.ndarray:
    """The plain formula for one token over all slots that are given.

    q (H, D), k and v (H_kv, n, D) -> (H, D), float64; query head h reads head h // (H / H_kv), or heads[h]
    zeros    so many slots of zeros after the last
    bias     (H, n) or a number, added to the scores
    rounded  a function that scores and weights go through
    """
    if not k.shape[1]:
        return np.zeros(q.shape)
    heads = np.arange(len(q)) // (len(q) // len(k)) if heads is None else heads
    k, v, keep = k[heads], v[heads], rounded or (lambda x: x)
    s = keep(scores(q, k, formula) + bias)
    top = np.maximum(s.max(1, keepdims=True), 0 if zeros else -np.inf)
    p, others = np.exp(s - top), zeros * np.exp(-top)
    if formula.sinks is not None:
        others = others + np.exp(formula.sinks[:, None] - top)
    return np.einsum("hn,hnd->hd", keep(p / (p.sum(1, keepdims=True) + others)), v)


def first_slot(x: Query, formula: Formula) -> int:
    return max(0, x.n - formula.window) if formula.window else 0


def live(x: Query, formula: Formula) -> tuple[np.ndarray, np.ndarray]:
    seen = slice(first_slot(x, formula), x.n)
    return x.k[:, seen], x.v[:, seen]


def right(x: Query, formula: Formula, **more) -> np.ndarray:
    """The trusted formula, or a variant by attend's keywords."""
    return attend(x.q, *live(x, formula), formula, **more)


def fitted(error: Callable[[float], float], low: float, high: float) -> float:
    """The positive number between low and high that makes error(x) least: a grid, then the golden section."""
    grid = np.geomspace(low, high, 81)
    at = int(np.argmin([error(x) for x in grid]))
    a, b = np.log(grid[max(at - 1, 0)]), np.log(grid[min(at + 1, len(grid) - 1)])
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(50):
        c, d = b - golden * (b - a), a + golden * (b - a)
        a, b = (a, d) if error(np.exp(c)) < error(np.exp(d)) else (c, b)
    return float(np.exp((a + b) / 2))


def squares(o: np.ndarray, x: Query) -> float:
    total = float(np.square(o - x.a).sum())
    return total if np.isfinite(total) else np.inf
