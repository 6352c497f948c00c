#!/usr/bin/env bash
# What: RecurrentGemma hands attention_mask to its attention layers only. Its convolution and its recurrence run over
# the padding's embeddings, so a left-padded row gives other logits than the same row alone.
# Surprise: the mask and position_ids are taken without a word; Bamba, a hybrid as well, zeros the padding first.
# With a recurrent state: a mask of attention is not enough; zero what enters the state, or batch rows of one length.
# Padding on the left was asked about in huggingface/transformers#31201, closed; that was about the attention's mask.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: float64 logits of a padded row off by 3.9e+00 with its mask and positions, Bamba's by 9e-16
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import BambaConfig, BambaForCausalLM, RecurrentGemmaConfig, RecurrentGemmaForCausalLM

transformers.logging.set_verbosity_error()
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_attention_heads=4, pad_token_id=0)
gemma = RecurrentGemmaConfig(**sizes, num_hidden_layers=3, num_key_value_heads=1, lru_width=32)
mamba = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, attn_layer_indices=[1], num_key_value_heads=2)
bamba = BambaConfig(**sizes, **mamba, num_hidden_layers=2)


@torch.no_grad()
def difference(made, config):
    torch.manual_seed(0)
    model = made(config).eval().double()
    for x in model.parameters():
        if x.ndim > 1:
            x.normal_(std=0.3)
    ids = torch.randint(1, 64, (1, 8))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(11) >= 3).long()[None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, 3:]
    return (out - model(ids, use_cache=False).logits).abs().max().item()


recurrent, other = difference(RecurrentGemmaForCausalLM, gemma), difference(BambaForCausalLM, bamba)
if other > 1e-5:
    sys.exit(f"changed: Bamba's padded row is off by {other:.1e}")
if recurrent < 1e-2:
    sys.exit(f"changed: RecurrentGemma's padded row is off by {recurrent:.1e} only")
print(
    f"transformers {transformers.__version__}: float64 logits of a padded row off by {recurrent:.1e} with its mask and "
    f"positions, Bamba's by {other:.0e}"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
