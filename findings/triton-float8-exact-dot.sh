#!/usr/bin/env bash
# What: on sm_90 a float8 tl.dot leaves its sum to the tensor core by default. With max_num_imprecise_acc=32 it adds
# to float32 registers every 32 products, still with wgmma. 0, the strict end of that scale, leaves float8 altogether:
# the operands are widened to float16 and multiplied by sm_80's mma.sync.
# Surprise: "none imprecise" is no stricter setting of the same instruction, but an older one and twice the PTX.
# With a float8 cache: pass max_num_imprecise_acc to tl.dot, and count wgmma in the PTX before timing.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   triton 3.8.0: sm_90, (wgmma, mma.sync, add.f32) by max_num_imprecise_acc: {None: (2, 0, 0), 32: (2, 0, 32), 0:
#   (0, 32, 0)}
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.8.0
cat > "$dir/find.py" <<'EOF'
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def dot(a, b, out, N: tl.constexpr, IMPRECISE: tl.constexpr):
    i = tl.arange(0, N)
    ij = i[:, None] * N + i[None, :]
    tl.store(out + ij, tl.dot(tl.load(a + ij), tl.load(b + ij), max_num_imprecise_acc=IMPRECISE))


def instructions(imprecise):
    types = {"a": "*fp8e4nv", "b": "*fp8e4nv", "out": "*fp32", "N": "constexpr", "IMPRECISE": "constexpr"}
    source = ASTSource(dot, types, constexprs={(3,): 64, (4,): imprecise})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    return ptx.count("wgmma.mma_async"), ptx.count("mma.sync"), ptx.count("add.f32")


found = {n: instructions(n) for n in (None, 32, 0)}
if not (found[None][0] and found[32][0] and found[32][2] > found[None][2]):
    sys.exit(f"changed: (wgmma, mma.sync, add.f32) are {found}; None and 32 used wgmma, 32 with more additions")
if found[0][0] or not found[0][1]:
    sys.exit(f"changed: (wgmma, mma.sync, add.f32) are {found}; 0 used mma.sync alone")
print(f"triton {triton.__version__}: sm_90, (wgmma, mma.sync, add.f32) by max_num_imprecise_acc: {found}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
