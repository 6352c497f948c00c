#!/usr/bin/env bash
# What: Triton's cache on disk goes by a kernel's source and the line where it begins, not by the file's name. After the
# file is renamed, or where two files hold the same kernel at the same line, the cached PTX names the other file.
# Surprise: a profiler, a sanitizer or an emulator reports a file that no longer exists, for a kernel just "compiled".
# With a KV cache kernel: a copy of a kernel file, made to try a change, is reported under the original's name, or the
# other way round. Set TRITON_CACHE_DIR to an empty folder before you believe the file of a report.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   triton 3.8.0: the kernel of new_name.py: old_name.py in its PTX, new_name.py from an empty cache
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.8.0
cat > "$dir/old_name.py" <<'EOF'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class StandIn:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Pointer:
    dtype = "float32"

    def data_ptr(self):
        return 0


@triton.jit
def kernel(x):
    tl.store(x, tl.load(x) + 1)


driver.set_active(StandIn())
ptx = kernel.warmup(Pointer(), grid=(1,)).asm["ptx"]
name = re.search(r'\.file\s+1 "(?:.*/)?([^"/]+)"', ptx)[1]
print(name)
EOF
cp "$dir/old_name.py" "$dir/new_name.py"
cd "$dir"
run() { TRITON_CACHE_DIR="$dir/$1" "$dir/venv/bin/python" -I "$2"; }
seen="$(run cache old_name.py) $(run cache new_name.py) $(run empty new_name.py)"
[ "$seen" = "old_name.py old_name.py new_name.py" ] || { echo "changed: $seen"; exit 1; }
version=$("$dir/venv/bin/python" -I -c "import triton; print(triton.__version__)")
echo "triton $version: the kernel of new_name.py: old_name.py in its PTX, new_name.py from an empty cache"
