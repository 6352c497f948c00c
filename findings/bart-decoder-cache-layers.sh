#!/usr/bin/env bash
# What: BartForCausalLM has decoder_layers layers, but its cache counts config.num_hidden_layers, which BART's
# config maps to encoder_layers. With fewer encoder than decoder layers every cached forward raises IndexError.
# Surprise: the model has no encoder, use_cache=False works, and equal counts hide it.
# With a KV cache: before you ask a config for the number of layers, see to which half num_hidden_layers belongs;
# a memory estimate from it is wrong by the same factor.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0: 2 decoder layers, a cache of 1; use_cache=False gives (1, 3, 32), generate() IndexError:
#   list index out of range
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import BartConfig, BartForCausalLM, DynamicCache

transformers.logging.set_verbosity_error()
sizes = dict(vocab_size=32, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32)
heads = dict(encoder_attention_heads=2, decoder_attention_heads=2)
config = BartConfig(**sizes, **heads, encoder_layers=1, decoder_layers=2)
model = BartForCausalLM(config).eval()
ids = torch.tensor([[4, 5, 6]])

layers = len(DynamicCache(config=model.config).layers)
if layers != 1:
    sys.exit(f"changed: the cache of a decoder of 2 layers is made with {layers}, not 1")
plain = model(ids, use_cache=False).logits.shape
try:
    model.generate(ids, max_new_tokens=3, do_sample=False)
except IndexError as error:
    print(
        f"transformers {transformers.__version__}: 2 decoder layers, a cache of {layers}; "
        f"use_cache=False gives {tuple(plain)}, generate() IndexError: {error}"
    )
else:
    sys.exit("changed: generate() works with a cache of 1 layer for a decoder of 2")
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
