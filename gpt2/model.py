"""GPT-2 in PyTorch. Submodules and weights have the checkpoint's names.

B sequences, M new tokens, H heads, T cache slots, D head_dim, E n_embd, V vocabulary.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from ..reference.config import Config, ContextFull
from .arguments import check_impl, check_kv_dtype, check_weights, refuse, tensor, whole
from .attention import DECODE_STEP, Attention
from .cache import Cache, StaticCache
from .ids import WHOLE, check_ids, check_prompts, pad
from .int8_cache import Int8PagedCache, Int8StaticCache
from .int8_weights import Int8Linear, Int8Table
from .linear import ROWS, Conv1D, invariant_gelu, invariant_linear, linear
from .paged import PagedCache
from .tokenizer import Tokenizer


def check_chunk(chunk: int | None):
    """Raises ValueError unless chunk is a number of tokens that one prefill pass can take."""
    if chunk is not None:
        whole("chunk", chunk, "1 or more tokens, a whole number, or None for the whole prompt", 1)


def check_cache(cache):
    """Raises ValueError unless cache is a KV cache."""
    if not hasattr(cache, "check_fits"):
        raise refuse("cache", cache, "what model.new_cache gives")


def table(rows: int, width: int) -> nn.Embedding:
    """A matrix (rows, width), uninitialised: a checkpoint fills it.

    nn.Embedding would draw random values, for which torch imports another 75 MB of modules.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class MLP(nn.Module):
    def __init__(self, config: Config, invariant: bool = False, weights: str | None = None):
        super().__init__()
        kind = Int8Linear if weights else Conv1D
        self.c_fc = kind(config.n_embd, config.n_inner, invariant)
        self.c_proj = kind(config.n_inner, config.n_embd, invariant)
        self.gelu = invariant_gelu if invariant else F.gelu
        self.approximate = "tanh" if config.gelu == "tanh" else "none"

    def forward(self, x):
        return self.c_proj(self.gelu(self.c_fc(x), approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, config: Config, invariant: bool = False, weights: str | None = None):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, invariant, weights)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config, invariant, weights)

    def forward(self, x, attend):
        """x (B, M, E), or (B, E) in a decode step; attend is this block's attention, bound to the cache it reads."""
        x = x + attend(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Moves:
    """How often models were moved or converted: then the tensors of some lie elsewhere, those of twins too."""

    count = 0


class GPT2(nn.Module):
    """GPT-2 of any size, which decodes by the impl named.

    impl  naive (no cache), eager, sdpa or triton: the attention of a decode step, in torch's layers; numba: prefill and
          decode step whole, by the engine of kernels/cpu, on a CPU

    model(ids (B, T)) gives logits (B, T, V) without a cache; `prefill` and `decode` use one.
    `tokenizer` is the checkpoint's own, None if it has none; each of `end_tokens` ends a text.

    invariant=True, for the impls numba and triton, makes each row of logits by `prefill` and `decode` a function of
    that sequence's tokens alone: bit for bit the same in any batch, order, page, prefill chunk and number of tokens at
    once. numba keeps that anyway, and for it invariant=True only refuses other impls; triton needs other layers, tested
    in float32 and float64 on a CPU, and linear.py has their cost. Calls without a cache are torch's, with its bits.

    weights="int8" holds the matrices of the layers, the tokens' table and the head in 8 bits, see int8_weights.py; None
    has them in the model's dtype.
    Source: Radford et al. 2019 and its published code: LayerNorm first, tanh GELU, learned positions, tied head.
    """

    def __init__(self, config: Config, impl: str = "sdpa", invariant: bool = False, weights: str | None = None):
        super().__init__()
        self.config, self.invariant, self.weights = config, invariant, check_weights(weights)
        # The layers' own invariance is torch's, which the engine does without.
        invariant = self.invariant_layers = invariant and impl == "triton"
        self.impl = self.fitting_impl(impl)
        self.tokenizer: Tokenizer | None = None
        tokens = partial(Int8Table, invariant=invariant) if weights else table
        self.wte = tokens(config.n_vocab, config.n_embd)
        self.wpe = table(config.n_ctx, config.n_embd)
        self.h = nn.ModuleList(Block(config, invariant, weights) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.lm_head = None if config.tie_word_embeddings else tokens(config.n_vocab, config.n_embd)

    @property
    def blocks(self) -> Sequence[Block]:
        return cast(Sequence[Block], self.h)

    @property
    def device(self) -> torch.device:
        return self.ln_f.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.ln_f.weight.dtype

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The ids that end a text: the checkpoint's, else its tokenizer's, else none."""
        return self.config.end_tokens or ((self.tokenizer.eot,) if self.tokenizer else ())

    def _apply(self, fn, recurse=True):
        """What .to, .half, .cuda and the like call."""
        Moves.count += 1
        return super()._apply(fn, recurse)

    @staticmethod
    def moves() -> int:
        """How often a model of this process was moved or converted."""
        return Moves.count

    def fitting_impl(self, impl: str) -> str:
        """impl, if this model can decode by it; raises ValueError if not."""
        if self.invariant and check_impl(impl) not in ("numba", "triton"):
            raise ValueError(
                f"impl {impl!r} came with invariant=True, which only 'numba' and 'triton' can keep; choose one of "
                "them, or load without it"
            )
        return check_impl(impl)

    def with_impl(self, impl: str) -> "GPT2":
        """This model with the decode step of another impl; the two share their weights."""
        twin = copy.copy(self)
        twin.impl = self.fitting_impl(impl)
        if self.invariant and impl == "triton" and not self.invariant_layers:
            raise ValueError(
                "impl 'triton' came for a model that 'numba' keeps invariant, without the layers that 'triton' needs; "
                "load it with impl='triton' and invariant=True"
            )
        return twin

    def new_cache(
        self, batch: int, capacity: int | None = None, page: int | None = None, kv_dtype: str | None = None
    ) -> Cache:
        """An empty cache for this model and impl: `batch` sequences of up to `capacity` tokens (default n_ctx).

        page      slots per page of a paged cache; None makes a static one
        kv_dtype  "int8" holds K and V in 8 bits with a scale per row; None has them in the model's dtype
        """
        capacity = self.config.n_ctx if capacity is None else capacity
        kinds = (Int8StaticCache, Int8PagedCache) if check_kv_dtype(kv_dtype) else (StaticCache, PagedCache)
        kind = kinds[0] if page is None else partial(kinds[1], page=page)
        new = ROWS if self.invariant_layers else 1  # tokens that one call of the kernel brings
        return kind(self.config, batch, capacity, dtype=self.dtype, device=self.device, impl=self.impl, new=new)

    def hidden(self, ids):
        """ids (B, T) -> the last block's output after ln_f (B, T, E). No cache.  Raises ContextFull past n_ctx."""
        T = ids.shape[1]
        if T > self.config.n_ctx:
            raise ContextFull(0, T, self.config.n_ctx, f"n_ctx {self.config.n_ctx}")
        x = self.wte(ids) + self.wpe.weight[:T]  # (B, T, E)
        for block in self.blocks:
            x = block(x, block.attn)
        return self.ln_f(x)

    def logits(self, x):
        """x (..., E) after ln_f -> logits (..., V)"""
        head = self.wte if self.lm_head is None else self.lm_head
        if isinstance(head, Int8Table):
            return head.product(x)
        return invariant_linear(x, head.weight) if self.invariant_layers else linear(x, head.weight)

    def forward(self, ids):
        """ids (B, T) int -> logits (B, T, V).  Raises ValueError for a wrong id, ContextFull past n_ctx."""
        return self.logits(self.hidden(self.check_ids(ids)))

    def loss(self, ids, reduction: str = "mean"):
        """Cross-entropy of ids[:, 1:] given ids[:, :-1], in nats per token.

        ids        (B, T) int, 2 <= T <= n_ctx + 1
        reduction  "mean" gives a scalar, "none" gives (B, T - 1); float32, or float64 for a float64 model
        """
        tensor("ids", ids, "(B, T)")
        if ids.ndim == 2 and ids.shape[1] < 2:
            raise ValueError(f"ids have {ids.shape[1]} tokens per row; a loss needs 2 or more")
        self.check_ids(ids)
        logits = self(ids[:, :-1])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits.mT, ids[:, 1:].long(), reduction=reduction)

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]], cache: Cache, chunk: int | None = None):
        """Run prompts of any lengths through the model and fill the cache.

        prompts  B sequences of one or more token ids; shorter ones are padded on the right, where causal attention
                 does not see the padding and its slots stay dead
        cache    for B sequences of equal lengths so far, usually 0
        chunk    tokens per pass; None takes the longest prompt whole
        returns  (B, V) logits after each sequence's last token

        Raises ValueError, ContextFull or CacheMismatch before any work; the cache is then as it was.
        """
        check_chunk(chunk)
        check_cache(cache)
        self.check_prompts(prompts)
        cache.check_fits(self.config, len(prompts), self.dtype, self.device)
        longest = max(map(len, prompts))
        start, chunk = cache.check_room(longest), int(chunk or longest)
        with cache.undone_if_interrupted(cache.host_lengths):
            if self.impl == "numba":
                from .compiled import prefill

                logits = prefill(self, prompts, cache, start, chunk)
            else:
                logits = self.fill(prompts, cache, start, chunk)
        cache.set_lengths([start + len(prompt) for prompt in prompts])
        return logits

    def fill(self, prompts: Sequence[Sequence[int]], cache: Cache, start: int, chunk: int):
        """The prefill by torch of prompts at slots from `start` on, `chunk` tokens per pass -> (B, V) logits."""
        counts = [len(prompt) for prompt in prompts]
        longest = max(counts)
        ids = pad(prompts, longest).to(self.device)
        last = torch.empty(len(prompts), self.config.n_embd, dtype=self.dtype, device=self.device)
        for low in range(0, longest, chunk):
            x = self.wte(ids[:, low : low + chunk])  # (B, M, E)
            high = low + x.shape[1]
            x = x + self.wpe.weight[start + low : start + high]
            for layer, block in enumerate(self.blocks):
                x = block(x, partial(block.attn.prefill, cache=cache, layer=layer, start=start + low))
            done = [b for b, n in enumerate(counts) if low < n <= high]
            last[done] = x[done, [counts[b] - 1 - low for b in done]]
        return self.logits(self.ln_f(last))

    @torch.no_grad()
    def decode(self, ids, cache: Cache):
        """One decode step: a new token per sequence attends to the cache and itself.

        ids      (B,) int64 or int32, on the model's device; their values are not checked, which would read them back
        cache    for B sequences of any lengths
        returns  (B, V) logits

        Raises ContextFull if a sequence has no slot left, ValueError or CacheMismatch for ids or a cache that do not
        fit; the cache is then as it was.
        """
        if DECODE_STEP[self.impl] is None:
            raise ValueError("impl 'naive' keeps no cache and has no decode step; use eager, sdpa, triton or numba")
        tensor("ids", ids, "(B,)")
        if ids.ndim != 1 or ids.dtype not in WHOLE or ids.device != self.device:
            raise ValueError(
                f"ids are {tuple(ids.shape)} {ids.dtype} on {ids.device}; pass (B,) int64 or int32 on {self.device}, "
                "one id per sequence"
            )
        check_cache(cache)
        cache.check_fits(self.config, ids.shape[0], self.dtype, self.device)
        before = cache.host_lengths
        slots = cache.claim()
        with cache.undone_if_interrupted(before):
            return self.step(ids, cache, slots)

    def step(self, ids, cache: Cache, slots):
        """The decode step of new tokens ids (B,) at the `slots` that cache.claim gave them -> logits (B, V)"""
        if self.impl == "numba":
            from .compiled import step as compiled_step

            return compiled_step(self, ids, cache, slots)
        x, step = self.wte(ids) + self.wpe.weight[slots], DECODE_STEP[self.impl]  # (B, E)
        for layer, block in enumerate(self.blocks):
            x = block(x, partial(block.attn.decode, cache=cache, layer=layer, slots=slots, step=step))
        return self.logits(self.ln_f(x))

    def check_prompts(self, prompts: Sequence[Sequence[int]]):
        """Raises ValueError unless prompts are one or more non-empty sequences of ids within the vocabulary."""
        first = self.tokenizer.eot if self.tokenizer else next(iter(self.config.end_tokens), None)
        check_prompts(prompts, self.config.n_vocab, first)

    def check_ids(self, ids):
        """ids, if they are whole numbers (B, T) within the vocabulary; raises ValueError if not."""
        return check_ids(ids, self.config.n_vocab, self.device)
