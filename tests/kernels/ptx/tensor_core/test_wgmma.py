"""wgmma against products of matrices: through Triton from end to end, and its parts against the ISA's formulas."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import triton.language as tl

from kvproof.kernels.ptx import OutOfBounds, Race, Undefined, UnknownOpcode
from kvproof.kernels.ptx.tensor_core import wgmma

from ._matmul import Product, opcodes

HALF, BRAIN, E4M3, E5M2 = torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2

# type and options -> the form that Triton chooses, and the error that its rounding leaves: K sums in f32 by default
CASES = [
    *((HALF, {"ta": ta, "tb": tb}, "m64n64k16.f32.f16.f16") for ta in (False, True) for tb in (False, True)),
    *((BRAIN, {"ta": ta, "tb": tb, "BM": 128, "num_warps": 8}, "m64n64k16.f32.bf16.bf16")
      for ta, tb in ((True, False), (False, True))),
    *((HALF, {"BN": BN, "tb": BN == 32}, f"m64n{BN}k16.f32.f16.f16") for BN in (8, 16, 32, 128)),
    (HALF, {"N": 256, "BN": 256, "ta": True, "BK": 16, "stages": 1}, "m64n256k16.f32.f16.f16"),
    (HALF, {"N": 256, "BN": 256, "BM": 128, "num_warps": 8, "stages": 2}, "m64n256k16.f32.f16.f16"),
    (HALF, {"BN": 128, "num_warps": 8, "BK": 32, "stages": 4}, "m64n64k16.f32.f16.f16"),
    (HALF, {"BK": 128, "ta": True}, "m64n64k16.f32.f16.f16"),
    (HALF, {"acc": tl.float16}, "m64n64k16.f16.f16.f16"),
    (torch.float32, {"BK": 32}, "m64n64k8.f32.tf32.tf32"),
    (torch.float32, {"BM": 128, "num_warps": 8, "BK": 32, "precision": "tf32x3"}, "m64n64k8.f32.tf32.tf32"),
    (torch.float32, {"BK": 32, "precision": "bf16x6"}, "m64n64k16.f32.bf16.bf16"),
    (E4M3, {"tb": True}, "m64n64k32.f32.e4m3.e4m3"),
    (E5M2, {"BN": 128, "BK": 128, "tb": True}, "m64n128k32.f32.e5m2.e5m2"),
    (torch.int8, {"BK": 32}, "m64n64k32.s32.s8.s8"),
    (torch.int8, {"BM": 128, "num_warps": 8, "tb": True}, "m64n64k32.s32.s8.s8"),
]  # fmt: skip


def named(value):
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


WIDE = (5, 7, 8, 11, 12, 16, 18)  # what others reach almost as well


@pytest.mark.parametrize(
    ("dtype", "options", "form"),
    [pytest.param(*case, marks=[pytest.mark.exhaustive] if n in WIDE else []) for n, case in enumerate(CASES)],
    ids=named,
)
def test_a_product_on_sm_90_is_that_of_the_matrices(dtype, options, form):
    product = Product(dtype, **options)
    report = product.run()
    assert opcodes(report, "wgmma.mma_async") == {f"wgmma.mma_async.sync.aligned.{form}"}
    error = product.error()
    if dtype == torch.int8:
        assert error == 0
    elif options.get("acc") == tl.float16:
        assert 0 < error < 8 * 2**-11  # a rounding to f16 for each of 128 / 16 instructions
    else:
        assert error < 8 * 2**-24


@pytest.mark.parametrize("precision", ["ieee", "bf16x3"])
def test_the_other_precisions_of_float32_come_as_near_as_they_promise(precision):
    product = Product(torch.float32, BK=32, precision=precision)
    product.run()
    assert product.error() < (2**-15 if precision == "bf16x3" else 2**-20)


@pytest.mark.parametrize("seed", [0, 1])
def test_warps_that_come_one_after_the_other_meet_at_each_wgmma(seed):
    product = Product(HALF, BM=128, num_warps=8)
    product.run(seed=seed)
    assert product.error() < 8 * 2**-24


def place(i: int, thread: int) -> tuple[int, int]:
    """Row and column of element i of D in a thread of a warpgroup, as the ISA has them for m64nNk16."""
    warp, lane = divmod(thread, 32)
    row = lane // 4 + (0 if i % 4 < 2 else 8)
    return 16 * warp + row, 8 * (i // 4) + lane % 4 * 2 + i % 2


@pytest.mark.parametrize("kind", ["f32", "f16", "s32"])
def test_the_accumulator_lies_in_the_threads_as_the_isa_says(kind):
    P, G, N = 2, 2, 24
    a, b = {"f32": ("f16", "f16"), "f16": ("f16", "f16"), "s32": ("s8", "s8")}[kind]
    f = wgmma.form(f"wgmma.mma_async.sync.aligned.m64n{N}k{32 if kind == 's32' else 16}.{kind}.{a}.{b}")
    rng = np.random.default_rng(0)
    product, c = (rng.integers(-500, 500, (P, G, 64, N)).astype(np.float64) for _ in range(2))
    dtype = {"f32": np.float32, "f16": np.float16, "s32": np.int32}[kind]
    held = np.zeros((P, G * 128, 64 * N // 128), dtype)
    expected = held.copy()
    for thread, i in itertools.product(range(G * 128), range(held.shape[2])):
        row, column = place(i, thread % 128)
        held[:, thread, i] = c[:, thread // 128, row, column]
        expected[:, thread, i] = product[:, thread // 128, row, column] + c[:, thread // 128, row, column]
    registers = np.ascontiguousarray(held.view(np.uint32).transpose(2, 0, 1))
    got = wgmma.registers_of(f, product, registers)
    assert np.array_equal(got, expected.view(np.uint32).transpose(2, 0, 1))
    nothing = wgmma.registers_of(f, product, np.zeros_like(registers[:, :1, :1]))
    assert np.array_equal(nothing, wgmma.registers_of(f, product, None))


def test_integer_sums_wrap_or_are_clamped():
    product, c = np.full((1, 1, 64, 8), 100.0, np.float32), np.full((4, 1, 1), 2**31 - 1, np.uint32)
    opcode = "wgmma.mma_async.sync.aligned.m64n8k32{}.s32.s8.u8"
    for clamp, top in ((".satfinite", 2**31 - 1), ("", 99 - 2**31)):
        assert set(wgmma.registers_of(wgmma.form(opcode.format(clamp)), product, c).view(np.int32).ravel()) == {top}


UNKNOWN = """m64n64k8.f32.f16.f16 m64n64k16.f32.f16.bf16 m64n264k16.f32.f16.f16 m64n12k16.f32.f16.f16
m64n64k16.f16.bf16.bf16 m64n40k32.s32.s8.s8 m64n64k32.satfinite.f32.e4m3.e4m3 m64n64k256.s32.b1.b1"""


@pytest.mark.parametrize("shape", UNKNOWN.split())
def test_a_wgmma_it_does_not_know_is_refused_by_name(shape):
    opcode = f"wgmma.mma_async.sync.aligned.{shape}"
    with pytest.raises(UnknownOpcode, match=re.escape(opcode)):
        wgmma.form(opcode)


def test_the_sparse_form_is_refused_by_name():
    with pytest.raises(UnknownOpcode, match="dense products"):
        wgmma.form("wgmma.mma_async.sp.sync.aligned.m64n64k32.f32.f16.f16")


def test_threads_that_disagree_about_a_descriptor_are_reported():
    def error(kind, what, row, thread):
        return kind(f"{what} ({row}, {thread})")

    block = SimpleNamespace(error=error)
    value = np.arange(2)[:, None].repeat(256, 1)
    assert wgmma.uniform(block, value, None, "x").tolist() == [[0, 0], [1, 1]]
    value[1, 200] = 7
    with pytest.raises(Undefined, match=r"x differs between threads of a warpgroup \(1, 128\)"):
        wgmma.uniform(block, value, None, "x")


RIGHT = 4611686293305294848  # Triton's: swizzle of 128 bytes, stride 1024, leading offset 16, start 0
WRONG = {"swizzle of 64 bytes": RIGHT ^ 3 << 62, "no swizzle": RIGHT ^ 1 << 62, "stride": RIGHT - (1 << 37),
         "start": RIGHT + 64, "base": RIGHT | 1 << 49}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_field_of_a_descriptor_gives_a_wrong_product(wrong):
    product = Product(HALF, K=64, stages=1)
    product.edited(lambda text: text.replace(str(RIGHT), str(WRONG[wrong])))
    assert product.error() > 0.01


def test_a_matrix_beyond_shared_memory_is_out_of_bounds():
    with pytest.raises(OutOfBounds, match="of shared memory: the address is not in its") as caught:
        Product(HALF, K=64, stages=1).edited(lambda text: text.replace(str(RIGHT), str(RIGHT + (1 << 44))))
    assert (caught.value.opcode or "").startswith("wgmma.mma_async")


def test_a_wgmma_that_no_proxy_fence_precedes_is_a_race():
    with pytest.raises(Race, match=r"no fence\.proxy\.async in between"):
        Product(HALF, K=64, stages=1).edited(lambda text: re.sub(r"fence\.proxy\.async\S*;", "", text))


def test_a_negated_operand_and_a_dropped_accumulator_are_what_the_flags_say():
    negative = Product(HALF, K=64)
    negative.edited(lambda text: text.replace(", 1, 1, 0, 1;", ", -1, 1, 0, 1;"))
    right = Product(HALF, K=64)
    right.run()
    assert torch.equal(negative.c, -right.c)
    last = Product(HALF, K=64)
    last.edited(lambda text: text.replace("%p1, 1, 1, 0, 1;", "0, 1, 1, 0, 1;"))
    expected = last.a[:, 48:].double() @ last.b[48:].double()
    assert torch.allclose(last.c.double(), expected, atol=1e-4)
