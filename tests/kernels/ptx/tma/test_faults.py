"""Faults planted in the PTX of kernels with tensor descriptors: each is reported, with its line; the kernels alone pass."""

import re
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import (
    Deadlock, InvalidTensorMap, Misaligned, OutOfBounds, PtxError, Race, Refused, Uninitialised,
)  # fmt: skip

from ._kernels import (
    BLOCK, SHAPE, add_one, add_one_made, copy_1, copy_2, descriptor, numbers, planted, reduce, rows_of, view,
)  # fmt: skip


def by_arguments(x: torch.Tensor, y: torch.Tensor, **settings: Any) -> Any:
    return ptx.run(add_one, 4, descriptor(x), descriptor(y), SHAPE[1], *BLOCK, **settings)


def by_kernel(x: torch.Tensor, y: torch.Tensor, programs: int = 4, **settings: Any) -> Any:
    return ptx.run(add_one_made, programs, x, y, *SHAPE, SHAPE[1], *BLOCK, **settings)


FIELD = r"@%p\d+ tensormap\.replace\.tile\.{}\.shared::cta\.b1024\.\S+ \[[^;]*;"
VALUE = r"(tensormap\.replace\.tile\.{}\.shared::cta\.b1024\.b32 \[ %rd\d+ \+ 0 \], ){}"
EXPECT = r"(mbarrier\.arrive\.expect_tx\S* _, \[%r\d+\], )2048"
WAIT = r"waitLoop:[^}]*\}"
LOAD, STORE = "shared::cta.global.mbarrier", "global.shared::cta.bulk_group"
# launcher, faults, kind, words, opcode
FAULTS: dict[str, tuple[Any, list[tuple[str, str]], type[PtxError], str, str]] = {
    "too few bytes expected": (by_arguments, [(EXPECT, r"\g<1>1024")], Deadlock, "1,024 bytes fewer", "try_wait"),
    "too many bytes expected": (by_kernel, [(EXPECT, r"\g<1>4096")], Deadlock, "lacks 2,048 bytes", "try_wait"),
    "no wait for the bytes": (by_kernel, [(WAIT, "}")], Race, "its mbarrier at 4096 was not waited for", "ld.shared"),
    "no proxy fence before a store": (
        by_arguments, [(r"fence\.proxy\.async\.shared::cta;", "")], Race, "no fence.proxy.async", STORE,
    ),
    "no wait before shared memory is used again": (
        by_arguments, [(r"cp\.async\.bulk\.wait_group\.read\s+\d+;", "")], Race, "no cp.async.bulk.wait_group", "st.shared",
    ),
    "the map was not copied out": (
        by_kernel, [(r"@%p\d+ tensormap\.cp_fenceproxy[^;]*;", "")], Uninitialised, "the tensor map: 16 bytes at", LOAD,
    ),
    "the map was not acquired": (
        by_kernel, [(r"@%p\d+ fence\.proxy\.tensormap[^;]*;", "")], InvalidTensorMap, "not acquired by", LOAD,
    ),
    "the map lies in shared memory": (
        by_kernel, [(r"cvta\.global\.u64\s+(%rd\d+), %rd\d+;", r"cvt.u64.u32 \1, 0;")], InvalidTensorMap, "lies at 0", LOAD,
    ),
    "the map is not zero at first": (
        by_kernel, [(r"@%p\d+ st\.shared::cta\.b32 [^;]*;", "")], Uninitialised, "nothing has written", "replace.tile.glob",
    ),
    "no rank": (by_kernel, [(FIELD.format("rank"), "")], InvalidTensorMap, "has no rank yet", LOAD),
    "no stride": (by_kernel, [(FIELD.format("global_stride"), "")], InvalidTensorMap, r"no global_stride\[0\] yet", LOAD),
    "no element type": (by_kernel, [(FIELD.format("elemtype"), "")], InvalidTensorMap, "no elemtype yet", LOAD),
    "one dimension more": (by_kernel, [(VALUE.format("rank", "0x1"), r"\g<1>0x2")], InvalidTensorMap, r"no global_stride\[1\]", LOAD),
    "a fill mode that is none": (
        by_kernel, [(VALUE.format("fill_mode", "0x0"), r"\g<1>0x2")], InvalidTensorMap, "fill_mode is 2", "fill_mode",
    ),
    "a box wider than its swizzle": (
        by_kernel, [(VALUE.format("swizzle_mode", "0x3"), r"\g<1>0x2")], InvalidTensorMap, "its swizzle takes up to 64", LOAD,
    ),
    "a box too tall for shared memory": (
        by_kernel, [(r"mov\.b32\s+(%r\d+), 16;", r"mov.b32 \1, 17;")], OutOfBounds, "at 4128 of shared memory", LOAD,
    ),
    "a box one piece too wide": (
        by_kernel,
        [(r"mov\.b32\s+(%r\d+), 64;", r"mov.b32 \1, 72;"), (VALUE.format("swizzle_mode", "0x3"), r"\g<1>0x0")],
        OutOfBounds, "at 4128 of shared memory", LOAD,
    ),
    "a box of part of a piece": (
        by_kernel, [(r"mov\.b32\s+(%r\d+), 64;", r"mov.b32 \1, 60;")], InvalidTensorMap, "a multiple of 16 bytes", LOAD,
    ),
    "a stride in elements": (
        by_kernel, [(r"mul\.wide\.s32\s+(%rd\d+), (%r\d+), 2;", r"cvt.s64.s32 \1, 9;")], InvalidTensorMap,
        r"global_stride\[0\] is 9; it must be a multiple of 16 bytes", "global_stride",
    ),
    "a box at an odd place": (
        by_arguments, [(r"(cp\.async\.bulk\.tensor\.2d\.shared::cta\S* \[)(%r\d+)\]", r"add.u32 \2, \2, 16;\n\1\2]")],
        Misaligned, "no multiple of 128", LOAD,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_reported_at_their_line(name):
    launch, faults, kind, words, opcode = FAULTS[name]
    x = numbers(SHAPE, torch.float16)
    with planted(*faults), pytest.raises(kind, match=words) as caught:
        launch(x, torch.zeros_like(x))
    assert type(caught.value) is kind
    assert opcode in (caught.value.opcode or "")
    assert re.search(r"_kernels\.py:\d+", str(caught.value))


@pytest.mark.parametrize("launch", [by_arguments, by_kernel])
def test_the_kernels_themselves_pass(launch):
    x = numbers(SHAPE, torch.float16)
    y = torch.zeros_like(x)
    launch(x, y)
    assert torch.equal(y, x + 1)


def test_a_tensor_map_that_reaches_past_its_array_is_out_of_bounds_there():
    x = numbers(SHAPE, torch.float16)
    wide = descriptor(x)
    wide.shape = [SHAPE[0] + 4, SHAPE[1]]
    with pytest.raises(OutOfBounds, match=r"element \[64, 0\] of a tensor map: 16 bytes at a \+32768 bytes, 0 past"):
        ptx.run(add_one, 5, wide, descriptor(numbers((80, 256), torch.float16)), SHAPE[1], *BLOCK)


def test_what_a_copy_reads_must_have_been_written():
    x, y = numbers(SHAPE, torch.float16), numbers(SHAPE, torch.float16)
    with pytest.raises(Uninitialised, match=r"element \[17, 0\] of a tensor map: .* at a\[17, 0\]"):
        by_arguments(x, y, readable={"a": torch.arange(64 * 256).reshape(64, 256).numpy() < 16 * 256 + 64})
    with pytest.raises(Uninitialised, match=r"element \[2, 16\] of a tensor map: .* at b\[2, 16\]"):
        ptx.run(reduce, 1, descriptor(x, 8, 32), descriptor(y, 8, 32), "add", 8, 32, readable={"b": False})
    by_arguments(x, y, readable={"b": False})


# Several programs, and a program beside its own copies.


@triton.jit
def hand_over(a, parts, p, done, out, N: tl.constexpr, B: tl.constexpr):
    parts.store([tl.program_id(0), 0], a.load([tl.program_id(0), 0]) + 1)
    if tl.atomic_add(done, 1) == N - 1:
        total = tl.zeros((B,), tl.float32)
        for k in range(N):
            total += tl.load(p + k * B + tl.arange(0, B))
        tl.store(out + tl.arange(0, B), total)


@triton.jit
def read_back(a, b, p, out, N, B0: tl.constexpr, B1: tl.constexpr):
    i = tl.program_id(0) * B0
    at = (i + tl.arange(0, B0)[:, None]) * N + tl.arange(0, B1)
    for j in range(0, N, B1):
        b.store([i, j], a.load([i, j]) + 1)
        tl.store(out + at + j, tl.load(p + at + j))


@triton.jit
def one_box(a, b, B: tl.constexpr):
    b.store([0, 0], a.load([tl.program_id(0), 0]))


def launch_hand_over(**settings):
    x, parts, total = torch.randn(4, 256), torch.zeros(4, 256), torch.zeros(256)
    done = torch.zeros(1, dtype=torch.int32)
    ptx.run(hand_over, 4, descriptor(x, 1, 256), descriptor(parts, 1, 256), parts, done, total, 4, 256, **settings)
    assert torch.equal(total, x[0] + 1 + (x[1] + 1) + (x[2] + 1) + (x[3] + 1))


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_store_that_was_waited_for_is_handed_over_by_an_atomic(seed):
    launch_hand_over(seed=seed)


@pytest.mark.parametrize(
    "fault",
    [(r"bulk\.wait_group\s+0;", "bulk.wait_group.read 0;"), ("acq_rel", "relaxed"), ("acq_rel", "acquire")],
    ids=["a wait for reads", "relaxed", "no release"],
)
def test_a_store_that_may_be_under_way_is_not(fault):
    with planted(fault), pytest.raises(Race, match=r"race at parts\[\d, 0\]: this load and a store by a bulk copy by"):
        launch_hand_over()


def test_a_program_reads_its_own_store_too_early():
    x, y, out = (torch.zeros(16, 256) for _ in range(3))
    with pytest.raises(Race, match="of the same program, PTX line .* with no cp.async.bulk.wait_group between"):
        ptx.run(read_back, 1, descriptor(x), descriptor(y), y, out, 256, *BLOCK)


def test_two_programs_that_store_one_box_race():
    x = torch.randn(4, 256)
    with pytest.raises(
        Race, match=r"at b\[0, 0\]: this store by a bulk copy and a store by a bulk copy by thread"
    ) as caught:
        ptx.run(one_box, 4, descriptor(x, 1, 256), descriptor(torch.zeros(4, 256), 1, 256), 256)
    assert caught.value.program == (1, 0, 0)


# What the driver refuses on a GPU, when a launch makes a tensor map.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"strides": [9, 1]},
            r"shape \[64, 256\] and strides \[9, 1\], is none for a GPU: global_stride\[0\] is 18; it must",
        ),
        ({"shape": [64, 0]}, r"global_dim\[0\] is 0; it must be at least 1"),
        ({"shape": [1 << 33, 256]}, r"each must be less than 2\*\*32"),
        ({"base": torch.zeros(70 * 256, dtype=torch.float16)[4:]}, "global_address is .*; it must be a multiple of 16"),
    ],
)
def test_descriptors_that_no_gpu_takes_are_refused_by_name(change, says):
    a = descriptor(numbers(SHAPE, torch.float16))
    for name, value in change.items():
        setattr(a, name, value)
    with pytest.raises(Refused, match=f"a.*{says}"):
        ptx.run(view, 1, a, torch.zeros(BLOCK, dtype=torch.float16), 0, 0, *BLOCK)


