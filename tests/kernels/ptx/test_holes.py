"""Arrays with holes: what a kernel sees of them, what is reported beside them, and that holes take no memory."""

import re
import resource

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import errors, holes, locations
from kvproof.kernels.ptx.profile import touches
from kvproof.kernels.ptx.segments import GUARD, Buffer, Segments, arena

from ._text import OWN, fails, run

FAR = 1 << 30


@triton.jit
def put(x, slots, out, stride, WIDE: tl.constexpr, D: tl.constexpr):
    p = tl.program_id(0)
    slot = tl.load(slots + p)
    if WIDE:
        slot = slot.to(tl.int64)
    tl.store(out + slot * stride + tl.arange(0, D), tl.load(x + p * D + tl.arange(0, D)))


def values(shape, dtype) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int64"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_an_index_that_overflows_32_bits_is_named_and_one_of_64_bits_is_right(kind, dtype):
    x, slots, out = values((2, 32), dtype), np.array([3, 1], np.int32), np.zeros((4, 32), dtype)
    give = (lambda a: torch.from_numpy(a)) if kind == "torch" else (lambda a: a)
    far = ptx.spread(give(out), FAR)
    ptx.check(put, 2, give(x), slots, far, FAR, True, 32, targets=("sm_80", "sm_90"), seeds=(0,))
    assert np.array_equal(far, [0 * x[0], x[1], 0 * x[0], x[0]])
    size = out.itemsize
    overflow = rf"out -{FAR * size} bytes, {FAR * size} before its start \(a 32-bit offset .* 2\*\*32 elements further"
    with pytest.raises(ptx.OutOfBounds, match=overflow) as caught:
        ptx.run(put, 2, give(x), slots, far, FAR, False, 32)
    assert caught.value.program == (0, 0, 0)
    assert caught.value.where[0][1] == put.starting_line_number + 6


def test_spread_keeps_values_and_types_and_gives_the_strides():
    x = torch.arange(24, dtype=torch.bfloat16).reshape(2, 3, 4)
    far = ptx.spread(x, FAR)
    assert (far.dtype, far.stride()) == (torch.bfloat16, (FAR, 4, 1))
    assert torch.equal(far, x)
    far = ptx.spread(x.numpy(force=True) if x.dtype != torch.bfloat16 else x.float().numpy(), (8, FAR, 2))
    assert far.strides == (32, 4 * FAR, 8)
    assert np.array_equal(far, x.float().numpy())
    far[1, 2, 3] = 99
    assert x[1, 2, 3] == 23


def test_spread_refuses_strides_that_put_two_elements_in_one_place():
    with pytest.raises(ValueError, match=r"apart is 3; .*\[2, 4\] overlap; give strides of 4 or more"):
        ptx.spread(np.zeros((2, 4)), 3)


