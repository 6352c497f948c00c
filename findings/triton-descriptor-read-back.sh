#!/usr/bin/env bash
# What: in a loop, a block stored by a tensor descriptor may be read back before it is there. Triton waits only until
# shared memory is free again (cp.async.bulk.wait_group.read), and for the store itself after the loop. Outside of a
# loop it waits at once. Neither tl.debug_barrier() nor reading by the same descriptor brings the wait.
# Surprise: the same lines are in order outside of a loop, and in a loop where an atomic with acquire or release follows.
# With a KV cache: "append this block's keys by descriptor, then attend over the cache" in one persistent loop may read
# old keys. Read the block from registers, or make the store a plain tl.store with tl.debug_barrier() after it.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   triton 3.8.0: sm_90, waits for a store before its block is read back: {'once': True, 'loop': False, 'barrier':
#   False, 'descriptor': False, 'atomic': True}
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
def add_one(x, y, out, flag, n, B: tl.constexpr, WAY: tl.constexpr):
    a = tl.make_tensor_descriptor(x, [16, n], [n, 1], [16, B])
    b = tl.make_tensor_descriptor(y, [16, n], [n, 1], [16, B])
    at = tl.arange(0, 16)[:, None] * n + tl.arange(0, B)
    if WAY == "once":
        b.store([0, 0], a.load([0, 0]) + 1)
        tl.store(out + at, tl.load(y + at))
    else:
        for j in range(0, n, B):
            b.store([0, j], a.load([0, j]) + 1)
            if WAY == "barrier":
                tl.debug_barrier()
            if WAY == "atomic":
                tl.atomic_add(flag, 1, sem="release")
            tl.store(out + at + j, b.load([0, j]) if WAY == "descriptor" else tl.load(y + at + j))


def waits(way):
    types = {"x": "*fp16", "y": "*fp16", "out": "*fp16", "flag": "*i32", "n": "i32", "B": "constexpr", "WAY": "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(5)}
    source = ASTSource(add_one, types, constexprs={(5,): 64, (6,): way}, attrs=aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    form = r"tensor\.2d\.(global|shared)|bulk\.wait_group(?:\.read)?|ld\.(global)\."
    seen = ["".join(m.groups(default="")) or m[0] for m in re.finditer(form, ptx)]
    after = seen[seen.index("global", seen.index("shared")) + 1 :]
    read = next((i for i, name in enumerate(after) if name in ("global", "shared")), len(after))
    return "bulk.wait_group" in after[:read]


found = {way: waits(way) for way in ("once", "loop", "barrier", "descriptor", "atomic")}
if found != {"once": True, "loop": False, "barrier": False, "descriptor": False, "atomic": True}:
    sys.exit(f"changed: waits for a store before its block is read back: {found}")
print(f"triton {triton.__version__}: sm_90, waits for a store before its block is read back: {found}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
