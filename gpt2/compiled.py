"""The impl numba: prefill and decode step by the engine of kernels/cpu, on the model's own weights and cache."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch

from .arguments import refuse
from .cache import Cache
from .int8_weights import is_quantised
from .linear import Conv1D

if TYPE_CHECKING:
    from .model import GPT2

REST = {
    "wte": "wte.weight", "wte_scale": "wte.scale", "wpe": "wpe.weight", "ln_f": "ln_f.weight", "ln_f_bias": "ln_f.bias",
}  # fmt: skip


class Compiled:
    """A model's engines, one for each dtype of cache, and where they find its tensors."""

    def __init__(self, model: "GPT2"):
        from ..kernels.cpu import Sizes
        from ..kernels.cpu.job import LAYER

        config = model.config
        self.sizes = Sizes(
            config.n_layer, config.n_head, config.n_embd, config.n_inner, config.n_vocab, config.layer_norm_epsilon,
            config.gelu == "exact",
        )  # fmt: skip
        head = "wte" if model.lm_head is None else "lm_head"
        names = [f"h.{i}.{name}" for i in range(config.n_layer) for name in LAYER]
        self.names = [*names, *REST.values(), f"{head}.weight", f"{head}.scale"]
        self.places = [place(model, name) for name in self.names]
        modules = list(model.modules())
        self.links = [(held._modules, name, child) for held in modules for name, child in held._modules.items()]
        self.linears = [module for module in model.modules() if isinstance(module, Conv1D)]
        self.addresses: list[int] = []
        self.tensors: list[torch.Tensor | None] = []  # kept, so that no step reads memory that was given back
        self.engines: dict[torch.dtype, Any] = {}

    def whole(self) -> bool:
        """Whether the model still has the modules that were found in it."""
        return all(held.get(name) is child for held, name, child in self.links)

    def engine(self, cache: Cache) -> Any:
        """The engine for this cache, bound to the tensors that the model has now."""
        addresses = [0 if held is None else held[key].data_ptr() for held, key in self.places]
        if addresses != self.addresses:
            for linear in self.linears:
                linear.lay_by_output()
            self.addresses = [0 if held is None else held[key].data_ptr() for held, key in self.places]
            self.tensors = [None if held is None else held[key].detach() for held, key in self.places]
            self.engines = {}
        kv = cache.k[0].dtype
        if kv not in self.engines:
            self.engines[kv] = self.bound(kv)
        return self.engines[kv]

    def bound(self, kv: torch.dtype) -> Any:
        """A new engine, told where the tensors lie.  Raises ValueError where those of a kind have several dtypes."""
        from ..kernels.cpu import Engine

        engine = Engine(self.sizes, self.dtype(True), self.dtype(False), str(kv)[6:])
        *rest, head, head_scale = self.addresses[-len(REST) - 2 :]
        layers = np.array(self.addresses[: -len(REST) - 2]).reshape(self.sizes.n_layer, -1)
        engine.bind(layers, dict(zip(REST, rest, strict=True)), (head, head_scale))
        return engine

    def dtype(self, matrix: bool) -> str:
        """The dtype of the matrices that products read, or of all other tensors but scales."""
        found = {}
        for name, (held, key) in zip(self.names, self.places, strict=True):
            if held is not None and key != "scale" and is_quantised(name) == matrix:
                found.setdefault(str(held[key].dtype)[6:], name)
        if len(found) > 1:
            (a, b), (x, y) = list(found)[:2], list(found.values())[:2]
            raise ValueError(f"{x} is {a} and {y} is {b}; impl 'numba' takes one dtype: model.to(torch.{a}), or sdpa")
        return next(iter(found))


def place(module, name: str) -> tuple[Any, str]:
    """The dict that holds a tensor of this name, and its key there; (None, "") for a scale that is not there."""
    *path, key = name.split(".")
    for step in path:
        module = getattr(module, step)
    held = next((held for held in (module._parameters, module._buffers) if key in held), None)
    return (None, "") if held is None else (held, key)


COMPILED: "WeakKeyDictionary[GPT2, Compiled]" = WeakKeyDictionary()


class Bound(NamedTuple):
    """What a cache's steps need: its model, the engine for both, and the cache as the engine reads it."""

    model: "ref[GPT2]"
    moves: int
    engine: Any
    slots: Any

    def reads(self, cache: Cache) -> bool:
        """Whether this is about the memory that a cache has now: a copy of it may have other memory."""
        here = self.slots.k is cache.k and self.slots.v is cache.v
        return here and (cache.block_table is None or cache.block_table is self.slots.table)

    def __reduce__(self):
        """A cache that is copied or pickled finds all this anew."""
        return type(None), ()


