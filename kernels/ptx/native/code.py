"""LLVM IR -> machine code of this CPU in this process, kept in the process and on the disk.

What a key stands for is compiled once for each version of the machine's source, of LLVM and of the CPU. Our decode
kernel, 917 instructions, takes 0.04 s to write and 0.07 s to compile, at level 1 0.25 s; its launch then takes as long,
since the runtime is at level 1, a product of matrices a tenth longer, random numbers half as long again. LLVM's second
level gives code of the same size, and where blocks are long takes twice as long, nearly all of it in one scheduler.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from ..progress import say
from . import disk, numpy_loops

LEVELS = 1, 0
PASSES = ("add_sroa_pass",), ("add_sroa_pass", "add_instruction_combine_pass", "add_simplify_cfg_pass")  # by level
MOST = 256  # kernels in the process
SOURCES = Path(__file__).parents[1]

compilations = 0  # of this process; what came from the disk does not count
_known: OrderedDict[str, "Code"] = OrderedDict()
_lock = threading.RLock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_numbers = count()


class Code:
    """Functions that lie in memory as long as this does: code["warp"] is the address of one."""

    def __init__(self, library: Any, needs: tuple["Code", ...]):
        self.library, self.needs = library, needs

    def __getitem__(self, function: str) -> int:
        return self.library[function]


def compiled(key: bytes, write: Callable[[], list[str]], needs: tuple[Code, ...] = (), level: int = 0) -> Code:
    """The machine code of modules of LLVM IR that belong together.

    key    stands for the modules, but for what depends on the machine's own source; of any length
    write  gives their IR; called where the code is not at hand
    needs  code whose functions they call, beside each other's, libm's and NumPy's loops
    level  the least of LLVM's code generation that will do; functions are inlined from 1 on

    Raises what `write` raises; RuntimeError for IR that LLVM does not take and for functions that are nowhere.
    """
    digests = [digest_of(key, n) for n in LEVELS if n >= level]
    with _lock:
        digest = next((x for x in digests if x in _known), "")
        if not digest:
            digest, found = next(((x, found) for x in digests if (found := disk.read(x))), (digests[-1], None))
            _known[digest] = linked(*(found or made(digest, write(), level)), needs)
            if len(_known) > MOST:
                _known.popitem(last=False)
        _known.move_to_end(digest)
        return _known[digest]


def at_hand(key: bytes) -> bool:
    """Whether `compiled` finds the code in the process or, as it seems, on the disk."""
    digests = [digest_of(key, n) for n in LEVELS]
    try:
        return any(x in _known for x in digests) or any(disk.path_of(x).exists() for x in digests)
    except (OSError, RuntimeError):
        return False


@lru_cache(maxsize=1024)
def digest_of(key: bytes, level: int = 0) -> str:
    return hashlib.sha256(surroundings() + bytes([level]) + key).hexdigest()


@cache
def surroundings() -> bytes:
    """A digest of all that machine code depends on beside what it is made from."""
    loops = [name for name, address in numpy_loops.symbols().items() if address]
    versions = llvmlite.__version__, np.__version__, llvm.llvm_version_info
    known = *versions, llvm.get_process_triple(), *cpu(), PASSES, loops
    digest = hashlib.sha256(repr(known).encode())
    for path in sorted(SOURCES.rglob("*.py")):
        text = path.read_bytes()
        digest.update(f"\n{path.relative_to(SOURCES)} {len(text)}\n".encode() + text)
    return digest.digest()


@cache
def cpu() -> tuple[str, str]:
    """This CPU and its features: vectors of 512 bits where it has them."""
    features = llvm.get_host_cpu_features()
    return llvm.get_host_cpu_name(), features.flatten() + ",-prefer-256-bit" * bool(features.get("avx512f"))


@cache
def target(level: int) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = cpu()
    known = llvm.Target.from_triple(llvm.get_process_triple())
    return known.create_target_machine(cpu=name, features=features, opt=level, reloc="pic", codemodel="small")


@cache
def linker() -> Any:
    return llvm.create_lljit_compiler(target(1), use_jit_link=True)


def made(digest: str, texts: list[str], level: int = 0) -> tuple[bytes, list[str]]:
    """The object file of modules, which goes to the disk, and the names that it defines."""
    global compilations
    compilations += 1
    machine, passes = target(level), llvm.create_new_function_pass_manager()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(level))
    for name in PASSES[level]:
        getattr(passes, name)()
    module, *others = map(llvm.parse_assembly, texts)
    for other in others:
        module.link_in(other)
    module.verify()
    if level:
        inliner = llvm.create_new_module_pass_manager()
        inliner.add_always_inliner_pass()
        inliner.run(module, builder)
    functions = [x for x in module.functions if not x.is_declaration]
    for function in functions:
        passes.run(function, builder)
    names = [x.name for x in functions if x.linkage == llvm.Linkage.external]
    code = machine.emit_object(module)
    if why := disk.write(digest, code, names):
        say(f"machine code of the PTX machine is not kept for later processes: {why}")
    return code, names


def linked(code: bytes, names: list[str], needs: tuple[Code, ...]) -> Code:
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for other in needs:
        builder.add_jit_library(other.library.name)
    for name in names:
        builder.export_symbol(name)
    for name, address in numpy_loops.symbols().items():
        builder.import_symbol(name, address)
    return Code(builder.link(linker(), f"kvproof-{next(_numbers)}"), needs)
