#!/usr/bin/env bash
# What: the float8 layer of QuantizedCache takes its scale per tensor from the first update and keeps it. Later keys
# that are larger are cut to the first update's largest; after a first update of zeros all later keys are.
# Surprise: the first update may be one token, and nothing says that numbers are cut: no NaN, no warning.
# With a float8 KV cache: prefill with more than the first token, or keep a scale per token.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0: first keys up to 4.1, later ones up to 8 times that: read back up to 4.1; after zeros up to 5e-36
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0 numpy==2.4.6
cat > "$dir/find.py" <<'EOF'
import sys

import torch
import transformers
from transformers.cache_utils import Fp8QuantizedLayer

torch.manual_seed(0)
x = torch.randn(1, 4, 8, 64)


def largest(first, later):
    layer = Fp8QuantizedLayer()
    layer.update(first, first)
    keys, _ = layer.update(later, later)
    return keys[:, :, first.shape[2] :].abs().max().item()


cut, lost, fits = largest(x, 8 * x), largest(0 * x, x), largest(8 * x, x)
top = x.abs().max().item()
if abs(fits - top) > 0.1 * top:
    sys.exit(f"changed: keys up to {top:.2f} after larger ones come back up to {fits:.2f}; they came back whole")
if cut > 1.01 * top or lost > 1e-30:
    sys.exit(f"changed: keys up to {8 * top:.1f} come back up to {cut:.2f}, after zeros {lost:.0e}; they were cut")
print(
    f"transformers {transformers.__version__}: first keys up to {top:.1f}, later ones up to 8 times that: read back up to "
    f"{cut:.1f}; after zeros up to {lost:.0e}"
)
EOF
cd "$dir" && HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py
