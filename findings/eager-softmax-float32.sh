#!/usr/bin/env bash
# What: eager attention (Llama and its many relatives) computes its softmax in float32 whatever the model's dtype.
# model.double() then agrees with sdpa to 1e-8 only, and left padding turns it into NaN: the mask holds float64's
# lowest number, which float32 rounds to -inf, and a row of nothing but -inf has no softmax.
# Surprise: the float64 model is NaN where the float32 model is not; GPT-2's eager attention is float64 throughout.
# With a KV cache: judge float64 against float64 under sdpa. NaN in float64 alone says nothing about the cache.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0: behind padding 0 of 320 logits are NaN in float32, 320 in float64; eager float64 is off
#   by 3.4e-08
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4)
model = LlamaForCausalLM(config).eval()
ids = torch.randint(0, 64, (2, 8))
mask = torch.ones_like(ids)
mask[0, :3] = 0


@torch.no_grad()
def logits(dtype, attention, mask=None):
    model.to(dtype).set_attn_implementation(attention)
    return model(ids, attention_mask=mask).logits


nan = {t: logits(t, "eager", mask)[0, 3:].isnan().sum().item() for t in (torch.float32, torch.float64)}
off = (logits(torch.float64, "eager") - logits(torch.float64, "sdpa")).abs().max().item()
if nan[torch.float32] or not nan[torch.float64]:
    sys.exit(f"changed: NaN among the 320 logits of real tokens behind padding: {nan}")
if off < 1e-11:
    sys.exit(f"changed: float64 eager and sdpa agree to {off:.1e}; the softmax is no longer float32")
print(
    f"transformers {transformers.__version__}: behind padding {nan[torch.float32]} of 320 logits are NaN in float32, "
    f"{nan[torch.float64]} in float64; eager float64 is off by {off:.1e}"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
