"""Numba's part: from the engine's Python to an object file of this CPU. It runs in a Python of its own.

There Numba's settings are known, whatever NUMBA_* the user has set, and its memory, some 200 MB, ends with it. Where
LLVM aborts, it ends this process and not the user's.
"""

import importlib
import os
import sys

import llvmlite.binding as llvm

from .host import SYMBOL, link, target_machine, undefined

# What compiled code may call: the C library's functions, none of Python's and none of Numba's runtime.
LIBRARY = {"sched_yield", "memset", "memcpy", "memmove", "sqrt", "sqrtf", "erf", "erff"}


def module_of(source: str, variant: tuple[str, ...]):
    """The optimised LLVM module of an entry, "module:function", and the name of the entry's function in it."""
    from numba import njit, types

    module, _, function = source.partition(":")
    options = importlib.import_module(".functions", __package__).OPTIONS
    signature = types.int64(types.int64, types.int64)
    dispatcher = njit(signature, **options)(getattr(importlib.import_module(module), function)(*variant))
    (compiled,) = dispatcher.overloads.values()
    return llvm.parse_assembly(compiled.library.get_llvm_str()), compiled.fndesc.llvm_func_name


def only_one_symbol(module, name: str) -> None:
    """Call the entry SYMBOL, and hide all else that is defined."""
    known([found.name for found in module.functions if found.is_declaration])
    known([found.name for found in module.global_variables if found.is_declaration])
    for found in (*module.functions, *module.global_variables):
        if not found.is_declaration and found.name != name:
            found.linkage = "internal"
    module.get_function(name).name = SYMBOL


def known(names: list[str]) -> None:
    """See that compiled code calls the C library alone, and instructions that LLVM writes as functions."""
    strangers = [name for name in names if name not in LIBRARY and not name.startswith("llvm.")]
    assert not strangers, f"the engine calls {', '.join(strangers)}, which may not exist where Numba is not imported"


def compile_engine(source: str, variant: tuple[str, ...]) -> bytes:
    """An object file whose only symbol is the engine for a variant; see `forward.entry`."""
    module, name = module_of(source, variant)
    only_one_symbol(module, name)
    module.verify()
    code = target_machine(opt=3).emit_object(module)
    known(undefined(code))  # LLVM writes some instructions as calls
    link(code)
    return code


def main(source: str, variant: tuple[str, ...]) -> None:
    """Write the object file to standard output, which nothing else may write to meanwhile."""
    out = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    code = compile_engine(source, variant)
    with open(out, "wb") as file:
        file.write(code)
