#!/usr/bin/env bash
# What: LLVM rounds float32 to bfloat16 (fptrunc) by one instruction where the CPU has AVX512_BF16. It takes a denormal
# float32 for 0, whatever MXCSR says. On other x86 CPUs LLVM calls __truncsfbf2 of a run-time library, which rounds it.
# Surprise: the same IR gives other bits on another CPU, with no fastmath flag and no option in sight. float32's least
# normal number, 1.2e-38, is bfloat16's too, so a denormal has a bfloat16, and it is lost.
# With a KV cache: a bfloat16 cache written by code that LLVM compiled may hold 0 where another machine, ml_dtypes or
# torch holds a small number. Round by whole numbers where bits must agree.
# Seen 2026-11-29, Python 3.11.7, x86-64; the first number where the CPU has AVX512_BF16, the rest everywhere:
#   llvmlite 0.50.0, ml_dtypes 0.6.0: 1e-39 is 0x0000 by vcvtneps2bf16 and 0x000b by ml_dtypes
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile llvmlite==0.50.0 ml_dtypes==0.6.0 numpy==2.4.6
cat > "$dir/round.py" <<'EOF'
import ctypes

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np

SOURCE = """
define void @round(ptr %from, ptr %to) {
  %wide = load <16 x float>, ptr %from, align 4
  %narrow = fptrunc <16 x float> %wide to <16 x bfloat>
  store <16 x bfloat> %narrow, ptr %to, align 2
  ret void
}
"""
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
triple = "x86_64-unknown-linux-gnu"
for cpu, instruction in {"sapphirerapids": "vcvtneps2bf16", "skylake-avx512": "__truncsfbf2"}.items():
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    assert instruction in machine.emit_assembly(llvm.parse_assembly(SOURCE)), f"{cpu} no longer uses {instruction}"
small = np.full(16, 1e-39, np.float32)
print(f"{small.astype(ml_dtypes.bfloat16).view(np.uint16)[0]:#06x}", end=" ")
if llvm.get_process_triple().startswith("x86_64") and dict(llvm.get_host_cpu_features()).get("avx512bf16"):
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu="sapphirerapids", opt=3)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(SOURCE), machine)
    engine.finalize_object()
    found = np.ones(16, np.uint16)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("round"))
    call(small.ctypes.data, found.ctypes.data)
    print(f"{found[0]:#06x}", end="")
EOF
seen=$("$dir/venv/bin/python" -I "$dir/round.py" 2>&1) || true
case $seen in
    "0x000b 0x0000") what="1e-39 is 0x0000 by vcvtneps2bf16 and 0x000b by ml_dtypes" ;;
    "0x000b ") what="1e-39 is 0x000b by ml_dtypes; vcvtneps2bf16 is compiled but not run, this CPU lacks it" ;;
    *) echo "changed: $seen"; exit 1 ;;
esac
version() { "$dir/venv/bin/python" -I -c "import $1; print($1.__version__)"; }
echo "llvmlite $(version llvmlite), ml_dtypes $(version ml_dtypes): $what"
