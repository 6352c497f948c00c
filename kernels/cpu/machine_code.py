"""The compiled engine for a combination of dtypes: from memory, from the disk, or compiled for this CPU once.

Only the compiler needs Numba, and runs in a Python of its own. A process that finds its engine on the disk imports
llvmlite, LLVM's binding, which takes 0.03 s, and has it link an object file.
"""

import ctypes
import importlib.metadata
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
from .host import INSTEAD, OBJECT_FOLLOWS, NoEngine, available, cpu_features, cpu_name, link

__all__ = ["AttentionVariant", "CompilerFailed", "Engine", "NoEngine", "Variant", "available", "load"]

ENTRY = ("kvproof.kernels.cpu.forward", "entry")  # what is compiled: a module and its function
ATTENTION_ENTRY = ("kvproof.kernels.cpu.grouped_attention", "entry")  # for an AttentionVariant
COMPILER = "kvproof.kernels.cpu.compiler"
SOURCES = Path(__file__).parent


class Variant(NamedTuple):
    """dtypes, by name: of weights, of biases, LayerNorms and positions, of the cache, and of sums."""

    weight: str
    param: str
    cache: str
    total: str


class AttentionVariant(NamedTuple):
    """dtypes, by name, of the attention over other models' caches: of keys and values, and of sums."""

    cache: str
    total: str


class CompilerFailed(RuntimeError):
    """The engine could not be compiled; the message says why, in the compiler's last words."""

    def __init__(self, variant: Variant | AttentionVariant, why: str):
        super().__init__(f"the engine for {', '.join(variant)} could not be compiled: {why}; {INSTEAD}")


class Engine:
    """engine(address of a job, number of the thread), from any threads at once: the GIL is released meanwhile.

    origin   "disk" or "compiled";  code: the object file
    """

    def __init__(self, variant: Variant | AttentionVariant, code: bytes, origin: str):
        self.variant, self.origin, self.code = variant, origin, code
        self._linked, address = link(code)  # the machine code lives as long as this
        # Numba's convention: the result and what was raised go through pointers, a status is returned.
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._run = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, number, number)(address)

    def __call__(self, address: int, thread: int) -> int:
        result, raised = ctypes.c_int64(), ctypes.c_void_p()
        status = self._run(ctypes.byref(result), ctypes.byref(raised), address, thread)
        assert status == 0, f"the engine for {self.variant} ended with status {status}"
        return result.value


LOADED: dict[Variant | AttentionVariant, Engine] = {}
LOCK = threading.Lock()


def load(variant: Variant | AttentionVariant, say: Callable[[str], None] | None = None) -> Engine:
    """The engine for these dtypes; the first time on a machine it is compiled, which takes some 10 s.

    say   is given each line that the user should see; None prints it on standard error

    Raises ValueError for dtypes that do not go together, NoEngine where it cannot run, CompilerFailed.
    """
    if isinstance(variant, Variant):
        check(variant)
    with LOCK:
        if variant not in LOADED:
            if reason := available(variant):
                raise NoEngine(reason)
            LOADED[variant] = from_disk(variant, say or print_line) or from_compiler(variant, say)
        return LOADED[variant]


def check(variant: Variant) -> None:
    """Raise ValueError unless the engine has such a variant."""
    floats = ("float64",) if variant.total == "float64" else ("float32", "bfloat16", "float16")
    fits = {"weight": (*floats, "int8"), "param": floats, "cache": (*floats, "int8"), "total": ("float32", "float64")}
    if any(getattr(variant, name) not in dtypes for name, dtypes in fits.items()):
        came = ", ".join(f"{name} {dtype}" for name, dtype in variant._asdict().items())
        listed = "; ".join(f"{name} {', '.join(dtypes)}" for name, dtypes in fits.items())
        raise ValueError(f"impl 'numba' has no engine for {came}; what fits: {listed}; {INSTEAD}")


