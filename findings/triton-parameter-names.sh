#!/usr/bin/env bash
# What: a kernel with a parameter called params or options cannot be launched. Triton writes a function that has the
# kernel's parameters and these two of its own: one overwrites the argument before it is looked at, one is a duplicate.
# Surprise: the kernel compiles ahead of time, and the message, "failed to specialize argument of type: dict", is
# about an argument that nobody passed.
# With a KV cache kernel: scales and zero points in one array are easily called params. Call it something else.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   triton 3.8.0: params TypeError: failed to specialize argument of type: dict; options SyntaxError: duplicate argument
#   'options' in function definition; scales is taken
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.8.0
cat > "$dir/find.py" <<'EOF'
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import driver


class StandIn:
    """The driver's part that a compilation asks: there need be no GPU."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Pointer:
    def __init__(self, dtype):
        self.dtype = dtype

    def data_ptr(self):
        return 0


@triton.jit
def by_params(params):
    tl.store(params, 1)


@triton.jit
def by_options(options):
    tl.store(options, 1)


@triton.jit
def by_scales(scales):
    tl.store(scales, 1)


driver.set_active(StandIn())
found = []
for kernel in (by_params, by_options, by_scales):
    (name,) = kernel.arg_names
    triton.compile(ASTSource(kernel, {name: "*i32"}), target=GPUTarget("cuda", 90, 32))  # ahead of time all are taken
    try:
        kernel.warmup(Pointer("int32"), grid=(1,))
        found.append(f"{name} is taken")
    except (TypeError, SyntaxError) as error:
        found.append(f"{name} {type(error).__name__}: {str(error).partition(' (')[0]}")
expected = [
    "params TypeError: failed to specialize argument of type: dict",
    "options SyntaxError: duplicate argument 'options' in function definition",
    "scales is taken",
]
if found != expected:
    sys.exit(f"changed: {'; '.join(found)}")
print(f"triton {triton.__version__}: {'; '.join(found)}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
