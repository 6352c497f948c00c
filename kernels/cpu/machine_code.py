"""The compiled engine: from memory, from the disk, or compiled for this CPU once; see code_cache.py and compiler.py.

Only the compiler needs Numba. A process that finds its engine on the disk imports llvmlite alone, LLVM's binding, which
takes 0.03 s, and hands it an object file.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from . import code_cache
from .code_cache import Unusable

ENTRY = "kvproof.kernels.cpu.forward:entry"
SOURCES = Path(__file__).parent
SYMBOL = "kvproof_engine"
NARROW = ("float32", "bfloat16", "float16")
X86 = ("x86_64", "amd64")
NEEDED = ("avx2", "fma")  # of an x86 CPU; vectors of 16 lanes and fused products are what the engine is made of
INSTEAD = "use impl='sdpa'"


class NoEngine(ImportError):
    """The engine cannot run here; the message says why, and what to use."""


class CompilerFailed(RuntimeError):
    """The engine could not be compiled; the message has the compiler's last words."""


class Variant(NamedTuple):
    """dtypes, by name: of weights, of biases, LayerNorms and positions, of the cache, and of sums."""

    weight: str
    param: str
    cache: str
    total: str


class Engine:
    """engine(address of a job, number of the thread), from any threads at once: the GIL is released meanwhile.

    origin   "disk" or "compiled"
    """

    def __init__(self, variant: Variant, code: bytes, origin: str):
        self.variant, self.origin, self._code = variant, origin, code
        self._linked, address = linked(code)  # the machine code lives as long as this
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._run = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, number, number)(address)

    def __call__(self, address: int, thread: int) -> None:
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        status = self._run(ctypes.byref(result), ctypes.byref(error), address, thread)
        assert status == 0, f"the engine for {self.variant} ended with status {status}"


LOADED: dict[Variant, Engine] = {}
LOCK = threading.Lock()


def load(variant: Variant, say: Callable[[str], None] | None = None) -> Engine:
    """The engine for these dtypes; the first time on a machine it is compiled, which takes some 10 s.

    say   is given each line that the user should see; None prints it on standard error

    Raises ValueError for dtypes that do not go together, NoEngine where it cannot run, CompilerFailed.
    """
    check(variant)
    with LOCK:
        if variant not in LOADED:
            if reason := available(variant):
                raise NoEngine(reason)
            LOADED[variant] = found(variant, say)
        return LOADED[variant]


def found(variant: Variant, say: Callable[[str], None] | None) -> Engine:
    """The engine from the disk, else compiled and kept there."""
    made_with = toolchain(variant)
    key = code_cache.key_of(made_with, SOURCES)
    path, keep, tell = None, None, say or (lambda text: print(f"kvproof: {text}", file=sys.stderr))
    try:
        path = code_cache.path_of(code_cache.folder(), variant, key)
        if (code := code_cache.read(path, key)) is not None:
            return Engine(variant, code, "disk")
    except Unusable as error:
        keep = str(error)
        if path is not None:
            tell(f"{error}; compiled anew")
    with progress(variant, say):
        code = compiled(variant)
    engine = Engine(variant, code, "compiled")
    try:
        if path is None:
            raise Unusable(keep)
        code_cache.write(path, key, made_with, code)
    except Unusable as error:
        place = "" if path is None else f" in {path.parent}"
        tell(
            f"cannot keep the compiled engine{place}: {error}; it is compiled again at each start; "
            "set KVPROOF_CACHE_DIR to a folder of yours"
        )
    return engine


def check(variant: Variant) -> None:
    """Raise ValueError unless the engine has such a variant."""
    floats = ("float64",) if variant.total == "float64" else NARROW
    fits = {"weight": (*floats, "int8"), "param": floats, "cache": (*floats, "int8"), "total": ("float32", "float64")}
    if any(getattr(variant, name) not in allowed for name, allowed in fits.items()):
        listed = "; ".join(f"{name} {', '.join(allowed)}" for name, allowed in fits.items())
        raise ValueError(f"{variant} is no engine of ours; what fits: {listed}; {INSTEAD}")