BAD = {
    "a list": ([[1.0]], 3, TypeError, "a list came; spread takes a NumPy array or a torch tensor"),
    "a float": (np.zeros((2, 4)), 8.0, TypeError, "apart is 8.0; it takes a whole number of elements"),
    "floats": (np.zeros((2, 4)), (8, 1.5), TypeError, r"apart is \(8, 1.5\); it takes a whole number"),
    "a length": (np.zeros((2, 4)), (8, 2, 1), ValueError, r"shape \[2, 4\] has 2 axes: give as many strides"),
    "no axis": (np.zeros(()), 8, ValueError, r"shape \[\] has no elements to lie apart"),
    "no element": (np.zeros((0, 4)), 8, ValueError, r"shape \[0, 4\] has no elements"),
    "negative": (np.zeros((2, 4)), -8, ValueError, "apart is -8; strides are positive"),
    "too far": (
        np.zeros((2, 4)),
        2**62,
        ValueError,
        r"would reach over 368\d+ bytes; .* addresses for 2\*\*47: give smaller",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_spread_refuses_what_does_not_fit_in_words(name):
    array, apart, kind, match = BAD[name]
    with pytest.raises(kind, match=match):
        ptx.spread(array, apart)
    if not isinstance(array, list):
        with pytest.raises(kind, match=match):
            ptx.spread(torch.from_numpy(array), apart)


def test_spread_takes_numpy_s_whole_numbers():
    assert ptx.spread(np.zeros((2, 4), np.float32), np.int64(FAR)).strides == (4 * FAR, 4)
    assert ptx.spread(np.zeros((2, 4), np.float32), np.array([FAR, 2])).strides == (4 * FAR, 8)


def test_what_the_system_does_not_give_is_said(monkeypatch):
    def full(*args):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(holes.mmap, "mmap", full)
    with pytest.raises(OSError, match=r"Cannot allocate memory: this system gives no \d+ bytes .*give smaller strides"):
        ptx.spread(np.zeros((2, 4)), FAR)


def test_memory_that_the_system_does_not_give_names_the_array_with_its_holes():
    arrays = [Buffer("x", np.zeros(4, np.uint32)), Buffer("out", strided((4, 8), (FAR, 4)))]
    with pytest.raises(ptx.Refused, match=rf"out lies over {3 * FAR + 32}, .* falls into more than 65536 pieces"):
        arena(1 << 62, arrays)


def test_holes_take_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x, slots = values((2, 32), "float32"), np.array([3, 1], np.int32)
    far = ptx.spread(np.zeros((4, 32), np.float32), 1 << 40)  # 12 TiB from the first to the last
    ptx.run(put, 2, x, slots, far, 1 << 40, True, 32)
    assert np.array_equal(far, [0 * x[0], x[1], 0 * x[0], x[0]])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


SHAPES = {
    # name: (shape, strides in bytes)
    "one axis": ((4, 8), (FAR, 4)),
    "backwards": ((4, 8), (-FAR, 4)),
    "all backwards": ((4, 8), (-FAR, -4)),
    "an inner axis": ((2, 3, 4), (4, FAR, 8)),
    "two axes": ((3, 2, 5), (FAR, 1 << 26, 4)),
    "two, one backwards": ((3, 2, 5), (FAR, -(1 << 26), 4)),
    "odd strides": ((3, 6), (FAR + 36, 12)),
    "an expanded axis": ((3, 2, 5), (FAR, 0, 4)),
}


def strided(shape, strides) -> np.ndarray:
    """An array of such strides in memory of its own."""
    reach = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    memory = holes.mmap.mmap(-1, sum(map(abs, reach)) + 4, flags=holes.mmap.MAP_PRIVATE | holes.NORESERVE | 0x20)
    return np.ndarray(shape, np.uint32, memory, -sum(r for r in reach if r < 0), strides)


@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_sees_every_element_where_the_strides_put_it(name):
    shape, strides = SHAPES[name]
    array = strided(shape, strides)
    array[...] = values(shape, np.uint32)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ np.array(strides)
    offsets = np.zeros(32, np.uint64)
    offsets[: places.size] = places.ravel().view(np.uint64)
    body = (
        "shl.b64 %rd12, %rd10, 1; add.u64 %rd12, %rd12, %rd3; "
        "ld.global.b64 %rd13, [%rd12]; add.u64 %rd13, %rd13, %rd2; "
    )
    out = np.zeros(32, np.uint32)
    run(body + "ld.global.b32 %r9, [%rd13]; " + OWN.format("%r9"), out, array, offsets)
    assert out[: places.size].tolist() == array.ravel().tolist()
    if 0 in strides:
        return
    store = f"setp.ge.u32 %p1, %r1, {places.size}; @%p1 ret; add.u32 %r9, %r1, 100; st.global.b32 [%rd13], %r9; ret;"
    run(body + store, out, array, offsets)
    assert array.ravel().tolist() == list(range(100, 100 + array.size))


@pytest.mark.parametrize("name", SHAPES)
def test_the_arena_has_no_room_for_holes_and_keeps_alignment(name):
    array = strided(*SHAPES[name])
    segments = Segments([Buffer("a", array)], {})
    region = segments.region(Buffer("a", array))
    assert segments.size < 1 << 17
    assert {int(x) % 256 for x in segments.arena - segments.real} == {0}
    assert {int(x) % 256 for x in segments.virtual - segments.real} == {0}
    assert (np.diff(segments.arena) >= segments.length[:-1] + GUARD).all()
    of = region.of(np.zeros(segments.size, np.uint8))
    assert of.shape == array.shape


BESIDE = {
    "past a piece": (8 * 4, r"b\[0, 8\]: the address belongs"),
    "in the middle of a hole": (
        FAR // 2,
        r"b \+536870912 bytes, in a hole between its elements: the address belongs to no",
    ),
    "before the second piece": (FAR - 4, "belongs to no argument"),
    "past the last": (3 * FAR + 32, r"b \+3221225504 bytes, 0 past its end"),
    "before the first": (-4, r"b -4 bytes, 4 before its start"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_beside_an_element_belongs_to_nobody(name):
    offset, what = BESIDE[name]
    fails(errors.OutOfBounds, what, f"ld.global.b32 %r9, [%rd2+{offset}]; ret;" if abs(offset) < 1 << 31 else
          f"mov.b64 %rd9, {offset}; add.u64 %rd9, %rd9, %rd2; ld.global.b32 %r9, [%rd9]; ret;",
          np.zeros(32, np.uint32), strided((4, 8), (FAR, 4)))  # fmt: skip


@pytest.mark.parametrize(
    ("offset", "told"),
    [
        (16 * (1 << 28), False),  # one row more: 2**32 elements back lies x[0, 0], of the index 4
        (16 * (1 << 28) + 8 * 4, False),  # and beside it: 2**32 elements back lies a hole
        (-(1 << 30), True),  # row 3, whose index of 32 bits is -1
        (-(1 << 30) + 8 * 4, False),  # beside row 3
    ],
)
def test_an_overflow_explains_what_it_leads_to_an_element_and_no_hole(offset, told):
    array = strided((4, 8), (1 << 30, 4))
    region = Segments([Buffer("x", array)], {}).region(Buffer("x", array))
    assert ("overflowed" in locations.outside(offset, region)) == told
    two = region._replace(buffer=Buffer("x", array[:2]))
    assert "overflowed" not in locations.outside(2 << 30, two)


def test_a_byte_is_inside_if_an_element_has_it():
    array = np.lib.stride_tricks.as_strided(np.zeros(100, np.uint16), (3, 2, 4), (40, -16, 2))
    low = -16
    own = {40 * i - 16 * j + 2 * k + b - low for i in range(3) for j in range(2) for k in range(4) for b in (0, 1)}
    assert [n for n in range(-50, 150) if locations.inside(array, n)] == sorted(own)


def test_a_race_names_the_element_behind_a_hole():
    body = f"mov.b64 %rd9, {2 * FAR + 12}; add.u64 %rd9, %rd9, %rd2; st.global.b32 [%rd9], %r2; ret;"
    found = fails(errors.Race, re.escape("a race at b[2, 3]"), body, np.zeros(32, np.uint32), strided((4, 8), (FAR, 4)),
                  programs=2)  # fmt: skip
    assert "program (1, 0, 0)" in str(found)


def test_addresses_in_a_table_lead_behind_holes():
    far = strided((3, 8), (FAR, 4))
    far[2, 5] = 77
    address = far[2, 5:].__array_interface__["data"][0]
    out, table = np.zeros(32, np.uint32), np.array([address], np.uint64)
    run("ld.global.b64 %rd9, [%rd3]; ld.global.b32 %r9, [%rd9]; " + OWN.format("%r9"), out, far, table)
    assert (out == 77).all()
    first = "setp.ne.u32 %p1, %r1, 0; @%p1 ret; "
    step = "ld.global.b64 %rd9, [%rd3]; add.u64 %rd9, %rd9, 4; st.global.b64 [%rd3], %rd9; ret;"
    run(first + step, out, far, table)
    assert table[0] == address + 4


SHARED = {
    # name: (two arrays in four rows of 16, the first of which begins at [0, 8], and whether holes are left out)
    "side by side": (lambda both: (both[:, 8:], both[:, :8]), True),
    "overlapping": (lambda both: (both[:, 8:], both[:, 4:12]), True),
    "the same": (lambda both: (both[:, 8:], both[:, 8:]), True),
    "one backwards": (lambda both: (both[:, 8:], both[::-1, :8]), True),
    "a row of them": (lambda both: (both[:, 8:], both[1]), False),
}


@pytest.mark.parametrize("name", SHARED)
def test_arrays_that_share_memory_with_holes_still_share_it(name):
    views, small = SHARED[name]
    both = strided((4, 16), (1 << 27, 4))
    both[...] = values((4, 16), np.uint32)
    one, other = views(both)
    out = np.zeros(32, np.uint32)
    far = "mov.b64 %rd9, 402653184; add.u64 %rd9, %rd9, %rd2; "  # row 3 of the first
    run(far + "ld.global.b32 %r9, [%rd9]; " + OWN.format("%r9"), out, one, other)
    assert (out == both[3, 8]).all()
    first = "setp.ne.u32 %p1, %r1, 0; @%p1 ret; "
    run(far + first + "ld.global.b32 %r9, [%rd3+4]; st.global.b32 [%rd9], %r9; ret;", out, one, other)
    assert both[3, 8] == other.ravel()[1]
    assert (Segments([Buffer("a", one), Buffer("b", other)], {}).size < 1 << 17) == small


def test_a_profile_counts_elements_behind_holes():
    x, slots, out = values((2, 32), "float32"), np.array([3, 1], np.int32), np.zeros((4, 32), np.float32)
    far = ptx.spread(out, FAR)
    report = ptx.run(put, 2, x, slots, far, FAR, True, 32, trace=True, readable={"out": False})
    (stored,) = [each for each in touches(report) if each.kind == "store"]
    assert (stored.region.buffer.name, stored.distinct, report.unwritten) == ("out", 256, {"out": 64})
    elements = np.unique(stored.each_element(4)[2])
    assert elements.tolist() == [*range(32, 64), *range(96, 128)]
