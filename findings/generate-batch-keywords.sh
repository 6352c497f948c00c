#!/usr/bin/env bash
# What: generate_batch takes every keyword that generate takes, and any other, and heeds max_new_tokens alone:
# do_sample, temperature, eos_token_id, repetition_penalty and a misspelt name change nothing and raise nothing.
# Surprise: generate heeds the same words, and raises ValueError for one that it does not know.
# With continuous batching: put settings into a GenerationConfig. Who moves a sampled job over from generate by changing
# the method's name gets greedy texts that run past their end token.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: eos_token_id ends generate after 1 of 12 tokens, generate_batch never; 4 keywords change nothing
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
from transformers import ContinuousBatchingConfig, GPT2Config, GPT2LMHeadModel

transformers.logging.set_verbosity_error()
logging.disable(logging.CRITICAL)
torch.manual_seed(0)
config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=1, n_head=2, eos_token_id=None)
model = GPT2LMHeadModel(config).eval()
model.generation_config.pad_token_id = 0
prompt = [5, 6, 7]
paged = ContinuousBatchingConfig(page_size=16, num_blocks=8, max_batch_tokens=64)


def static(**settings):
    settings = {"do_sample": False, "max_new_tokens": 12} | settings
    ids = torch.tensor([prompt])
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()


def continuous(**settings):
    found = model.generate_batch([prompt], continuous_batching_config=paged, **{"max_new_tokens": 12} | settings)
    return next(iter(found.values())).generated_tokens


plain = static()
end = plain[0]
asked = [
    {"eos_token_id": end},
    {"do_sample": True, "temperature": 50.0},
    {"repetition_penalty": 5.0},
    {"no_such_keyword": 1},
]
ended = static(eos_token_id=end)
if ended != [end] or static(repetition_penalty=5.0) == plain or static(**asked[1]) == plain:
    sys.exit(f"changed: generate does not heed these keywords either; with an end token it gives {ended}")
try:
    static(no_such_keyword=1)
    sys.exit("changed: generate takes a keyword that it does not know")
except ValueError:
    pass
if continuous() != plain or len(continuous(max_new_tokens=5)) != 5:
    sys.exit(f"changed: generate_batch gives {continuous()}, generate {plain}")
heeded = [settings for settings in asked if continuous(**settings) != plain]
if heeded:
    sys.exit(f"changed: generate_batch heeds {heeded}")
print(
    f"transformers {transformers.__version__}: eos_token_id ends generate after {len(ended)} of {len(plain)} tokens, "
    f"generate_batch never; {len(asked)} keywords change nothing"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
