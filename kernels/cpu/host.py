"""This machine, as LLVM sees it: whether the engine can run here, and its machine code made executable."""

import importlib.metadata
import importlib.util
import platform
import struct
import sys

SYMBOL = "kvproof_engine"  # what an object file calls the engine
OBJECT_FOLLOWS = b"\nkvproof: an object file follows\n"  # in what the compiler prints: a sitecustomize may print, too
X86 = ("x86_64", "amd64")
NEEDED = ("avx2", "fma")  # of an x86 CPU: the engine is made of fused products of vectors
NEEDED_FOR_FLOAT16 = ("f16c",)
INSTEAD = "use impl='sdpa'"


class NoEngine(ImportError):
    """The engine cannot run here; the message says why, and what to use."""


def available(dtypes: tuple[str, ...] = ()) -> str | None:
    """Why an engine, of these dtypes if they are given, cannot run here; None if it can. Numba is not imported."""
    for name in ("numba", "llvmlite"):
        if not installed(name):
            return (
                f"impl 'numba' needs the package {name}, which is not installed here: pip install numba, or {INSTEAD}"
            )
    if sys.maxsize < 2**32:
        return f"impl 'numba' needs a 64-bit Python, and this one has 32 bits; {INSTEAD}"
    if not sys.executable or getattr(sys, "frozen", False):
        return f"impl 'numba' is compiled in a Python of its own, and this program has none; {INSTEAD}"
    try:
        features = cpu_features().split(",")
    except (ImportError, OSError) as error:
        return f"impl 'numba' needs llvmlite, which is installed but does not load here ({error}); {INSTEAD}"
    needed = (*NEEDED, *(NEEDED_FOR_FLOAT16 if "float16" in dtypes else ()))
    missing = [name for name in needed if f"+{name}" not in features]
    if missing and platform.machine().lower() in X86:
        return f"impl 'numba' needs a CPU with {', '.join(missing)}, which this one ({cpu_name()}) lacks; {INSTEAD}"
    return None


def installed(package: str) -> bool:
    """Whether there is such a package, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None and bool(importlib.metadata.version(package))
    except (ImportError, ValueError):  # ValueError: sys.modules holds a None in its place
        return False


def cpu_name() -> str:
    """What LLVM calls this CPU."""
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name()


def cpu_features() -> str:
    """What this CPU can and cannot do, "+avx2,-amx-tile,...", as LLVM takes it; empty where LLVM does not know."""
    import llvmlite.binding as llvm

    try:
        return llvm.get_host_cpu_features().flatten()
    except RuntimeError:
        return ""


def registers() -> str:
    """ "long": AVX-512's 32 vector registers of 64 bytes; "short": AVX2's 16 of 32, or NEON's 32 of 16."""
    return "long" if "+avx512f" in cpu_features().split(",") else "short"


def target_machine(opt: int):
    """LLVM's code generator for this CPU and this process, as Numba sets it up."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    static = "static" if platform.machine().lower() in X86 else "default"
    return target.create_target_machine(
        cpu=cpu_name(), features=cpu_features(), opt=opt, reloc=static, codemodel="jitdefault", jit=True
    )


def undefined(code: bytes) -> list[str]:
    """What an ELF object file calls and does not hold, by name; of other formats nothing is known."""
    import llvmlite.binding as llvm

    data = {section.name(): section.data() for section in llvm.ObjectFileRef.from_data(code).sections()}
    names, found = data.get(b".strtab", b""), []
    for start, _, _, section, _, _ in struct.iter_unpack("=IBBHQQ", data.get(b".symtab", b"")):
        if start and not section:
            found.append(names[start : names.index(b"\0", start)].decode())
    return found


def link(code: bytes):
    """An object file, made executable: what keeps it in memory, and the engine's address.

    Raises NoEngine where it calls what this process does not have: LLVM would link that to address 0.
    """
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(
        llvm.parse_assembly(""), target_machine(opt=2)
    )  # it opens this program's symbols
    if missing := [name for name in undefined(code) if llvm.address_of_symbol(name) is None]:
        raise NoEngine(f"impl 'numba' calls {', '.join(missing)}, which no library of this program has; {INSTEAD}")
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(SYMBOL)
    assert address, f"the object file has no {SYMBOL}"
    return engine, address
