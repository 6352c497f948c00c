#!/usr/bin/env bash
# What: in llvmlite, llvm.add_symbol("name", address) makes a function known to MCJIT, and llvm.address_of_symbol finds it; a
# library of LLJIT that was given add_current_process() does not: link() raises "Failed to materialize symbols".
# Surprise: both are documented as the way to let compiled code call this process, and LLJIT is the successor of MCJIT. The
# symbol that is missing is named on standard error alone; the exception names the caller. import_symbol() finds it.
# With a JIT of kernels: whoever moves from MCJIT to LLJIT, for objects kept on disk, gives each library its addresses.
# Seen 2026-11-30, Python 3.11.7, CPU:
#   llvmlite 0.50.0: add_symbol: MCJIT calls it (42), LLJIT does not find it; import_symbol: LLJIT calls it (42)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile llvmlite==0.50.0
cat > "$dir/find.py" <<'EOF'
import ctypes
import sys

import llvmlite
import llvmlite.binding as llvm

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
prototype = ctypes.CFUNCTYPE(ctypes.c_int64)
answer = prototype(lambda: 42)
address = ctypes.cast(answer, ctypes.c_void_p).value
llvm.add_symbol("answer", address)
if llvm.address_of_symbol("answer") != address:
    sys.exit("changed: add_symbol does not add it")
text = "declare i64 @answer()\ndefine i64 @ask() {\n %r = call i64 @answer()\n ret i64 %r\n}\n"
target = llvm.Target.from_default_triple()
old = llvm.create_mcjit_compiler(llvm.parse_assembly(text), target.create_target_machine())
old.finalize_object()
found = prototype(old.get_function_address("ask"))()
new = llvm.create_lljit_compiler(target.create_target_machine(reloc="pic"))
try:
    llvm.JITLibraryBuilder().add_ir(text).add_current_process().export_symbol("ask").link(new, "one")
    sys.exit("changed: LLJIT finds what add_symbol added")
except RuntimeError as error:
    if "Failed to materialize symbols" not in str(error) or "answer" in str(error):
        sys.exit(f"changed: {error}")
library = llvm.JITLibraryBuilder().add_ir(text).import_symbol("answer", address).export_symbol("ask").link(new, "two")
imported = prototype(library["ask"])()
if (found, imported) != (42, 42):
    sys.exit(f"changed: {found}, {imported}")
print(
    f"llvmlite {llvmlite.__version__}: add_symbol: MCJIT calls it ({found}), LLJIT does not find it; "
    f"import_symbol: LLJIT calls it ({imported})"
)
EOF
cd "$dir" && "$dir/venv/bin/python" -I find.py 2> errors || { cat errors >&2; exit 1; }
