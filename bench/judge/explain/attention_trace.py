"""The inputs and outputs of each layer's attention, token by token, in both paths; here from traces."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..tracing.tape import Activation
from .attention_formula import Formula, Query


@dataclass(eq=False)
class AttentionTrace:
    """One layer's attention in both paths.

    qa, qb     (B, n, H, D)      queries, under suspicion and trusted; NaN where a path has none
    a, b       (B, n, H, D)      outputs
    k, v       (B, H_kv, T, D)   keys and values of the trusted path
    held       (B, T, 2 H_kv, D) keys and values as the path under suspicion reads them at last: NaN where a window has
               let them go, infinite where they are NaN
    positions  (B, n)            each token's, -1 where a sequence has no such token
    prompts    (B,)              tokens that the prefill brought
    formula    what the trusted attention computes; None where it is none of what `Formula` can say
    pads       each sequence's keys and values of the padding before it, and of that after its prompt
    """

    qa: np.ndarray
    qb: np.ndarray
    a: np.ndarray
    b: np.ndarray
    k: np.ndarray
    v: np.ndarray
    held: np.ndarray | None
    positions: np.ndarray
    prompts: np.ndarray
    formula: Formula | None
    pads: list = field(default_factory=list)
    beyond: list = field(default_factory=list)

    def query(self, row: int, step: int) -> Query:
        rows = []
        for b in range(len(self.k)):
            n = int(self.positions[b, step]) + 1
            rows.append((self.k[b], self.v[b], max(n, 1)))
        return Query(
            self.qb[row, step], self.k[row], self.v[row], int(self.positions[row, step]) + 1, row, step,
            int(self.prompts[row]), self.a[row, step], self.b[row, step], rows,
            self.pads[row] if self.pads else None, self.beyond[row] if self.beyond else None,
        )  # fmt: skip

    def split(self, parted: np.ndarray) -> tuple[list[Query], list[Query]]:
        """Queries whose outputs part, (B, n) bool, and the others that were computed in the same phases."""
        wrong = [self.query(*place) for place in np.argwhere(parted & (self.positions >= 0)).tolist()]
        phases = {x.prefilled for x in wrong}
        others = np.argwhere(~parted & (self.positions >= 0)).tolist()
        return wrong, [x for x in (self.query(*place) for place in others) if x.prefilled in phases]


def from_traces(layer: int, a: Any, b: Any, positions: np.ndarray, prefilled: int) -> AttentionTrace | None:
    """From traces by (layer, operation) of models whose queries are not turned; None where they lack what it takes."""
    place, projected, held = (layer, "attention"), (layer, "c_attn"), (layer, "cache")
    if not all(key in trace for trace in (a, b) for key in (place, projected)) or held not in b:
        return None
    H, D = b[place].value.shape[2:]
    if b[held].value.shape[3] != D:
        return None
    k, v = np.split(b[held].value.swapaxes(1, 2), 2, axis=1)  # (B, H_kv, T, D)
    kept = a[held].value if held in a and a[held].value.shape == b[held].value.shape else None
    kept = None if kept is None else np.where(np.isnan(kept), np.inf, kept)
    return AttentionTrace(
        a[projected].value[:, :, :H], b[projected].value[:, :, :H], a[place].value, b[place].value, k, v, kept,
        positions, positions[:, prefilled - 1] + 1, Formula(D**-0.5),
    )  # fmt: skip


def from_prompts(layer: int, a: Any, b: Any, lengths: np.ndarray) -> AttentionTrace:
    """The same of a prefill's columns (B, M), padded on the right: a's columns past a prompt are what padding gave."""
    place, projected = (layer, "attention"), (layer, "c_attn")
    H, D = b[place].value.shape[2:]
    kv = [x[projected].value[:, :, H:].swapaxes(1, 2) for x in (a, b)]
    (ka, va), (k, v) = (np.split(x, 2, axis=1) for x in kv)
    M = k.shape[2]
    positions = np.where(np.arange(M) < lengths[:, None], np.arange(M), -1)
    beyond = [(ka[row, :, n:], va[row, :, n:]) for row, n in enumerate(lengths)]
    return AttentionTrace(
        a[projected].value[:, :, :H], b[projected].value[:, :, :H], a[place].value, b[place].value, k, v, None,
        positions, lengths, Formula(D**-0.5), beyond=beyond,
    )  # fmt: skip


def by_place(trace: Sequence[Activation]) -> dict[tuple[int | None, str], Activation]:
    return {(x.layer, x.operation): x for x in trace}
