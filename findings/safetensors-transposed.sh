#!/usr/bin/env bash
# What: safetensors.numpy stores an array's memory under its shape and does not look at its strides. A transposed
# array comes back with the right shape and its elements in another order.
# Surprise: the docstring asks for contiguous arrays, safetensors.torch refuses others, and NumPy's door stays open;
# the file is valid, so no reader can tell.
# With a KV cache: K is often kept transposed for decoding, and GPT-2's Conv1D weights are transposed when exported.
# Save np.ascontiguousarray(a), and load once to compare.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   safetensors 0.8.0: first row of k.T is [0.0, 4.0, 8.0]; saved and loaded it is [0.0, 1.0, 2.0]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile safetensors==0.8.0 numpy==2.4.6
cat > "$dir/find.py" <<'EOF'
import importlib.metadata
import sys

import numpy as np
from safetensors.numpy import load, save

k = np.arange(12, dtype=np.float32).reshape(3, 4)  # (T, D)
back = load(save({"k": k.T}))["k"]
if np.array_equal(back, k.T):
    sys.exit("changed: a transposed array comes back as it was")
if back.shape != (4, 3) or not np.array_equal(back.ravel(), k.ravel()):
    sys.exit(f"changed: the transpose of\n{k}\ncomes back as\n{back}")
if not np.array_equal(load(save({"k": np.ascontiguousarray(k.T)}))["k"], k.T):
    sys.exit("changed: a contiguous copy of the transpose does not come back either")
version = importlib.metadata.version("safetensors")
print(f"safetensors {version}: k.T begins with {k.T[0].tolist()}; saved and loaded with {back[0].tolist()}")
EOF
cd "$dir" && "$dir/venv/bin/python" -I find.py
