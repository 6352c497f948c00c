#!/usr/bin/env bash
# What: gpt-oss' experts run through torch's grouped matrix product by default, and that takes no float64: a
# model.double() raises at its first forward. With experts_implementation "eager" the same model runs.
# Surprise: the default is chosen at construction and the dtype is never looked at; the error names a matrix
# "mat_a", no model, no expert and no option.
# With a KV cache: to judge a mixture of experts in float64, call model.set_experts_implementation("eager") first.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0, torch 2.14.1+cu130: grouped_mm: Expected mat_a to be Float32, BFloat16 or Float16 matrix,
#   got Double; eager: torch.float64
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import GptOssConfig, GptOssForCausalLM

transformers.logging.set_verbosity_error()
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2)
heads, experts = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8), dict(num_local_experts=4)
config = GptOssConfig(**sizes, **heads, **experts, num_experts_per_tok=2)
torch.manual_seed(0)
model = GptOssForCausalLM(config).eval()
ids = torch.tensor([[1, 2, 3]])

default = model.config._experts_implementation
model(ids)
model.double()
try:
    model(ids)
except RuntimeError as error:
    refused = str(error).splitlines()[0]
else:
    sys.exit(f"changed: the default experts ({default}) take float64")
if "Double" not in refused:
    sys.exit(f"changed: float64 experts ({default}) now say: {refused}")
model.set_experts_implementation("eager")
versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
print(f"{versions}: {default}: {refused}; eager: {model(ids).logits.dtype}")
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
