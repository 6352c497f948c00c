"""A decode step in two halves: what the host counts, and what the device computes from numbers of its own.

The device half reads the lengths where they lie and nothing of the host's, so that one program, compiled by torch or
recorded as a CUDA graph, serves every step. Only the impl "triton" has such a half: eager and sdpa slice the cache by
lengths that the host knows.
"""

from collections.abc import Callable
from functools import partial

import torch

from .attention import triton
from .cache import Cache, CacheMismatch
from .model import GPT2, WHOLE


@torch.no_grad()
def device_half(ids, model: GPT2, cache: Cache):
    """The decode step of the impl "triton" after `cache.claim`: it changes no length, so running it again is harmless.

    ids      (B,) int64 or int32, on the model's device; the tokens of slots lengths - 1
    returns  (B, V) logits
    """
    slots = cache.lengths.long() - 1
    x = model.wte(ids) + model.wpe.weight[slots]  # (B, E)
    for layer, block in enumerate(model.blocks):
        x = block(x, partial(block.attn.decode, cache=cache, layer=layer, slots=slots, step=triton))
    return model.logits(model.ln_f(x))


class Step:
    """GPT2.decode for one model and one cache, its device half run by `run`: ids (B,) -> logits (B, V).

    Raises ValueError unless the model's impl is "triton", CacheMismatch unless the cache was made for it.
    """

    def __init__(self, model: GPT2, cache: Cache, run: Callable[[torch.Tensor], torch.Tensor]):
        if model.impl != "triton":
            raise ValueError(
                f"impl {model.impl!r} slices the cache by lengths of the host's; only 'triton' reads them on the "
                "device; call model.decode, or use model.with_impl('triton')"
            )
        cache.check_fits(model.config, cache.batch, model.dtype, model.device)
        if cache.workspace is None:
            raise CacheMismatch("the cache was made for another impl and has no workspace; use model.new_cache")
        self.model, self.cache, self.run = model, cache, run

    def __call__(self, ids):
        """One new token per sequence, as GPT2.decode takes and returns it.

        Raises ContextFull if a sequence has no slot left, ValueError for ids that do not fit; the cache is then as it
        was and nothing has run.
        """
        batch, device = self.cache.batch, self.model.device
        if ids.shape != (batch,) or ids.dtype not in WHOLE or ids.device != device:
            raise ValueError(
                f"ids are {tuple(ids.shape)} {ids.dtype} on {ids.device}; pass ({batch},) int64 or int32 on {device}, "
                "one id per sequence of the cache"
            )
        before = self.cache.host_lengths
        self.cache.claim()
        with self.cache.undone_if_interrupted(before):
            return self.run(ids)


def compiled_step(model: GPT2, cache: Cache, backend: str | Callable = "inductor", **options) -> Step:
    """The decode step compiled by torch as one graph, once for all steps.

    backend, options  torch.compile's. Inductor's graph reads and writes the cache where it lies; "aot_eager", torch's
                      tool to debug with, clones what any in-place operation writes and copies it back
    """
    run = torch.compile(partial(device_half, model=model, cache=cache), backend=backend, fullgraph=True, **options)
    return Step(model, cache, run)
