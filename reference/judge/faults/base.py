"""The record of a fault, and the correct paths that faults are made from."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...cache import ContiguousCache, Int8Cache
from ...model import attention, forward, layer_norm, linear, mlp, softmax
from ..verdict import CACHED, ORACLE

Place = tuple[int | None, str]  # (layer, operation); the layer of "embed", "ln_f" and "head" is None


@dataclass(frozen=True)
class Fault:
    """One bug that a real project has had.

    kind      "attention": apply(q, k, v, lengths, scale=None) -> o (B, H, D), wrong where `decode` is right
              "cache": apply(ids, params, config) -> logits (B, T, V), a wrong cached path
              "model": apply likewise, wrong without a cache too
    correct    of the same signature as apply, what it should have given: `decode`, or a forward without a decode step
    imitates  the mistake in words, and where it is invisible
    link      a thread that reports it; None where none was found
    closest   the thread reports a relative of this mistake
    place     (layer, operation) where a run with it first differs; the operation is "embed", "ln_1", "c_attn",
              "attention", "c_proj", "ln_2", "mlp", "ln_f" or "head"; None where no operation is wrong
    seen_by   the question that finds it: "cached against uncached" or "against the oracle"
    cache     the class of the wrong cache, where that is the whole fault
    """

    name: str
    kind: str
    apply: Callable[..., np.ndarray]
    correct: Callable[..., np.ndarray]
    imitates: str
    link: str | None
    closest: bool
    place: Place | None
    seen_by: str
    cache: type | None = None


def describe(fault: Any) -> dict:
    """A fault, NumPy's or torch's, as JSON can hold it: everything but what runs."""
    return {key: value for key, value in asdict(fault).items() if key != "cache" and not callable(value)}


def fault(kind: str, link: str | None, place: Place | None, *, closest=False, correct=None):
    """Turn the wrong path below into a Fault of its name; its docstring is what the fault imitates.

    link  OWNER/NAME/issues/N or OWNER/NAME/pull/N on GitHub
    """

    def record(apply: Callable[..., np.ndarray]) -> Fault:
        url = link and f"https://github.com/{link}"
        right = correct or (decode if kind == "attention" else forward)
        seen_by = ORACLE if kind == "model" else CACHED
        words = " ".join((apply.__doc__ or "").split())
        return Fault(apply.__name__, kind, apply, right, words, url, closest, place, seen_by)

    return record


def cache_fault(name: str, link: str | None, *, run: Callable[..., np.ndarray] | None = None, **more):
    """Turn the wrong cache below into a Fault of that name; its docstring is what the fault imitates.

    run   run(ids, params, config, make) -> logits, by a cache of the class `make`; by default from an empty one
    more  as `fault` takes it
    """

    def record(make: type) -> Fault:
        def apply(ids, params, config):
            if run:
                return run(ids, params, config, make)
            return cached_logits(ids, params, config, fresh(ids, params, config, make))

        apply.__name__, apply.__doc__ = name, make.__doc__
        return replace(fault("cache", link, (0, "attention"), **more)(apply), cache=make)

    return record


def decode(q, k, v, lengths, scale=None, attend=attention):
    """The correct op: one new token per sequence attends to its live slots, in float64, rounded once.

    q (B, H, D); k, v (B, H_kv, T, D), head h reads KV head h // (H / H_kv); lengths (B,), 0 gives zeros; returns
    (B, H, D) in q's dtype. Raises ValueError if H_kv does not divide H.
    attend(q (H, 1, D), k, v (H, n, D), scale) -> (H, 1, D), in float64, stands in for the plain formula.
    """
    group, rest = divmod(q.shape[1], k.shape[1])
    if rest:
        raise ValueError(f"q has {q.shape[1]} heads and k {k.shape[1]}; the second must divide the first")
    o = np.zeros(q.shape)
    for b, n in enumerate(lengths):
        if n:
            rows = (np.repeat(a[b, :, :n].astype(np.float64), group, axis=0) for a in (k, v))
            o[b] = attend(q[b, :, None].astype(np.float64), *rows, scale)[:, 0]
    return o.astype(q.dtype)


def default(scale, D) -> float:
    """The softmax scale, 1/√D if not given."""
    return 1 / math.sqrt(D) if scale is None else scale


def prompt_length(ids) -> int:
    """How many tokens of ids (B, T) the cached paths take as the prompt: half of them, rounded up."""
    return (ids.shape[1] + 1) // 2


def fresh(ids, params, config, make: Any = ContiguousCache, **more) -> Any:
    """An empty cache for ids (B, T) and this model."""
    return make(config, len(ids), config.n_ctx, params["wte"]["weight"].dtype, **more)


def cached_logits(ids, params, config, cache=None, decode_params=None, step=forward, passes=1, spoil=None):
    """The correct cached path: the first half of ids (B, T) as a prompt, the rest token by token; logits (B, T, V).

    decode_params  replace params once the prompt has been read
    step           one pass, with the signature of `forward`
    passes         in how many passes the prompt is read
    spoil          called with the cache between prompt and decode
    """
    cache = fresh(ids, params, config) if cache is None else cache
    T, prompt = ids.shape[1], prompt_length(ids)
    chunks = [*range(0, prompt, -(-prompt // passes)), prompt]
    logits = [step(ids[:, a:b], params, config, cache) for a, b in pairwise(chunks)]
    if spoil:
        spoil(cache)
    logits += [step(ids[:, t : t + 1], decode_params or params, config, cache) for t in range(prompt, T)]
    return np.concatenate(logits, axis=1)


def int8_logits(ids, params, config):
    """All of ids (B, T) in one pass through an 8-bit cache: what decoding with one must agree with."""
    return forward(ids, params, config, fresh(ids, params, config, Int8Cache))


def used(cache: Any, ids, params, config) -> Any:
    """The cache after a run of other tokens: empty again, its dead slots hold that run's rows."""
    cached_logits((ids + 1) % config.n_vocab, params, config, cache)
    cache.reset()
    return cache


