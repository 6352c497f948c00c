#!/usr/bin/env bash
# What: tl.dot of int8 compiles for sm_80 and up. For sm_75, a target that Triton still compiles for and whose tensor
# cores do multiply int8, it fails inside a pass: 'arith.extf' is given integers to widen as floats.
# Surprise: the front end accepts the types and no message says "not on this GPU"; "PassManager::run failed" is the
# exception's whole text, and the reason goes to stderr only.
# With an int8 cache: test each target at compile time; on sm_75 multiply and tl.sum in int32 instead of tl.dot.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   triton 3.8.0: int8 tl.dot, sm_80 compiles; sm_75 RuntimeError: PassManager::run failed; 'arith.extf' op
#   operand #0 must be floating-point-like
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.8.0
cat > "$dir/find.py" <<'EOF'
import os
import sys
import tempfile

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def dot(a, b, out, N: tl.constexpr):
    i = tl.arange(0, N)
    ij = i[:, None] * N + i[None, :]
    tl.store(out + ij, tl.dot(tl.load(a + ij), tl.load(b + ij)))


def compile(capability):
    source = ASTSource(dot, {"a": "*i8", "b": "*i8", "out": "*i32", "N": "constexpr"}, constexprs={(3,): 32})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]


if ".s32.s8.s8.s32" not in compile(80):
    sys.exit("changed: int8 tl.dot on sm_80 uses no int8 tensor core instruction")
kept = os.dup(2)
with tempfile.TemporaryFile() as said:  # what the compiler's passes write to stderr
    os.dup2(said.fileno(), 2)
    try:
        compile(75)
        raised = None
    except RuntimeError as error:
        raised = str(error)
    os.dup2(kept, 2)
    said.seek(0)
    why = [line.partition("error: ")[2] for line in said.read().decode().splitlines() if "error: '" in line]
if raised is None:
    sys.exit("changed: int8 tl.dot compiles for sm_75")
if "PassManager" not in raised or not why or "arith.extf" not in why[0]:
    sys.exit(f"changed: for sm_75 it raises {raised!r}, and says {why}")
reason = why[0].partition(", but")[0]
print(f"triton {triton.__version__}: int8 tl.dot: sm_80 compiles; sm_75 RuntimeError: {raised}; {reason}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
