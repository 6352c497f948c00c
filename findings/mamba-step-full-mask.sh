#!/usr/bin/env bash
# What: give Mamba's decode step the mask (B, past + 1) that attention models want, and its one new hidden state
# is broadcast over the mask's columns; the step then uses the first column. A left-padded row's token is zeroed.
# Surprise: no shape error, the output has the right shape, rows without padding are right, Mamba-2 is not affected,
# and generate() hides it by dropping the mask. Only a hand-written loop over a padded batch goes wrong.
# With a recurrent cache: pass the step the new column alone, attention_mask[:, -1:], or none.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   transformers 5.24.0: a padded row's step is off by 1.2e-06 with mask[:, -1:], by 6.1e+00 with the whole mask
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers import MambaConfig, MambaForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
config = MambaConfig(vocab_size=64, hidden_size=32, state_size=8, num_hidden_layers=2, initializer_range=0.3)
model = MambaForCausalLM(config).eval()
ids = torch.randint(0, 64, (2, 13))
mask = torch.ones_like(ids)
mask[0, :3] = 0


@torch.no_grad()
def difference(step_mask):
    cache = model(ids[:, :12], attention_mask=mask[:, :12], use_cache=True).cache
    step = model(ids[:, 12:], cache=cache, attention_mask=step_mask, use_cache=True).logits[:, 0]
    return (step - model(ids, attention_mask=mask).logits[:, -1]).abs().amax(1).tolist()


column, full = difference(mask[:, -1:]), difference(mask)
if max(*column, full[1]) > 1e-4:
    sys.exit(f"changed: the step differs by {column} with the new column as mask, by {full} with all of it")
if full[0] < 0.1:
    sys.exit(f"changed: the padded row is right under the full mask, to {full[0]:.1e}")
print(
    f"transformers {transformers.__version__}: a padded row's step is off by {column[0]:.1e} with mask[:, -1:], "
    f"by {full[0]:.1e} with the whole mask"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
