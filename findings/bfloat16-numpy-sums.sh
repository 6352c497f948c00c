#!/usr/bin/env bash
# What: NumPy sums an array of ml_dtypes' bfloat16 in bfloat16, one element after another, and so sticks at 256:
# 256 + 1 rounds to 256. mean() and std() inherit it. a @ a of the same array is right, and float32.
# Surprise: NumPy's own float16 sums pairwise and torch's bfloat16 in float32, so both get 1000 from 1000 ones.
# With a KV cache: a reference's softmax over a bfloat16 row loses its denominator from 256 slots on, in silence.
# Name the sum's dtype, a.sum(dtype=np.float32), or widen before the arithmetic.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   numpy 2.4.6, ml_dtypes 0.6.0: 1000 bfloat16 ones: sum 256, mean 0.256, std 0.50; a @ a 1000 (float32)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile numpy==2.4.6 ml_dtypes==0.6.0
cat > "$dir/find.py" <<'EOF'
import sys

import ml_dtypes
import numpy as np

a = np.ones(1000, ml_dtypes.bfloat16)
found = {"sum": float(a.sum()), "mean": float(a.mean()), "std": float(a.std())}
half = np.ones(1000, np.float16)
right = {"product": float(a @ a), "wide": float(a.sum(dtype=np.float32)), "float16": float(half.sum())}
if found["sum"] != 256 or abs(found["mean"] - 0.256) > 0.001 or found["std"] < 0.4:
    sys.exit(f"changed: of 1000 bfloat16 ones {found}; sum was 256")
if set(right.values()) != {1000.0} or (a @ a).dtype != np.float32:
    sys.exit(f"changed: {right} and {(a @ a).dtype} for a @ a; all were 1000, and float32")
print(
    f"numpy {np.__version__}, ml_dtypes {ml_dtypes.__version__}: 1000 bfloat16 ones: sum {found['sum']:.0f}, "
    f"mean {found['mean']:.3f}, std {found['std']:.2f}; a @ a {right['product']:.0f} ({(a @ a).dtype})"
)
EOF
cd "$dir" && "$dir/venv/bin/python" -I find.py
