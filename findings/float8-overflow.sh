#!/usr/bin/env bash
# What: on the CPU torch casts what is too large for float8_e4m3fn to 448, infinity too; for float8_e5m2 and both fnuz
# types it overflows, to inf or NaN. ml_dtypes gives NaN for the same e4m3fn cast.
# Surprise: within torch one float8 saturates and its three siblings do not; inf becomes a finite number.
# With a float8 KV cache: an outlier of K beyond the scale is clipped by one library and is NaN in the other.
# Clamp to +-448 yourself; then both casts give the same bits.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   torch 2.14.1+cu130, ml_dtypes 0.6.0: [448.0, 500.0, inf] in float8_e4m3fn: torch [448.0, 448.0, 448.0],
#   ml_dtypes [448.0, nan, nan]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile torch==2.14.1 numpy==2.4.6 ml_dtypes==0.6.0
cat > "$dir/find.py" <<'EOF'
import sys

import ml_dtypes
import numpy as np
import torch

values = [448.0, 500.0, float("inf")]
ours = torch.tensor(values).to(torch.float8_e4m3fn).float().tolist()
theirs = np.array(values, np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
siblings = (torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
others = {dtype: torch.tensor([1e6]).to(dtype).float() for dtype in siblings}
if ours != [448.0, 448.0, 448.0]:
    sys.exit(f"changed: torch casts {values} to float8_e4m3fn as {ours}; it saturated")
if theirs[0] != 448 or not np.isnan(theirs[1:]).all():
    sys.exit(f"changed: ml_dtypes casts {values} to float8_e4m3fn as {theirs}; beyond 464 it gave NaN")
if any(x.isfinite().any() for x in others.values()):
    sys.exit(f"changed: torch casts 1e6 to {others}; none was finite")
versions = f"torch {torch.__version__}, ml_dtypes {ml_dtypes.__version__}"
print(f"{versions}: {values} as float8_e4m3fn: torch {ours}, ml_dtypes {theirs.tolist()}")
EOF
cd "$dir" && PYTHONWARNINGS=ignore "$dir/venv/bin/python" -I find.py
