#!/usr/bin/env bash
# What: DeepSeek-V4's compressed attention pools blocks of keys that begin at column 0. The columns of left padding are pooled
# like tokens, and a row's own blocks begin elsewhere than those of the row alone.
# Surprise: attention_mask and position_ids are taken and are right, no cache is involved, and a row without padding is exact.
# So the text of a request depends on the longest prompt of its batch. Padding by whole blocks does not help.
# With a batch: decode rows of other lengths alone.
# Seen 2026-11-29, Python 3.11, CPU:
#   transformers 5.24.0, DeepSeek-V4 with blocks of 4: a row's float64 logits differ by 7e+00 behind 3 columns of padding,
#   by 5e+00 behind 4, from the row alone; without padding by 0e+00
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import logging
import sys

import torch
import transformers
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

logging.disable(logging.CRITICAL)
torch.manual_seed(0)
config = DeepseekV4Config(
    vocab_size=101, hidden_size=32, moe_intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, q_lora_rank=16, num_experts_per_tok=2, n_routed_experts=4,
    layer_types=["heavily_compressed_attention"] * 2, mlp_layer_types=["moe"] * 2,
    compress_rates={"compressed_sparse_attention": 2, "heavily_compressed_attention": 4}, sliding_window=8, o_groups=2,
    o_lora_rank=8, index_n_heads=16, index_head_dim=8, index_topk=6, qk_rope_head_dim=4, partial_rotary_factor=0.5,
    max_position_embeddings=128, initializer_range=0.3,
)  # fmt: skip
model = DeepseekV4ForCausalLM(config).eval().double()
model.set_experts_implementation("eager")
ids = torch.randint(1, 101, (1, 17), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def apart(columns):
    """How far the row's logits behind so many columns of padding are from those of the row alone."""
    padded = torch.cat([torch.zeros(1, columns, dtype=torch.long), ids], 1)
    mask = (torch.arange(padded.shape[1]) >= columns).long()[None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    got = model(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, columns:]
    return float((got - model(ids, use_cache=False).logits).abs().max())


found = {columns: apart(columns) for columns in (0, 3, 4)}
if found[0] > 1e-6 or found[3] < 0.01:
    sys.exit(f"changed: logits differ by {found}")
print(
    f"transformers {transformers.__version__}, DeepSeek-V4 with blocks of 4: a row's float64 logits differ by {found[3]:.0e} "
    f"behind 3 columns of padding, by {found[4]:.0e} behind 4, from the row alone; without padding by {found[0]:.0e}"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