def available(variant: Variant | None = None) -> str | None:
    """Why the engine cannot run here, for any dtypes or for these; None if it can. Imports llvmlite, not Numba."""
    for name in ("numba", "llvmlite"):
        if not installed(name):
            return (
                f"impl 'numba' needs the package {name}, which is not installed here: pip install numba, or {INSTEAD}"
            )
    if sys.maxsize < 2**32:
        return f"impl 'numba' needs a 64-bit Python, and this one has 32 bits; {INSTEAD}"
    if not sys.executable or getattr(sys, "frozen", False):
        return f"impl 'numba' is compiled in a Python of its own, and sys.executable names none here; {INSTEAD}"
    needed = (*NEEDED, *(("f16c",) if variant and "float16" in variant else ()))
    if platform.machine().lower() in X86:
        features = cpu_features()
        if missing := [name for name in needed if f"+{name}" not in features.split(",")]:
            return f"impl 'numba' needs a CPU with {', '.join(missing)}, which this one ({cpu_name()}) lacks; {INSTEAD}"
    return None


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None and bool(importlib.metadata.version(package))
    except (ImportError, ValueError):  # PackageNotFoundError is an ImportError
        return False


def cpu_name() -> str:
    """What LLVM calls this CPU."""
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name()


def cpu_features() -> str:
    """What this CPU can do and cannot, "+avx2,-amx-tile,...", as LLVM wants it; empty where LLVM does not know."""
    import llvmlite.binding as llvm

    try:
        return llvm.get_host_cpu_features().flatten()
    except RuntimeError:
        return ""


def toolchain(variant: Variant) -> dict:
    """All that decides about the machine code beside the sources."""
    return {
        "entry": ENTRY,
        "variant": list(variant),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "machine": f"{sys.platform} {platform.machine()}",
        "cpu": cpu_name(),
        "features": cpu_features(),
        **{name: importlib.metadata.version(name) for name in ("kvproof", "numba", "llvmlite")},
    }


@contextmanager
def progress(variant: Variant, say: Callable[[str], None] | None) -> Iterator[None]:
    """Say that the engine is being compiled; on a terminal the line is completed with the seconds it took."""
    names = " + ".join(dict.fromkeys(variant))
    text = f"compiling the engine for this CPU, {names} (some 10 s, once)"
    screen = None if say is not None or sys.stderr is None or not sys.stderr.isatty() else sys.stderr
    if screen is None:
        (say or (lambda line: print(f"kvproof: {line}", file=sys.stderr)))(text)
    else:
        print(f"kvproof: {text} ...", end="", file=screen, flush=True)
    start = time.monotonic()
    try:
        yield
    finally:
        if screen is not None:
            print(f" {time.monotonic() - start:.0f} s", file=screen, flush=True)


def compiled(variant: Variant) -> bytes:
    """The object file, by a Python of its own: see compiler.py.  Raises CompilerFailed."""
    paths = [os.path.abspath(path) for path in sys.path]
    program = (
        f"import sys; sys.path[:] = {paths!r}\n"
        f"from {__package__}.compiler import main; main({ENTRY!r}, {list(variant)!r})"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment["NUMBA_DISABLE_INTEL_SVML"] = "1"  # its functions are only there while Numba is
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        stdin=subprocess.DEVNULL, capture_output=True, env=environment, cwd=SOURCES,
    )  # fmt: skip
    if run.returncode or not run.stdout:
        words = run.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise CompilerFailed(
            f"the engine for {variant} could not be compiled (exit status {run.returncode}): {words[-1]}; {INSTEAD}"
        )
    return run.stdout


def prepare(opt: int = 2):
    """LLVM made ready; returns its target machine for this CPU."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    static = "static" if platform.machine().lower() in X86 else "default"
    return target.create_target_machine(
        cpu=cpu_name(), features=cpu_features(), opt=opt, reloc=static, codemodel="jitdefault", jit=True
    )


def linked(code: bytes):
    """An object file in memory, executable: what keeps it there, and the engine's address."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), prepare())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(SYMBOL)
    assert address, f"the object file has no {SYMBOL}"
    return engine, address
