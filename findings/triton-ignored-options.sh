#!/usr/bin/env bash
# What: two of Triton's options are taken as launch keywords and then overwritten: instrumentation_mode by the
# environment's, max_num_imprecise_acc_default by the target's (2**30 on sm_90). The value is not looked at.
# Surprise: a misspelt option raises KeyError, so one that passes seems to count; any name of a mode passes.
# With a KV cache kernel: "it ran clean under the sanitizer" may mean it never ran there. Set
# knobs.compilation.instrumentation_mode or TRITON_INSTRUMENTATION_MODE, and read the options in the compiled
# kernel's metadata.
# Seen 2026-11-28, Python 3.11.7, CPU:
#   triton 3.8.0: asked for {'instrumentation_mode': 'no-such-mode', 'max_num_imprecise_acc_default': 0}, compiled
#   with {'instrumentation_mode': '', 'max_num_imprecise_acc_default': 1073741824}
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
def kernel(x):
    tl.store(x, tl.load(x) + 1)


driver.set_active(StandIn())
try:
    kernel.warmup(Pointer("float32"), grid=(1,), no_such_option=1)
    sys.exit("changed: an option that does not exist is taken")
except KeyError:
    pass
asked = {"instrumentation_mode": "no-such-mode", "max_num_imprecise_acc_default": 0}
compiled = kernel.warmup(Pointer("float32"), grid=(1,), **asked)
got = {name: getattr(compiled.metadata, name) for name in asked}
if got != {"instrumentation_mode": "", "max_num_imprecise_acc_default": 2**30}:
    sys.exit(f"changed: asked for {asked}, compiled with {got}")
print(f"triton {triton.__version__}: asked for {asked}, compiled with {got}")
EOF
cd "$dir" && TRITON_CACHE_DIR="$dir/cache" "$dir/venv/bin/python" -I find.py
