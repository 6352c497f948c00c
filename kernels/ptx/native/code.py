"""LLVM IR -> machine code of this CPU in this process, kept in the process and on the disk.

What a key stands for is compiled once for each version of the machine's source, of LLVM and of the CPU. At 2,000
instructions on vectors of 32 floats LLVM's second level costs twice the first, nearly all of it in a scheduler that
looks at whole blocks, and gives code of the same size; SROA does what matters before, since registers are allocas.
"""

import hashlib
import platform
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from . import disk

LEVEL = 1  # of code generation
PASSES = ("add_sroa_pass", "add_instruction_combine_pass", "add_simplify_cfg_pass")
MOST = 256  # kernels in the process
SOURCES = Path(__file__).parents[1]

compilations = 0  # of this process; what came from the disk does not count
_known: OrderedDict[str, "Code"] = OrderedDict()
_lock = threading.RLock()
_names = count()
_said: set[str] = set()


class Code:
    """Functions that lie in memory as long as this does: code["warp"] is the address of one.

    name  by which other code links to it
    """

    def __init__(self, name: str, tracker: Any, needs: tuple["Code", ...]):
        self.name, self.tracker, self.needs = name, tracker, needs

    def __getitem__(self, function: str) -> int:
        return self.tracker[function]


def compiled(key: bytes, write: Callable[[], list[str]], needs: tuple[Code, ...] = ()) -> Code:
    """The machine code of modules of LLVM IR that belong together.

    key    stands for the modules, but for what depends on the machine's own source; any length
    write  gives their IR; called where they are not at hand
    needs  code whose functions they call, beside each other's and libm's

    Raises what `write` raises; RuntimeError for IR that LLVM does not take and for functions that are nowhere.
    """
    digest = digest_of(key)
    with _lock:
        if digest not in _known:
            objects, names = disk.read(digest) or made(digest, write())
            _known[digest] = linked(objects, names, needs)
            if len(_known) > MOST:
                _known.popitem(last=False)
        _known.move_to_end(digest)
        return _known[digest]


def at_hand(key: bytes) -> bool:
    """Whether `compiled` would find this key in the process or, as it seems, on the disk."""
    digest = digest_of(key)
    try:
        return digest in _known or disk.path_of(digest).exists()
    except (OSError, RuntimeError):
        return False


def digest_of(key: bytes) -> str:
    return hashlib.sha256(setting() + key).hexdigest()


@cache
def setting() -> bytes:
    """A digest of all that machine code depends on beside what it is made from."""
    digest = hashlib.sha256(repr((llvmlite.__version__, llvm.llvm_version_info, *host(), LEVEL, PASSES)).encode())
    for path in sorted(SOURCES.rglob("*.py")):
        text = path.read_bytes()
        digest.update(f"\n{path.relative_to(SOURCES)} {len(text)}\n".encode() + text)
    return digest.digest()


@cache
def host() -> tuple[str, str, str]:
    """Platform, CPU and its features: vectors of 512 bits where it has them."""
    features = llvm.get_host_cpu_features()
    wide = ",-prefer-256-bit" if features.get("avx512f") else ""
    return f"{sys.platform} {platform.machine()}", llvm.get_host_cpu_name(), features.flatten() + wide


@cache
def target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    known, (_, cpu, features) = llvm.Target.from_default_triple(), host()
    return known.create_target_machine(cpu=cpu, features=features, opt=LEVEL, reloc="pic", codemodel="small")


@cache
def linker() -> Any:
    return llvm.create_lljit_compiler(target(), use_jit_link=True)


def made(digest: str, texts: list[str]) -> tuple[list[bytes], list[str]]:
    """Object files of modules, which are put on the disk, and what they define."""
    global compilations
    compilations += 1
    builder = llvm.create_pass_builder(target(), llvm.create_pipeline_tuning_options(LEVEL))
    passes = llvm.create_new_function_pass_manager()
    for name in PASSES:
        getattr(passes, name)()
    objects, names = [], []
    for text in texts:
        module = llvm.parse_assembly(text)
        module.verify()
        for function in module.functions:
            if not function.is_declaration:
                passes.run(function, builder)
                names += [function.name] if function.linkage == llvm.Linkage.external else []
        objects.append(target().emit_object(module))
    if why := disk.write(digest, objects, names):
        say(f"kvproof: machine code of the PTX machine is not kept for the next process: {why}")
    return objects, names


def linked(objects: list[bytes], names: list[str], needs: tuple[Code, ...]) -> Code:
    library, name = llvm.JITLibraryBuilder().add_current_process(), f"kvproof-{next(_names)}"
    for other in needs:
        library.add_jit_library(other.name)
    for found in objects:
        library.add_object_img(found)
    for function in names:
        library.export_symbol(function)
    return Code(name, library.link(linker(), name), needs)


def say(line: str) -> None:
    """Print a line on standard error, once per process: a warning would fail suites that take them for errors."""
    if line not in _said:
        _said.add(line)
        print(line, file=sys.stderr, flush=True)
