#!/usr/bin/env bash
# What: llvmlite's IRBuilder.store_atomic takes no opaque pointer: AttributeError, 'PointerType' object has no attribute
# 'pointee'. load_atomic, atomic_rmw, cmpxchg, load and store take one, and LLVM itself knows no other since version 17.
# Surprise: ir.PointerType() is what llvmlite recommends, one builder method in six still wants ir.PointerType(ir.IntType(64)).
# With a JIT of kernels: give store_atomic a typed pointer (a bitcast, which costs nothing), or exchange by atomic_rmw("xchg").
# Seen 2026-11-30, Python 3.11.7, CPU:
#   llvmlite 0.50.0: an opaque pointer fits load, store, load_atomic, atomic_rmw, cmpxchg; not store_atomic
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile llvmlite==0.50.0
cat > "$dir/find.py" <<'EOF'
import sys

import llvmlite
from llvmlite import ir

word, pointer = ir.IntType(64), ir.PointerType()
function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), [pointer]), "f")
b, (place,) = ir.IRBuilder(function.append_basic_block()), function.args
methods = {
    "load": lambda: b.load(place, typ=word),
    "store": lambda: b.store(word(1), place),
    "load_atomic": lambda: b.load_atomic(place, "acquire", 8, typ=word),
    "atomic_rmw": lambda: b.atomic_rmw("add", place, word(1), "seq_cst"),
    "cmpxchg": lambda: b.cmpxchg(place, word(0), word(1), "seq_cst"),
    "store_atomic": lambda: b.store_atomic(word(1), place, "release", 8),
}
fits, fails = [], []
for name, write in methods.items():
    try:
        write()
        fits.append(name)
    except AttributeError as error:
        if "pointee" not in str(error):
            sys.exit(f"changed: {error}")
        fails.append(name)
if fails != ["store_atomic"]:
    sys.exit(f"changed: an opaque pointer does not fit {fails}")
print(f"llvmlite {llvmlite.__version__}: an opaque pointer fits {', '.join(fits)}; not {fails[0]}")
EOF
cd "$dir" && "$dir/venv/bin/python" -I find.py
