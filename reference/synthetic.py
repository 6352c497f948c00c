"""GPT-2s of every size without a download: `random:NAME` has deterministic weights, made from their names alone.

Element i (row-major) of the tensor called `name` is
    float32(centre + (2u - 1)·std·√3),  u = (mix(s + (i + 1)·GAMMA) >> 40) / 2²⁴,  s = FNV-1a("<seed>:<name>").
No random-number library takes part, so the bits are the same everywhere. Residual branches are strong: with tied
embeddings a weak branch would only echo the last token.
Source: SplitMix64, as sampling.py has it; the recipe of the project's golden files, where random:gpt2 is syn-small.
"""

import math
from collections.abc import Iterator

import numpy as np

from .config import Config
from .sampling import GAMMA, mix

SEED = 6
SIZES = {
    "distilgpt2": Config(n_layer=6),
    "gpt2": Config(),
    "gpt2-medium": Config(n_embd=1024, n_head=16, n_layer=24, n_inner=4096),
    "gpt2-large": Config(n_embd=1280, n_head=20, n_layer=36, n_inner=5120),
    "gpt2-xl": Config(n_embd=1600, n_head=25, n_layer=48, n_inner=6400),
}

CHUNK = 1 << 15  # elements drawn at a time: a quarter of a megabyte per scratch array stays in the processor's cache
STEPS = np.arange(1, CHUNK + 1, dtype=np.uint64) * np.uint64(GAMMA)


def random_config(name: str) -> Config:
    """The Config of "gpt2-xl" or "random:gpt2-xl". Raises ValueError for a size that is not one of SIZES."""
    size = name.removeprefix("random:")
    if size not in SIZES:
        raise ValueError(f"there is no random model {size!r}; there are {', '.join(SIZES)}")
    return SIZES[size]


def random_tensors(config: Config, seed: int = SEED) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, float32 array) of every tensor, one at a time, named and shaped as in the checkpoint."""
    for name, shape, std, centre in recipe(config):
        yield name, draw(f"{seed}:{name}", shape, std, centre)


def recipe(config: Config) -> Iterator[tuple[str, tuple[int, ...], float, float]]:
    """Yield (name, shape, std, centre) of every tensor."""
    V, T, E, inner = config.n_vocab, config.n_ctx, config.n_embd, config.n_inner
    # Divided by numpy's square roots in this very form, since another association would move the last bit.
    residual = 4 / np.sqrt(2.0 * config.n_layer)
    yield "wte.weight", (V, E), 1.5 / np.sqrt(E), 0.0
    yield "wpe.weight", (T, E), 1 / np.sqrt(E), 0.0
    for i in range(config.n_layer):
        for ln in ("ln_1", "ln_2"):
            yield f"h.{i}.{ln}.weight", (E,), 0.15, 1.0
            yield f"h.{i}.{ln}.bias", (E,), 0.1, 0.0
        yield f"h.{i}.attn.c_attn.weight", (E, 3 * E), 1.5 / np.sqrt(E), 0.0
        yield f"h.{i}.attn.c_attn.bias", (3 * E,), 0.2, 0.0
        yield f"h.{i}.attn.c_proj.weight", (E, E), residual / np.sqrt(E), 0.0
        yield f"h.{i}.attn.c_proj.bias", (E,), 0.05, 0.0
        yield f"h.{i}.mlp.c_fc.weight", (E, inner), 1 / np.sqrt(E), 0.0
        yield f"h.{i}.mlp.c_fc.bias", (inner,), 0.2, 0.0
        yield f"h.{i}.mlp.c_proj.weight", (inner, E), residual / np.sqrt(inner), 0.0
        yield f"h.{i}.mlp.c_proj.bias", (E,), 0.05, 0.0
    yield "ln_f.weight", (E,), 0.15, 1.0
    yield "ln_f.bias", (E,), 0.1, 0.0
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (V, E), 1.5 / np.sqrt(E), 0.0


def draw(key, shape, std, centre):
    """One tensor of the recipe above, float32, uniform with mean `centre` and standard deviation `std`."""
    out = np.empty(math.prod(shape), np.float32)
    start, width = fnv1a(key), std * np.sqrt(3.0)
    for a in range(0, out.size, CHUNK):
        part = out[a : a + CHUNK]
        z = mix(STEPS[: part.size] + np.uint64((start + a * GAMMA) % 2**64))
        u = (z >> np.uint64(40)) * 2.0**-24
        part[:] = centre + (2.0 * u - 1.0) * width
    return out.reshape(shape)


def fnv1a(text):
    """64-bit FNV-1a hash of a string."""
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h
