#!/usr/bin/env bash
# What: a block that plain stores wrote to global memory may be loaded by a tensor descriptor before it is there, and
# the other way round: between the two Triton puts a barrier, or the atomic's release and acquire, but no proxy fence
# of global memory. Plain accesses and bulk copies go by two proxies, and the PTX ISA (9.7.9.25.2) orders two such
# accesses to one place by a fence.proxy.async on the way alone. The one fence there is for shared memory.
# Surprise: a pass of the compiler finds where such fences are due for shared memory; for global memory there is none,
# and tl.debug_barrier(), a release and an acquire are all that a kernel can write.
# With a KV cache: "append this step's keys by tl.store, then attend over the cache by descriptors" in one kernel may
# load old keys. Append in a launch of its own, or by the descriptor, outside of a loop, which waits for the store.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   triton 3.8.0: sm_90 and sm_100, proxy fences: {'write, barrier, load': ['fence.proxy.async.shared::cta'],
#   'write, release, acquire, load': ['fence.proxy.async.shared::cta'], 'read, barrier, store':
#   ['fence.proxy.async.shared::cta']}
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
def step(x, y, flag, out, n, B: tl.constexpr, WAY: tl.constexpr):
    at = tl.arange(0, 16)[:, None] * n + tl.arange(0, B)
    a = tl.make_tensor_descriptor(x, [16, n], [n, 1], [16, B])
    if WAY == "read, barrier, store":
        block = tl.load(x + at)
        tl.debug_barrier()
        a.store([0, 0], block + 1)
    else:
        if WAY == "write, barrier, load":
            tl.store(x + at, tl.load(y + at) + 1)
            tl.debug_barrier()
        elif tl.program_id(0) == 0:
            tl.store(x + at, tl.load(y + at) + 1)
            tl.atomic_xchg(flag, 1, sem="release")
        else:
            while tl.atomic_add(flag, 0, sem="acquire") == 0:
                pass
        tl.store(out + at, a.load([0, 0]))


def fences(way, sm):
    """The proxy fences of the compiled kernel, but for those of tensor maps."""
    types = {"x": "*fp16", "y": "*fp16", "flag": "*i32", "out": "*fp16", "n": "i32"}
    types |= {"B": "constexpr", "WAY": "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(5)}
    source = ASTSource(step, types, constexprs={(5,): 64, (6,): way}, attrs=aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", sm, 32)).asm["ptx"]
    assert "cp.async.bulk.tensor.2d" in ptx
    return {x for x in re.findall(r"fence\.proxy\.[\w.:]+", ptx) if "tensormap" not in x}


ways = ("write, barrier, load", "write, release, acquire, load", "read, barrier, store")
found = {way: sorted(fences(way, 90) | fences(way, 100)) for way in ways}
if any(names != ["fence.proxy.async.shared::cta"] for names in found.values()):
    sys.exit(f"changed: proxy fences: {found}")
print(f"triton {triton.__version__}: sm_90 and sm_100, proxy fences: {found}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
