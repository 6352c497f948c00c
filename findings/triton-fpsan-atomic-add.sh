#!/usr/bin/env bash
# What: Triton's fpsan (TRITON_INSTRUMENTATION_MODE=fpsan) turns x + y into integer arithmetic on scrambled bits, but
# leaves tl.atomic_add, absolute values and comparisons as they are: an atomic sum adds the scrambled bits as floats.
# Surprise: fpsan exists so that kernels of one algebra agree bit for bit, and sums are what its documentation promises
# first. A split-K kernel that sums by atomics differs from the same kernel that sums by tl.sum, and from itself in
# another order; nothing warns. (3.8.0 leaves tl.clamp and inline assembly, too; 3.9.0 takes these two, and no atomics.)
# With attention: compare partial sums that are stored and combined, not those that are added atomically.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   triton 3.9.0: left as floats under fpsan: tt.atomic_rmw fadd, math.absf, arith.cmpf; taken: arith.addf, tt.clampf
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.9.0
cat > "$dir/find.py" <<'EOF'
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def several(x, out):
    i = tl.arange(0, 32)
    v = tl.load(x + i)
    tl.atomic_add(out, tl.sum(v, 0))
    tl.store(x + i, tl.where(v > 0.5, tl.abs(v), tl.clamp(v, -1.0, 1.0)))


source = ASTSource(several, {"x": "*fp32", "out": "*fp32"})
options = {"instrumentation_mode": "fpsan"}
text = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ttgir"]
names = ("tt.atomic_rmw fadd", "math.absf", "arith.cmpf", "arith.addf", "tt.clampf")
left = [name for name in names if name in text]
if left != ["tt.atomic_rmw fadd", "math.absf", "arith.cmpf"]:
    sys.exit(f"changed: under fpsan these are left as floats: {left}")
taken = [name for name in names if name not in left]
print(f"triton {triton.__version__}: left as floats under fpsan: {', '.join(left)}; taken: {', '.join(taken)}")
EOF
cd "$dir" && TRITON_DEFAULT_FP_FUSION=1 TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
