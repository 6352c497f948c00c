"""Generation: the decode loop, over a cache or, for comparison, without one."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..reference.config import ContextFull, brief
from . import sampling
from .arguments import flag, function, is_row, is_text, listed, refuse, strings, whole, whole_numbers
from .cache import Cache
from .graph import Run, default_step
from .ids import pad
from .model import GPT2, check_chunk
from .stream import Listener, Writer


@dataclass
class Completion:
    """One prompt's continuation.

    prompt_ids     the prompt's tokens
    ids            the new tokens, without the end token that ended them
    text           the new text, cut before a stop string; None if the model has no tokenizer
    finish_reason  "stop" (an end token or a stop string) or "length"
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str | None
    finish_reason: str


class Source(Protocol):
    """Where the next token's logits come from."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """B prompts -> logits (B, V)"""
        ...

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """The newest token of each row, (B,) on the device -> logits (B, V)"""
        ...


class Cached:
    """The next token's logits from a KV cache: prefill once, then one decode step per token."""

    def __init__(self, model: GPT2, cache: Cache, chunk: int | None = None, step: Run | None = None):
        """step: the decode step; None takes the model's default."""
        self.model, self.cache, self.chunk = model, cache, chunk
        self._step = default_step(model, cache) if step is None else step

    def prefill(self, prompts: Sequence[Sequence[int]]):
        self.cache.reset()
        return self.model.prefill(prompts, self.cache, self.chunk)

    def step(self, ids):
        return self._step(ids)


class Uncached:
    """The next token's logits by recomputing every sequence from its first token, each time."""

    def __init__(self, model: GPT2, capacity: int):
        self.model, self.capacity = model, capacity

    def prefill(self, prompts: Sequence[Sequence[int]]):
        self.model.check_prompts(prompts)
        self.lengths = [len(prompt) for prompt in prompts]
        self.ids = pad(prompts, self.capacity).to(self.model.device)
        self.rows = torch.arange(len(prompts), device=self.model.device)
        self.last = torch.tensor(self.lengths, device=self.model.device) - 1
        return self._logits()

    def step(self, ids):
        self.lengths = [n + 1 for n in self.lengths]
        self.last = self.last + 1
        self.ids[self.rows, self.last] = ids
        return self._logits()

    @torch.no_grad()
    def _logits(self):
        # Shorter rows are padded on the right, where causal attention cannot see it.
        x = self.model.hidden(self.ids[:, : max(self.lengths)])
        return self.model.logits(x[self.rows, self.last])