def by_row(path, ids):
    """path(ids of one row (1, T), row) -> (1, T, V), for every row: (B, T, V)."""
    return np.concatenate([path(ids[b : b + 1], b) for b in range(len(ids))])


def moved(params, by: int):
    """params in which every token takes the position embedding of `by` positions later."""
    return params | {"wpe": {"weight": np.roll(params["wpe"]["weight"], -by, axis=0)}}


def side_by_side(o):
    """Heads (B, H, M, D) put next to each other: (B, M, E)."""
    B, H, M, D = o.shape
    return o.transpose(0, 2, 1, 3).reshape(B, M, H * D)


def forward_with(ids, params, config, cache, attend=attention, merge=side_by_side, standing=lambda slots: slots):
    """`forward` with a cache, with another attention, way to put the heads together or positions.

    attend(q (H, M, D), k, v (H, n, D)) -> (H, M, D); merge(o (B, H, M, D)) -> (B, M, E);
    standing(slots (B, M)) -> positions (B, M), which wrap at n_ctx
    """
    B, M = ids.shape
    slots = cache.lengths[:, None] + np.arange(M)
    cache.advance(M)
    x = params["wte"]["weight"][ids] + params["wpe"]["weight"][standing(slots) % config.n_ctx]  # (B, M, E)
    for layer, p in enumerate(params["h"]):
        qkv = linear(layer_norm(x, p["ln_1"], config.layer_norm_epsilon), p["attn"]["c_attn"])
        q, k, v = qkv.reshape(B, M, 3, config.n_head, config.head_dim).transpose(2, 0, 3, 1, 4)
        cache.append(layer, k, v)
        o = np.stack([attend(q[b], *cache.read(layer, b)) for b in range(B)])
        x = x + linear(merge(o), p["attn"]["c_proj"])
        x = x + mlp(layer_norm(x, p["ln_2"], config.layer_norm_epsilon), p["mlp"], config)
    head = params["wte" if config.tie_word_embeddings else "lm_head"]["weight"]
    return layer_norm(x, params["ln_f"], config.layer_norm_epsilon) @ head.T  # (B, M, V)


def masked(seen):
    """The attention in which query i of M sees the keys j of n that seen(M, n)[i, j] names."""

    def attend(q, k, v):
        s = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (H, M, n)
        return softmax(np.where(seen(q.shape[-2], k.shape[-2]), s, -np.inf)) @ v

    return attend
