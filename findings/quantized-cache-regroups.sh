#!/usr/bin/env bash
# What: QuantizedCache's layers quantise all tokens anew, from what they are read back as, whenever residual_length new
# ones have come. quanto's groups of q_group_size numbers lie in memory order of the whole (batch, heads, tokens,
# head_dim), so with a head_dim that is no multiple of the group they fall elsewhere each time the count of tokens grows.
# Surprise: the oldest tokens get worse with every flush and not only once; with head_dim 128, or where flushes are as
# far apart as groups repeat (head_dim 80: multiples of 4 tokens), the same cache loses nothing more.
# With a quantised KV cache: let groups end where tokens do, or quantise a token once and append its codes.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   transformers 5.24.0, optimum-quanto 0.2.7: 4 bits, residual_length 3: error of the first 32 tokens 0.0902, after 40
#   flushes 0.2362 (head_dim 80); 0.0907, then 0.0907 (head_dim 128)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 transformers==5.24.0 optimum-quanto==0.2.7 numpy==2.4.6
cat > "$dir/find.py" <<'EOF'
import sys
from importlib.metadata import version

import torch
from transformers.cache_utils import QuantoQuantizedLayer


def errors(head_dim):
    torch.manual_seed(0)
    x = torch.randn(1, 4, 152, head_dim)
    layer = QuantoQuantizedLayer(nbits=4, residual_length=3)
    found = []
    for new in (x[:, :, :32], *x[:, :, 32:].split(1, dim=2)):
        layer.update(new, new)
        first = layer._dequantize(layer._quantized_keys)[:, :, :32]
        found.append((first - x[:, :, :32]).square().mean().sqrt().item())
    return found[0], found[-1]


odd, whole = errors(80), errors(128)
if odd[1] < 1.5 * odd[0]:
    sys.exit(f"changed: head_dim 80: error {odd[0]:.4f}, after 40 flushes {odd[1]:.4f}; it doubled")
if whole[1] > 1.01 * whole[0]:
    sys.exit(f"changed: head_dim 128: error {whole[0]:.4f}, after 40 flushes {whole[1]:.4f}; it stayed")
print(
    f"transformers {version('transformers')}, optimum-quanto {version('optimum-quanto')}: 4 bits, residual_length 3: "
    f"error of the first 32 tokens {odd[0]:.4f}, after 40 flushes {odd[1]:.4f} (head_dim 80); {whole[0]:.4f}, then "
    f"{whole[1]:.4f} (head_dim 128)"
)
EOF
cd "$dir" && PYTHONWARNINGS=ignore HF_HOME="$dir/hf" HF_HUB_OFFLINE=1 "$dir/venv/bin/python" -I find.py 2> "$dir/log" ||
    { grep -v '^W' "$dir/log" >&2 || true; exit 1; }
