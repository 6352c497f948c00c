"""tcgen05: products through Triton from end to end, layouts by hand, planted faults at their line."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import Deadlock, OutOfBounds, Race, Undefined, Uninitialised, UnknownOpcode
from kvproof.kernels.ptx.tensor_core import numbers, tcgen05_mma, tcgen05_move

from ._attention import attention, converted, softmax_of
from ._matmul import Product, opcodes

HALF, BRAIN, E4M3, E5M2 = torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2
ON: dict[str, Any] = {"target": "sm_100"}
ONE: dict[str, Any] = {"BM": 128, "K": 64, "stages": 1, **ON}

CASES = [
    *((HALF, {"ta": ta, "tb": tb}, "f16") for ta in (False, True) for tb in (False, True)),
    *((BRAIN, {"BM": 128, "num_warps": 8, "ta": ta, "tb": not ta}, "f16") for ta in (False, True)),
    *((HALF, {"BM": BM, "BN": BN, "stages": 1}, "f16") for BM, BN in ((64, 8), (64, 32), (128, 16), (128, 128))),
    (HALF, {"M": 256, "BM": 256, "N": 256, "BN": 256, "BK": 32, "num_warps": 8}, "f16"),
    (HALF, {"BM": 128, "acc": tl.float16}, "f16"),
    (HALF, {"acc": tl.float16, "stages": 4}, "f16"),
    (torch.float32, {"BK": 32, "ta": True, "tb": True}, "tf32"),
    (torch.float32, {"BM": 128, "BK": 32, "stages": 2}, "tf32"),
    (torch.float32, {"BM": 128, "BK": 32, "precision": "tf32x3"}, "tf32"),
    (torch.float32, {"BM": 128, "BK": 32, "precision": "bf16x6"}, "f16"),
    (E4M3, {"ta": True, "tb": True}, "f8f6f4"),
    (E5M2, {"BM": 128, "BN": 128, "BK": 128, "tb": True}, "f8f6f4"),
    (torch.int8, {"ta": True, "BK": 32}, "i8"),
    (torch.int8, {"BM": 128, "num_warps": 8, "tb": True}, "i8"),
]  # fmt: skip


WIDE = (2, 5, 7, 10, 12, 13, 15, 16)  # what others reach almost as well


@pytest.mark.parametrize(
    ("dtype", "options", "kind"),
    [pytest.param(*case, marks=[pytest.mark.exhaustive] if n in WIDE else []) for n, case in enumerate(CASES)],
)
def test_a_product_on_sm_100_is_that_of_the_matrices(dtype, options, kind):
    product = Product(dtype, **options, **ON)
    report = product.run()
    assert opcodes(report, "tcgen05.mma") == {f"tcgen05.mma.cta_group::1.kind::{kind}"}
    error = product.error()
    if dtype == torch.int8:
        assert error == 0
    elif options.get("acc") == tl.float16:
        assert 0 < error < 8 * 2**-11
    else:
        assert error < 8 * 2**-24


@pytest.mark.parametrize("seed", [0])
def test_products_do_not_depend_on_the_schedule(seed):
    product = Product(HALF, BM=128, num_warps=8, K=256, **ON)
    product.run(seed=seed)
    assert product.error() < 8 * 2**-24


@pytest.mark.parametrize(("BM", "warps", "stages"), [(64, 4, 1), (128, 8, 2)])
def test_attention_runs_on_sm_100_without_an_alarm(BM, warps, stages):
    rng = torch.Generator().manual_seed(stages)
    q, k, v = (torch.randn(128, 64, generator=rng).half() for _ in range(3))
    out = torch.full((128, 64), float("nan"))
    args = (q, k, v, out, 64**-0.5 * 1.4426950408889634, 128, 64, BM, 64, stages)
    ptx.run(attention, 128 // BM, *args, num_warps=warps, **ON)
    assert (out - softmax_of(q, k, v)).abs().max() < 2e-3


def test_an_operand_converted_in_registers_is_read_from_tensor_memory():
    rng = torch.Generator().manual_seed(0)
    a = torch.randint(-8, 8, (128, 128), generator=rng, dtype=torch.int8)
    b, c = torch.randn(128, 64, generator=rng).half(), torch.full((128, 64), float("nan"))
    ptx.run(converted, 1, a, b, c, 128, 64, 128, 32, 2, **ON)
    assert torch.allclose(c.double(), a.double() @ b.double(), rtol=0, atol=1e-3)


# Lane and column of register r of thread t, one repetition after the other, as the figures of the ISA show them.
FIGURES = {
    "32x32b": lambda r, t: (t, r),
    "16x64b": lambda r, t: (t // 4 + (8 if t % 4 > 1 else 0), 2 * r + t % 2),
    "16x128b": lambda r, t: (t // 4 + (8 if r % 2 else 0), r // 2 * 4 + t % 4),
    "16x256b": lambda r, t: (t // 4 + (8 if r % 4 > 1 else 0), r // 4 * 8 + t % 4 * 2 + r % 2),
}


@pytest.mark.parametrize("repeat", [1, 2, 8])
@pytest.mark.parametrize("shape", FIGURES)
def test_a_warp_holds_what_the_figures_show(shape, repeat):
    m = tcgen05_move.Move(shape, repeat, False, 0)
    lane, column = tcgen05_move.places(m)
    got = {(r, t): (int(lane[r, t]), int(column[r, t])) for r in range(m.registers) for t in range(32)}
    assert got == {(r, t): FIGURES[shape](r, t) for r, t in got}
    lanes, columns = m.lanes, 32 * m.registers // m.lanes
    assert sorted(got.values()) == [(a, b) for a in range(lanes) for b in range(columns)]


def test_of_16x32bx2_the_upper_lanes_are_the_second_part():
    lane, column = tcgen05_move.places(tcgen05_move.Move("16x32bx2", 4, False, 40))
    assert (lane[2, 5], column[2, 5], lane[2, 21], column[2, 21]) == (5, 2, 5, 42)
    assert tcgen05_move.places(tcgen05_move.Move("16x32bx2", 4, True, 40))[1][2, 21] == 44


def swapped(text: str, old: str, new: str) -> str:
    assert re.search(old, text)
    return re.sub(old, new, text)


def fault(kind, words: str, opcode: str, edit, **options):
    with pytest.raises(kind, match=words) as caught:
        Product(HALF, **{**ONE, **options}).edited(edit)
    assert type(caught.value) is kind
    assert (caught.value.opcode or "").startswith(opcode)


def test_a_result_read_before_its_mbarrier_was_waited_for_is_a_race():
    def edit(text: str) -> str:
        return swapped(text, r"mbarrier\.try_wait\S+ complete, .*;", "mov.pred complete, -1;")

    fault(Race, "a tcgen05.mma or cp of warp 0 writes, and nothing tells that it is over", "tcgen05.ld", edit)


def test_a_result_that_no_commit_tells_of_is_never_there():
    with pytest.raises(Deadlock, match="mbarrier"):
        Product(HALF, **ONE).edited(lambda text: swapped(text, r"@%p\d+ tcgen05\.commit.*", ""))


def test_a_store_that_was_not_waited_for_is_a_race():
    def edit(text: str) -> str:
        return swapped(text, r"tcgen05\.wait::st\.sync\.aligned;", "")

    fault(Race, "a tcgen05.st of warp", "tcgen05.mma", edit, K=128)


def test_a_missing_wait_after_a_load_is_a_race_with_the_next_product():
    def edit(text: str) -> str:
        head, tail = text.split("tcgen05.wait::ld.sync.aligned;", 1)
        load = re.findall(r"tcgen05\.ld\S+ \{.*?\}, \[(%r\d+)", head)[-1]
        registers = ".reg .b32 %y<1>; .reg .pred %z<1>;\nsetp.eq.u32 %z0, %r1, 0;\nmov.b32 %y0, 0;\n"
        store = "{" + ", ".join(["%y0"] * 64) + "}"
        return f"{head}{registers}tcgen05.st.sync.aligned.32x32b.x64.b32 [{load}], {store};{tail}"

    fault(Race, "a tcgen05.ld of warp . reads, and nothing tells", "tcgen05.st", edit)


def test_a_missing_wait_after_a_load_is_reported_where_the_register_is_read():
    def edit(text: str) -> str:
        return swapped(text, r"tcgen05\.wait::ld\.sync\.aligned;", "")

    fault(Race, r"which the tcgen05\.ld at PTX line \d+ brings, is read before a tcgen05\.wait::ld", "st.", edit)


def test_tensor_memory_that_nothing_has_written_is_reported():
    def edit(text: str) -> str:
        return swapped(text, r"@%p\d+ tcgen05\.st.*", "")

    fault(Uninitialised, "column 0 of lanes 0 to 15 of tensor memory, that nothing has written", "tcgen05.mma", edit)


def test_columns_that_are_not_freed_are_reported():
    with pytest.raises(Undefined, match=r"ends with 64 columns of tensor memory allocated; tcgen05\.dealloc"):
        Product(HALF, **ONE).edited(lambda text: swapped(text, r"@%p\d+ tcgen05\.dealloc.*", ""))


def test_columns_used_after_they_were_freed_are_reported():
    def edit(text: str) -> str:
        free = re.search(r"@%p\d+ tcgen05\.dealloc.*", text)
        assert free
        head, tail = text.replace(free[0], "").split("tcgen05.ld", 1)
        return f"{head}{free[0]}\nbar.sync 0;\ntcgen05.ld{tail}"

    fault(OutOfBounds, "columns 0 to 63 of tensor memory are not all allocated", "tcgen05.ld", edit)


def test_columns_beyond_those_allocated_are_reported():
    def edit(text: str) -> str:
        return swapped(text, r"(tcgen05\.(alloc|dealloc).*), 64;", r"\1, 32;")

    fault(OutOfBounds, "columns 0 to 63 of tensor memory are not all allocated", "tcgen05.st", edit)


def test_more_columns_than_there_are_block_for_ever():
    def edit(text: str) -> str:
        alloc = re.search(r"@%p\d+ tcgen05\.alloc.*", text)
        assert alloc
        return text.replace(alloc[0], f"{alloc[0]}\n{alloc[0].replace('64;', '512;')}")

    fault(Deadlock, "waits for 512 columns in a row of tensor memory, of which 448 of 512 are free", "tcgen05.al", edit)


def test_an_allocation_after_the_permit_was_given_up_is_reported():
    def edit(text: str) -> str:
        alloc = re.search(r"@%p\d+ tcgen05\.alloc.*", text)
        assert alloc
        return swapped(text, r"(@%p\d+ tcgen05\.relinquish.*)", rf"\1\n{alloc[0]}")

    fault(Undefined, "alloc after tcgen05.relinquish_alloc_permit", "tcgen05.alloc", edit)


def test_an_odd_number_of_columns_is_reported():
    fault(Undefined, "tcgen05.alloc of 48 columns; 32, 64", "tcgen05.alloc",
          lambda text: swapped(text, r"(tcgen05\.alloc.*), 64;", r"\1, 48;"))  # fmt: skip


def test_lanes_of_another_warp_are_reported():
    def edit(text: str) -> str:
        return swapped(text, r"(tcgen05\.ld.*\[)%r\d+ \+ 0\]", r"\g<1>%r1 + 0]")

    with pytest.raises(Undefined, match=r"of tensor memory (lies in lanes of another warp|differs between)"):
        Product(HALF, **ONE).edited(edit)


def test_many_threads_that_multiply_are_reported():
    def edit(text: str) -> str:
        return swapped(text, r"@%p\d+ tcgen05\.mma", "tcgen05.mma")

    fault(Undefined, "32 threads of the program each multiply: one may", "tcgen05.mma", edit)


def test_a_missing_proxy_fence_before_a_product_is_a_race():
    def edit(text: str) -> str:
        return swapped(text, r"fence\.proxy\.async\S*;", "")

    fault(Race, r"no fence\.proxy\.async in between", "tcgen05.mma", edit)


@pytest.mark.parametrize("change", [1 << 15, 1 << 7, 1 << 10])
def test_a_wrong_instruction_descriptor_gives_a_wrong_product(change):
    right = 1 << 4 | 1 << 16 | 64 >> 3 << 17 | 128 >> 4 << 24  # f32 = f16 x f16, B N-major, N 64, M 128
    product = Product(HALF, **ONE)
    product.edited(lambda text: text.replace(f", {right};", f", {right ^ change};"))
    assert not product.error() < 0.01


def test_a_negated_operand_is_negated():
    right = 1 << 4 | 1 << 16 | 64 >> 3 << 17 | 128 >> 4 << 24
    turned, plain = Product(HALF, **ONE), Product(HALF, **ONE)
    turned.edited(lambda text: text.replace(f", {right};", f", {right | 1 << 13};"))
    plain.run()
    assert torch.equal(turned.c, -plain.c)


@pytest.mark.parametrize(("kind", "M", "N", "types", "words"), [
    ("f16", 128, 8, (0, 0, 1), ": M 128 takes N of 16 to 256 in steps of 16; take a BLOCK_N of 16 or more"),
    ("f16", 96, 64, (0, 0, 1), ": M is 64 or 128"), ("f16", 64, 264, (0, 0, 1), ": M 64 takes N of 8 to 256 in steps"),
    ("tf32", 64, 64, (0, 0, 1), "$"), ("i8", 64, 40, (1, 1, 2), ": M 64 takes N of 8, 16, 24, 32 and 48 to"),
    ("f8f6f4", 64, 64, (6, 5, 1), "$"), ("f16", 64, 64, (0, 0, 2), "$"),
])  # fmt: skip
def test_an_instruction_descriptor_that_the_kind_has_not_is_reported(kind, M, N, types, words):
    block = SimpleNamespace(error=lambda kind, what, row, thread: kind(what))
    a, b, d = types
    code = d << 4 | a << 7 | b << 10 | N >> 3 << 17 | M >> 4 << 24
    with pytest.raises(Undefined, match=f"is none of a dense tcgen05.mma of kind {kind}{words}"):
        tcgen05_mma.form(block, kind, code, 0)


def test_integer_sums_are_clamped_or_wrap():
    product, c = np.full((1, 64, 8), 100.0, np.float32), np.full((1, 64, 8), 2**31 - 1, np.uint32)
    assert set(numbers.added(product, c, "s32").view(np.int32).ravel()) == {99 - 2**31}
    assert set(numbers.added(product, c, "s32", satfinite=True).view(np.int32).ravel()) == {2**31 - 1}


@pytest.mark.parametrize(("old", "new", "words"), [
    (r"tcgen05\.mma\.cta_group::1", "tcgen05.mma.cta_group::2", "pairs of programs"),
    (r"tcgen05\.wait::ld\.sync\.aligned;", "tcgen05.shift.cta_group::1.down [%r1];", "tcgen05.shift"),
    (r"kind::f16", "kind::f16.ashift", "without disabled lanes"),
    (r"tcgen05\.ld\.sync", "tcgen05.ld.red.sync", "its table has other forms of it"),
])  # fmt: skip
def test_what_is_not_known_is_refused_by_name(old, new, words):
    with pytest.raises(UnknownOpcode, match=words):
        Product(HALF, **ONE).edited(lambda text: swapped(text, old, new))
