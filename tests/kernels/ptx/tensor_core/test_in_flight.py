"""Registers of a wgmma under way: planted faults are reported at their line, Triton's own programs are not."""

import re

import pytest
import torch
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import Race
from kvproof.kernels.ptx.assemble import assemble
from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.tensor_core.in_flight import Flow

from ._attention import attention, converted, softmax_of
from ._matmul import Product, matmul

WIDE = pytest.mark.exhaustive
FENCE, COMMIT = "wgmma.fence.sync.aligned;", "wgmma.commit_group.sync.aligned;"
LAST = "wgmma.wait_group.sync.aligned 0;"


def raced(edit, words: str, opcode: str, **options) -> Race:
    with pytest.raises(Race, match=words) as caught:
        Product(torch.float16, **options).edited(edit)
    assert (caught.value.opcode or "").startswith(opcode)
    assert caught.value.where[0][0] == "_matmul.py"
    return caught.value


def without(text: str, line: str) -> str:
    assert line in text
    return text.replace(line, "")


def test_a_missing_fence_is_reported_at_the_wgmma():
    raced(lambda text: without(text, FENCE), "no wgmma.fence comes before this wgmma", "wgmma.mma_async")


def test_a_missing_wait_is_reported_where_the_result_is_read():
    raced(lambda text: without(text, LAST), "part of D of the wgmma at PTX line .* is read before", "st.")


def test_a_missing_wait_is_reported_without_a_loop():
    raced(lambda text: without(text, LAST), "is read before a wgmma.wait_group has ended", "st.", K=64, stages=1)


def test_waiting_for_all_groups_but_one_is_too_little():
    raced(lambda text: text.replace(LAST, LAST.replace("0", "1")), "is read before", "st.")


def test_a_group_that_is_not_committed_is_not_waited_for():
    raced(lambda text: without(text, COMMIT), "is read before", "st.", K=64, stages=1)


def accumulator(text: str) -> str:
    """The first register of D in the last wgmma."""
    return re.findall(r"wgmma\.mma_async\S+ \{(%r\d+)", text)[-1]


def after_last(text: str, mark: str, more: str) -> str:
    head, tail = text.rsplit(mark, 1)
    return f"{head}{mark}\n{more}\n{tail}"


def test_writing_an_accumulator_in_flight_is_reported():
    def edit(text: str) -> str:
        r = accumulator(text)
        return after_last(text, COMMIT, f"add.s32 {r}, {r}, 1;")

    raced(edit, "is written before a wgmma.wait_group", "add.s32", K=64, stages=1)
    raced(lambda text: after_last(text, COMMIT, f"mov.b32 {accumulator(text)}, 0;"), "is written", "mov", stages=1)


def test_a_copy_in_flight_is_in_flight_until_the_wait():
    def edit(text: str, mark: str) -> str:
        r = accumulator(text)
        return after_last(text, mark, f".reg .b32 %x<3>;\nmov.b32 %x1, {r};\nadd.s32 %x2, %x1, 0;")

    raced(lambda text: edit(text, COMMIT), r"register %x1, part of D", "add", K=64, stages=1)
    right = Product(torch.float16, K=64, stages=1)
    right.edited(lambda text: edit(text, LAST))
    assert right.error() < 8 * 2**-24


def test_an_accumulator_changed_after_the_fence_is_reported():
    def edit(text: str) -> str:
        r = accumulator(text)
        return after_last(text, FENCE, f"add.f32 {r}, 0f00000000, 0f00000000;")

    raced(edit, "has no wgmma.fence between that and this wgmma", "wgmma.mma_async", K=64, stages=1)


def test_a_wgmma_of_another_shape_on_an_accumulator_in_flight_is_reported():
    def edit(text: str) -> str:
        wgmma = re.findall(r"wgmma\.mma_async.*", text)[-1]
        other = re.sub(r"\{(%r\d+), ?(%r\d+), ?(%r\d+), ?(%r\d+).*?\}", r"{\1,\2,\3,\4}", wgmma)
        return after_last(text, wgmma, other.replace("n64", "n8"))

    raced(edit, "is written by another wgmma before", "wgmma.mma_async", K=64, stages=1)


def test_a_fault_on_a_path_that_is_not_taken_is_not_reported():
    def edit(text: str) -> str:
        r = accumulator(text)
        skipped = f".reg .pred %y;\nmov.pred %y, -1;\n@%y bra past;\nadd.s32 {r}, {r}, 1;\npast:"
        return after_last(text, COMMIT, skipped)

    product = Product(torch.float16, K=64, stages=1)
    product.edited(edit)
    assert product.error() < 8 * 2**-24


@pytest.mark.parametrize(
    ("warps", "stages"), [(4, 3), pytest.param(4, 1, marks=WIDE), (8, 2), pytest.param(8, 4, marks=WIDE)]
)
@pytest.mark.parametrize(("dtype", "more"), [
    (torch.float16, {}), (torch.float16, {"acc": tl.float16}), (torch.float32, {"precision": "tf32x3"}),
    (torch.float32, {"precision": "bf16x3"}), (torch.float8_e4m3fn, {"BN": 8}),
])  # fmt: skip
def test_triton_s_own_products_have_no_fault(dtype, more, warps, stages):
    product = Product(dtype, BM=128, BK=32, K=256, stages=stages, num_warps=warps, **more)
    assert faults(compile(matmul, product.args, product.options, "sm_90").ptx) == {}


def faults(text: str) -> dict[int, str]:
    assert "wgmma.mma_async" in text
    decoded = assemble(text)
    return Flow(decoded.steps, decoded.slots).follow()


@pytest.mark.parametrize(("BM", "warps", "stages"), [(64, 4, 3), (128, 4, 2), (128, 8, 3)])
def test_attention_overlaps_its_products_without_an_alarm(BM, warps, stages):
    rng = torch.Generator().manual_seed(stages)
    q, k, v = (torch.randn(128, 64, generator=rng).half() for _ in range(3))
    out = torch.full((128, 64), float("nan"))
    args = (q, k, v, out, 64**-0.5 * 1.4426950408889634, 128, 64, BM, 64, stages)
    ptx.run(attention, 128 // BM, *args, target="sm_90", num_warps=warps)
    assert (out - softmax_of(q, k, v)).abs().max() < 2e-3  # p is rounded to float16


@pytest.mark.parametrize(("warps", "stages"), [(4, 3), (8, 2)])
def test_an_operand_converted_in_registers_is_no_alarm(warps, stages):
    rng = torch.Generator().manual_seed(0)
    a = torch.randint(-8, 8, (128, 128), generator=rng, dtype=torch.int8)
    b, c = torch.randn(128, 64, generator=rng).half(), torch.full((128, 64), float("nan"))
    ptx.run(converted, 1, a, b, c, 128, 64, 128, 32, stages, target="sm_90", num_warps=warps)
    assert torch.allclose(c.double(), a.double() @ b.double(), rtol=0, atol=1e-3)