def decode_loop(
    source: Source, prompts: Sequence[Sequence[int]], steps: int, choose: Callable[[int, torch.Tensor], torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The decode loop: prefill, then token by token. Yields (ids (B,), logits (B, V)) for each of `steps` new tokens.

    choose  choose(step, logits) -> the ids that follow; the last of them are not fed back
    """
    logits = source.prefill(prompts)
    for step in range(steps):
        ids = choose(step, logits)
        yield ids, logits
        if step + 1 < steps:
            logits = source.step(ids)


def forced_logits(source: Source, prompts: Sequence[Sequence[int]], ids: torch.Tensor) -> torch.Tensor:
    """The logits of each of the given new tokens ids (B, n), after the prompts and the ids before it -> (B, n, V)."""
    steps = decode_loop(source, prompts, ids.shape[1], lambda step, logits: ids[:, step].to(logits.device))
    return torch.stack([logits for _, logits in steps], 1)


class Outbox:
    """Copies each step's tokens to the host without stopping the device.

    On CUDA a step's tokens arrive one step late, when their copy is done; elsewhere at once.
    """

    def __init__(self, device: torch.device):
        self.late = device.type == "cuda"
        self.waiting = None

    def push(self, ids) -> list[list[int]]:
        """Send ids (B,); returns the steps that have arrived, oldest first."""
        if not self.late:
            return [ids.tolist()]
        arrived = self.flush()
        host = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
        host.copy_(ids, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(ids.device))
        self.waiting = host, done
        return arrived

    def flush(self) -> list[list[int]]:
        """The steps still on their way."""
        if self.waiting is None:
            return []
        host, done = self.waiting
        self.waiting = None
        done.synchronize()
        return [host.tolist()]


def check_fit(prompts: Sequence[Sequence[int]], max_new_tokens: int, room: int, what: str):
    """Raises ContextFull unless prompts and new tokens fit `room` slots. The last new token needs no slot."""
    longest = max(map(len, prompts))
    if longest + max_new_tokens - 1 > room:
        raise ContextFull(longest, max_new_tokens, room - longest + 1, f"{what} {room}")


def to_ids(model: GPT2, prompts) -> list[list[int]]:
    """Prompts in any form that `generate` takes -> one list of ids each.  Raises ValueError for any other."""
    prompts = listed(prompts)
    if isinstance(prompts, str):
        prompts = [prompts]
    if not is_row(prompts):
        raise ValueError(f"prompts are {brief(prompts)}; pass a text, a list of texts, token ids or a list of them")
    if len(prompts) and not isinstance(prompts[0], str) and not is_row(prompts[0]):
        prompts = [prompts]
    return [encode(model, p) if isinstance(p, str) else whole_numbers(p) for p in prompts]


def encode(model: GPT2, text: str) -> list[int]:
    """The ids of a text, in which U+DC80 ... U+DCFF stand for bytes that are no UTF-8.  Raises ValueError."""
    if model.tokenizer is None:
        raise ValueError("text prompts came, but this model has no tokenizer; pass token ids or set model.tokenizer")
    if not is_text(text) and not is_text(re.sub("[\udc80-\udcff]", "", text)):
        raise ValueError(f"the prompt {brief(text)} holds half of a surrogate pair, which is no text; take it out")
    return model.tokenizer.encode(text)


def check_model(model):
    """Raises ValueError unless model is a model; its name is none."""
    if not all(hasattr(model, name) for name in ("config", "prefill", "decode", "tokenizer")):
        raise ValueError(f"model is {brief(model)}; pass the model itself, as load({brief(model)}) gives it")


def choose_source(model: GPT2, prompts, max_new_tokens: int, kv_cache: bool, chunk, cache) -> Cached | Uncached:
    """The source of logits, after all checks of size; a given cache is unchanged."""
    check_fit(prompts, max_new_tokens, model.config.n_ctx, "n_ctx")
    capacity = max(map(len, prompts)) + max_new_tokens - 1
    if not kv_cache or model.impl == "naive":
        if cache is not None or chunk is not None:
            raise ValueError("cache and chunk came, but nothing is cached; leave them out or choose another impl")
        return Uncached(model, capacity)
    if cache is None:
        cache = model.new_cache(len(prompts), capacity)
    cache.check_fits(model.config, len(prompts), model.dtype, model.device)
    check_fit(prompts, max_new_tokens, cache.capacity, "a cache of capacity")
    return Cached(model, cache, chunk)


@torch.no_grad()
def generate(
    model: GPT2,
    prompts,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    stream: Listener | None = None,
    kv_cache: bool = True,
    chunk: int | None = None,
    cache: Cache | None = None,
    first_row: int = 0,
) -> list[Completion]:
    """Continue prompts of any lengths, as one batch.

    prompts         a text, a list of texts, ids, a list of ids, or an array or tensor of ids (T,) or (B, T)
    max_new_tokens  at most this many each; any of model.end_tokens ends a sequence sooner
    temperature     0 is greedy; else logits are divided by it, then cut by top_k, then by top_p
    seed            0 ... 2**64 - 1; row i draws from its own stream (seed, i), whatever the batch
    stop            strings that end a sequence; the text is cut before the first complete one
    stream          called as stream(row, id, text) for each new token, with the text that no later token can change,
                    and as stream(row, None, text) for the rest when the row ends
    kv_cache        False recomputes the whole sequence for every token, as the impl "naive" does
    chunk           prompt tokens per prefill pass; None takes prompts whole
    cache           a cache to reuse; it is reset first. None makes one of the size needed
    first_row       row 0's place in a longer list of prompts: row i draws from (seed, first_row + i), so that a list
                    gives the same texts whole or cut into batches

    Raises ValueError for wrong prompts or settings, ContextFull if prompt and new tokens exceed n_ctx or the cache (it
    says how many fit); both before any work. FloatingPointError if the model gives NaN or inf.
    """
    check_model(model)
    temperature, top_k, top_p = sampling.check(temperature, top_k, top_p)
    max_new_tokens = whole("max_new_tokens", max_new_tokens, "1 or more, a whole number", 1)
    stop, kv_cache = strings("stop", stop), flag("kv_cache", kv_cache)
    function("stream", stream)
    check_chunk(chunk)
    if cache is not None and not isinstance(cache, Cache):
        raise refuse("cache", cache, "what model.new_cache gives, or None")
    prompts = to_ids(model, prompts)
    model.check_prompts(prompts)
    tokenizer, B = model.tokenizer, len(prompts)
    writer = Writer(tokenizer, B, model.end_tokens, stop, stream)
    keys = sampling.keys(seed, B, max_new_tokens, first_row).to(model.device)
    source = choose_source(model, prompts, max_new_tokens, kv_cache, chunk, cache)
    outbox = Outbox(model.device)
    known = tokenizer.n_vocab if tokenizer else model.config.n_vocab  # padding ids have no text

    def choose(step: int, logits: torch.Tensor) -> torch.Tensor:
        ids = sampling.next_ids(logits[:, :known], keys[:, step], temperature, top_k, top_p)
        writer.take(outbox.push(ids))
        return ids.clamp(min=0)  # -1 stands for a row without finite logits, until the host has read it

    for _ in decode_loop(source, prompts, max_new_tokens, choose):
        if writer.finished:
            break
    writer.take(outbox.flush())
    writer.close()
    return [
        Completion(prompt, row.ids, row.text.text if row.text else None, row.finish_reason)
        for prompt, row in zip(prompts, writer.rows, strict=True)
    ]
