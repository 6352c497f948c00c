#!/usr/bin/env bash
# What: in Triton 3.6 a jitted function may not return None inside a tuple, and tl.zeros takes no size that is a field
# of a constexpr dataclass, although tl.arange and tl.full take that very field. Both compile in 3.8.
# Surprise: tl.zeros is tl.full with a value, and only one of them unwraps the size; the message is "'int' object has
# no attribute 'type'". Neither message names the argument or the construct.
# With one kernel for several caches: an optional scale is such a None. Return a dummy number in its place and write
# tl.full([N], 0.0, dtype) where Triton 3.6 must work.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   triton 3.6.0: {'none_in_tuple': 'TypeError("cannot convert None of type <class \'NoneType\'> to tensor")',
#   'zeros': 'AttributeError("\'int\' object has no attribute \'type\'")', 'full': 'compiles'}
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.6.0
cat > "$dir/find.py" <<'EOF'
import sys
from dataclasses import dataclass

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@dataclass(frozen=True)
class Config:
    N: int


@triton.jit
def load(x):
    return tl.load(x), None


@triton.jit
def none_in_tuple(x, CONFIG: tl.constexpr):
    value, _scale = load(x)
    tl.store(x, value)


@triton.jit
def zeros(x, CONFIG: tl.constexpr):
    tl.store(x + tl.arange(0, CONFIG.N), tl.zeros([CONFIG.N], tl.float32))


@triton.jit
def full(x, CONFIG: tl.constexpr):
    tl.store(x + tl.arange(0, CONFIG.N), tl.full([CONFIG.N], 0.0, tl.float32))


def outcome(kernel):
    source = ASTSource(kernel, {"x": "*fp32", "CONFIG": "constexpr"}, constexprs={(1,): Config(16)})
    try:
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
    except triton.CompilationError as error:
        while error.__cause__:
            error = error.__cause__
        return str(error).strip().splitlines()[-1]
    return "compiles"


found = {kernel.__name__: outcome(kernel) for kernel in (none_in_tuple, zeros, full)}
reasons = "NoneType" in found["none_in_tuple"] and "no attribute 'type'" in found["zeros"]
if not reasons or found["full"] != "compiles":
    sys.exit(f"changed: {found}")
print(f"triton {triton.__version__}: {found}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
