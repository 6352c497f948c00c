"""What a warp does together, as machine code, held to warp.py: results, and that all it refuses is suspect."""

import ctypes
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
import pytest

from kvproof.kernels.ptx import warp as true
from kvproof.kernels.ptx.forms import parts_of
from kvproof.kernels.ptx.native import ir, warp
from kvproof.kernels.ptx.native.lanes import I1, I32, I64, WARP, Lanes, vector
from kvproof.kernels.ptx.native.plan import uniform
from kvproof.kernels.ptx.opcode import BITS
from kvproof.kernels.ptx.parse import Immediate, Instruction, Symbol, operand, split_operands

from .. import _text
from ._lowered import machine, optimised

POINTER = ir.PointerType()
KINDS = {"a": "b32", "b": "b32", "c": "b32", "d": "b64", "p": "pred", "m": "b32"}  # of registers that are read
PLACES = (0xFFFFFFFF, 0xFFFF0000, 0x0000FFFF, 0x55555555, 1 << 31, 0x80000001)
LIMITS = [(0, 31), (1, 31), (16, 31), (31, 31), (3, 0), (1, 0x1C1F), (9, 0x1803), (40, 0x101F), (2**32 - 1, 2**32 - 1)]
FREE = ("%b, 31", "%b, 7199", "%b, %c", "5, %c")
TEXTS = [
    *(f"shfl.sync.{m}.b32 %o|%q, %a, {b}, {c}, -1" for m, (b, c) in product(("up", "down", "bfly", "idx"), LIMITS)),
    *(f"shfl.sync.{m}.b32 %o|%q, %a, {x}, -1" for m in ("up", "down", "bfly", "idx") for x in FREE),
    *(f"vote.sync.{m}.pred %q, {x}, -1" for m, x in product(("all", "any", "uni"), ("%p", "!%p"))),
    "vote.sync.ballot.b32 %o, %p, -1", "activemask.b32 %o", "elect.sync %o|%q, -1",
    *(f"redux.sync.{operation} %o, %a, -1" for operation in true.REDUX),
    *(f"redux.sync.{m}{x}.f32 %o, %a, -1" for m, x in product(("min", "max"), ("", ".abs", ".NaN", ".abs.NaN"))),
    *(f"match.{m}.sync.{x} %o|%q, -1" for m, x in product(("any", "all"), ("b32 %a", "b64 %d"))),
]  # fmt: skip
TEXTS = [t.replace("b32 %a %o|%q", "b32 %o|%q, %a").replace("b64 %d %o|%q", "b64 %o|%q, %d") for t in TEXTS]


class Case(NamedTuple):
    """An instruction; the registers that are one number for all lanes; whether it is known that all lanes are on."""

    text: str
    scalars: str
    everybody: bool

    @property
    def instruction(self) -> Instruction:
        opcode, _, rest = self.text.partition(" ")
        return Instruction(opcode, tuple(operand(x, {}) for x in split_operands(rest)), None, 1, ())


class Stand:
    """A stand-in for the writer: registers %a ... are read from arrays and %o and %q written to them."""

    def __init__(self, module: ir.Module, name: str, case: Case):
        f = ir.Function(module, ir.FunctionType(I32, [POINTER, I32]), name)
        self.f, self.case, self.b = f, case, ir.IRBuilder(f.append_basic_block())
        self.L = Lanes(self.b)
        self.on = I32(0xFFFFFFFF) if case.everybody else f.args[1]
        warp.LOWER[next(k for k in sorted(warp.LOWER, reverse=True) if case.text.startswith(k))](self, case.instruction)
        self.b.ret(I32(0))

    def place(self, name: str) -> Any:
        return self.b.load(self.b.gep(self.f.args[0], [I64("abcdpmoq".index(name))], source_etype=POINTER), typ=POINTER)

    def read(self, x: Any, kind: str) -> Any:
        if isinstance(x, Immediate):
            return I32(x.bits & 0xFFFFFFFF)
        name = x.name.strip("%")
        one = ir.IntType(BITS[KINDS[name]])
        bits = I32 if kind == "pred" else one
        value = self.b.load(self.place(name), typ=bits if name in self.case.scalars else vector(bits), align=4)
        value = self.L.cast("trunc", value, I1) if kind == "pred" else value
        return self.b.not_(value) if x.negated else value

    def write(self, x: Any, kind: str, value: Any) -> None:
        if not isinstance(x, Symbol):
            self.b.store(self.L.splat(self.L.resize(value, 32)), self.place(x.name.strip("%")), align=4)

    def bail(self, condition: Any) -> None:
        with self.b.if_then(condition):
            self.b.ret(I32(1))


