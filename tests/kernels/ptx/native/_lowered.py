"""Instructions of the table compiled alone, over arrays, and held to their NumPy form bit by bit."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np

from kvproof.kernels.ptx import isa
from kvproof.kernels.ptx.native import ir, numpy_loops
from kvproof.kernels.ptx.native.lanes import I1, I64, WARP, Lanes, vector
from kvproof.kernels.ptx.native.table import pure
from kvproof.kernels.ptx.opcode import BITS

from .. import _truth as t

POINTER = ir.PointerType()
FORMS = ("vector", "scalar")
PAYLOADS = ("add", "sub", "mul", "fma")  # of two NaNs LLVM may take either


class Case(NamedTuple):
    """An instruction: its opcode, how many sources it is written with (0: as many as the table says), and those of them
    that are constants, by their place."""

    opcode: str
    operands: int = 0
    constants: tuple[tuple[int, int], ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        meaning = isa.semantics(self.opcode, None, self.operands)
        return (*meaning.sources, *(["pred"] if "in" in meaning.carry else []))

    @property
    def results(self) -> tuple[str, ...]:
        meaning = isa.semantics(self.opcode, None, self.operands)
        return (*meaning.results, *(["pred"] if "out" in meaning.carry else []))


def unsigned(kind: str) -> np.dtype:
    """The NumPy type of a whole register of a PTX type."""
    return np.dtype(np.bool_ if kind == "pred" else f"u{max(BITS[kind], 8) // 8}")


def machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(llvm.get_host_cpu_name(), features, opt=2)


class Lowered:
    """Cases compiled to machine code, once in vectors of 32 lanes and once in scalars.

    cases    opcodes, or Cases
    runtime  functions that compiled code calls by name: name -> what defines it in a module

    Raises Unlowered for an instruction that has no native form.
    """

    def __init__(self, cases: Sequence[str | Case], runtime: dict | None = None):
        self.cases = [Case(case) if isinstance(case, str) else case for case in cases]
        module = ir.Module("cases")
        for i, case in enumerate(self.cases):
            for form in FORMS:
                define(module, f"{form}.{i}", case, form)
        helpers = ir.Module("runtime")
        for name in [f.name for f in module.functions if f.is_declaration and f.name in (runtime or {})]:
            runtime[name](helpers)  # pyright: ignore[reportOptionalSubscript]
        compiler = machine()
        for name, address in numpy_loops.symbols().items():
            llvm.add_symbol(name, address)
        self.engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), compiler)
        for part in (module, helpers):
            self.engine.add_module(optimised(llvm.parse_assembly(str(part)), compiler))
        self.engine.finalize_object()

    def run(self, case: str | Case, form: str, *sources: np.ndarray) -> list[np.ndarray]:
        """Results for sources of (N,) patterns each, N a multiple of 32."""
        case = Case(case) if isinstance(case, str) else case
        n = len(sources[0])
        assert n % WARP == 0
        x = [np.ascontiguousarray(v) for v in sources]
        out = [np.empty(n, unsigned(kind)) for kind in case.results]
        address = self.engine.get_function_address(f"{form}.{self.cases.index(case)}")
        words = np.array([v.ctypes.data for v in (*x, *out)], np.int64)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address)(words.ctypes.data, n)
        return out

    def check(self, case: str | Case, *sources: np.ndarray) -> None:
        """Both forms give the NumPy form's bits; of a sum or product of float64, any NaN."""
        case = Case(case) if isinstance(case, str) else case
        x = list(sources)
        for i, number in case.constants:
            x[i] = np.full_like(x[i], number)
        with np.errstate(all="ignore"):
            want = isa.semantics(case.opcode, None, case.operands).function(*(v[None] for v in x))
        want = [np.broadcast_to(v, (1, len(x[0])))[0] for v in (want if isinstance(want, tuple) else (want,))]
        for form in FORMS:
            for mine, true, kind in zip(self.run(case, form, *x), want, case.results, strict=True):
                wrong = mine != true
                if kind == "f64" and case.opcode.split(".")[0] in PAYLOADS:
                    wrong &= ~(np.isnan(mine.view(np.float64)) & np.isnan(true.view(np.float64)))
                at = np.flatnonzero(wrong)[:1]
                *given, got, due = [[hex(int(v[i])) for i in at] for v in (*x, mine, true)]
                assert not wrong.any(), f"{case} {form}: {wrong.sum()} wrong, of {given} {got}, not {due}"


