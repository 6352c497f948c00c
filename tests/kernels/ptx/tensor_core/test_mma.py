"""mma against products of matrices, put into the threads' registers element by element by the PTX ISA's formulas."""

import itertools
import math
import re

import ml_dtypes
import numpy as np
import pytest

from kvproof.kernels.ptx.errors import UnknownOpcode
from kvproof.kernels.ptx.tensor_core.mma import mma

P, W = 2, 2

DTYPES = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32, "f32": np.float32, "f64": np.float64,
    "s8": np.int8, "u8": np.uint8, "s32": np.int32, "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip

# (bits of an element, M, K): the (row, column) in A, and in B, of a thread's element i; g = lane >> 2, t = lane % 4.
FRAGMENTS = {
    (16, 16, 8): (lambda i, g, t: (g if i < 2 else g + 8, t * 2 + (i & 1)), lambda i, g, t: (t * 2 + i, g)),
    (16, 16, 16): (
        lambda i, g, t: (g if i < 2 or 4 <= i < 6 else g + 8, t * 2 + (i & 1) + (0 if i < 4 else 8)),
        lambda i, g, t: (t * 2 + (i & 1) + (0 if i < 2 else 8), g),
    ),
    (32, 16, 4): (lambda i, g, t: (g if i == 0 else g + 8, t), lambda i, g, t: (t, g)),
    (32, 16, 8): (
        lambda i, g, t: (g if i in (0, 2) else g + 8, t if i < 2 else t + 4),
        lambda i, g, t: (t if i == 0 else t + 4, g),
    ),
    (8, 8, 16): (lambda i, g, t: (g, t * 4 + i), lambda i, g, t: (t * 4 + i, g)),
    (8, 16, 16): (lambda i, g, t: (g if i < 4 else g + 8, t * 4 + (i & 3)), lambda i, g, t: (t * 4 + i, g)),
    (8, 16, 32): (
        lambda i, g, t: (g if i < 4 or 8 <= i < 12 else g + 8, t * 4 + (i & 3) + (0 if i < 8 else 16)),
        lambda i, g, t: (t * 4 + (i & 3) + (0 if i < 4 else 16), g),
    ),
    (64, 8, 4): (lambda i, g, t: (g, t), lambda i, g, t: (t, g)),
    (64, 16, 16): (
        lambda i, g, t: (g if i % 2 == 0 else g + 8, i * 2 + t if i % 2 == 0 else i * 2 - 2 + t),
        lambda i, g, t: (t + i * 4, g),
    ),
}
FRAGMENTS |= {(64, 16, K): FRAGMENTS[32, 16, K] for K in (4, 8)}  # the ISA's formulas are the same


def accumulator(i, g, t):
    return (g if i < 2 else g + 8, t * 2 + (i & 1))


OPCODES = [
    f"mma.sync.aligned.m16n8k{k}.row.col.{d}.{kind}.{kind}.{d}"
    for kind, k, d in [
        *(("f16", k, d) for k in (8, 16) for d in ("f16", "f32")),
        *[("bf16", 8, "f32"), ("bf16", 16, "f32"), ("tf32", 4, "f32"), ("tf32", 8, "f32")],
        *((kind, k, "f32") for kind in ("e4m3", "e5m2") for k in (16, 32)),
        *(("f64", k, "f64") for k in (4, 8, 16)),
    ]
]
OPCODES += [
    "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64",
    "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32",
    "mma.sync.aligned.m16n8k32.row.col.f16.e5m2.e5m2.f16",
    "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32",
    "mma.sync.aligned.m16n8k16.row.col.satfinite.s32.s8.u8.s32",
    "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32",
    "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32",
]


def parts(opcode):
    """(M, K, types of A, B, C) as read from an opcode."""
    M, K = map(int, re.findall(r"m(\d+)n8k(\d+)", opcode)[0])
    return M, K, *opcode.split(".")[-3:]


def word(kind):
    return np.uint64 if kind == "f64" else np.uint32


def formulas(opcode):
    M, K, a, _, _ = parts(opcode)
    return *FRAGMENTS[np.dtype(DTYPES[a]).itemsize * 8, M, K], accumulator


