"""An engine of a few lines, compiled in a second, in place of the real one, and a machine of its own for each test."""

from pathlib import Path

from kvproof.kernels.cpu import machine_code

VARIANT = machine_code.Variant("float32", "float32", "float32", "float32")
SOURCE = '''
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from kvproof.kernels.cpu.functions import OPTIONS

I64 = ir.IntType(64)

@intrinsic
def stranger(context, x):
    def generate(ctx, builder, signature, args):
        kind = ir.FunctionType(I64, [I64])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "no_such_function"), args)
    return types.int64(types.int64), generate

@intrinsic
def look(context, address):
    def generate(ctx, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)
    return types.int64(types.int64), generate

@njit(**OPTIONS)
def wait(address):
    """Until the number at an address is not 0; how often it was looked at, which ends somewhere."""
    looks = 0
    while look(address) == 0 and looks < 10**10:
        looks += 1
    return looks

def entry(weight, param, cache, total):
    def run(address, thread):
        return wait(address) if thread < 0 else address + thread
    return run

def with_a_list(*variant):
    def run(address, thread):
        return len([address] * thread)
    return run

def with_a_stranger(*variant):
    def run(address, thread):
        return stranger(address)
    return run

def let_strangers_in(*variant):
    from kvproof.kernels.cpu import compiler
    compiler.LIBRARY.add("no_such_function")
    return with_a_stranger()

def that_fails(*variant):
    raise MemoryError("no room for this engine")

def that_is_killed(*variant):
    import os
    os.kill(os.getpid(), 9)
'''


class Machine:
    """A stand-in for the engine's source, an empty cache on the disk, and what the user is told.

    code      the stand-in, compiled; None has it compiled each time
    compiled  how often it was compiled
    """

    def __init__(self, folder: Path, monkeypatch, code: bytes | None = None):
        self.sources, self.cache, self.said, self.compiled = folder / "sources", folder / "cache", [], 0
        self.monkeypatch, self.code = monkeypatch, code
        self.sources.mkdir(parents=True)
        (self.sources / "stand_in.py").write_text(SOURCE)
        monkeypatch.syspath_prepend(str(self.sources))
        monkeypatch.setattr(machine_code, "SOURCES", self.sources)
        monkeypatch.setattr(machine_code, "LOADED", {})
        monkeypatch.setenv("KVPROOF_CACHE_DIR", str(self.cache))
        self.enter("entry")
        by_compiler = machine_code.compiled

        def counted(variant):
            self.compiled += 1
            return by_compiler(variant) if self.code is None else self.code

        monkeypatch.setattr(machine_code, "compiled", counted)

    def enter(self, name: str):
        """Have another of the stand-in's functions compiled."""
        self.monkeypatch.setattr(machine_code, "ENTRY", ("stand_in", name))

    def load(self, variant=VARIANT) -> machine_code.Engine:
        """As a new process would; the lines that the user is told are in `said`, of this call alone."""
        machine_code.LOADED.clear()
        self.said.clear()
        engine = machine_code.load(variant, self.said.append)
        assert engine(40, 2) == 42
        return engine

    def entries(self) -> list[Path]:
        """The files in the cache."""
        return sorted(self.cache.rglob("*.engine"))

    def program(self, body: str) -> str:
        """A program for a process of its own, in which `load()` gives the stand-in's engine."""
        return (
            f"import sys; sys.path.insert(0, {str(self.sources)!r})\n"
            "from pathlib import Path\n"
            "from kvproof.kernels.cpu import machine_code\n"
            f"machine_code.ENTRY, machine_code.SOURCES = ('stand_in', 'entry'), Path({str(self.sources)!r})\n"
            f"load = lambda: machine_code.load(machine_code.Variant(*{tuple(VARIANT)!r}))\n{body}"
        )