def optimised(module: Any, compiler: Any) -> Any:
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_unrolling = options.loop_vectorization = options.loop_interleaving = False
    llvm.create_pass_builder(compiler, options).getModulePassManager().run(
        module, llvm.create_pass_builder(compiler, options)
    )
    return module


def define(module: ir.Module, name: str, case: Case, form: str) -> None:
    """A loop over arrays: name(addresses of sources and results, elements)."""
    f = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I64]), name)
    entry, body, end = (f.append_basic_block(x) for x in ("entry", "body", "end"))
    b = ir.IRBuilder(entry)
    _, write = pure(case.opcode, case.operands)
    kinds = (*case.sources, *case.results)
    base = [b.load(b.gep(f.args[0], [I64(i)], source_etype=POINTER), typ=POINTER) for i in range(len(kinds))]
    b.branch(body)
    b = ir.IRBuilder(body)
    L, i = Lanes(b), b.phi(I64)
    widths = [ir.IntType(max(8, BITS[kind])) for kind in kinds]
    at = [b.gep(p, [i], source_etype=w) for p, w in zip(base, widths, strict=True)]
    values, constants = [], dict(case.constants)
    for n, kind in enumerate(case.sources):
        shape = vector(widths[n]) if form == "vector" else widths[n]
        value = L.const(shape, constants[n]) if n in constants else b.load(at[n], typ=shape, align=1)
        values.append(L.cast("trunc", value, I1) if kind == "pred" else value)
    for result, to, kind in zip(write(L, values), at[len(values) :], case.results, strict=True):
        b.store(L.cast("zext", result, widths[-1]) if kind == "pred" else result, to, align=1)
    after = b.add(i, I64(WARP if form == "vector" else 1))
    b.cbranch(b.icmp_unsigned("<", after, f.args[1]), body, end)
    i.add_incoming(I64(0), entry)
    i.add_incoming(after, b.block)
    ir.IRBuilder(end).ret_void()


def edges(kind: str) -> np.ndarray:
    """Zeros, ones, subnormals, ties, largest numbers, infinities and NaNs of a float format; of integers, the ends."""
    kind, size = kind.removesuffix("x2"), t.width(kind.removesuffix("x2"))
    sign = 1 << size - 1
    if kind not in t.SHAPE:
        return np.array([0, 1, 2, sign - 1, sign, sign + 1, 2 * sign - 1][: 2 * sign], unsigned(kind))
    e, f = t.SHAPE[kind]
    one, infinity, unit = (1 << e - 1) - 1 << f, (1 << e) - 1 << f, 1 << f
    plain = [0, 1, unit // 2, unit - 1, unit, unit + 1, one - 1, one, one + 1, one + unit // 2, one + unit - 1]
    plain += [
        one - (f + 1) * unit,
        one - (f + 1) * unit + 1,
        infinity - 1,
        infinity,
        infinity + 1,
        infinity + unit // 2,
    ]
    return np.array([x | s for x in plain for s in (0, sign)], unsigned(kind))


def samples(case: str | Case, n: int = 512) -> list[np.ndarray]:
    """Sources for a case, (N,) each: all edges with all others, then random ones; all of a single one of 16 bits."""
    case = Case(case) if isinstance(case, str) else case
    rng = np.random.default_rng(sum(map(ord, case.opcode)))
    if len(case.sources) == 1 and BITS[case.sources[0]] <= 16 and case.sources[0] != "pred":
        return [np.arange(1 << BITS[case.sources[0]]).astype(unsigned(case.sources[0]))]
    grid = [v.ravel() for v in np.meshgrid(*(edges(kind) for kind in case.sources))]
    out = []
    for kind, corner in zip(case.sources, grid, strict=True):
        if kind.endswith("x2"):  # with a random one beside it
            half = corner.astype(unsigned(kind))
            corner = half << unsigned(kind).type(BITS[kind] // 2) | rng.permutation(half)
        random = rng.integers(0, 1 << min(BITS[kind], 63), n).astype(unsigned(kind))
        drawn = t.samples(kind, n + -len(corner) % WARP, rng).astype(unsigned(kind))
        out.append(np.concatenate([corner.astype(unsigned(kind)), random, drawn]))
    return out


def check_all(opcodes: Sequence[str], runtime: dict | None = None) -> None:
    """Hold every opcode to its NumPy form, on its samples."""
    lowered = Lowered(opcodes, runtime)
    for opcode in opcodes:
        lowered.check(opcode, *samples(opcode))
