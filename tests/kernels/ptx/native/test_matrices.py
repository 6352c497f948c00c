"""Machine code of mma, ldmatrix and stmatrix against the NumPy form, to the bit."""

import ctypes
import itertools

import ml_dtypes
import numpy as np
import pytest

from kvproof.kernels.ptx import warp
from kvproof.kernels.ptx.floats import FORMATS
from kvproof.kernels.ptx.matrix_forms import INPUTS, INTEGERS, MIXED, form
from kvproof.kernels.ptx.native import code, ir, matrices
from kvproof.kernels.ptx.native.lanes import I8, I32, I64, Lanes, vector
from kvproof.kernels.ptx.native.lower import Unlowered
from kvproof.kernels.ptx.syntax import Address, Immediate, Instruction, Register, Vector
from kvproof.kernels.ptx.tensor_core.mma import mma

POINTER, EVERYBODY = ir.PointerType(), 0xFFFFFFFF


def opcodes():
    """Every form that mma.form takes."""
    for a, (shapes, sums) in INPUTS.items():
        others = next((sorted(pair) for pair in MIXED if a in pair), [a])
        for (M, K), b, c in itertools.product(sorted(shapes), others, sorted(sums)):
            for satfinite in ("", ".satfinite") if c == "s32" else ("",):
                yield f"mma.sync.aligned.m{M}n8k{K}.row.col{satfinite}.{c}.{a}.{b}.{c}"


OPCODES = list(opcodes())
NUMBER = {opcode: n for n, opcode in enumerate(OPCODES)}
SHORT = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"  # which some lanes may leave out


class Stand:
    """A writer of one instruction, whose registers lie in memory: (lanes,) words, one register after the other."""

    def __init__(self, module, name, word, partial=False):
        f = ir.Function(module, ir.FunctionType(I64, [POINTER, POINTER, I32]), name)
        self.sources, self.results, ballot = f.args
        self.b = ir.IRBuilder(f.append_basic_block())
        self.L, self.word, self.on = Lanes(self.b), word, ballot if partial else I32(EVERYBODY)

    def place(self, pointer, register):
        return self.b.gep(pointer, [I64(int(register.name[2:]) * 4 * self.word.width)], source_etype=I8)

    def read(self, operand, kind):
        if isinstance(operand, Address):
            return I32(operand.offset)
        if isinstance(operand, Immediate):
            return self.word(operand.bits)
        return self.b.load(self.place(self.sources, operand), typ=vector(self.word), align=8)

    def write(self, operand, kind, value):
        self.b.store(value, self.place(self.results, operand), align=8)

    def bail(self, condition):
        with self.b.if_then(condition):
            self.b.ret(I64(1))

    def room(self, size):
        return self.results

    def done(self):
        self.b.ret(I64(0))


def registers(first, count):
    return Vector(tuple(Register(f"%r{n}") for n in range(first, first + count)))


def bits(kind):
    return np.dtype(INTEGERS[kind]).itemsize * 8 if kind in INTEGERS else FORMATS[kind].bits


def counts(opcode):
    """How many registers A, B and C have."""
    M, K, a, _, c, _ = form(opcode)
    lanes = 32 * (64 if c == "f64" else 32)
    return M * K * bits(a) // lanes, K * 8 * bits(a) // lanes, M * 8 * bits(c) // lanes


def compiled(kernel, needs=()):
    """The machine code of a module."""
    return code.compiled(str(kernel).encode(), lambda: [str(kernel)], needs)


@pytest.fixture(scope="module")
def runtime():
    module = ir.Module("runtime")
    for define in matrices.RUNTIME.values():
        define(module)
    return (compiled(module),)


def call(made, name, sources, results, on=EVERYBODY):
    """Run a Stand's code -> whether it is suspicious."""
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)(made[name])
    return bool(run(sources.ctypes.data, results.ctypes.data, on))


def instruction(opcode, *operands):
    return Instruction(opcode, operands, None, 1, ())


@pytest.fixture(scope="module")
def made(runtime):
    """Each mma as run.NUMBER, and then SHORT."""
    kernel = ir.Module("kernel")
    for n, opcode in enumerate([*OPCODES, SHORT]):
        w = Stand(kernel, f"run.{n}", I64 if "f64" in opcode else I32, n == len(OPCODES))
        a, b, c = counts(opcode)
        operands = registers(0, a), registers(a, b), registers(a + b, c)
        matrices.mma(w, instruction(opcode, registers(0, c), *operands))
        w.done()
    return compiled(kernel, runtime)


def numbers(rng, kind, count, spread):
    """Registers (count, 32) of numbers of about one size, or, where spread is given, of sizes 2**-spread to 1."""
    if kind in INTEGERS or kind in ("e4m3", "e5m2"):
        return rng.integers(0, 1 << 32, (count, 32), dtype=np.uint32)
    x = rng.standard_normal((count, 32, 2 if kind in ("f16", "bf16") else 1))
    x *= 2.0 ** -rng.integers(0, spread + 1, x.shape)
    dtype = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f64": np.float64}.get(kind, np.float32)
    return x.astype(dtype).view("<u8" if kind == "f64" else "<u4")[..., 0]


def both(made, opcode, sources):
    """The registers of D, (registers, 32): of the machine code, and of the NumPy form."""
    a, b, c = counts(opcode)
    results = np.zeros((c, 32), sources.dtype)
    suspicious = call(made, f"run.{NUMBER[opcode]}", sources, results)
    parts = [list(part[:, None]) for part in np.split(sources, [a, a + b])]
    return suspicious, results, np.stack(mma(opcode, *parts))[:, 0]