def into_registers(matrix, formula, kind):
    """Registers (P, T) of threads that each take their elements of matrix (P, W, rows, columns) in turn."""
    programs, warps, rows, columns = matrix.shape
    held = np.empty((programs, warps * 32, rows * columns // 32), matrix.dtype)
    for thread, i in itertools.product(range(held.shape[1]), range(held.shape[2])):
        row, column = formula(i, thread % 32 // 4, thread % 4)
        held[:, thread, i] = matrix[:, thread // 32, row, column]
    words = held.view(word(kind))
    return [words[..., r] for r in range(words.shape[2])]


def from_registers(registers, formula, kind, M):
    """The inverse, for D: (P, W, M, 8)."""
    held = np.ascontiguousarray(np.stack(registers, axis=-1)).view(DTYPES[kind])
    programs, threads, n = held.shape
    matrix = np.zeros((programs, threads // 32, M, 8), held.dtype)
    for thread, i in itertools.product(range(threads), range(n)):
        row, column = formula(i, thread % 32 // 4, thread % 4)
        matrix[:, thread // 32, row, column] = held[:, thread, i]
    return matrix


def random(rng, kind, shape):
    if kind in ("s8", "u8", "s32"):
        info = np.iinfo(DTYPES[kind])
        return rng.integers(info.min, info.max, shape, dtype=DTYPES[kind], endpoint=True)
    values = rng.standard_normal(shape).astype(DTYPES[kind])
    return (values.view(np.uint32) & ~np.uint32(0x1FFF)).view(np.float32) if kind == "tf32" else values


def run(opcode, A, B, C):
    (a_at, b_at, c_at), (M, _, a, b, c) = formulas(opcode), parts(opcode)
    operands = [into_registers(X, at, kind) for X, at, kind in ((A, a_at, a), (B, b_at, b), (C, c_at, c))]
    return from_registers(mma(opcode, *operands), c_at, c, M)


def matrices(opcode, seed=0):
    M, K, a, b, c = parts(opcode)
    rng = np.random.default_rng(seed)
    shapes = (P, W, M, K), (P, W, K, 8), (P, W, M, 8)
    return [random(rng, kind, shape) for kind, shape in zip((a, b, c), shapes, strict=True)]


@pytest.mark.parametrize("opcode", OPCODES)
def test_an_mma_is_the_rounded_product_of_the_matrices(opcode):
    A, B, C = matrices(opcode)
    D, kind = run(opcode, A, B, C), parts(opcode)[-1]
    if kind == "s32":
        exact = A.astype(np.int64) @ B.astype(np.int64) + C
        exact = exact.clip(-(2**31), 2**31 - 1) if "satfinite" in opcode else exact
        assert np.array_equal(D, exact.astype(np.int32))
        return
    A, B, C = (X.astype(np.float64) for X in (A, B, C))
    for p, w, m, n in np.ndindex(*D.shape):
        products, c = A[p, w, m] * B[p, w, :, n], C[p, w, m, n]
        exact = math.fsum([*products, c])
        if kind == "f64":  # each of the K products and sums may be off by half a unit in the last place
            assert abs(D[p, w, m, n] - exact) <= len(products) * 2.0**-52 * (abs(products).sum() + abs(c))
        else:
            assert D[p, w, m, n] == D.dtype.type(exact)


@pytest.mark.parametrize("opcode", OPCODES)
def test_small_whole_numbers_come_out_exact(opcode):
    M, K, a, b, c = parts(opcode)
    rng = np.random.default_rng(1)
    A, B, C = (
        rng.integers(0 if kind == "u8" else -3, 4, shape).astype(DTYPES[kind])
        for kind, shape in ((a, (P, W, M, K)), (b, (P, W, K, 8)), (c, (P, W, M, 8)))
    )
    assert np.array_equal(run(opcode, A, B, C), A.astype(np.float64) @ B.astype(np.float64) + C)


@pytest.mark.parametrize("satfinite", [".satfinite", ""])
def test_integer_sums_are_clamped_or_wrap(satfinite):
    opcode = f"mma.sync.aligned.m16n8k32.row.col{satfinite}.s32.s8.s8.s32"
    A, B = np.full((1, 1, 16, 32), -128, np.int8), np.full((1, 1, 32, 8), -128, np.int8)
    B[..., 4:] = 127
    C = np.full((1, 1, 16, 8), 2**31 - 1, np.int32)
    C[..., 4:] = -(2**31)
    D = run(opcode, A, B, C)
    top, bottom = (2**31 - 1, -(2**31)) if satfinite else (-(2**31) - 1 + 32 * 2**14, 2**31 - 32 * 128 * 127)
    assert set(D[..., :4].ravel()) == {top}
    assert set(D[..., 4:].ravel()) == {bottom}


@pytest.mark.parametrize("c", ["f16", "f32"])
def test_infinities_and_nans_reach_their_rows_and_columns_only(c):
    opcode = f"mma.sync.aligned.m16n8k16.row.col.{c}.f16.f16.{c}"
    A, B = np.ones((1, 1, 16, 16), np.float16), np.ones((1, 1, 16, 8), np.float16)
    C = np.zeros((1, 1, 16, 8), DTYPES[c])
    A[0, 0, 3, 5], A[0, 0, 4, 0], B[0, 0, 5, 2] = np.inf, np.nan, 0
    A[0, 0, 9], C[0, 0, 9, 0] = 60000, -np.inf
    signalling, nan, bits = {"f16": (0x7C01, 0x7FFF, np.uint16), "f32": (0x7F800001, 0x7FFFFFFF, np.uint32)}[c]
    C.view(bits)[0, 0, 12, 7] = signalling
    D = run(opcode, A, B, C)[0, 0]
    expected = np.full((16, 8), 16.0)
    expected[:, 2] = 15
    expected[9] = [-np.inf, 960000, 900000, *[960000] * 5]
    expected[3], expected[4], expected[3, 2], expected[12, 7] = np.inf, np.nan, np.nan, np.nan
    with np.errstate(over="ignore"):
        expected = expected.astype(DTYPES[c])
    assert np.array_equal(D, expected, equal_nan=True)
    assert set(D[np.isnan(D)].view(bits)) == {nan}


def test_a_sum_just_above_a_tie_is_rounded_once():
    A, B = np.zeros((1, 1, 16, 16), np.float16), np.ones((1, 1, 16, 8), np.float16)
    C = B.copy()
    A[..., 0], A[..., 1], B[:, :, 1] = 2.0**-11, 2.0**-24, 2.0**-24  # 1 + 2^-11 + 2^-48: float32 would make it the tie
    assert (run("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", A, B, C) == np.float16(1 + 2.0**-10)).all()


def test_tf32_ignores_the_lower_13_bits():
    opcode = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
    A, B, C = matrices(opcode)
    noisy_A, noisy_B = ((X.view(np.uint32) | 0x1FFF).view(np.float32) for X in (A, B))
    assert np.array_equal(run(opcode, noisy_A, noisy_B, C), run(opcode, A, B, C))


@pytest.mark.parametrize("shape", ["m16n8k16.row.col.f32.f16.f16.f32", "m8n8k4.row.col.f64.f64.f64.f64"])
@pytest.mark.parametrize("varies", list(itertools.product([False, True], repeat=4)))
def test_registers_may_be_shared_by_programs_and_threads(shape, varies):
    opcode = f"mma.sync.aligned.{shape}"
    programs_a, threads_a, programs_b, threads_b = varies
    a, b, c = (into_registers(X, at, "f64" if "f64" in opcode else "f32") for X, at in
               zip(matrices(opcode), formulas(opcode), strict=True))  # fmt: skip
    a = [x[: P if programs_a else 1, : 64 if threads_a else 1] for x in a]
    b = [x[: P if programs_b else 1, : 64 if threads_b else 1] for x in b]
    c = [x[:1, :1] for x in c]
    got = mma(opcode, a, b, c)
    full = mma(opcode, *([np.broadcast_to(x, (P, 64)) for x in operand] for operand in (a, b, c)))
    shape = (P if programs_a or programs_b else 1, 64 if threads_a or threads_b else 1)
    for x, y in zip(got, full, strict=True):
        assert x.shape == shape
        assert np.array_equal(np.broadcast_to(x, (P, 64)), y)


@pytest.mark.parametrize(
    "opcode",
    [
        "mma.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16",
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.row.col.satfinite.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32",
        "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e2m1.e4m3.f32",
        "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32",
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16",
    ],
)
def test_an_mma_it_does_not_know_is_refused_by_name(opcode):
    with pytest.raises(UnknownOpcode, match=re.escape(opcode)):
        mma(opcode, [], [], [])
