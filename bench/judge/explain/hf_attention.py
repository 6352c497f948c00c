"""The inputs and outputs of a Hugging Face model's attention, of all its tokens, the prefill's too.

From transformers' AttentionInterface, through which its models hand query, key and value to the attention: after the
rotation, and as the cache gives them back.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .attention_formula import Formula
from .attention_trace import AttentionTrace
from .divergence import FLOOR, GATE, SHIFT, bend


@dataclass(eq=False)
class Call:
    """One call of an attention function: q (B, H, M, D), k and v (B, H_kv, S, D), o (B, M, H, D), other arguments."""

    layer: int
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    o: np.ndarray
    mask: np.ndarray | None
    options: dict[str, Any]


def number(x: torch.Tensor) -> np.ndarray:
    return x.detach().to("cpu").double().numpy()


@contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Record every call that a transformers model makes through the AttentionInterface. Bits stay as they are."""
    from transformers import AttentionInterface

    seen: list[Call] = []
    latest: dict[int, Call] = {}
    own = AttentionInterface.get_interface

    def get_interface(self, *args, **kw):
        function = own(self, *args, **kw)

        def watched(module, query, key, value, attention_mask=None, *rest, **options):
            out = function(module, query, key, value, attention_mask, *rest, **options)
            mask: Any = attention_mask
            mask = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else None
            layer = getattr(module, "layer_idx", None)
            if layer is not None and (attention_mask is None or (mask is not None and mask.ndim == 4)):
                q, k, v, o = map(number, (query, key, value, out[0]))
                before = latest.get(layer)
                if before and before.q.shape[2] == q.shape[2] == 1:  # of decode steps the last one's cache has it all
                    before.k = before.v = before.k[:, :, :0]
                latest[layer] = Call(layer, q, k, v, o, mask, dict(options))
                seen.append(latest[layer])
            return out

        return watched

    AttentionInterface.get_interface = get_interface
    try:
        yield seen
    finally:
        AttentionInterface.get_interface = own


def from_interface(subject: Any) -> dict[int, AttentionTrace]:
    """Each layer of a HuggingFaceSubject in float64; nothing where its model calls no attention by the interface."""
    subject.forced  # noqa: B018  computed before anything is recorded
    runs = []
    for which in "ab":
        with recorded_calls() as seen:
            subject._run(which, "float64", 0.0)
        runs.append(seen)
    B, steps, found = len(subject.prompts), subject.steps, {}
    for layer in sorted({call.layer for call in runs[1]} & {call.layer for call in runs[0]}):
        a, b = ([call for call in run if call.layer == layer] for run in runs)
        together = len(a) == steps and all(len(call.q) == B for call in a)
        if not together and (len(a) != steps * B or any(len(call.q) != 1 for call in a)):
            continue  # a layer that attends more than once for a token
        if len(b) == B and all(call.k.shape == call.v.shape for call in (*a, *b)):
            found[layer] = joined([a] * B if together else [a[row * steps :][:steps] for row in range(B)], b, subject)
    return found


def interface_gates(subject: Any) -> dict[int, float]:
    """How far rounding may part each layer's attention outputs, relative to their rms: see `measured_gates`."""
    runs = []
    for times in range(3):
        with recorded_calls() as seen:
            subject._run("b", "float64", times * SHIFT)
        runs.append(seen)
    gates, reached = {}, FLOOR
    for f0, f1, f2 in zip(*runs, strict=True):
        for x in ((f0.k, f1.k, f2.k), (f0.o, f1.o, f2.o)):
            reached = max(reached, bend(*x))
        gates[f0.layer] = max(gates.get(f0.layer, 0.0), GATE * reached)
    return gates


def joined(a: Sequence[Sequence[Call]], b: Sequence[Call], subject: Any) -> AttentionTrace:
    """The calls of one layer: a's prefill and steps, for each sequence those that it is in; b's of each by itself."""
    lengths, B, T = subject.lengths, len(b), int(max(subject.lengths))
    H, D, H_kv = b[0].q.shape[1], b[0].q.shape[3], b[0].k.shape[1]
    qa, qb, oa, ob = (np.full((B, T, H, D), np.nan) for _ in range(4))
    k, v, held = np.zeros((B, H_kv, T, D)), np.zeros((B, H_kv, T, D)), np.full((B, T, 2 * H_kv, D), np.nan)
    prompts, pads = np.array([len(prompt) for prompt in subject.prompts]), []
    for row, call in enumerate(b):
        n = lengths[row]
        qb[row, :n], ob[row, :n] = call.q[0].swapaxes(0, 1), call.o[0]
        k[row, :, :n], v[row, :, :n] = call.k[0, :, :n], call.v[0, :, :n]
        mine, at = a[row], row if len(a[row][0].q) > 1 else 0
        padding = mine[0].q.shape[2] - prompts[row]
        q, o = np.concatenate([call.q[at] for call in mine], 1).swapaxes(0, 1), [call.o[at] for call in mine]
        qa[row, :n], oa[row, :n] = q[padding:], np.concatenate(o)[padding:]
        held[row, :n] = kept(mine[-1], at, padding, n)
        pads.append((mine[0].k[at, :, :padding], mine[0].v[at, :, :padding]))
    positions = np.where(np.arange(T) < lengths[:, None], np.arange(T), -1)
    padded = any(pad[0].shape[1] for pad in pads)
    return AttentionTrace(qa, qb, oa, ob, k, v, held, positions, prompts, formula_of(b, D), pads if padded else [])


def kept(call: Call, row: int, padding: int, n: int) -> np.ndarray:
    """A sequence's keys and values (n, 2 H_kv, D) as the last call got them; NaN of tokens that a window has let go."""
    both = np.concatenate([call.k[row], call.v[row]]).swapaxes(0, 1)  # (S, 2 H_kv, D)
    both = np.where(np.isnan(both), np.inf, both)  # a NaN that was read is no slot let go
    filled = padding + n
    both = both[:filled]  # a cache of fixed size has more slots
    gone = np.full((filled - len(both), *both.shape[1:]), np.nan)
    return np.concatenate([gone, both])[padding:]


def formula_of(calls: Sequence[Call], D: int) -> Formula | None:
    """What the trusted calls compute, by their arguments and masks; None for slots that no window explains."""
    options = calls[0].options
    scale = options.get("scaling")
    sinks = options.get("s_aux")
    windows = {seen_window(call) for call in calls} - {0}
    if None in windows or len(windows) > 1:
        return None
    return Formula(
        D**-0.5 if scale is None else float(scale), options.get("softcap"), next(iter(windows), None),
        None if sinks is None else number(sinks),
    )  # fmt: skip


def seen_window(call: Call) -> int | None:
    """The window of a whole sequence's mask, 0 where it is plainly causal, None where it is something else."""
    if call.mask is None:
        return 0
    mask = call.mask[0, 0]
    n = call.q.shape[2]
    seen = (mask if mask.dtype == bool else mask > np.finfo(np.float16).min)[:, :n]
    t = np.arange(n)
    causal = t <= t[:, None]
    if (seen == causal).all():
        return 0
    width = int(seen[-1].sum())
    return width if (seen == causal & (t > t[:, None] - width)).all() else None
