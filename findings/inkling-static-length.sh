#!/usr/bin/env bash
# What: after the first token StaticCache.get_seq_length() is the tensor that the layer counts in, not a number. Inkling
# asks for it, calls update(), which adds to that tensor in place, and then uses it: queries stand a position too far.
# Surprise: the declared type is int, DynamicCache gives one, and the sliding layers of a StaticCache give one as well.
# With a static cache: take int(cache.get_seq_length()) if the number is used after an update.
# huggingface/transformers#45987 and six pull requests were about the type (closed as a type hint), none about this.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: 4 tokens cached, and after one more the length taken before is 5; float64 steps of Inkling off
#   by 2e-08 with DynamicCache, by 3.0e-01 with StaticCache
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import DynamicCache, InklingForCausalLM, InklingTextConfig, StaticCache

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, n_routed_experts=4)
layers = dict(num_hidden_layers=1, layer_types=["hybrid"], mlp_layer_types=["dense"], max_position_embeddings=64)
heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, d_rel=4, rel_extent=8, initializer_range=0.3)
window = dict(swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_head_dim=8, sliding_window_size=8)
model = InklingForCausalLM(InklingTextConfig(**sizes, **layers, **heads, **window)).eval().double()
model.model.layers[0].self_attn.rel_logits_proj.proj.data.normal_()
ids = torch.randint(1, 64, (1, 16))


@torch.no_grad()
def difference(cache):
    steps = [model(ids[:, :4], cache=cache, use_cache=True).logits]
    taken = cache.get_seq_length()
    steps += [model(ids[:, 4:5], cache=cache, use_cache=True).logits]
    length = int(taken)
    steps += [model(ids[:, i : i + 1], cache=cache, use_cache=True).logits for i in range(5, 16)]
    return length, (torch.cat(steps, 1) - model(ids, use_cache=False).logits).abs().max().item()


dynamic = difference(DynamicCache(config=model.config))
static = difference(StaticCache(config=model.config, max_cache_len=32))
if dynamic[0] != 4 or dynamic[1] > 1e-5:
    sys.exit(f"changed: with DynamicCache the length is {dynamic[0]}, steps are off by {dynamic[1]:.1e}")
if static[0] != 5 or static[1] < 1e-2:
    sys.exit(f"changed: with StaticCache the length is {static[0]}, steps are off by {static[1]:.1e}")
print(
    f"transformers {transformers.__version__}: 4 tokens cached, and after one more the length taken before is "
    f"{static[0]}; float64 steps of Inkling off by {dynamic[1]:.0e} with DynamicCache, by {static[1]:.1e} with "
    "StaticCache"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
