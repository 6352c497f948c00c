#!/usr/bin/env bash
# What: the first kernel that a process compiles, or finds compiled in Triton's cache, has Triton read and hash the whole
# of libtriton.so, half a gigabyte, for its key; the second has not.
# Surprise: a cache that knows the kernel spares the compiling and not this; it is paid again by each process, as by each
# worker of a test suite and each short command, and is most of what a small kernel from a warm cache costs.
# With KV caches: beside it our machine code's own key, a digest of the PTX, is nothing. Start few processes, or fork them
# from one that has called triton.runtime.cache.triton_key(), whose result it keeps.
# Seen 2026-11-30, Python 3.11.7, CPU:
#   triton 3.8.0: libtriton.so of 506 MB; a kernel from a warm cache: the first reads 507 MB in 0.87 s, the second 0 MB
#   (both cores busy)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile triton==3.8.0 numpy==2.4.6
cat > "$dir/find.py" <<'EOF'
import sys
import time
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def twice(x, N: tl.constexpr):
    at = x + tl.arange(0, N)
    tl.store(at, tl.load(at) * 2)


def compiled(n: int) -> tuple[int, float]:
    """Bytes that this process read, and seconds that it took, to compile a kernel or find it in the cache."""
    before, begun = read(), time.perf_counter()
    source = ASTSource(twice, signature={"x": "*fp32", "N": "constexpr"}, constexprs={"N": n})
    triton.compile(source, target=GPUTarget("cuda", 90, 32))
    return read() - before, time.perf_counter() - begun


def read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


library = next((Path(triton.__file__).parent / "_C").glob("libtriton*.so"))
(first, seconds), (second, _) = compiled(128), compiled(256)
if sys.argv[1] == "fill":
    sys.exit()
size = library.stat().st_size
if not (first > size and second < size / 20):
    sys.exit(f"changed: of a library of {size:,} bytes the first kernel reads {first:,}, the second {second:,}")
print(
    f"triton {triton.__version__}: libtriton.so of {size / 1e6:.0f} MB; a kernel from a warm cache: "
    f"the first reads {first / 1e6:.0f} MB in {seconds:.2f} s, the second {second / 1e6:.0f} MB"
)
EOF
cd "$dir"
export TRITON_CACHE_DIR="$dir/cache"
"$dir/venv/bin/python" find.py fill
"$dir/venv/bin/python" find.py again
