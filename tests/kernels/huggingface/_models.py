"""Tiny random models of transformers whose decode steps must use every term of attention, and a run of them."""

import copy
from functools import cache as once

import pytest
import torch

from kvproof.bench.measure.peers import cache_name
from kvproof.bench.measure.peers.hf import empty_cache

transformers = pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[dev]'")
transformers.logging.set_verbosity_error()

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e4}
OWN = {
    "llama": {},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6, "attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 24},
    "gpt_oss": {"sliding_window": 6, "num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": ROPE},
    "qwen3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}  # fmt: skip
LENGTHS = (11, 7, 3)  # of the prompts
STEPS = 4
BAR = 3e-5  # of the logits' rms: float32 loses up to 3e-6; the faintest planted fault moves them by 1e-3


@once
def model(family: str, dtype: torch.dtype = torch.float32):
    """A causal LM of a family, in eval mode; the same weights in every dtype."""
    if dtype != torch.float32:
        return copy.deepcopy(model(family)).to(dtype)
    config = transformers.CONFIG_MAPPING[family](**SIZES, **OWN[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        for name, x in made.named_parameters():
            if name.endswith("sinks"):
                torch.nn.init.normal_(x, 1.0)
    if hasattr(made, "set_experts_implementation"):  # the grouped product takes no float64
        made.set_experts_implementation("eager")
    return made.eval().requires_grad_(False)


def tokens(lengths=LENGTHS, seed=0) -> list[torch.Tensor]:
    """Of each sequence, its prompt and the STEPS - 1 tokens that follow."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 61, (n + STEPS - 1,), generator=rng) for n in lengths]


def batch(rows, side: str):
    """ids (B, W), mask (B, W) of prompts padded on a side."""
    prompts = [row[: len(row) - STEPS + 1] for row in rows]
    width = max(map(len, prompts))
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for b, prompt in enumerate(prompts):
        where = slice(width - len(prompt), None) if side == "left" else slice(len(prompt))
        ids[b, where], mask[b, where] = prompt, 1
    return ids, mask


@torch.no_grad()
def decoded(made, rows, kind="dynamic", side="left", implementation="kvproof") -> torch.Tensor:
    """Logits (B, STEPS - 1, V) of the decode steps after a padded prefill."""
    made.set_attn_implementation(implementation)
    ids, mask = batch(rows, side)
    cache, found = empty_cache(made.config, kind, ids.shape[1] + STEPS + 3), []
    given = {str(cache_name(made)): cache}
    made(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), **given)
    for step in range(STEPS - 1):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        new = torch.stack([row[len(row) - STEPS + 1 + step] for row in rows])[:, None]
        positions = mask.sum(1, keepdim=True) - 1
        found.append(made(new, attention_mask=mask, position_ids=positions, **given).logits)
    return torch.cat(found, 1).double()


@torch.no_grad()
def whole(made, rows) -> torch.Tensor:
    """The same, of each sequence by itself, without padding or cache, under the model's own eager attention."""
    made.set_attn_implementation("eager")
    return torch.cat([made(row[None], use_cache=False).logits[:, 1 - STEPS :] for row in rows]).double()


def error(family: str, kind="dynamic", side="left", dtype=torch.float32, lengths=LENGTHS) -> float:
    """The largest difference of the two, relative to the rms of the logits."""
    made, rows = model(family, dtype), tokens(lengths)
    expected = whole(model(family), rows)  # in float32: eager's softmax knows no more
    return ((decoded(made, rows, kind, side) - expected).abs().max() / expected.square().mean().sqrt()).item()
