"""kernels/cpu/forward.py: whole models against the oracle, on the very numbers that they hold, in every dtype."""

from functools import cache, partial
from unittest.mock import patch

import numpy as np
import pytest
import torch

from kvproof.gpt2.compiled import Compiled
from kvproof.gpt2.int8_weights import dequantised
from kvproof.gpt2.weights import as_dtype, build
from kvproof.kernels.cpu.engine import Slots
from kvproof.kernels.cpu.job import LAYER
from kvproof.reference import model as oracle
from kvproof.reference.cache import ContiguousCache, Int8Cache
from kvproof.reference.config import Config
from kvproof.reference.judge.parity import LOGIT_BARS, logit_error
from kvproof.reference.synthetic import random_tensors

from ._compiled import DTYPES, guarded

EXHAUSTIVE = pytest.mark.exhaustive
TINY = Config(n_vocab=61, n_ctx=150, n_embd=50, n_head=2, n_layer=2, n_inner=70)
CONFIGS = (
    TINY,
    Config(n_vocab=37, n_ctx=150, n_embd=75, n_head=25, n_layer=1, n_inner=33, gelu="exact", tie_word_embeddings=False),
    Config(n_vocab=300, n_ctx=150, n_embd=100, n_head=1, n_layer=3, n_inner=400),
)
LENGTHS = (140, 17, 1)
# What the logits of float32 sums may move by, of the largest, where the cache rounds: a number that lies midway between
# two of its dtype may go either way. Twice what was measured over the models below: 4.8e-4, 3.5e-5 and 2.9e-4.
ROUNDED = {"bfloat16": 1e-3, "float16": 7e-5, "int8": 6e-4}


class RoundedCache(ContiguousCache):
    """Keys and values that are rounded to a dtype as they are stored, and computed with in float64."""

    def __init__(self, stored, config: Config, batch: int, capacity: int):
        super().__init__(config, batch, capacity)
        self.stored = stored

    def append(self, layer, k, v):
        narrow = [x if self.stored == np.float64 else x.astype(np.float32).astype(self.stored) for x in (k, v)]
        super().append(layer, *(x.astype(np.float64) for x in narrow))


def new_oracle_cache(config, cache: str):
    if cache == "int8":
        return Int8Cache(config, 1, config.n_ctx)
    return RoundedCache(DTYPES[cache], config, 1, config.n_ctx)


@cache
def model(config: Config, dtype: str, weights: str | None = None):
    named = ((name, torch.from_numpy(array)) for name, array in random_tensors(config, 0))
    return build(config, named, None, as_dtype(dtype), torch.device("cpu"), "numba", weights=weights)


def prompts(config):
    rng = np.random.default_rng(0)
    return [rng.integers(config.n_vocab, size=n) for n in LENGTHS]


def engine_logits(config, dtype: str, weights: str | None, cache: str) -> np.ndarray:
    """(3, 2, V): after each prompt, all of them at once, and after a step; by a cache of any dtype."""
    compiled, capacity = Compiled(model(config, dtype, weights)), 160
    held = model(config, dtype, weights).new_cache(3, 150)
    shape = (3, config.n_head, capacity, config.head_dim)
    kind = torch.int8 if cache == "int8" else as_dtype(cache)
    dead = 77 if cache == "int8" else torch.nan
    k, v = ([torch.full(shape, dead).to(kind) for _ in range(config.n_layer)] for _ in "kv")
    k_scale, v_scale = ([torch.full(shape[:3], torch.nan) for _ in x if cache == "int8"] for x in (k, v))
    slots = Slots(k, v, k_scale, v_scale, torch.arange(3, dtype=torch.int32)[:, None])
    held.k = tuple(k)  # what says the cache's dtype
    engine, ids = compiled.engine(held), prompts(config)
    rows = np.repeat(np.arange(3), LENGTHS)
    where, ends = np.concatenate([np.arange(n) for n in LENGTHS]), np.cumsum(LENGTHS) - 1
    first = engine.forward(np.concatenate(ids), rows, where, ends, slots)
    each = np.arange(3)
    step = engine.forward(np.array([5, 6, 7]), each, np.array(LENGTHS), each, slots)
    return torch.stack([first, step], 1).double().numpy()


def oracle_logits(config, dtype: str, weights: str | None, cache: str) -> np.ndarray:
    params, found = dequantised(model(config, dtype, weights)), []
    for token, prompt in zip((5, 6, 7), prompts(config), strict=True):
        held = new_oracle_cache(config, cache)
        first = oracle.forward(prompt[None], params, config, held)[:, -1]
        found.append(np.concatenate([first, oracle.forward(np.array([[token]]), params, config, held)[:, -1]]))
    return np.stack(found)


