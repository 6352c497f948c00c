"""The results of a model's operations, recorded by hooks; the model's code and its bits stay as they are.

The operations, in order of computation, under one set of names for every model:
    embed        (B, n, E)         input of the first block
    positions    (B, n, 2 D)       cosines and sines, in models whose positions are rotations
    ln_1         (B, n, E)         per layer, as are all up to mlp
    c_attn       (B, n, H + 2 H_kv, D)  query heads, then key heads, then value heads; not yet rotated
    attention    (B, n, H, D)      the heads before they are merged
    c_proj       (B, n, E)
    ln_2, mlp    (B, n, E)
    ln_f, head   (B, n, E), (B, n, V)
B sequences, n tokens, H query heads, H_kv key-value heads, D head_dim, E n_embd, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ....gpt2.model import GPT2
from .planted import planted

OPERATIONS = ("embed", "positions", "ln_1", "c_attn", "attention", "c_proj", "ln_2", "mlp", "ln_f", "head", "cache")


class Activation(NamedTuple):
    """One operation's result: layer None outside the blocks; value (B, n, ...) float64, numbers of any dtype."""

    layer: int | None
    operation: str
    value: np.ndarray


class TracingError(ValueError):
    """A model has the module names of a known family, and other shapes."""


@dataclass(frozen=True)
class Names:
    """Where a family of models keeps its operations: paths of modules, within a block for what a block has."""

    blocks: str
    ln_1: str
    qkv: tuple[str, ...]
    c_proj: str
    ln_2: str
    mlp: str
    ln_f: str
    head: str | None  # None: the method `logits`
    embed: str | None = None  # None: what enters the first block
    rotary: str | None = None


OURS = Names("h", "ln_1", ("attn.c_attn",), "attn.c_proj", "ln_2", "mlp", "ln_f", None)
HF_GPT2 = replace(OURS, blocks="transformer.h", ln_f="transformer.ln_f", head="lm_head")
HF_LLAMA = Names(
    blocks="model.layers",
    ln_1="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    c_proj="self_attn.o_proj",
    ln_2="post_attention_layernorm",
    mlp="mlp",
    ln_f="model.norm",
    head="lm_head",
    embed="model.embed_tokens",
    rotary="model.rotary_emb",
)


class Tape:
    """What `capture` records, call by call.

    positions  (B, n) int64 or None: which tokens of a longer call are kept; a call of n tokens is kept whole, since
               that is where the model has already made the choice
    rows       (B,) or None: which rows of a call are kept, in this order
    keep_kv    also keep the keys and values of all tokens, before any rotation, in `kv`: layer -> calls of
               (B, M, 2 H_kv, D)
    """

    def __init__(self, heads: int):
        self.heads = heads
        self.positions: torch.Tensor | None = None
        self.rows: np.ndarray | None = None
        self.keep_kv = False
        self.kv: dict[int, list[np.ndarray]] = {}
        self.calls: dict[tuple[int | None, str], list[np.ndarray]] = {}
        self.batch = 1
        self._parts: list[torch.Tensor] = []

    def at(self, rows: np.ndarray, positions: torch.Tensor):
        """Of the next call, keep these rows (B,) and of each the tokens at positions (B, n)."""
        self.rows, self.positions = rows, positions

    def record(self, layer: int | None, operation: str, value: torch.Tensor):
        """Keep a copy of value (B, M, ...), on the host, of the tokens that are wanted."""
        value = value if self.rows is None else value[self.rows]
        if self.positions is not None and value.shape[1] != self.positions.shape[1]:
            rows = torch.arange(len(self.positions), device=value.device)[:, None]
            value = value[rows, self.positions.to(value.device)]
        copy = value.detach().to("cpu", torch.float64, copy=True).numpy()
        self.calls.setdefault((layer, operation), []).append(copy)

    def keep_last(self, width: int, positions: torch.Tensor):
        """Of all recorded so far, the calls of a prefill, keep the tokens at positions (B, n) of its last `width`.

        However many passes it took, and whatever ran before it. What was recorded of fewer tokens is the model's own
        choice of them, and its last n are kept.
        """
        rows, columns = np.arange(len(positions))[:, None], positions.numpy()
        for key, calls in self.calls.items():
            joined = np.concatenate(calls, axis=1)
            few = joined.shape[1] < width
            self.calls[key] = [joined[:, -columns.shape[1] :] if few else joined[:, -width:][rows, columns]]

    def wide(self, layer: int | None, operation: str, value: torch.Tensor):
        """Record (B, M, E), or (B, E) of a decode step's one token; of a module that gives more, its first."""
        value = value[0] if isinstance(value, tuple) else value
        value = value if value.ndim == 3 else value[:, None]
        self.batch = len(value)
        self.record(layer, operation, value)

    def heads_of(self, layer: int, value: torch.Tensor):
        value = value if value.ndim == 3 else value[:, None]
        self.record(layer, "attention", value.unflatten(-1, (self.heads, -1)))

    def projected(self, layer: int, parts: int, value: torch.Tensor, head_dim: int):
        """Record queries, keys and values, once all `parts` of them have come."""
        self._parts.append(value if value.ndim == 3 else value[:, None])
        if len(self._parts) < parts:
            return
        qkv, self._parts = torch.cat(self._parts, -1).unflatten(-1, (-1, head_dim)), []
        self.record(layer, "c_attn", qkv)
        if self.keep_kv:
            kv = qkv[:, :, self.heads :].detach().to("cpu", torch.float64, copy=True).numpy()
            self.kv.setdefault(layer, []).append(kv)

    def rotations(self, value: tuple[torch.Tensor, torch.Tensor]):
        both = torch.cat(value, -1)
        self.record(None, "positions", both.expand(self.batch, *both.shape[1:]))

    def activations(self) -> list[Activation]:
        """Everything recorded, calls joined along the tokens, in order of computation."""
        return [Activation(*key, np.concatenate(calls, axis=1)) for key, calls in self.calls.items()]


