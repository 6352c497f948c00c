#!/usr/bin/env bash
# What: called without position_ids, Bamba counts positions from 0 at every call, whatever the cache holds: each decode
# step rotates its query and key as position 0. Other models add the cache's length. generate() passes positions.
# Surprise: nothing is raised and the prefill is right; a hand-written loop that is right for Llama is wrong for Bamba.
# With rotary positions: pass position_ids in every step, and test the loop without them too.
# No thread found reports it.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: float64 steps off by 1e-06 with position_ids, by 2.6e+00 without
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import BambaConfig, BambaForCausalLM, DynamicCache

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, initializer_range=0.3)
heads = dict(num_attention_heads=4, num_key_value_heads=2, attn_layer_indices=[1])
mamba = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=4)
model = BambaForCausalLM(BambaConfig(**sizes, **heads, **mamba)).eval().double()
ids = torch.randint(1, 64, (1, 16))


@torch.no_grad()
def difference(given):
    cache = DynamicCache(config=model.config)
    steps = [model(ids[:, :8], cache=cache, use_cache=True).logits]
    for i in range(8, 16):
        more = {"position_ids": torch.tensor([[i]])} if given else {}
        steps.append(model(ids[:, i : i + 1], cache=cache, use_cache=True, **more).logits)
    return (torch.cat(steps, 1) - model(ids, use_cache=False).logits).abs().max().item()


right, wrong = difference(True), difference(False)
if right > 1e-4:
    sys.exit(f"changed: with position_ids steps are off by {right:.1e}")
if wrong < 1e-2:
    sys.exit(f"changed: without position_ids steps are off by {wrong:.1e} only")
print(
    f"transformers {transformers.__version__}: float64 steps off by {right:.0e} with position_ids, by {wrong:.1e} "
    "without"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
