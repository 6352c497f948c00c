#!/usr/bin/env bash
# What: continuous batching keeps no block of a request's last pass for prefix sharing. The request is marked FINISHED
# before its full blocks are registered, and a finished request's are not. With max_new_tokens=1 the last pass is the
# prompt's: however often a prompt comes, all of it is computed again.
# Surprise: one new token per prompt, as for scoring or classifying behind a long common prompt, is where prefix sharing
# pays most, and it never takes place. After one request for 2 tokens the same prompt is found.
# With a block manager: make full blocks known right after the pass that fills them, before anything can end.
# Seen 2026-11-29, Python 3.11, CPU:
#   transformers 5.24.0: a prompt of 17 tokens again and again, pages of 4: 17, 17, 17 tokens computed where each request
#   is for 1 new token, 1 token after a request for 2
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import logging
import sys
import warnings

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2)
model = LlamaForCausalLM._from_config(LlamaConfig(**sizes, num_hidden_layers=2), attn_implementation="sdpa").eval()
batching = ContinuousBatchingConfig(
    page_size=4, num_blocks=64, max_batch_tokens=64, max_memory_percent=0.9, use_cuda_graph=False,
    use_async_batching=False,
)
greedy = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
passes = []
model.model.embed_tokens.register_forward_hook(lambda module, args, out: passes.append(args[0].numel()))
manager = model.init_continuous_batching(generation_config=greedy, continuous_batching_config=batching)
manager.start()


def first_pass(new):
    """How many tokens the first pass of a request computes."""
    passes.clear()
    number, out = manager.add_request(list(range(1, 18)), max_new_tokens=new), None
    while out is None or not out.is_finished():
        out = manager.get_result(request_id=number, timeout=60)
    return passes[0]


counts = [first_pass(new) for new in (1, 1, 1, 2, 1)]
manager.stop(block=True)
if counts != [17, 17, 17, 17, 1]:
    sys.exit(f"changed: requests for 1, 1, 1, 2 and 1 new tokens compute {counts} tokens of the same prompt")
print(
    f"transformers {transformers.__version__}: a prompt of 17 tokens again and again, pages of 4: "
    f"{', '.join(map(str, counts[:3]))} tokens computed where each request is for 1 new token, {counts[4]} token after "
    "a request for 2"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
