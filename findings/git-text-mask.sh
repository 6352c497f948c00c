#!/usr/bin/env bash
# What: in a decode step GIT puts as many columns before the 2-D attention mask as an image has patches, even where no
# image was ever given. A left-padded text batch then masks the wrong slots.
# Surprise: without padding all columns are ones and it does not show; the padded prefill is right to 1e-15.
# With a mask that is built on the side: test decode steps of a padded batch, not only its prefill.
# The columns came with huggingface/transformers#20295; no thread found reports this.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: 3 columns of padding, no image: float64 prefill off by 4e-15, steps by 5.6e+00
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import DynamicCache, GitConfig, GitForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4)
vision = dict(**sizes, num_hidden_layers=1, image_size=16, patch_size=8)
text = dict(**sizes, num_hidden_layers=2, vocab_size=64, max_position_embeddings=64, initializer_range=0.3)
model = GitForCausalLM(GitConfig(**text, vision_config=vision)).eval().double()
ids = torch.randint(1, 64, (1, 12))
padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
mask = (torch.arange(15) >= 3).long()[None]
positions = (mask.cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def run(a, b, cache):
    more = dict(attention_mask=mask[:, :b], position_ids=positions[:, a:b], cache=cache, use_cache=True)
    return model(padded[:, a:b], **more).logits


cache = DynamicCache(config=model.config)
logits = torch.cat([run(0, 8, cache), *(run(i, i + 1, cache) for i in range(8, 15))], 1)[:, 3:]
with torch.no_grad():
    apart = (logits - model(ids, use_cache=False).logits).abs().amax((0, 2))
prefill, steps = apart[:5].max().item(), apart[5:].max().item()
if prefill > 1e-5:
    sys.exit(f"changed: the padded prefill is off by {prefill:.1e}")
if steps < 1e-2:
    sys.exit(f"changed: the padded steps are off by {steps:.1e} only")
print(
    f"transformers {transformers.__version__}: 3 columns of padding, no image: float64 prefill off by {prefill:.0e}, "
    f"steps by {steps:.1e}"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