def names_of(model: nn.Module) -> Names:
    """Where this model keeps its operations.  Raises ValueError for a model of no family that is known here."""
    names = OURS if isinstance(model, GPT2) else HF_GPT2 if hasattr(model, "transformer") else HF_LLAMA
    parts = (names.ln_1, *names.qkv, names.c_proj, names.ln_2, names.mlp)
    outside = [path for path in (names.ln_f, names.embed, names.rotary, names.head) if path]
    try:
        layers = [name for name, _ in model.get_submodule(names.blocks).named_children()]
    except AttributeError:
        layers = ["0"]  # whose absence is then what is said
    for path in (*outside, *(f"{names.blocks}.{layer}.{part}" for layer in layers for part in parts)):
        try:
            model.get_submodule(path)
        except AttributeError as error:
            raise ValueError(
                f"{type(model).__name__} has no {path}; tracing knows our GPT2 and, of Hugging Face's models, GPT-2 "
                "and those with Llama's module names"
            ) from error
    return names


def is_known(model: nn.Module) -> bool:
    """Whether `names_of` knows where the model keeps its operations."""
    try:
        names_of(model)
    except ValueError:
        return False
    return True


@contextmanager
def capture(model: Any) -> Iterator[Tape]:
    """Record what `model` computes while the context is open, on a Tape; then it is as it was.

    model  our GPT2, or a Hugging Face causal LM of the GPT-2 or the Llama family, its own code unchanged

    Raises ValueError for another model, TracingError, a ValueError, as soon as it runs for one of other shapes. Results
    are the same bits with and without.
    """
    names = names_of(model)
    config = model.config if names is OURS else model.config.get_text_config(decoder=True)
    heads = config.n_head if names is OURS else config.num_attention_heads
    tape = Tape(heads)
    with ExitStack() as undo:
        for handle in hook(model, names, tape):
            undo.callback(handle.remove)
        if names.head is None:
            undo.enter_context(watched(model, "logits", lambda out: tape.wide(None, "head", out)))
        yield tape


def hook(model: nn.Module, names: Names, tape: Tape):
    """Yield the handle of each hook as it is set."""
    find = model.get_submodule

    def seen(path: str, see: Callable[[Any], None], value: Any):
        try:
            see(value)
        except Exception as error:
            raise TracingError(f"{type(model).__name__}'s {path} is none that tracing knows: {error}") from error

    def after(path: str, see: Callable[[Any], None]):
        return find(path).register_forward_hook(lambda module, args, out: seen(path, see, out))

    def before(path: str, see: Callable[[Any], None]):
        return find(path).register_forward_pre_hook(lambda module, args: seen(path, see, args[0] if args else None))

    embed = partial(tape.wide, None, "embed")
    yield after(names.embed, embed) if names.embed else before(f"{names.blocks}.0", embed)
    if names.rotary:
        yield after(names.rotary, tape.rotations)
    for layer, block in enumerate(find(names.blocks).children()):
        path = f"{names.blocks}.{layer}."
        merge: Any = block.get_submodule(names.c_proj)
        # A Conv1D's weight is (in, out), a Linear's (out, in).
        head_dim = merge.weight.shape[0 if type(merge).__name__ == "Conv1D" else 1] // tape.heads
        yield after(path + names.ln_1, partial(tape.wide, layer, "ln_1"))
        for part in names.qkv:
            yield after(path + part, partial(tape.projected, layer, len(names.qkv), head_dim=head_dim))
        yield before(path + names.c_proj, partial(tape.heads_of, layer))
        yield after(path + names.c_proj, partial(tape.wide, layer, "c_proj"))
        yield after(path + names.ln_2, partial(tape.wide, layer, "ln_2"))
        yield after(path + names.mlp, partial(tape.wide, layer, "mlp"))
    yield after(names.ln_f, partial(tape.wide, None, "ln_f"))
    if names.head:
        yield after(names.head, partial(tape.wide, None, "head"))


def watched(owner: Any, name: str, see: Callable[[Any], None]) -> AbstractContextManager[None]:
    """`see` looks at what owner's method returns while the context is open."""
    method = getattr(owner, name)

    def seen(*args, **kw):
        out = method(*args, **kw)
        see(out)
        return out

    return planted([(vars(owner), name, seen)])