@cache
def cases() -> dict[Case, str]:
    shapes = ("", "m", "am", "bcm", "abcdpm")
    found = [Case(text, scalars, everybody) for text in TEXTS for scalars in shapes[::2] for everybody in (False, True)]
    masked = [text.removesuffix("-1") + "%m" for text in TEXTS if text.endswith("-1")]
    found += [Case(text, scalars, False) for text in masked for scalars in shapes]
    return {case: f"case.{n}" for n, case in enumerate(found)}


@cache
def engine() -> Any:
    module, helpers, compiler = ir.Module("cases"), ir.Module("runtime"), machine()
    for case, name in cases().items():
        Stand(module, name, case)
    for define in warp.RUNTIME.values():
        define(helpers)
    made = llvm.create_mcjit_compiler(llvm.parse_assembly(""), compiler)
    for part in (module, helpers):
        made.add_module(optimised(llvm.parse_assembly(str(part)), compiler))
    made.finalize_object()
    return made


def run(case: Case, values: dict[str, np.ndarray], on: int) -> tuple[bool, SimpleNamespace]:
    """Whether it is suspect, and its results o and q, (32,) uint32."""
    arrays = [np.ascontiguousarray(values[name].astype(np.uint32 if name != "d" else np.uint64)) for name in "abcdpm"]
    arrays += [np.zeros(WARP, np.uint32), np.zeros(WARP, np.uint32)]
    words = np.array([x.ctypes.data for x in arrays], np.int64)
    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)(engine().get_function_address(cases()[case]))
    return bool(call(words.ctypes.data, on)), SimpleNamespace(o=arrays[-2], q=arrays[-1])


def expected(case: Case, values: dict[str, np.ndarray], on: int) -> tuple[bool, list]:
    """Whether the NumPy form refuses, and its results in the order of the operands, (32,) each."""
    i, active = case.instruction, lanes_of(on)[None]
    active = None if active.all() else active
    family, *parts = i.opcode.split(".")

    def value(x: Any, kind: Any = np.uint32) -> Any:
        if isinstance(x, Immediate):
            return np.full((1, 1), x.bits & 0xFFFFFFFF, np.uint32)
        found = values[x.name.strip("%")][None].astype(kind)
        return ~found if x.negated else found

    refused = family != "activemask" and true.absent(value(i.operands[-1]), active, WARP).any()
    if family == "shfl":
        a, b, c = map(value, i.operands[1:4])
        *results, inactive = true.shfl(parts[1], a, b, c, active, WARP)
        refused |= inactive.any()
    elif family == "vote":
        results = [true.vote(parts[1], value(i.operands[1], bool), active)]
    elif family == "redux":
        results = [true.redux(i.opcode.removeprefix("redux.sync."), value(i.operands[1]), active)]
    elif family == "match":
        results = true.match(parts[0], value(i.operands[1], np.uint32 if parts[2] == "b32" else np.uint64), active)
    else:
        results = true.elect(active, WARP) if family == "elect" else [true.activemask(active)]
    return bool(refused), [np.broadcast_to(x, (1, WARP))[0] for x in results]


def lanes_of(on: int) -> np.ndarray:
    return (on >> np.arange(WARP) & 1).astype(bool)