def check(config, dtype, weights, cache):
    bar = LOGIT_BARS["float64"] if dtype == "float64" else ROUNDED.get(cache, LOGIT_BARS["float32"])
    error = logit_error(engine_logits(config, dtype, weights, cache), oracle_logits(config, dtype, weights, cache))
    assert error <= bar, f"logits are wrong by {error:.3g}, more than {bar:.3g}"


QUICK = {("float32", None, "float32"), ("bfloat16", None, "bfloat16"), ("float64", None, "float64")}
VARIANTS = (
    *((x, None, x) for x in ("float64", "float32", "bfloat16", "float16")),
    *((x, None, "float32") for x in ("bfloat16", "float16")),  # as strict as float32, since nothing else is rounded
    *((x, "int8", x) for x in ("float64", "float32", "bfloat16", "float16")),
    ("bfloat16", "int8", "float32"), ("float32", None, "int8"), ("float64", None, "int8"), ("float32", "int8", "int8"),
)  # fmt: skip


@pytest.mark.parametrize(("dtype", "weights", "cache"), [
    pytest.param(*x, marks=[] if x in QUICK else EXHAUSTIVE) for x in VARIANTS
])  # fmt: skip
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.n_head} heads of {config.head_dim}")
def test_logits_are_the_oracle_s_on_the_same_numbers(config, dtype, weights, cache):
    check(config, dtype, weights, cache)


def test_nothing_is_touched_past_the_end_of_any_tensor():
    """Each weight and the cache end where memory does: then one element more ends the process."""
    named = ((name, torch.from_numpy(array)) for name, array in random_tensors(TINY, 0))
    own = build(TINY, named, None, torch.float32, torch.device("cpu"), "numba")
    want = own.prefill([[1, 2, 3], [4]], own.new_cache(2, 8))
    compiled, kept = Compiled(own), []
    engine = compiled.engine(own.new_cache(2, 8))

    def at_the_end(x: torch.Tensor) -> torch.Tensor:
        kept.append(guarded(np.ascontiguousarray(x.detach().numpy())))
        return torch.from_numpy(kept[-1])

    moved = [0 if held is None else at_the_end(laid(held[key])).data_ptr() for held, key in compiled.places]
    fields, layers = len(LAYER), TINY.n_layer
    *rest, head, head_scale = moved[layers * fields :]
    names = ("wte", "wte_scale", "wpe", "ln_f", "ln_f_bias")
    table = [moved[i * fields : (i + 1) * fields] for i in range(layers)]
    engine.bind(table, dict(zip(names, rest, strict=True)), (head, head_scale))
    k, v = ([at_the_end(torch.full((2, 2, 3, 25), torch.nan)) for _ in range(layers)] for _ in "kv")
    slots = Slots(k, v, [], [], torch.arange(2, dtype=torch.int32)[:, None])
    ids, rows, where = np.array([1, 2, 3, 4]), np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0])
    got = engine.forward(ids, rows, where, np.array([2, 3]), slots)
    assert torch.equal(got, want)


def laid(x: torch.Tensor) -> torch.Tensor:
    """A linear layer's weight as the engine reads it, (n_out, n_in); Conv1D keeps (n_in, n_out) in that order."""
    return x.mT if x.ndim == 2 and not x.is_contiguous() else x


@pytest.mark.parametrize("asked", [[], [0], [1, 4], [0, 1, 2, 3, 4]])
def test_logits_are_given_of_the_rows_that_are_asked_for(asked):
    own = model(TINY, "float32")
    compiled, forced = Compiled(own), np.array([3, 4, 5, 6, 7])
    cache = own.new_cache(1, 8)
    slots = Slots(cache.k, cache.v, [], [], torch.zeros(1, 1, dtype=torch.int32))
    forward = partial(compiled.engine(cache).forward, forced, np.zeros(5, np.int64), np.arange(5))
    every = forward(np.arange(5), slots)
    assert torch.equal(forward(np.array(asked, np.int64), slots), every[asked])


def test_passes_of_few_tokens_give_the_bits_of_one():
    own = model(TINY, "float32")
    whole = own.prefill([[1, 2, 3, 4, 5, 6, 7], [8]], own.new_cache(2, 8))
    with patch("kvproof.kernels.cpu.engine.AT_ONCE", 3):
        assert torch.equal(own.prefill([[1, 2, 3, 4, 5, 6, 7], [8]], own.new_cache(2, 8)), whole)


def test_the_bars_of_rounded_caches_are_below_what_a_wrong_cache_gives():
    """Values that are off by one slot move logits by more than the widest bar."""
    right = oracle_logits(TINY, "float32", None, "float32")

    class Late(RoundedCache):
        def read(self, layer, b):
            k, v = super().read(layer, b)
            return k, np.roll(v, 1, axis=1)

    held = Late(np.float32, TINY, 1, 150)
    params = dequantised(model(TINY, "float32"))
    wrong = oracle.forward(prompts(TINY)[0][None], params, TINY, held)[:, -1]
    assert logit_error(wrong, right[:1, 0]) > 2 * max(ROUNDED.values())