def test_nan_where_the_tensor_map_has_bytes_is_refused():
    a = descriptor(torch.zeros(64, 256).to(torch.float8_e5m2), padding="nan")
    with pytest.raises(Refused, match=r"fill_mode is 1 \(NaN\), and elemtype u8"):
        ptx.run(view, 1, a, torch.zeros(BLOCK).to(torch.float8_e5m2), 0, 0, *BLOCK)


# What hardware does at the innermost dimension, whose steps are pieces of 16 bytes.


@pytest.mark.parametrize(("last", "bytes"), [(4, 8), (-1, -2), (257, 514)])
def test_a_box_begins_at_a_multiple_of_16_bytes(last, bytes):
    x, out = numbers(SHAPE, torch.float16), torch.zeros(BLOCK, dtype=torch.float16)
    with pytest.raises(Misaligned, match=f"the innermost coordinate is {last}, {bytes} bytes of f16; a box begins at"):
        ptx.run(view, 1, descriptor(x), out, 0, last, *BLOCK)


@pytest.mark.parametrize(("rows", "to"), [([3, -1, 2, 5, 6, 7, 8, 9], 0), ([*range(8)], -16)], ids=["row", "column"])
def test_rows_are_not_scattered_to_negative_coordinates(rows, to):
    x, y = numbers((40, 96), torch.float32), torch.zeros(40, 96)
    chosen = torch.tensor(rows, dtype=torch.int32)
    with pytest.raises(OutOfBounds, match="are scattered; a coordinate must not be negative"):
        ptx.run(rows_of, 1, descriptor(x, 1, 32), descriptor(y, 1, 32), chosen, 0, to, 8, target="sm_100")


def test_a_store_fills_the_last_piece_of_a_row():
    whole = torch.full((16, 96), 7.0)
    x, y = numbers((16, 96), torch.float32), whole[:, :70]  # of 17.5 pieces
    settings = {"reachable": {"whole": whole}}
    ptx.run(copy_2, (1, 2), descriptor(x), descriptor(y), 0, 0, *BLOCK, **settings)
    assert torch.equal(whole[:, :72], x[:, :72])
    assert (whole[:, 72:] == 7).all()
    with pytest.warns(
        RuntimeWarning, match=r"element \[0, 70\] of a tensor map: .* whole pieces of 16 bytes, .* program"
    ):
        ptx.run(copy_2, (1, 2), descriptor(x), descriptor(y), 0, 0, *BLOCK)


def test_what_follows_the_last_row_of_an_array_is_nobodys():
    x, y = numbers((1001,), torch.float16), torch.zeros(1001, dtype=torch.float16)
    ptx.run(copy_1, 4, descriptor(x, 256), descriptor(y, 256), 0, 0, 256)
    assert torch.equal(x, y)
