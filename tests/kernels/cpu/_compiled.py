"""Small compiled functions around the engine's own, called on NumPy arrays; and arrays that end where memory ends."""

import ctypes
import importlib
import mmap
import re
import shutil
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ml_dtypes
import numpy as np
from numba import types
from numba.core.registry import cpu_target

from kvproof.kernels.cpu import compiler, host

CPU = Path(__file__).parents[3] / "kernels" / "cpu"
FILES = (
    *(
        "vectors",
        "pointers",
        "memory",
        "functions",
        "linear",
        "attention",
        "forward",
        "phases",
        "job",
        "engine",
        "team",
    ),
)
DTYPES = {
    "float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16,
    "int8": np.int8,
}  # fmt: skip
INTEGER, FLOAT = types.int64, types.float64
CTYPES = {INTEGER: ctypes.c_int64, FLOAT: ctypes.c_double}


def sums(dtype: str) -> str:
    """The dtype that an engine for this one computes in."""
    return "float64" if dtype == "float64" else "float32"


def compiled(function, *arguments):
    """A function of these Numba types, or of int64, one for each of its arguments, compiled now as the engine is."""
    kinds, context = arguments or (INTEGER,) * function.__code__.co_argcount, cast("Any", cpu_target.target_context)
    codegen = context.codegen()
    before = {**vars(codegen)}
    compiler.only_lower()
    try:
        module = compiler.lowered(function, INTEGER(*kinds))
    finally:  # other code of this process that Numba compiles is compiled as ever
        vars(codegen).clear()
        vars(codegen).update(before)
    machine = host.target_machine(opt=3)
    compiler.optimise(module, machine)
    linked, entry = host.link(machine.emit_object(module))
    run = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 2, *[CTYPES[kind] for kind in kinds])(entry)

    def call(*values):
        result, raised = ctypes.c_int64(), ctypes.c_void_p()
        assert not run(ctypes.byref(result), ctypes.byref(raised), *values), "it raised"
        return result.value

    call.linked = linked  # the machine code lives as long as this
    return call


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy whose last byte is the last before a page that ends the process if it is touched."""
    size, page = max(array.nbytes, 1), mmap.PAGESIZE
    whole = -(-size // page) * page
    memory = mmap.mmap(-1, whole + page)
    buffer = np.frombuffer(memory, np.uint8)
    failed = ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address(buffer) + whole), page, 0)
    assert not failed, "mprotect"
    copy = buffer[whole - array.nbytes : whole].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Stale(AssertionError):
    """A planted text that does not stand once in its file."""


def edited(file: str, old: str, new: str) -> str:
    text = (CPU / f"{file}.py").read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise Stale(f"{old!r} occurs {text.count(old)} times in {file}.py")
    return text.replace(old, new)


@cache
def engine_modules() -> SimpleNamespace:
    """The files of kernels/cpu, by name."""
    return SimpleNamespace(**{name: importlib.import_module(f"kvproof.kernels.cpu.{name}") for name in FILES})


@contextmanager
def planted(folder: Path, *edits: tuple[str, str, str]):
    """The files of kernels/cpu, by name, imported from a copy in an empty folder with edits (file, old, new)."""
    package = re.sub(r"\W", "_", f"planted_{folder.name}")
    shutil.copytree(CPU, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in edits:
        (folder / package / f"{file}.py").write_text(edited(file, old, new), encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        machine_code: Any = importlib.import_module(f"{package}.machine_code")
        machine_code.ENTRY, machine_code.COMPILER = (f"{package}.forward", "entry"), f"{package}.compiler"
        yield SimpleNamespace(**{name: importlib.import_module(f"{package}.{name}") for name in FILES})
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]
