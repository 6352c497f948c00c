#!/usr/bin/env bash
# What: Triton puts no barrier before a scalar atomic. The threads of a program store their parts, one thread runs
# atom.acq_rel, and nothing orders the other threads' stores before it; the bar.sync comes after, for the result.
# Surprise: sem="acq_rel" in the source reads as if the program released its stores; only one thread does.
# With split-K decoding in one launch: the last program to arrive may sum parts not yet written. Write
# tl.debug_barrier() between the stores and the atomic.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   triton 3.8.0: sm_90 st.global -> atom.global.gpu.acq_rel; with tl.debug_barrier() st.global -> bar.sync ->
#   atom.global.gpu.acq_rel
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
def arrive(part, count, out, N: tl.constexpr, BARRIER: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(part + tl.program_id(0) * N + i, tl.load(out + i) * 2)
    if BARRIER:
        tl.debug_barrier()
    if tl.atomic_add(count, 1, sem="acq_rel") == 3:
        tl.store(out + i, tl.load(part + i) + tl.load(part + N + i))


def order(barrier):
    types = {"part": "*fp32", "count": "*i32", "out": "*fp32", "N": "constexpr", "BARRIER": "constexpr"}
    source = ASTSource(arrive, types, constexprs={(3,): 256, (4,): barrier})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    seen = re.findall(r"st\.global|bar\.sync|membar|fence|atom\.global\.gpu\.acq_rel", ptx)
    at = next(i for i, name in enumerate(seen) if name.startswith("atom"))
    return list(dict.fromkeys(seen[: at + 1]))


plain, asked = order(False), order(True)
if plain != ["st.global", "atom.global.gpu.acq_rel"]:
    sys.exit(f"changed: between the stores and the atomic stands {plain}")
if asked != ["st.global", "bar.sync", "atom.global.gpu.acq_rel"]:
    sys.exit(f"changed: with tl.debug_barrier() the order is {asked}")
print(f"triton {triton.__version__}: sm_90 {' -> '.join(plain)}; with tl.debug_barrier() {' -> '.join(asked)}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
