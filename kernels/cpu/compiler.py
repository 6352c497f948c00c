"""Numba's part: from the engine's Python to an object file of this CPU. It runs in a Python of its own.

There Numba's settings are known, whatever NUMBA_* the user has set, and its memory, some 200 MB, ends with it. Where
LLVM aborts, it ends this process and not the user's.
"""

import gc
import importlib
import os
import sys
from typing import Any

import llvmlite.binding as llvm
from numba import njit, types
from numba.core.codegen import JITCodeLibrary
from numba.core.registry import cpu_target
from numba.core.runtime.nrt import rtsys

from .host import OBJECT_FOLLOWS, SYMBOL, link, target_machine, undefined

# What compiled code may call: the C library's functions, none of Python's and none of Numba's runtime.
LIBRARY = {"sched_yield", "memset", "memcpy", "memmove", "sqrt", "sqrtf", "erf", "erff", "tanh", "tanhf"}
SIGNATURE = types.int64(types.int64, types.int64)  # of an entry: see machine_code.Engine


class OnlyLowered(JITCodeLibrary):
    """A function's LLVM code as Numba writes it. All functions of the engine become one module, optimised once.

    Numba's own class optimises a function and makes it executable, and does so again within each one that calls it:
    10 instead of 5 s of CPU time for the engine, which runs as fast and gives the same bits.
    """

    def _optimize_final_module(self):
        pass

    def _finalize_specific(self):
        pass

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 1  # of the wrapper for Python, which nothing calls


def only_lower() -> None:
    """Have Numba compile so from now on. A version that calls these otherwise compiles as ever, only longer."""
    context: Any = cpu_target.target_context
    rtsys.initialize(context)  # Numba's runtime, which it does call
    codegen = context.codegen()
    codegen._library_class = OnlyLowered
    codegen._add_module = lambda module: None
    codegen.set_env = lambda name, value: None


def lowered(function, signature=SIGNATURE):
    """The LLVM module of a Python function, whose only symbol is SYMBOL."""
    options = importlib.import_module(".functions", __package__).OPTIONS
    (compiled,) = njit(signature, **options)(function).overloads.values()
    module = llvm.parse_assembly(compiled.library.get_llvm_str())
    module.get_function(compiled.fndesc.llvm_func_name).name = SYMBOL
    for found in (*module.functions, *module.global_variables):
        if not found.is_declaration and found.name != SYMBOL:
            found.linkage = "internal"
    return module


def optimise(module, machine) -> None:
    """LLVM's passes at their highest level, as Numba has them."""
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization, options.slp_vectorization = True, False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    module.verify()


def known(names: list[str]) -> None:
    """See that compiled code calls the C library alone, and instructions that LLVM writes as functions."""
    strangers = [name for name in names if name not in LIBRARY and not name.startswith("llvm.")]
    assert not strangers, f"the engine calls {', '.join(strangers)}, which may not exist where Numba is not imported"


def compile_engine(source: str, function: str, variant: tuple[str, ...]) -> bytes:
    """An object file whose only symbol is the engine for a variant; see `forward.entry`.

    source, function   the module and the name of what gives the entry
    """
    only_lower()
    entry = getattr(importlib.import_module(source), function)(*variant)
    module, machine = lowered(entry), target_machine(opt=3)
    optimise(module, machine)
    known([found.name for found in (*module.functions, *module.global_variables) if found.is_declaration])
    code = machine.emit_object(module)
    known(undefined(code))  # LLVM writes some instructions as calls
    link(code)
    return code


def main(source: str, function: str, variant: tuple[str, ...]) -> None:
    """Write the object file to standard output, which nothing else may write to meanwhile."""
    out = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    gc.disable()  # Numba makes objects by the million, few of them in circles: 5.0 instead of 5.7 s for its part
    code = compile_engine(source, function, variant)
    with open(out, "wb") as file:
        file.write(OBJECT_FOLLOWS + code)
