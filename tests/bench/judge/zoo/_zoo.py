"""Which architectures the tests of the zoo build: in CI a dozen, one per kind of layer."""

import pytest

pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[dev]'")

from kvproof.bench.judge.zoo.build import models

# grouped heads; windows beside full attention; chunks; a chosen set of keys; latent attention with experts; sinks;
# shared caches; Mamba beside attention; Mamba alone; a linear state beside attention; convolution; a decoder's half
SAMPLE = (
    "llama", "gemma2", "llama4_text", "glm_moe_dsa", "deepseek_v3", "gpt_oss", "gemma4_text", "bamba", "mamba2",
    "qwen3_next", "lfm2", "bart",
)  # fmt: skip
BUILT = tuple(name for name, why in models().items() if why is None)
EXHAUSTIVE = [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.exhaustive) for name in BUILT]
