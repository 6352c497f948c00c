#!/usr/bin/env bash
# What: llvmlite links a call of a function that exists nowhere without a word: finalize_object returns, the caller has an
# address, and what it calls lies at address 0. And llvm.address_of_symbol, the way to ask beforehand, knows no symbol at
# all, not even the C library's, until a first execution engine has been made.
# Surprise: "symbols not found" ends a program in LLVM's own tools and in Numba; here the first call would. The check
# that prevents it refuses every symbol if it runs too early.
# With a KV cache: machine code kept on disk, as a compiled decode step is, may call what its compiler's process had and
# this one lacks (Numba's helpers, Intel's SVML). Make an engine, then ask for each undeclared function, then link.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   llvmlite 0.50.0: memcpy before the first engine None, after it known; a missing function is linked, its caller known
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile llvmlite==0.50.0
cat > "$dir/link.py" <<'EOF'
import llvmlite.binding as llvm

SOURCE = """
declare i64 @in_no_library(i64)
define i64 @caller(i64 %x) {
  %y = call i64 @in_no_library(i64 %x)
  ret i64 %y
}
"""
llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
early = llvm.address_of_symbol("memcpy")
engine = llvm.create_mcjit_compiler(llvm.parse_assembly(SOURCE), machine)
engine.finalize_object()  # no error; nothing here calls the function
known = bool(engine.get_function_address("caller"))
print(early, bool(llvm.address_of_symbol("memcpy")), llvm.address_of_symbol("in_no_library"), known)
EOF
seen=$("$dir/venv/bin/python" -I "$dir/link.py")
[ "$seen" = "None True None True" ] || { echo "changed: $seen"; exit 1; }
version=$("$dir/venv/bin/python" -I -c "import llvmlite; print(llvmlite.__version__)")
echo "llvmlite $version: memcpy before the first engine None, after it known; a missing function is linked, its caller known"
