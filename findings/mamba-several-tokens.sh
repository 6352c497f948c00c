#!/usr/bin/env bash
# What: Mamba (the first), Falcon-Mamba and Jamba, given several tokens beside a filled cache, start from an empty state: what the
# cache holds is ignored and overwritten. Prefill in chunks, a second turn of a chat and a verifier of drafts do just that.
# Surprise: no error; a single token continues rightly, so token-by-token decoding and generate() never show it. Mamba-2, Zamba-2
# and others had the same bug and were mended (https://github.com/huggingface/transformers/pull/46741); these were not.
# With a recurrent cache: test calls of several tokens on a filled cache, not only one token and the whole prompt.
# Seen 2026-11-29, Python 3.11, CPU:
#   transformers 5.24.0: float64, 8 tokens and then one at a time: logits differ by 1e-06 from the whole pass; then 4 and 4: by
#   3e+00 (MambaForCausalLM), 2e+00 (FalconMambaForCausalLM)
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
from transformers import DynamicCache

logging.disable(logging.CRITICAL)
sizes = dict(vocab_size=64, hidden_size=32, state_size=8, num_hidden_layers=2, initializer_range=0.3)
ids = torch.randint(1, 64, (1, 16), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def apart(name, pieces):
    """The largest difference of the logits of cached pieces from those of one pass without a cache."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().double()
    cache = DynamicCache(config=config)
    parts = [model(part, cache=cache, use_cache=True).logits for part in ids.split(pieces, 1)]
    return float((torch.cat(parts, 1) - model(ids, use_cache=False).logits).abs().max())


names = "Mamba", "FalconMamba"
single = max(apart(name, [8] + [1] * 8) for name in names)
several = [apart(name, [8, 4, 4]) for name in names]
if single > 1e-4 or min(several) < 0.1:
    sys.exit(f"changed: one token at a time {single:.0e}, four at a time {several}")
print(
    f"transformers {transformers.__version__}: float64, 8 tokens and then one at a time: logits differ by {single:.0e} from "
    "the whole pass; then 4 and 4: by "
    + ", ".join(f"{x:.0e} ({name}ForCausalLM)" for name, x in zip(names, several, strict=True))
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
