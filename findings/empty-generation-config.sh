#!/usr/bin/env bash
# What: without generation_config.json, generate() stops at config.json's eos_token_id. With one that says
# nothing of it, even `{}`, eos_token_id is None and generate() never stops early.
# Surprise: an empty file of settings is a setting; config.eos_token_id is still there and is not consulted.
# With a KV cache: sequences grow to max_new_tokens and the cache with them. Read the end token from
# model.generation_config, not from model.config, and write it into generation_config.json.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0: generate() ends at 198 without generation_config.json, at None with {}
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import pathlib
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.manual_seed(0)
config = GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2, eos_token_id=198)
GPT2LMHeadModel(config).save_pretrained("model")
settings = pathlib.Path("model/generation_config.json")
settings.unlink(missing_ok=True)

without = AutoModelForCausalLM.from_pretrained("model").generation_config.eos_token_id
settings.write_text("{}")
model = AutoModelForCausalLM.from_pretrained("model")
empty, kept = model.generation_config.eos_token_id, model.config.eos_token_id
if (without, empty, kept) != (198, None, 198):
    sys.exit(f"changed: eos_token_id is {without} without the file, {empty} with {{}}, {kept} in model.config")
version = transformers.__version__
print(f"transformers {version}: generate() ends at {without} without generation_config.json, at {empty} with {{}}")
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
