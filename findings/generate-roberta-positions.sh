#!/usr/bin/env bash
# What: generate() gives RoBERTa's causal LMs position_ids that start at 0. Their table of positions starts at
# padding_idx + 1, which is 2, as the forward counts by itself: so the whole text is generated from positions shifted by 2.
# Surprise: model(ids) and model.generate(ids) of one prompt, unpadded, give other logits from the first token on. It holds
# for RobertaForCausalLM and its relatives (CamemBERT, XLM-RoBERTa, Data2VecText), and nothing is said.
# With a KV cache: do not take generate()'s logits for the model's. Give position_ids from padding_idx + 1 yourself.
# Beside it: https://github.com/huggingface/transformers/pull/35044, which had generate() pass position_ids to one of them.
# Seen 2026-11-29, Python 3.11, CPU:
#   transformers 5.24.0: generate() gives positions [0, 1, 2, 3, 4], the forward counts [2, 3, 4, 5, 6]; first logits differ
#   by 6.1, and by 0.0 with positions from 2
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
from transformers import RobertaConfig, RobertaForCausalLM

logging.disable(logging.CRITICAL)
torch.manual_seed(0)
sizes = dict(vocab_size=101, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
config = RobertaConfig(**sizes, is_decoder=True, max_position_embeddings=64, pad_token_id=1, initializer_range=0.3)
model = RobertaForCausalLM(config).eval()
given, counted = [], []
model.register_forward_pre_hook(lambda module, args, kw: given.append(kw.get("position_ids")), with_kwargs=True)
table = model.roberta.embeddings.position_embeddings
table.register_forward_pre_hook(lambda module, args: counted.append(args[0][0].tolist()))
ids = torch.tensor([[5, 6, 7, 8, 9]])
words = dict(max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True, pad_token_id=1)


def apart(a, b):
    return float((a - b).abs().max())


with torch.no_grad():
    forward = model(ids).logits[:, -1]
    first = model.generate(ids, attention_mask=torch.ones_like(ids), **words).logits[0]
    right = model(ids, position_ids=torch.arange(2, 7)[None]).logits[:, -1]
positions = None if given[1] is None else given[1][0].tolist()
if positions != [0, 1, 2, 3, 4] or counted[0] != [2, 3, 4, 5, 6] or apart(forward, first) < 1:
    sys.exit(f"changed: generate() gives {positions}, the forward counts {counted[0]}, {apart(forward, first):.1g} apart")
print(
    f"transformers {transformers.__version__}: generate() gives positions {positions}, the forward counts {counted[0]}; "
    f"first logits differ by {apart(forward, first):.1f}, and by {apart(forward, right):.1f} with positions from 2"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