def inputs(case: Case, rng: Any, on: int) -> dict[str, np.ndarray]:
    """Register values, alike or not, some of them floats' corners; the member mask names those on, or others."""
    floats = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x3F800000, 0xBF800000], np.uint64)
    few = rng.integers(3, size=WARP).astype(np.uint64)
    pool = [few, floats[rng.integers(8, size=WARP)], rng.integers(1 << 32, size=WARP, dtype=np.uint64), few * 0 + 7]
    a = pool[rng.integers(4)]
    values = {
        "a": a, "b": rng.choice([1, 8, 31, 37, 1 << 31], WARP), "c": rng.choice([31, 0, 0x1C1F, 0x1003], WARP),
        "d": a | a << np.uint64(32), "p": rng.integers(2, size=WARP) if rng.random() < 0.5 else a * 0 + rng.integers(2),
        "m": np.where(rng.random(WARP) < rng.choice([0, 0.1]), 0xFFFF, on),
    }  # fmt: skip
    return {name: np.full_like(x, x[0]) if name in case.scalars else x for name, x in values.items()}


@pytest.mark.parametrize("family", sorted({text.split(" ")[0] for text in TEXTS}))
def test_results_and_suspicion_are_those_of_the_numpy_form(family):
    rng, accepted = np.random.default_rng(0), 0
    for case in cases():
        if case.text.split(" ")[0] != family:
            continue
        for on in PLACES[:1] * 3 if case.everybody else (*PLACES, *(int(x) for x in rng.integers(1, 1 << 32, 3))):
            values = inputs(case, rng, on)
            refused, want = expected(case, values, on)
            suspect, got = run(case, values, on)
            usual = not case.text.endswith("%m") or (values["m"][lanes_of(on)] == on).all()
            assert suspect if refused else not (suspect and usual), (case, hex(on))
            accepted += not suspect
            targets = parts_of(case.instruction.operands[0]) if not suspect else ()
            for x, y in zip(targets, want, strict=False):
                mine = getattr(got, x.name.strip("%"))
                np.testing.assert_array_equal(mine[lanes_of(on)], y[lanes_of(on)].astype(np.uint32), f"{case} {on:#x}")
    assert accepted


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_taken_for_uniform_is_the_same_in_all_lanes(text):
    rng, case = np.random.default_rng(0), Case(text, "", True)
    same = uniform(case.instruction)
    for on in (*PLACES, *(int(x) for x in rng.integers(1, 1 << 32, 3))):
        for scalars in ("", "abcdpm") if same else ("abcdpm",) if same is None else ():
            values = inputs(case._replace(scalars=scalars), rng, on)
            for _, result in zip(parts_of(case.instruction.operands[0]), expected(case, values, on)[1], strict=False):
                assert len(np.unique(result[lanes_of(on)])) == 1, (text, hex(on))


WHOLE = {
    "in range": "mov.u32 %r10, 5; shfl.sync.down.b32 %r11|%p1, %r10, 1, 31, -1; selp.b32 %r9, 1, 2, %p1; ",
    "one lane's": "shfl.sync.idx.b32 %r9, %r1, 3, 31, -1; ",
    "some lanes": "setp.lt.u32 %p1, %r1, 16; mov.u32 %r9, 0; @!%p1 bra E; vote.sync.ballot.b32 %r9, %p1, 65535; E: ",
    "guarded": "setp.lt.u32 %p1, %r1, 16; mov.u32 %r9, 0; @%p1 redux.sync.add.s32 %r9, %r1, 65535; ",
}


@pytest.mark.parametrize("name", WHOLE)
def test_in_a_kernel_it_is_the_same(name):
    usual, native = np.zeros((2, WARP), np.uint32)
    _text.run(WHOLE[name] + _text.OWN.format("%r9"), usual, engine="numpy")
    assert _text.run(WHOLE[name] + _text.OWN.format("%r9"), native, engine="native").engine == "native"
    np.testing.assert_array_equal(native, usual)
