#!/usr/bin/env bash
# What: under Triton's fpsan (TRITON_INSTRUMENTATION_MODE=fpsan, which checks that two kernels are one algebra) a product
# with 2.0, five times over, is 0 whatever x is: the compiled kernel stores zeros. One product loses 7 of 32 bits of x.
# Surprise: the documentation says that x * 1 = x and that products are those of a ring; it does not say that the number
# for 2.0 is divisible by 2**7 (float32), so that the most common constant of all is nearly a zero, and hides what is
# multiplied by it. That holds in float16, bfloat16 and float64 alike, and in 3.8 and 3.9. x * 2.0 is not x + x either.
# With attention: write x + x, or fold powers of two into one constant, before comparing kernels; do not trust an
# agreement behind several doublings.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   triton 3.8.0: x * 2.0 five times stores 0 for every x; plain it stores 32 * x
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
def doubled(x, out):
    i = tl.arange(0, 32)
    tl.store(out + i, tl.load(x + i) * 2.0 * 2.0 * 2.0 * 2.0 * 2.0)


def stored(mode):
    """The value that the one store of the compiled kernel takes, as LLVM has it."""
    options = {"num_warps": 1, "instrumentation_mode": mode}
    source = ASTSource(doubled, {"x": "*fp32", "out": "*fp32"})
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    text = compiled.asm["llir"]
    (value,) = re.findall(r"st\.global.*?\(i32 (\S+?),", text)
    return value


fpsan, plain = stored("fpsan"), stored("")
if fpsan != "0" or plain == "0":
    sys.exit(f"changed: under fpsan the kernel stores {fpsan}, plain {plain}")
print(f"triton {triton.__version__}: x * 2.0 five times stores 0 for every x; plain it stores 32 * x")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