def entry_of(variant: Variant | AttentionVariant) -> tuple[str, str]:
    """The module, and its function, that gives what is compiled for a variant."""
    return ENTRY if isinstance(variant, Variant) else ATTENTION_ENTRY


def made_with(variant: Variant | AttentionVariant) -> dict:
    """All that decides about the machine code, beside the sources."""
    return {
        "entry": entry_of(variant),
        "variant": list(variant),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "machine": f"{sys.platform} {platform.machine()}",
        "cpu": cpu_name(),
        "features": cpu_features(),
        **{name: importlib.metadata.version(name) for name in ("kvproof", "numba", "llvmlite")},
    }


def from_disk(variant: Variant | AttentionVariant, tell: Callable[[str], None]) -> Engine | None:
    """The engine as it was kept; None if there is none to be used."""
    key = code_cache.key_of(made_with(variant), SOURCES)
    try:
        code = code_cache.read(code_cache.path_of(variant, key), key)
    except Unusable as error:
        tell(f"{error}; the engine is compiled anew")
        return None
    return None if code is None else Engine(variant, code, "disk")


def from_compiler(variant: Variant | AttentionVariant, say: Callable[[str], None] | None) -> Engine:
    """The engine, compiled and, where that is possible, kept."""
    made = made_with(variant)
    key = code_cache.key_of(made, SOURCES)  # before: sources may be edited meanwhile
    with progress(variant, say):
        engine = Engine(variant, compiled(variant), "compiled")
    try:
        code_cache.write(code_cache.path_of(variant, key), key, made, engine.code)
    except Unusable as error:
        (say or print_line)(
            f"cannot keep the compiled engine: {error}; it is compiled again at each start; "
            "set KVPROOF_CACHE_DIR to a folder that only you can write to"
        )
    return engine


def compiled(variant: Variant | AttentionVariant) -> bytes:
    """The object file, by a Python of its own: see compiler.py.  Raises CompilerFailed."""
    paths = [os.path.abspath(path) for path in sys.path]
    words = f"*{entry_of(variant)!r}, {tuple(variant)!r}"
    program = f"import sys; sys.path[:] = {paths!r}\nfrom {COMPILER} import main; main({words})"
    theirs = ("NUMBA_", "LLVMLITE_")  # settings for other code that the user compiles
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environment["NUMBA_DISABLE_INTEL_SVML"] = "1"  # its functions are there only while Numba is
    command = [sys.executable, "-W", "ignore", "-c", program]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, cwd=SOURCES)
    except OSError as error:  # no memory for a process, or no right to run this Python
        raise CompilerFailed(variant, f"{sys.executable} does not start: {error.strerror}") from error
    _, begun, code = run.stdout.partition(OBJECT_FOLLOWS)
    if run.returncode or not begun:
        lines = [line.strip() for line in run.stderr.decode(errors="replace").splitlines() if line.strip()]
        killed = f"signal {-run.returncode} ended it, as when memory runs out"
        raise CompilerFailed(variant, killed if run.returncode < 0 else (lines or ["the compiler said nothing"])[-1])
    return code


def print_line(text: str, end: str = "\n") -> None:
    """Tell the user something."""
    if sys.stderr is not None:
        print(f"kvproof: {text}", end=end, file=sys.stderr, flush=True)


@contextmanager
def progress(variant: Variant | AttentionVariant, say: Callable[[str], None] | None) -> Iterator[None]:
    """Say that the engine is being compiled; a terminal's line is completed with the seconds it took."""
    text = f"compiling the engine for this CPU, {' + '.join(dict.fromkeys(variant))} (some 10 s, once)"
    screen = sys.stderr if say is None and sys.stderr is not None and sys.stderr.isatty() else None
    if screen is None:
        (say or print_line)(text)
    else:
        print_line(text, end="")
    start = time.monotonic()
    try:
        yield
    finally:
        if screen is not None:
            print(f": {time.monotonic() - start:.0f} s", file=screen, flush=True)
