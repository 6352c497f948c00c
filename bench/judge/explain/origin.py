"""Where two paths part first, the extent of the difference, and its explanation, if there is one."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from ....reference.judge.difference import gaps, rms
from ..tracing.tape import Activation
from .attention_trace import AttentionTrace, by_place, from_prompts, from_traces
from .cache_contents import cache_extent, explain_cache
from .divergence import FLOOR, Divergence, Gates, difference, first_divergence, gates_in, locate
from .explanation import Explanation, explain
from .extent import extent, head_extent
from .hf_attention import from_interface, interface_gates
from .operation_hypotheses import explain_operation

ORDER = ("embed", "positions", "ln_1", "c_attn", "attention", "c_proj", "ln_2", "mlp", "ln_f", "head")


@dataclass(frozen=True)
class Origin:
    """Where a bug starts.

    divergence  the place and the size there
    seen        its extent: positions, sequences, heads, and which slots of the cache differ
    explanation what explains it and was held against its rivals; None where nothing does
    """

    divergence: Divergence
    seen: str
    explanation: Explanation | None = None


def origin(subject: Any, dtype: str = "float64") -> Origin | None:
    """Where a subject's paths part in `dtype`, by all that is recorded on the way; None where none of it parts."""
    place = first_place(subject, dtype)
    return with_token(subject, place and place.describe())


def place_of(subject: Any, dtype: str = "float64") -> Divergence | None:
    place = first_place(subject, dtype)
    return place and place.found


def logit_origin(subject: Any, rung: Any) -> Origin | None:
    """The same by the logits alone, held to the gate of a red rung in its dtype."""
    return with_token(subject, by_logits(subject, rung))


def with_token(subject: Any, found: Origin | None) -> Origin | None:
    if found is None:
        return None
    d = found.divergence
    return replace(found, divergence=replace(d, token=token_at(subject, d.sequence, d.position)))


def token_at(subject: Any, sequence: int, position: int) -> int | None:
    """The id that both paths are fed there; None where the subject does not know it."""
    if hasattr(subject, "forced"):
        row = [*subject.prompts[sequence], *subject.forced[sequence]]
    elif hasattr(subject, "ids"):
        row = subject.ids[sequence]
    else:
        return None
    return int(row[position]) if 0 <= position < len(row) else None


@dataclass(frozen=True)
class Place:
    """A place where paths part; describe() gives its extent and explanation."""

    found: Divergence
    describe: Callable[[], Origin]


def first_place(subject: Any, dtype: str) -> Place | None:
    """The first place in order of computation, of all that was recorded on the way."""
    places, traced = [], traces(subject, dtype)
    if traced:
        gates, a, b = traced
        found = first_divergence(a, b, gates, getattr(subject, "positions", None))
        if found:
            places.append(Place(found, partial(operation_origin, found, a, b, gates, subject, dtype)))
        if dtype == "float64" and hasattr(subject, "trace_prompts"):
            places += in_prompts(subject, gates)
    if dtype == "float64" and getattr(subject, "stepwise", False):
        places += in_interface(subject, traced[0] if traced else {})
    # Of places in the same operation the later entry saw more tokens, and so an earlier one.
    return min(reversed(places), key=lambda place: rank(place.found)) if places else None


def traces(subject: Any, dtype: str) -> tuple[Gates, Sequence[Activation], Sequence[Activation]] | None:
    """Gates and both traces; None where the paths do not run in the dtype or their model cannot be traced.

    By then the judge has run both paths, so that a ValueError here is one of the tracing alone.
    """
    if not hasattr(subject, "trace"):
        return None
    try:
        a, b = subject.trace(dtype)
    except (NotImplementedError, ValueError):
        return None
    shapes = {(x.layer, x.operation): x.value.shape for x in a}
    alike = all(shapes.get((x.layer, x.operation), x.value.shape) == x.value.shape for x in b)
    return (gates_in(subject, dtype), a, b) if alike else None


def rank(found: Divergence) -> tuple[float, float]:
    """The place in order of computation; of modules that are no operation known here, by the layer in their name."""
    if found.operation in ORDER:
        at = ORDER.index(found.operation)
        return (-1 if at < 2 else np.inf if at > 7 else found.layer or 0), at
    layer = re.search(r"(?:^|\.)(\d+)(?:\.|$)", found.operation)
    if layer:
        return int(layer[1]), ORDER.index("attention") + 0.5
    return (-1 if "emb" in found.operation else np.inf), 0


def operation_origin(found: Divergence, a, b, gates: Gates, subject: Any, dtype: str) -> Origin:
    a, b = by_place(a), by_place(b)
    place = found.layer, found.operation
    gate = max(gates.get(place, 0.0), FLOOR)
    error = difference(a[place], b[place])
    positions, decode = compared(subject, error.shape[:2])
    if found.operation == "attention" and dtype == "float64":
        held = max(gates.get((found.layer, "cache"), 0.0), gate)
        attended = from_traces(found.layer or 0, a, b, positions, getattr(subject, "prefilled", 1))
        if attended:
            return attention_origin(found, attended, gate, held, decode)
    flat = error.reshape(*error.shape[:2], -1).max(-1)
    seen = extent(flat, flat > gate, positions, decode)
    seen += head_extent(error.max(-1), gate) if error.ndim == 4 else ""
    explanation = None
    if dtype == "float64" and found.operation != "attention":
        explanation = explain_operation(found.layer, found.operation, a, b, subject, flat > gate)
    return Origin(found, seen, explanation)


