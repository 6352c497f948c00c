#!/usr/bin/env bash
# What: GPT-Neo takes its causal mask's row from the end of the keys it is given. A StaticCache gives all its slots,
# empty ones too, so a step's local layers look at the window before the last slot, where nothing is written yet.
# Surprise: no error; DynamicCache is right, and so is the step that fills a StaticCache's last slot.
# With a static cache: a row of a mask is found by position, not by how long the keys are; test with slots to spare.
# The local mask is of huggingface/transformers#13491, before there was a StaticCache; no thread found reports this.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: float64 steps off by 1e-06 with DynamicCache, by 2.8e+00 with StaticCache(32), 16 tokens
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import DynamicCache, GPTNeoConfig, GPTNeoForCausalLM, StaticCache

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, max_position_embeddings=64)
layers = dict(attention_types=[[["global", "local"], 1]], window_size=4, initializer_range=0.3)
model = GPTNeoForCausalLM(GPTNeoConfig(**sizes, **layers)).eval().double()
ids = torch.randint(1, 64, (1, 16))


@torch.no_grad()
def difference(cache):
    steps = [model(ids[:, i : i + 1], cache=cache, use_cache=True).logits for i in range(16)]
    return (torch.cat(steps, 1) - model(ids, use_cache=False).logits).abs().max().item()


dynamic = difference(DynamicCache(config=model.config))
static = difference(StaticCache(config=model.config, max_cache_len=32))
if dynamic > 1e-5:
    sys.exit(f"changed: DynamicCache differs by {dynamic:.1e}")
if static < 1e-2:
    sys.exit(f"changed: StaticCache with empty slots differs by {static:.1e} only")
print(
    f"transformers {transformers.__version__}: float64 steps off by {dynamic:.0e} with DynamicCache, by {static:.1e} "
    "with StaticCache(32), 16 tokens"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
