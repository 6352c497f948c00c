#!/usr/bin/env bash
# What: in a pipelined loop on sm_100, tcgen05.mma reads shared memory that cp.async filled, and no fence.proxy.async
# stands between cp.async.wait_group and it: the fence, needed for an operand from outside the loop too, is moved in
# front of the loop. Before the loop, and on sm_90 in it, the fence stands behind the wait.
# Surprise: the same source is fenced in its first turns and not in the others; sums are right nearly always.
# With attention: the loop over keys of the backward pass, which loads by pointers and multiplies twice (Triton's own
# tutorial 06 too). Load by tensor descriptors, or read its results on sm_100 with a doubt.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   triton 3.8.0: in the loop sm_90 wait -> fence -> mma, sm_100 wait -> mma; before it, sm_100 wait -> fence -> mma
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.8.0
cat > "$dir/find.py" <<'EOF'
import re
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def chained(q, k, out, steps, N: tl.constexpr, D: tl.constexpr):
    d, n, rows = tl.arange(0, D), tl.arange(0, N), tl.arange(0, 128)[:, None]
    tile = tl.load(q + rows * D + d)
    acc = tl.zeros((128, D), tl.float32)
    for i in range(steps):
        keys = tl.load(k + (i * N + n)[None, :] * D + d[:, None])
        p = tl.exp2(tl.dot(tile, keys))
        acc = tl.dot(p.to(tl.float16), tl.trans(keys), acc)
    tl.store(out + rows * D + d, acc)


def orders(sm):
    """What follows each wait up to the next product."""
    types = {"q": "*fp16", "k": "*fp16", "out": "*fp32", "steps": "i32", "N": "constexpr", "D": "constexpr"}
    aligned = {(n,): [["tt.divisibility", 16]] for n in range(3)}
    source = ASTSource(chained, types, {(4,): 32, (5,): 64}, aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", sm, 32), options={"num_stages": 3}).asm["ptx"]
    names = {"cp.async.wait_group": "wait", "fence.proxy.async": "fence"}
    seen = re.findall(r"cp\.async\.wait_group|fence\.proxy\.async|wgmma\.mma_async|tcgen05\.mma", ptx)
    words = " ".join(names.get(x, "mma") for x in seen)
    return re.findall(r"wait(?: fence)* mma", words)


hopper, blackwell = orders(90), orders(100)
if hopper != ["wait fence mma"]:
    sys.exit(f"changed: on sm_90 the order is {hopper}")
if blackwell != ["wait fence mma", "wait fence mma", "wait mma"]:
    sys.exit(f"changed: on sm_100 the orders are {blackwell}, before the loop and in it")
print(f"triton {triton.__version__}: in the loop sm_90 {hopper[-1]}, sm_100 {blackwell[-1]}; before it {blackwell[0]}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
