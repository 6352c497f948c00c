#!/usr/bin/env bash
# What: of the two readers of safetensors.numpy, load_file(path) takes bfloat16 and float8 (given ml_dtypes) and
# load(bytes) does not: it raises KeyError 'BF16', for bytes that save() of the same module just wrote.
# Surprise: one module, one format, three functions that know the dtype and one that does not.
# With a KV cache: to send K and V between processes as bytes, view them as uint16, or go through a file.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   safetensors 0.8.0: load_file gives bfloat16; load of save's own bytes KeyError: 'BF16'
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
cat > "$dir/find.py" <<'EOF'
import importlib.metadata
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import load, load_file, save, save_file

k = {"k": np.ones(3, ml_dtypes.bfloat16)}
save_file(k, "k.safetensors")
dtype = load_file("k.safetensors")["k"].dtype
if dtype != ml_dtypes.bfloat16:
    sys.exit(f"changed: load_file gives {dtype}")
try:
    load(save(k))
except KeyError as error:
    version = importlib.metadata.version("safetensors")
    print(f"safetensors {version}: load_file gives {dtype}; load of save's own bytes KeyError: {error}")
else:
    sys.exit("changed: load reads bfloat16 from bytes")
EOF
cd "$dir" && "$dir/venv/bin/python" -I find.py
