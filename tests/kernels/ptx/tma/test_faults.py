"""Faults planted in the PTX of kernels with tensor descriptors: each is reported, with its line."""

import re
from typing import Any

import pytest
import torch

from kvproof.kernels import ptx
from kvproof.kernels.ptx import (
    Deadlock,
    InvalidTensorMap,
    Misaligned,
    OutOfBounds,
    PtxError,
    Race,
    Refused,
    Uninitialised,
)

from ._kernels import (
    BLOCK,
    SHAPE,
    add_one,
    add_one_made,
    copy_1,
    copy_2,
    descriptor,
    numbers,
    planted,
    reduce,
    rows_of,
    view,
)


def by_arguments(x: torch.Tensor, y: torch.Tensor, **settings: Any) -> Any:
    return ptx.run(add_one, 4, descriptor(x), descriptor(y), SHAPE[1], *BLOCK, **settings)


def by_kernel(x: torch.Tensor, y: torch.Tensor, programs: int = 4, **settings: Any) -> Any:
    return ptx.run(add_one_made, programs, x, y, *SHAPE, SHAPE[1], *BLOCK, **settings)


def field(name: str) -> str:
    """A pattern of the instructions that set a field."""
    return rf"@%p\d+ tensormap\.replace\.tile\.{name}\.shared::cta\.b1024\.\S+ \[[^;]*;"


def other_value(name: str, old: str, new: str) -> tuple[str, str]:
    return rf"(tensormap\.replace\.tile\.{name}\.shared::cta\.b1024\.b32 \[ %rd\d+ \+ 0 \], ){old}", rf"\g<1>{new}"


def other_number(old: int, new: int) -> tuple[str, str]:
    return rf"mov\.b32\s+(%r\d+), {old};", rf"mov.b32 \1, {new};"


EXPECT = r"(mbarrier\.arrive\.expect_tx\S* _, \[%r\d+\], )2048"
READ_WAIT = r"cp\.async\.bulk\.wait_group\.read\s+\d+;"
MAP = r"cvta\.global\.u64\s+(%rd\d+), %rd\d+;"
LOAD, STORE = "shared::cta.global.mbarrier", "global.shared::cta.bulk_group"
# of add_one, whose maps are arguments, and of add_one_made: faults, kind, words of the report, its opcode
ARGUMENTS: dict[str, tuple[list[tuple[str, str]], type[PtxError], str, str]] = {
    "too few bytes expected": ([(EXPECT, r"\g<1>1024")], Deadlock, "1,024 bytes fewer", "try_wait"),
    "no proxy fence": (
        [(r"fence\.proxy\.async\.shared::cta;", "")], Race, r"no fence.*at _kernels\.py:\d+, PTX line \d+", STORE,
    ),
    "no wait before a buffer is reused": ([(READ_WAIT, "")], Race, "no cp.async.bulk.wait_group", "st.shared"),
    "a box at an odd place": (
        [(r"(cp\.async\.bulk\.tensor\.2d\.shared::cta\S* \[)(%r\d+)\]", r"add.u32 \2, \2, 16;\n\1\2]")],
        Misaligned, "no multiple of 128", LOAD,
    ),
}  # fmt: skip
MADE: dict[str, tuple[list[tuple[str, str]], type[PtxError], str, str]] = {
    "too many bytes expected": ([(EXPECT, r"\g<1>4096")], Deadlock, "lacks 2,048 bytes", "try_wait"),
    "no wait for the bytes": ([(r"waitLoop:[^}]*\}", "}")], Race, "at 4096 was not waited for", "ld.shared"),
    "no copy of the map": ([(r"@%p\d+ tensormap\.cp_f[^;]*;", "")], Uninitialised, "the tensor map: 16 bytes at", LOAD),
    "no acquire": ([(r"@%p\d+ fence\.proxy\.tensormap[^;]*;", "")], InvalidTensorMap, "not acquired by", LOAD),
    "a map in shared memory": ([(MAP, r"cvt.u64.u32 \1, 0;")], InvalidTensorMap, "lies at 0, in shared memory", LOAD),
    "no zeros": ([(r"@%p\d+ st\.shared::cta\.b32 [^;]*;", "")], Uninitialised, "nothing has written", "tile.global_a"),
    "no rank": ([(field("rank"), "")], InvalidTensorMap, "has no rank yet", LOAD),
    "no stride": ([(field("global_stride"), "")], InvalidTensorMap, r"no global_stride\[0\] yet", LOAD),
    "no type": ([(field("elemtype"), "")], InvalidTensorMap, "no elemtype yet", LOAD),
    "a dimension more": ([other_value("rank", "0x1", "0x2")], InvalidTensorMap, r"no global_stride\[1\]", LOAD),
    "no fill mode": ([other_value("fill_mode", "0x0", "0x2")], InvalidTensorMap, "fill_mode is 2", "tile.fill_mode"),
    "a narrow swizzle": ([other_value("swizzle_mode", "0x3", "0x2")], InvalidTensorMap, "takes up to 64", LOAD),
    "a tall box": ([other_number(16, 17)], OutOfBounds, "at 4128 of shared memory", LOAD),
    "a wide box": (
        [other_number(64, 72), other_value("swizzle_mode", "0x3", "0x0")], OutOfBounds, "at 4128 of shared", LOAD,
    ),
    "part of a piece": ([other_number(64, 60)], InvalidTensorMap, "120 bytes; it must be a multiple of 16 bytes", LOAD),
    "a stride in elements": (
        [(r"mul\.wide\.s32\s+(%rd\d+), (%r\d+), 2;", r"cvt.s64.s32 \1, 9;")], InvalidTensorMap,
        r"global_stride\[0\] is 9; it must be a multiple of 16 bytes", "tile.global_stride",
    ),
}  # fmt: skip
FAULTS = {**{x: (by_arguments, *y) for x, y in ARGUMENTS.items()}, **{x: (by_kernel, *y) for x, y in MADE.items()}}


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


# What the driver refuses on a GPU, when a launch makes a tensor map.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"strides": [9, 1]},
            r"shape \[64, 256\] and strides \[9, 1\], is none for a GPU: global_stride\[0\] is 18; it must",
        ),
        ({"strides": [-32, 1]}, r"global_stride\[0\] is -64; it must be a multiple of 16 bytes below"),
        (
            {"strides": [256]},
            "a, a tensor descriptor, has as dimensions 2 in shape, 1 in strides, 2 in block_shape; make",
        ),
        (
            {"base": numbers(SHAPE, torch.float16).numpy()},
            "a.base is ndarray; a tensor descriptor is one of a torch te",
        ),
        ({"shape": [64, 0]}, r"global_dim\[0\] is 0; it must be at least 1"),
        ({"shape": [1 << 33, 256]}, r"each must be less than 2\*\*32"),
        (
            {"base": torch.zeros(70 * 256, dtype=torch.float16)[4:]},
            "global_address is 8 bytes past a multiple of 16; it must be a mul",
        ),
    ],
)
def test_descriptors_that_no_gpu_takes_are_refused_by_name(change, says):
    a = descriptor(numbers(SHAPE, torch.float16))
    for name, value in change.items():
        setattr(a, name, value)
    with pytest.raises(Refused, match=says):
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
    settings: dict[str, Any] = {"reachable": {"whole": whole}}
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
