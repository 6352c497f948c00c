"""What a divergence usually means, from the operation, the steps, heads and sequences that part, and the cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...gpt2.tracing import Activation
from .divergence import FLOOR, Divergence, Gates, difference
from .hypotheses import BLOCKS, explain

SMALL = 1e-2  # of the rms: what lost precision reaches and a wrong formula seldom stays below
NARROWED = (
    0.05  # of the rows, both as rms: an 8-bit float loses about 0.03 of a row, and another token in its place all
)


@dataclass(frozen=True)
class Pattern:
    """A kind of bug and what to look for.

    name      positions | scale | mask | length | tail | blocks | stale | heads | values | rows | padding |
              precision | nan | norm | projection | mlp | head | last token
    sentence  what it usually means
    """

    name: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


# Operations whose inputs agree and whose result does not, so that the operation itself is wrong.
ITSELF = {
    "ln_1": Pattern("norm", "a LayerNorm's epsilon or weights are wrong"),
    "ln_2": Pattern("norm", "a LayerNorm's epsilon or weights are wrong, or what attention adds to the stream is"),
    "ln_f": Pattern("norm", "the final LayerNorm's epsilon or weights are wrong"),
    "c_attn": Pattern("projection", "the fused query, key and value weight is split or laid out wrongly"),
    "c_proj": Pattern(
        "projection", "the output projection is wrong: a square weight loaded untransposed, or its result is lost"
    ),
    "mlp": Pattern("mlp", "the activation is another variant of GELU, or the layer's weights are wrong"),
    "head": Pattern("head", "the head is not the embedding it should be tied to, or is cut or padded wrongly"),
}


def pattern(
    found: Divergence,
    trace_a: Sequence[Activation],
    trace_b: Sequence[Activation],
    gates: Gates | float,
    positions: np.ndarray,
    prefilled: int = 1,
) -> Pattern:
    """What the divergence `found` between two traces usually means.

    positions  (B, n) what positions the traces are of
    prefilled  how many of the n come from the prefill, the rest from decode steps
    """
    a, b = Places(trace_a), Places(trace_b)
    gate = max(gates if isinstance(gates, (int, float)) else gates[found.layer, found.operation], FLOOR)
    if found.operation == "attention":
        return of_attention(found, a, b, gate, positions, prefilled)
    error = difference(a[found.layer, found.operation], b[found.layer, found.operation])
    if not np.isfinite(error).all():
        return Pattern("nan", "NaN or infinity comes from the operation itself, or from memory nobody has written")
    parted = error.reshape(*error.shape[:2], -1).max(-1) > gate  # (B, n)
    if found.operation in ("embed", "positions"):
        return of_positions(parted, prefilled)
    if found.operation == "ln_f" and parted.any() and not parted[:, prefilled:].any():
        return Pattern("last token", "the prefill's logits are taken at another token than the last: at padding, say")
    return ITSELF[found.operation]


class Places(dict[tuple[int | None, str], Activation]):
    """A trace by layer and operation."""

    def __init__(self, trace: Sequence[Activation]):
        super().__init__({(x.layer, x.operation): x for x in trace})


def of_positions(parted: np.ndarray, prefilled: int) -> Pattern:
    """From the embedding on, with equal tokens: only positions are left."""
    if not parted[:, :prefilled].any():
        words = "right in the prefill and wrong in decode steps: off by one, not advanced, or restarted"
    elif not parted.any(1).all():
        words = "wrong in some sequences of the batch only: padding is counted, positions must come from the mask"
    elif parted.all():
        words = "wrong from the prefill on: left padding is counted, or the cache still holds an earlier run"
    else:
        words = "wrong within the prefill: they restart or repeat between its chunks"
    return Pattern("positions", f"the paths part from the embedding on: positions are {words}")


def of_attention(
    found: Divergence, a: Places, b: Places, gate: float, positions: np.ndarray, prefilled: int
) -> Pattern:
    """Queries, keys and values of these tokens agree: what differs is what the cache holds, or how it is read."""
    place, held = (found.layer, "attention"), (found.layer, "cache")
    error = difference(a[place], b[place]).max(-1)  # (B, n, H)
    if held in a and held in b:
        wrong_slots = difference(a[held], b[held]).max(-1) > gate  # (B, T, 2 H_kv)
        if wrong_slots.any():
            return of_cache(a[held].value, b[held].value, wrong_slots, found.position - found.step + prefilled)
    if not np.isfinite(error).all():
        return Pattern(
            "nan", "NaN or infinity comes out of the attention alone: dead slots are read, or 0/0 of no slots"
        )
    parted = error.max(-1) > gate
    if held in b and (found.layer, "c_attn") in b:
        q = b[found.layer, "c_attn"].value[:, :, : error.shape[2]]
        known = explain(a[place].value, b[place].value, q, b[held].value, positions + 1, parted)
        if known:
            return Pattern(*known)
    return of_shape(error, parted, gate, positions, prefilled)


def of_cache(a: np.ndarray, b: np.ndarray, wrong: np.ndarray, prompt: int) -> Pattern:
    """The cache's live slots (B, T, 2 H_kv, D) differ at the end: what was written, or not, and where.

    prompt  tokens of the sequence that the prefill brought
    """
    T, both = a.shape[1:3]
    rows, slots = np.nonzero(wrong.any(2))

    def matches(other: np.ndarray) -> bool:
        size = np.abs(a[rows, slots] - b[rows, slots]).max()
        return bool(np.abs(a[rows, slots] - other[rows, slots]).max() <= 1e-3 * size)

    finite = np.isfinite(a[rows, slots]).all((1, 2))
    moved = owners(a, b, rows[finite], slots[finite], wrong)
    if moved is not None:
        return moved
    if not finite.all():
        return Pattern("stale", "live slots hold what nobody has written: an append is lost or goes elsewhere")
    k, v = b[:, :, : both // 2], b[:, :, both // 2 :]
    if matches(np.concatenate([v, k], 2)) or matches(np.concatenate([k, k], 2)) or matches(np.concatenate([v, v], 2)):
        return Pattern("values", "the cache holds keys for values, or values for keys")
    for shift in range(1, both // 2):
        if matches(np.concatenate([np.roll(k, shift, 2), np.roll(v, shift, 2)], 2)):
            return Pattern("heads", "the cache holds each head's rows under another head")
    if np.square(a - b)[rows, slots].mean() < NARROWED**2 * np.square(b[rows, slots]).mean():
        return Pattern("precision", "the cache keeps keys and values in a narrower dtype than they were computed in")
    if (slots < prompt).all() and wrong.any(2).sum() > 1:
        return Pattern(
            "stale", "the prompt's slots are wrong: the prefill attends or writes wrongly before its last token"
        )
    if wrong.any(2).sum(1).max() == 1:
        words = f"one slot ({slots[0]} of sequence {rows[0]}) holds an earlier token's or run's rows: an append is lost"
        return Pattern("stale", words)
    if len(set(slots.tolist())) < T:
        return Pattern("stale", "some slots hold an earlier token's or run's keys and values: appends are lost or late")
    return Pattern("stale", "every slot of the cache differs: not reset, or read back by a wrong scale or layout")


def owners(a: np.ndarray, b: np.ndarray, rows: np.ndarray, slots: np.ndarray, wrong: np.ndarray) -> Pattern | None:
    """Whose keys and values the wrong slots a[rows, slots] hold, where they are those of other tokens in b."""
    B, T, both, _ = b.shape
    parts = {"keys": slice(0, both // 2), "values": slice(both // 2, both)}
    for words, heads in parts.items():
        if not wrong[:, :, heads].any():
            other = "values" if words == "keys" else "keys"
            a, b, changed = a[:, :, parts[other]], b[:, :, parts[other]], other
            break
    else:
        changed = "keys and values"
    known = b.reshape(B * T, -1)
    live = np.abs(known).max(-1) > 0
    found = []
    for row, slot, held in zip(rows[:256], slots, a[rows[:256], slots[:256]], strict=False):
        fits = np.flatnonzero(live & (np.abs(known - held.ravel()).max(-1) <= 1e-3 * np.abs(held).max()))
        own = fits[fits // T == row]  # equal tokens at equal positions may be anybody's
        found += [(at // T != row, at % T - slot) for at in [*own, *fits][:1]]
    if 2 * len(found) < min(len(rows), 256) or not found:
        return None
    foreign, steps = np.array(found).T
    if 2 * foreign.sum() > len(found):
        return Pattern("rows", f"a sequence's slots hold another one's {changed}: rows of the batch are mixed")
    if abs(steps[0]) == 1 and (steps == steps[0]).all():
        return Pattern("length", f"{changed} are written one slot {'late' if steps[0] < 0 else 'early'}")
    return None


def of_shape(error: np.ndarray, parted: np.ndarray, gate: float, positions: np.ndarray, prefilled: int) -> Pattern:
    """The cache is right and no simple misreading gives these numbers: judge by where they differ.

    error  (B, n, H) relative differences; parted (B, n) where they exceed the gate
    """
    heads = (error > gate).any((0, 1))
    decode = np.arange(error.shape[1]) >= prefilled
    lengths = positions + 1
    if not heads.all():
        names = ", ".join(map(str, np.flatnonzero(heads)[:8]))
        return Pattern("heads", f"only some heads differ ({names}): the head index or a head's stride is wrong")
    for block in BLOCKS:
        whole = (lengths % block == 0) & decode
        if whole.any() and not parted[whole].any() and parted[~whole & decode].all():
            return Pattern(
                "tail", f"right whenever the length is a multiple of {block}: the last, partial block is wrong"
            )
    right, wrong = lengths[~parted & decode], lengths[parted]
    both = (parted.any(1) & (~parted & decode).any(1)).any()  # else it is the sequence that counts, not its length
    if both and right.max() < wrong.min() and wrong.min() % BLOCKS[0] == 1:
        words = (
            f"right up to length {right.max()}, wrong from {wrong.min()}: what joins blocks or splits, their rescaling"
        )
        return Pattern("blocks", words)
    if not parted.any(1).all():
        return Pattern("padding", "only some sequences of the batch differ: lengths, mask or padding of a ragged batch")
    if not parted[:, prefilled:].any():
        return Pattern("mask", "only the prefill differs: its causal mask is transposed, misaligned or missing")
    steps = np.flatnonzero(parted.any(0))
    first, last = int(steps[0]), int(steps[-1])
    if first > prefilled and not parted[:, :first].any():
        words = f"the first {first - prefilled} decode steps are right: what they left in the cache is stale"
        return Pattern("stale", words)
    if error.max() < SMALL:
        return Pattern("precision", "small and everywhere: sums or weights are kept in too narrow a dtype")
    if error[:, last].max() > 2 * error[:, first].max():
        return Pattern(
            "scale", "the difference grows with the length: the scale, or a mask that hides or shows too much"
        )
    return Pattern("mask", "every decode step differs alike: the scale, the mask, or how keys and values are addressed")
