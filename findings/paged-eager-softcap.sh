#!/usr/bin/env bash
# What: the eager attention of continuous batching takes `softcap` and drops it. Gemma 2 passes it at every call; its own
# eager attention caps the scores. Gemma 2 has no sdpa in this release, so on a CPU paged|eager is what generate_batch uses.
# Surprise: no error and no warning. With random weights logits move by 1e-4, which looks like rounding; with peaked scores
# another token wins.
# With a drop-in attention: refuse keywords that are not computed, above all softcap and s_aux.
# Seen 2026-11-29, Python 3.11, CPU:
#   transformers 5.24.0: scores of up to 207 under a softcap of 50: paged|eager gives 0.4 other than Gemma 2's eager
#   attention, and the very bits it gives without a softcap
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import Gemma2Config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention, eager_attention_forward

torch.manual_seed(0)
config = Gemma2Config(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
module = Gemma2Attention(config, layer_idx=0).eval()
q, k, v = (torch.randn(1, heads, 6, 8) for heads in (4, 2, 2))
q, mask = q * 400, torch.full((1, 1, 6, 6), float("-inf")).triu(1)
words = dict(attention_mask=mask, scaling=module.scaling, dropout=0.0)
paged = ALL_ATTENTION_FUNCTIONS["paged|eager"]
own = eager_attention_forward(module, q, k, v, softcap=50.0, **words)[0]
capped = paged(module, q, k, v, softcap=50.0, **words)[0]
plain = paged(module, q, k, v, **words)[0]
apart, largest = float((capped - own).abs().max()), float((q @ k.repeat_interleave(2, 1).mT).abs().max() * module.scaling)
if not torch.equal(capped, plain) or apart < 0.1:
    moved = not torch.equal(capped, plain)
    sys.exit(f"changed: paged|eager is {apart:.1g} from Gemma 2's eager attention; softcap changes it: {moved}")
print(
    f"transformers {transformers.__version__}: scores of up to {largest:.0f} under a softcap of 50: paged|eager gives "
    f"{apart:.1f} other than Gemma 2's eager attention, and the very bits it gives without a softcap"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
