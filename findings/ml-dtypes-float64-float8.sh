#!/usr/bin/env bash
# What: ml_dtypes rounds float64 to float8 and float4 by way of float32, so twice: a number just above halfway between
# two float8 values becomes exactly halfway, and then goes down to the even one.
# Surprise: an oracle that computes in float64 to round once rounds twice in its last step.
# With a quantised KV cache: compare with the middles of neighbours in float64, or round quotients that are float32.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   ml_dtypes 0.6.0: 17 + 2^-40 is nearest to 18; as float8_e4m3fn it is 16.0
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile numpy==2.4.6 ml_dtypes==0.6.0
cat > "$dir/find.py" <<'EOF'
import sys

import ml_dtypes
import numpy as np

x = 17 + 2.0**-40  # e4m3's neighbours are 16 and 18, 16 the even one
theirs = float(np.float64(x).astype(ml_dtypes.float8_e4m3fn))
above = float(np.float32(17.001).astype(ml_dtypes.float8_e4m3fn))
if above != 18:
    sys.exit(f"changed: 17.001 in float32 becomes {above}; it was 18")
if theirs != 16:
    sys.exit(f"changed: ml_dtypes rounds 17 + 2^-40 to {theirs}, once; it was 16")
print(f"ml_dtypes {ml_dtypes.__version__}: 17 + 2^-40 is nearest to 18; as float8_e4m3fn it is {theirs}")
EOF
cd "$dir" && PYTHONWARNINGS=ignore "$dir/venv/bin/python" -I find.py
