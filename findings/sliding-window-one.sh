#!/usr/bin/env bash
# What: DynamicCache keeps the last sliding_window - 1 slots by the slice [-sliding_window + 1:]. For a window of 1
# that is [0:], which keeps all of them, and decoding attends to the whole past. StaticCache is right.
# Surprise: the smallest window makes the largest cache; windows of 2 and more are exact.
# With a sliding-window cache: -0 is no offset from the end; test the window at 1, where "keep none" is the answer.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0: window 1, 10 tokens: DynamicCache holds 10 slots, logits off by 0.30; StaticCache 1 slot,
#   9e-08
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys
import warnings

import torch
import transformers
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, StaticCache

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2)


@torch.no_grad()
def run(window, kind, **more):
    torch.manual_seed(0)
    config = MistralConfig(**sizes, num_hidden_layers=2, sliding_window=window)
    model, ids, cache = MistralForCausalLM(config).eval(), torch.randint(0, 64, (1, 10)), kind(config=config, **more)
    steps = [model(ids[:, i : i + 1], cache=cache).logits for i in range(10)]
    return cache.layers[0].keys.shape[2], (torch.cat(steps, 1) - model(ids).logits).abs().max().item()


two, static, one = run(2, DynamicCache), run(1, StaticCache, max_cache_len=32), run(1, DynamicCache)
if max(two[1], static[1]) > 1e-5:
    sys.exit(f"changed: (slots, difference) are {two} for a window of 2, {static} for StaticCache and a window of 1")
if one[0] != 10 or one[1] < 0.01:
    sys.exit(f"changed: DynamicCache with a window of 1 holds {one[0]} slots and differs by {one[1]:.1e}")
print(
    f"transformers {transformers.__version__}: window 1, 10 tokens: DynamicCache holds {one[0]} slots, logits off by "
    f"{one[1]:.2f}; StaticCache {static[0]} slot, {static[1]:.0e}"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