@pytest.mark.parametrize("opcode", OPCODES)
def test_an_mma_has_the_bits_of_the_numpy_form(made, opcode):
    _, _, a, b, c, _ = form(opcode)
    rng = np.random.default_rng(0)
    for spread in [0, 0, 0, 4, 12, 30]:
        kinds = zip((a, b, c), counts(opcode), strict=True)
        sources = np.concatenate([numbers(rng, kind, count, spread) for kind, count in kinds])
        suspicious, results, expected = both(made, opcode, sources)
        assert not suspicious
        np.testing.assert_array_equal(results, expected)


@pytest.mark.parametrize("opcode", [x for x in OPCODES if "f64" not in x])
def test_any_bits_at_all_agree(made, opcode):
    """Infinities, NaNs, subnormal numbers, overflow, and sums whose order shows."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        sources = rng.integers(0, 1 << 32, (sum(counts(opcode)), 32), dtype=np.uint32)
        suspicious, results, expected = both(made, opcode, sources)
        assert not suspicious
        np.testing.assert_array_equal(results, expected)


def test_float16_sums_at_every_border_agree(made):
    """Ties, subnormal numbers and the largest, with a last place that only float64 has."""
    opcode = "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16"
    a, b, _ = counts(opcode)
    rng = np.random.default_rng(2)
    for _ in range(50):
        x = 2.0 ** rng.integers(-24, 16, ((a + b), 32, 2)) * rng.choice([-1, 1], ((a + b), 32, 2))
        x[rng.random(x.shape) < 0.8] = 0
        c = rng.choice([0, 1, 2, 3, 0x3FF, 0x400, 0x3C00, 0x3C01, 0x7BFF, 0x8000, 0x8001, 0xFBFF], (2, 32, 2))
        sources = np.concatenate([x.astype(np.float16).view(np.uint16), c.astype(np.uint16)]).view(np.uint32)[..., 0]
        _, results, expected = both(made, opcode, sources)
        np.testing.assert_array_equal(results, expected)


def test_a_nan_of_f64_is_suspicious(made):
    opcode = "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64"
    sources = np.ones((sum(counts(opcode)), 32))
    assert both(made, opcode, sources.view(np.uint64))[0] is False
    sources[0, 5] = np.nan
    assert both(made, opcode, sources.view(np.uint64))[0] is True


def test_an_mma_that_a_lane_leaves_out_is_suspicious(made):
    sources, results = np.zeros((16, 32), np.uint32), np.zeros((16, 32), np.uint32)
    assert not call(made, f"run.{len(OPCODES)}", sources, results)
    assert call(made, f"run.{len(OPCODES)}", sources, results, EVERYBODY - 4)


def test_an_mma_with_scales_has_no_native_form():
    opcode = "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.f32.e4m3.e4m3.f32.ue8m0"
    with pytest.raises(Unlowered):
        matrices.mma(Stand(ir.Module(), "run", I32), instruction(opcode))


def moved(monkeypatch, runtime, opcode, count, loads):
    """The machine code of an ldmatrix or stmatrix, and what it asked of shared memory, whose rows lie in memory."""
    kernel, asked = ir.Module(), []
    w = Stand(kernel, "run", I32)
    address = Address(Register("%r9"), 64)

    def load(w, at, size, on):
        asked.append((at.constant, size, on.constant))
        return w.sources

    def store(w, at, pointer, size, on):
        asked.append((at.constant, size, on.constant))
        assert pointer is w.results

    monkeypatch.setattr(matrices.shared, "load", load)
    monkeypatch.setattr(matrices.shared, "store", store)
    operands = (registers(0, count), address) if loads else (address, registers(0, count))
    (matrices.load_matrix if loads else matrices.store_matrix)(w, instruction(opcode, *operands))
    w.done()
    return compiled(kernel, runtime), asked[0]


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("num", [1, 2, 4])
def test_matrices_are_loaded_and_stored(monkeypatch, runtime, num, trans):
    name = f"sync.aligned.m8n8.x{num}{'.trans' * trans}.shared.b16"
    rows = np.random.default_rng(num).integers(0, 256, (1, 1, 32, 16), dtype=np.uint8)
    expected = np.stack(warp.fragments(rows[:, :, : 8 * num], num, trans))[:, 0]
    made, asked = moved(monkeypatch, runtime, f"ldmatrix.{name}", num, True)
    assert asked == (64, 16, (1 << 8 * num) - 1)
    results = np.zeros((num, 32), np.uint32)
    call(made, "run", rows, results)
    np.testing.assert_array_equal(results, expected)

    made, asked = moved(monkeypatch, runtime, f"stmatrix.{name}", num, False)
    assert asked == (64, 16, (1 << 8 * num) - 1)
    stored = np.zeros((32, 16), np.uint8)
    call(made, "run", expected, stored)
    np.testing.assert_array_equal(stored[: 8 * num], rows[0, 0, : 8 * num])


def test_matrices_of_bytes_have_no_native_form(monkeypatch, runtime):
    with pytest.raises(Unlowered):
        moved(monkeypatch, runtime, "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8", 2, True)


def test_operands_that_all_lanes_share_are_taken(runtime):
    """Ones times ones, and four: 12."""
    kernel = ir.Module("kernel")
    w = Stand(kernel, "run", I32)
    ones, fours = (Vector((Immediate(x, 0),) * n) for x, n in ((0x3C003C00, 2), (0x40800000, 4)))
    matrices.mma(w, instruction(SHORT, registers(0, 4), ones, Vector(ones.parts[:1]), fours))
    w.done()
    results = np.zeros((4, 32), np.float32)
    call(compiled(kernel, runtime), "run", results, results)
    assert (results == 12).all()
