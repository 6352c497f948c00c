#!/usr/bin/env bash
# What: for sm_100 tl.dot of a tile of 128 rows and 8 columns compiles to tcgen05.mma with M = 128 and N = 8 in its
# instruction descriptor. The PTX ISA allows N = 8 with M = 64 alone; with M = 128, N goes in steps of 16 from 16 on.
# ptxas cannot tell: the descriptor is a number in a register.
# Surprise: the front end takes 8 columns for sm_100, 64 rows of it give a valid M = 64, and nothing warns of the rest.
# With a KV cache: a tile of 8 query heads as columns needs 64 rows of keys, or 16 columns.
# Seen 2026-11-29, Python 3.11.7, CPU; no sm_100 was at hand to run it:
#   triton 3.8.0: sm_100, tl.dot of 8 columns: (M, N) of the descriptor by rows {64: (64, 8), 128: (128, 8)}
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
def dot(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x, y = tl.load(a + m[:, None] * K + k), tl.load(b + k[:, None] * N + n)
    tl.store(c + m[:, None] * N + n, tl.dot(x, y))


def shape(rows):
    types = {"a": "*fp16", "b": "*fp16", "c": "*fp32", "M": "constexpr", "N": "constexpr", "K": "constexpr"}
    aligned = {(n,): [["tt.divisibility", 16]] for n in range(3)}
    source = ASTSource(dot, types, constexprs={(3,): rows, (4,): 8, (5,): 64}, attrs=aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 100, 32)).asm["ptx"]
    register = re.search(r"tcgen05\.mma\.\S+ \[.*?\], %rd\d+, %rd\d+, (%r\d+)", ptx)
    if not register:
        sys.exit(f"changed: {rows} rows and 8 columns use no tcgen05.mma of matrices in shared memory")
    code = int(re.findall(rf"mov\.b32 \s*{register[1]}, (\d+);", ptx)[0])
    return 16 * (code >> 24 & 31), 8 * (code >> 17 & 63)


found = {rows: shape(rows) for rows in (64, 128)}
if found != {64: (64, 8), 128: (128, 8)}:
    sys.exit(f"changed: (M, N) of the instruction descriptor, by rows: {found}")
print(f"triton {triton.__version__}: sm_100, tl.dot of 8 columns: (M, N) of the descriptor by rows {found}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