def attention_origin(found: Divergence, x: AttentionTrace, gate: float, held: float, decode: np.ndarray) -> Origin:
    """Extent and explanation where the attention's queries agree and its outputs do not."""
    error = outputs_apart(x)
    parted = error.max((2, 3)) > gate
    seen = extent(error.max((2, 3)), parted, x.positions, decode) + head_extent(error.max(3), gate)
    kept = slots_apart(x)
    if kept is not None and (kept > held).any():
        assert x.held is not None
        seen += f"; {cache_extent(kept > held, float(kept.max()))}"
        right = np.concatenate([x.k, x.v], 1).swapaxes(1, 2)
        if explanation := explain_cache(x.held, right, kept > held):
            return Origin(found, seen, explanation)
    if x.formula is None or not np.isfinite(error).all():
        return Origin(found, seen)
    wrong, fine = x.split(parted)
    size = np.sqrt(np.nanmean(np.square(x.b)))
    return Origin(found, seen, explain(wrong, fine, x.formula, noise=float(gate * size)))


def outputs_apart(x: AttentionTrace) -> np.ndarray:
    """|a - b| / rms(b) of an attention's outputs (B, n, H, D), 0 where a sequence has no such token."""
    a = np.where(x.positions[..., None, None] >= 0, x.a, x.b)
    return difference(Activation(None, "attention", a), Activation(None, "attention", x.b))


def slots_apart(x: AttentionTrace) -> np.ndarray | None:
    """The same of the cache's slots, (B, T, 2 H_kv), where the path under suspicion has any."""
    if x.held is None:
        return None
    right = np.concatenate([x.k, x.v], 1).swapaxes(1, 2)
    held = np.where(np.isnan(x.held), right, x.held)
    return difference(Activation(None, "cache", held), Activation(None, "cache", right)).max(-1)


def in_prompts(subject: Any, gates: Gates) -> list[Place]:
    """The first place that differs at any token of a prompt; nothing where none does."""
    a, b = subject.trace_prompts()
    lengths = np.array([len(prompt) for prompt in subject.prompts])
    live = np.arange(int(lengths.max())) < lengths[:, None]  # (B, M)
    same = [
        Activation(
            x.layer, x.operation, np.where(live.reshape(*live.shape, *[1] * (x.value.ndim - 2)), x.value, y.value)
        )
        for x, y in zip(a, b, strict=True)
    ]
    found = first_divergence(same, b, gates)
    if found is None:
        return []

    def describe() -> Origin:
        place = found.layer, found.operation
        gate = max(gates.get(place, 0.0), FLOOR)
        places, right = by_place(same), by_place(b)
        decode = np.zeros(live.shape, bool)
        if found.operation == "attention":
            attended = from_prompts(found.layer or 0, by_place(a), right, lengths)
            return attention_origin(found, attended, gate, gate, decode)
        error = difference(places[place], right[place])
        flat = error.reshape(*live.shape, -1).max(-1)
        positions = np.where(live, np.arange(live.shape[1]), -1)
        view = SimpleNamespace(models=subject.models, positions=np.where(live, positions, 0))
        explanation = explain_operation(found.layer, found.operation, places, right, view, flat > gate)
        return Origin(found, extent(flat, flat > gate, positions, decode), explanation)

    return [Place(found, describe)]


def in_interface(subject: Any, gates: Gates) -> list[Place]:
    """The first layer whose attention gives other outputs for the same queries, at any token."""
    try:
        layers = from_interface(subject)
        own = interface_gates(subject) if layers else {}
    except NotImplementedError:
        return []
    for layer, x in layers.items():
        gate = max(own[layer], gates.get((layer, "attention"), 0.0), FLOOR)
        error = outputs_apart(x)
        if error.max() <= gate:
            continue
        b = Activation(layer, "attention", x.b)
        found = locate(b, error, gate, x.positions)
        asked = difference(*(Activation(layer, "c_attn", np.nan_to_num(q[:, : found.step + 1])) for q in (x.qa, x.qb)))
        if asked.max() > gate:
            return []  # turned or computed otherwise before the attention: the hooks say where
        describe = partial(attention_origin, found, x, gate, gate, x.positions >= x.prompts[:, None])
        return [Place(found, describe)]
    return []


def compared(subject: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The positions that a subject compares, (B, n), and which of them decode steps compute."""
    positions = getattr(subject, "positions", None)
    if positions is None or positions.shape != shape:
        positions = np.broadcast_to(np.arange(shape[1]), shape)
    return positions, np.broadcast_to(np.arange(shape[1]) >= getattr(subject, "prefilled", 0), shape)


def by_logits(subject: Any, rung: Any) -> Origin | None:
    """By the logits alone, in the dtype of a red rung: the first position that differs by more than its gate."""
    a, b = (np.asarray(x, np.float64) for x in subject.paths(rung.dtype))
    if a.ndim != 3:
        return None
    unit = rms(b) or 1.0
    error, gate = gaps(a, b) / unit, rung.gate / unit
    positions, decode = compared(subject, error.shape[:2])
    parted = error.max(-1) > gate
    if not parted.any():
        return None
    found = locate(Activation(None, "logits", b), error, max(gate, np.finfo(float).tiny), positions)
    return Origin(found, extent(error.max(-1), parted, positions, decode))
