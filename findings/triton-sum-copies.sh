#!/usr/bin/env bash
# What: tl.sum of a product leaves its copies with different last bits. Each lane adds its neighbour's rounded product to
# its own, and LLVM contracts that into one fma, so lane i has fma(a_i, b_i, c_j) and lane j has fma(a_j, b_j, c_i). On
# sm_90, with 4 warps, one stmatrix then stores the copies of several lanes to one place.
# Surprise: the source has one sum, the PTX several; which of them stays is not defined, and sm_80 has other code.
# With a KV cache kernel: scores and sums of p * v are such sums. Threads that branch on one, or store their copy each,
# may disagree; runs on two GPUs differ in the last bit. enable_fp_fusion=False makes the copies equal.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   triton 3.8.0: sm_80 8 fma of a shuffled value, 0 stmatrix; sm_90 8 fma of a shuffled value, 4 stmatrix; without
#   contraction sm_90 0 fma of a shuffled value, 4 stmatrix; a pair of lanes 0.06666266173 and 0.06666266918
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.8.0 numpy==2.4.6
cat > "$dir/find.py" <<'EOF'
import re
import sys

import numpy as np
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def weigh(p, v, out, T: tl.constexpr, D: tl.constexpr):
    t, d = tl.arange(0, T), tl.arange(0, D)
    acc = tl.zeros((D,), tl.float32)
    for block in range(4):
        row = block * T + t
        acc += tl.sum(tl.load(p + row)[:, None] * tl.load(v + row[:, None] * D + d), 0)
    tl.store(out + d, acc)


def counts(sm, **options):
    """How many fma add what a shuffle brought, and how many stmatrix store the sums."""
    types = {"p": "*fp32", "v": "*fp32", "out": "*fp32", "T": "constexpr", "D": "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(3)}
    source = ASTSource(weigh, types, constexprs={(3,): 16, (4,): 16}, attrs=aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options).asm["ptx"]
    brought = set(re.findall(r"shfl\.sync\.bfly\.b32\s+(%r\d+)", ptx))
    added = [x for x in re.findall(r"fma\.rn\.f32\s+%r\d+, %r\d+, %r\d+, (%r\d+)", ptx) if x in brought]
    return f"{len(added)} fma of a shuffled value, {ptx.count('stmatrix.sync')} stmatrix"


def pair():
    """Two lanes' copies of one sum of two products."""
    rng = np.random.default_rng(0)
    while True:
        a, b = rng.normal(0, 1, (2, 2)).astype(np.float32)
        exact, rounded = a.astype(np.float64) * b, a * b
        one, other = (np.float32(exact[i] + rounded[1 - i]) for i in (0, 1))
        if one != other:
            return f"{one:.10g} and {other:.10g}"


found = [counts(80), counts(90), counts(90, enable_fp_fusion=False)]
shuffled, stored, apart = (f"{n} fma of a shuffled value, {m} stmatrix" for n, m in ((8, 0), (8, 4), (0, 4)))
if found != [shuffled, stored, apart]:
    sys.exit(f"changed: {found}")
print(
    f"triton {triton.__version__}: sm_80 {found[0]}; sm_90 {found[1]}; without contraction sm_90 {found[2]}; "
    f"a pair of lanes {pair()}"
)
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