def bind(model: "GPT2", cache: Cache) -> Bound:
    """Find the model's tensors, wherever they lie by now, and tell the engine."""
    if model.device.type != "cpu":
        raise refuse("device", model.device, "the CPU for impl 'numba'; use impl='triton' on a GPU")
    found = COMPILED.get(model)
    if found is None or not found.whole():
        found = COMPILED[model] = Compiled(model)
    cache.bound = Bound(ref(model), model.moves(), found.engine(cache), some_layers(cache, slice(None)))
    return cache.bound


def bound(model: "GPT2", cache: Cache) -> Bound:
    """What `bind` gave for this cache. A step trusts it, since looking at every tensor takes longer than a small step:

    a model that was moved by .to() is noticed, a tensor or module that was replaced at the next prefill.
    """
    known: Bound | None = cache.bound
    if known is None or known.model() is not model or known.moves != model.moves() or not known.reads(cache):
        return bind(model, cache)
    return known


@lru_cache
def one_page_each(batch: int) -> torch.Tensor:
    """The block table of a static cache, whose pages hold a sequence each."""
    return torch.arange(batch, dtype=torch.int32)[:, None]


@lru_cache
def each(batch: int) -> np.ndarray:
    """Sequence numbers, or rows, 0 ... batch - 1."""
    return np.arange(batch)


def some_layers(cache: Cache, layers: slice) -> Any:
    """Some layers of a cache as the engine reads them."""
    from ..kernels.cpu import Slots

    table = one_page_each(cache.batch) if cache.block_table is None else cache.block_table
    k_scale, v_scale = (() if scale is None else scale[layers] for scale in (cache.k_scale, cache.v_scale))
    return Slots(cache.k[layers], cache.v[layers], k_scale, v_scale, table)


def prefill(model: "GPT2", prompts: Sequence[Sequence[int]], cache: Cache, start: int, chunk: int) -> torch.Tensor:
    """Prompts of any lengths, from slot `start` on -> the logits (B, V) after each one's last token.

    chunk   tokens of each sequence per pass
    """
    _, _, engine, slots = bind(model, cache)
    counts = [len(prompt) for prompt in prompts]
    cache.make_room(start + max(counts))
    logits = torch.empty(len(prompts), model.config.n_vocab, dtype=engine.sum)
    for low in range(0, max(counts), chunk):
        spans = [(b, low, min(low + chunk, n)) for b, n in enumerate(counts) if n > low]
        ids = np.concatenate([np.asarray(prompts[b][lo:hi], np.int64) for b, lo, hi in spans])
        sequences = np.repeat([b for b, _, _ in spans], [hi - lo for _, lo, hi in spans])
        where = np.concatenate([np.arange(start + lo, start + hi) for _, lo, hi in spans])
        ends = np.cumsum([hi - lo for _, lo, hi in spans]) - 1
        done = [i for i, (b, _, hi) in enumerate(spans) if hi == counts[b]]
        # By NumPy: torch would wake its threads, which a forked process no longer has.
        logits.numpy()[[spans[i][0] for i in done]] = engine.forward(ids, sequences, where, ends[done], slots).numpy()
    return logits


def step(model: "GPT2", ids: torch.Tensor, cache: Cache, slots) -> torch.Tensor:
    """A new token per sequence, ids (B,), at the slots that cache.claim gave -> logits (B, V)."""
    tokens = ids.tolist()
    if min(tokens) < 0 or max(tokens) >= model.config.n_vocab:
        raise refuse("ids", tokens, f"ids of this model, 0..{model.config.n_vocab - 1}")
    where = [slots] * len(tokens) if isinstance(slots, int) else slots.tolist()
    rows, to = each(len(tokens)), bound(model, cache)
    return to.engine.forward(np.array(tokens), rows, np.array(where), rows, to.slots)


def attention(q, cache: Cache, layer: int, k=None, v=None) -> torch.Tensor:
    """The attention of a decode step alone, q (B, H, D) -> (B, H, D); new rows k, v like q go to the newest slots."""
    B, H, D = q.shape
    dtype = str(q.dtype)[6:]
    engine = attention_engine(H, D, dtype, str(cache.k[0].dtype)[6:])
    where = np.array(cache.host_lengths) - 1
    return engine.attend(q, each(B), where, some_layers(cache, slice(layer, layer + 1)), k, v).to(q.dtype)


@lru_cache
def attention_engine(n_head: int, head_dim: int, dtype: str, cache: str) -> Any:
    """An engine of no model: one layer's attention."""
    from ..kernels.cpu import Engine, Sizes

    return Engine(Sizes(1, n_head, n_head * head_dim, 0, 0, 0.0, False), dtype, dtype, cache)
