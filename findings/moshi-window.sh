#!/usr/bin/env bash
# What: Moshi's config has a sliding_window and its cache keeps that many slots, but its mask is the full causal one. So
# cached decoding sees the window, and a forward without a cache, as in training and scoring, sees everything.
# Surprise: nothing is raised, and up to the window both agree to 1e-15. generate() and a loss are of two models.
# With a sliding window: compare cached and uncached logits on prompts longer than the window, not on short ones.
# No thread found reports it; huggingface/transformers#38045 notes that Moshi has a window at all.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: window 4: steps and whole agree to 9e-16 on the first 4 tokens, then differ by 8.6e+00
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import DynamicCache, MoshiConfig, MoshiForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, ffn_dim=64, num_hidden_layers=2, max_position_embeddings=64)
heads = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=8, sliding_window=4, initializer_range=0.3)
model = MoshiForCausalLM(MoshiConfig(**sizes, **heads)).eval().double()
ids, cache = torch.randint(1, 64, (1, 16)), DynamicCache(config=model.config)
with torch.no_grad():
    whole = model(ids, use_cache=False).logits
    steps = torch.cat([model(ids[:, i : i + 1], cache=cache, use_cache=True).logits for i in range(16)], 1)
apart = (steps - whole).abs().amax((0, 2))
within, past = apart[:4].max().item(), apart[4:].max().item()
if within > 1e-5:
    sys.exit(f"changed: within the window steps and whole differ by {within:.1e}")
if past < 1e-2:
    sys.exit(f"changed: past the window steps and whole differ by {past:.1e} only")
print(
    f"transformers {transformers.__version__}: window 4: steps and whole agree to {within:.0e} on the first 4 tokens, "
    f"then differ by {past:.1e}"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
