#!/usr/bin/env bash
# What: choose between two aligned pointers with tl.where and Triton forgets that they are aligned: a row of float16
# is loaded 2 bytes at a time, 8 times the instructions. tl.multiple_of(chosen, 16) on the result brings it back.
# Surprise: both choices are known to be multiples of 16 bytes, so either is; a choice of offsets loses it as well.
# With a KV cache: "the new row from its own buffer, the rest from the cache" is this choice. Repeat the hint after
# tl.where, and count the widths of ld.global.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   triton 3.8.0: sm_90, loads of a 64 x 64 float16 block per thread: {'one': (4, 'ld.global.v4.b32'), 'where':
#   (32, 'ld.global.b16'), 'hint': (4, 'ld.global.v4.b32')}
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
def rows(x, y, out, n, N: tl.constexpr, D: tl.constexpr, WAY: tl.constexpr):
    r, d = tl.arange(0, N), tl.arange(0, D)
    at = x + r * D
    if WAY != "one":
        at = tl.where(r < n, x + r * D, y + r * D)
    if WAY == "hint":
        at = tl.multiple_of(at, 16)
    tl.store(out + (r * D)[:, None] + d[None, :], tl.load(at[:, None] + d[None, :]))


def loads(way):
    types = {"x": "*fp16", "y": "*fp16", "out": "*fp16", "n": "i32"} | dict.fromkeys(("N", "D", "WAY"), "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(3)}
    source = ASTSource(rows, types, constexprs={(4,): 64, (5,): 64, (6,): way}, attrs=aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    found = re.findall(r"ld\.global\S*", ptx)
    return len(found), *sorted(set(found))


found = {way: loads(way) for way in ("one", "where", "hint")}
if found["one"] != found["hint"] or found["one"][1:] != ("ld.global.v4.b32",):
    sys.exit(f"changed: loads are {found}; from one pointer and with the hint they were 16 bytes wide")
if found["where"][1:] != ("ld.global.b16",):
    sys.exit(f"changed: after tl.where the loads are {found['where']}; they were 2 bytes wide")
print(f"triton {triton.__version__}: sm_90, loads of a 64 x 64 float16 block per thread: {found}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
