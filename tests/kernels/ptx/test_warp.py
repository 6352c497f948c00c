"""Warp instructions of the PTX machine against loops over single threads, written from the PTX ISA's own formulas."""

import itertools
import math
import struct

import numpy as np
import pytest

from kvproof.kernels.ptx import warp
from kvproof.kernels.ptx.errors import UnknownOpcode

P, T = 3, 64
SHAPES = [(1, 1), (1, T), (P, 1), (P, T)]


def bits(rng, shape, high=2**32):
    return rng.integers(0, high, shape, dtype=np.uint32)


def u32(*values):
    return np.array(values, np.uint32)


def wide(*values):
    """Every (program, thread)'s own element of each value; None (all are active) is True."""
    return [np.broadcast_to(np.True_ if value is None else value, (P, T)) for value in values]


def masks(rng):
    """Activity of each shape; every warp has an active lane, since without one nothing executes."""
    shaped = [rng.random(shape) < 0.7 for shape in SHAPES]
    for mask in shaped:
        mask[:, ::32] = True
    return [None, *shaped]


def isa_shfl(mode, lane, b, c):
    """The pseudo code of shfl.sync for one lane: (lane to read, in range)."""
    bval, cval, mask = b & 31, c & 31, c >> 8 & 31
    max_lane = lane & mask | cval & ~mask & 31
    min_lane = lane & mask
    if mode == "up":
        j = lane - bval
        pval = j >= max_lane
    elif mode == "down":
        j = lane + bval
        pval = j <= max_lane
    elif mode == "bfly":
        j = lane ^ bval
        pval = j <= max_lane
    else:
        j = min_lane | bval & ~mask & 31
        pval = j <= max_lane
    return (j if pval else lane), pval


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_a_shuffle_reads_what_the_pseudo_code_reads(mode):
    rng = np.random.default_rng(0)
    for value_shape, control_shape in itertools.product(SHAPES, SHAPES):
        # Random bits clamp nearly everything; the second pair is what compilers write: whole warps or parts of them.
        plain = (bits(rng, control_shape, 32), u32([0x1C00 if mode == "up" else 0x181F]))
        controls = [(bits(rng, control_shape), bits(rng, control_shape)), plain]
        for (b, c), active in itertools.product(controls, masks(rng)):
            value = bits(rng, value_shape)
            got = wide(*warp.shfl(mode, value, b, c, active, T))
            values, bs, cs, actives = wide(value, b, c, active)
            for p, t in zip(*np.nonzero(actives), strict=True):
                j, in_range = isa_shfl(mode, int(t) % 32, int(bs[p, t]), int(cs[p, t]))
                j += t - t % 32
                assert [x[p, t] for x in got] == [values[p, j], in_range, not actives[p, j]]


def test_a_shuffle_does_uniform_work_once():
    rng = np.random.default_rng(0)
    b, c = u32([4]), u32([31])
    for shape in SHAPES:
        read, in_range, inactive = warp.shfl("bfly", bits(rng, shape), b, c, None, T)
        assert (read.shape, in_range.shape, inactive.shape) == (shape, (1, 1), (1, 1))


def per_warp(values, actives):
    """(warp's index, its active lanes, their values) of each warp."""
    for p, w in itertools.product(range(P), range(T // 32)):
        threads = [t for t in range(32 * w, 32 * w + 32) if actives[p, t]]
        yield (p, threads), [t % 32 for t in threads], [values[p, t] for t in threads]


def test_votes_count_the_active_lanes_only():
    rng = np.random.default_rng(0)
    for shape, often, active in itertools.product(SHAPES, (0.0, 0.5, 1.0), masks(rng)):
        pred = rng.random(shape) < often
        got = {mode: wide(warp.vote(mode, pred, active))[0] for mode in ("all", "any", "uni", "ballot")}
        got["active"] = wide(warp.activemask(active))[0]
        for at, lanes, votes in per_warp(*wide(pred, active)):
            ballot = sum(1 << lane for lane, yes in zip(lanes, votes, strict=True) if yes)
            assert (got["all"][at] == all(votes)).all()
            assert (got["any"][at] == any(votes)).all()
            assert (got["uni"][at] == (len(set(votes)) == 1)).all()
            assert (got["ballot"][at] == ballot).all()
            assert (got["active"][at] == sum(1 << lane for lane in lanes)).all()


def test_the_elected_lane_is_one_active_lane_of_each_warp():
    for active in masks(np.random.default_rng(0)):
        leader, leads = wide(*warp.elect(active, T))
        for (p, threads), lanes, led in per_warp(leads, wide(active)[0]):
            assert sum(led) == 1
            assert (leader[p, threads] == lanes[led.index(True)]).all()


def test_a_member_mask_must_name_its_own_lane_and_only_active_ones():
    rng = np.random.default_rng(0)
    assert not warp.absent(u32([0xFFFFFFFF]), None, T).any()
    found = set()
    for shape, active in itertools.product(SHAPES, masks(rng)):
        for member in (bits(rng, shape) | 1, u32([1]), wide(warp.activemask(active))[0]):
            (absent,) = wide(warp.absent(member, active, T))
            for (p, threads), lanes, mine in per_warp(*wide(member, active)):
                for t, mask in zip(threads, mine, strict=True):
                    named = {lane for lane in range(32) if mask >> lane & 1}
                    fits = t % 32 in named and named <= set(lanes)
                    assert absent[p, t] == (not fits)
                    found.add(fits)
    assert found == {True, False}


def test_a_match_finds_the_active_lanes_that_hold_the_same():
    rng = np.random.default_rng(0)
    for shape, active, kinds, dtype in itertools.product(SHAPES, masks(rng), (1, 3), (np.uint32, np.uint64)):
        value = rng.integers(0, kinds, shape).astype(dtype) << (40 if dtype is np.uint64 else 0)
        found, agree = wide(*warp.match("any", value, active))
        all_found, all_agree = wide(*warp.match("all", value, active))
        for (p, threads), lanes, xs in per_warp(*wide(value, active)):
            for t, x in zip(threads, xs, strict=True):
                same = sum(1 << lane for lane, y in zip(lanes, xs, strict=True) if x == y)
                alike = len(set(xs)) == 1
                assert (found[p, t], all_found[p, t]) == (same, same if alike else 0)
                assert agree[p, t] == all_agree[p, t] == alike


def signed(x):
    return int(x) - 2**32 * (int(x) >> 31)


INTEGER_REDUX = {
    "add.u32": lambda xs: sum(xs) % 2**32,
    "add.s32": lambda xs: sum(map(signed, xs)) % 2**32,
    "min.u32": min,
    "max.u32": max,
    "min.s32": lambda xs: min(map(signed, xs)) % 2**32,
    "max.s32": lambda xs: max(map(signed, xs)) % 2**32,
    "and.b32": lambda xs: sum(1 << i for i in range(32) if all(x >> i & 1 for x in xs)),
    "or.b32": lambda xs: sum(1 << i for i in range(32) if any(x >> i & 1 for x in xs)),
    "xor.b32": lambda xs: sum(1 << i for i in range(32) if sum(x >> i & 1 for x in xs) % 2),
}


@pytest.mark.parametrize("op", INTEGER_REDUX)
def test_an_integer_reduction_is_pythons(op):
    rng = np.random.default_rng(0)
    # Single values: an inactive lane must contribute nothing even to the extremes.
    pools = [None, u32(0), u32(0x7FFFFFFF), u32(0x80000000), u32(0xFFFFFFFF)]
    for shape, active, pool in itertools.product(SHAPES, masks(rng), pools):
        value = bits(rng, shape) | 0xC0 if pool is None else rng.choice(pool, shape)
        (got,) = wide(warp.redux(op, value, active))
        for at, _, xs in per_warp(*wide(value, active)):
            assert (got[at] == INTEGER_REDUX[op]([int(x) for x in xs])).all()


def float_redux(name, variants, xs):
    """One warp's redux.f32 by Python's floats, as bits."""
    numbers = [struct.unpack("f", struct.pack("I", x))[0] for x in xs]
    numbers = [abs(x) for x in numbers] if "abs" in variants else numbers
    finite = [x for x in numbers if not math.isnan(x)]
    if not finite or ("NaN" in variants and len(finite) < len(numbers)):
        return 0x7FFFFFFF
    best = (min if name == "min" else max)(finite, key=lambda x: (x, math.copysign(1, x)))
    return struct.unpack("I", struct.pack("f", best))[0]


@pytest.mark.parametrize("op", [f"{n}{v}.f32" for n in ("min", "max") for v in ("", ".abs", ".NaN", ".abs.NaN")])
@pytest.mark.parametrize("palette", ["numbers", "zeros", "some NaN", "all NaN"])
def test_a_float_reduction_orders_zeros_and_knows_nan(op, palette):
    rng = np.random.default_rng(0)
    edges = u32(0, 1 << 31, 1, 0x80000001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x3F800000)
    pool = {"numbers": edges, "zeros": edges[:2], "some NaN": np.append(edges, u32(0x7F800001, 0xFFFFFFFF))}
    pool = pool.get(palette, u32(0x7FC00000, 0xFF800001, 0x7FFFFFFF))
    name, *variants, _ = op.split(".")
    for shape, active in itertools.product(SHAPES, masks(rng)):
        value = rng.choice(pool, shape)
        (got,) = wide(warp.redux(op, value, active))
        for at, _, xs in per_warp(*wide(value, active)):
            assert (got[at] == float_redux(name, variants, [int(x) for x in xs])).all()


@pytest.mark.parametrize("op", ["mul.s32", "min.f16", "min.NaN.abs.f32", "add.f32", "and.u32"])
def test_an_unknown_reduction_is_refused_by_name(op):
    with pytest.raises(UnknownOpcode, match=op):
        warp.redux(op, u32([1]), None)


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("num", [1, 2, 4])
@pytest.mark.parametrize("programs", [1, P])
def test_matrices_move_as_each_thread_sees_them(num, trans, programs):
    rows = np.random.default_rng(0).integers(0, 256, (programs, T // 32, 8 * num, 16), dtype=np.uint8)
    registers = warp.fragments(rows, num, trans)
    for p, t, i in itertools.product(range(programs), range(T), range(num)):
        w, lane = divmod(t, 32)
        first, second = (lane // 4, lane % 4 * 2), (lane // 4, lane % 4 * 2 + 1)
        if trans:
            first, second = first[::-1], second[::-1]
        pairs = (rows[p, w, 8 * i + r, 2 * c : 2 * c + 2].tobytes() for r, c in (first, second))
        low, high = (int.from_bytes(pair, "little") for pair in pairs)
        assert registers[i][p, t] == low | high << 16
    assert np.array_equal(warp.rows_of(registers, trans), rows)


@pytest.mark.parametrize("num", [1, 2])
@pytest.mark.parametrize("programs", [1, P])
def test_matrices_of_bytes_move_as_each_thread_sees_them(num, programs):
    """Two registers of a 16x16 matrix of K rows and N columns: those that an mma takes of 16 rows of a B of bytes."""
    rows = np.random.default_rng(0).integers(0, 256, (programs, T // 32, 16 * num, 16), dtype=np.uint8)
    registers = warp.byte_fragments(rows)
    assert len(registers) == 2 * num
    for p, t, i, half in itertools.product(range(programs), range(T), range(num), range(2)):
        w, lane = divmod(t, 32)
        four = [rows[p, w, 16 * i + 4 * (lane % 4) + k, lane // 4 + 8 * half] for k in range(4)]
        assert registers[2 * i + half][p, t] == int.from_bytes(bytes(four), "little")


def test_stored_rows_may_come_from_registers_of_every_shape():
    rng = np.random.default_rng(0)
    registers = [bits(rng, shape) for shape in SHAPES]
    full = [np.ascontiguousarray(wide(register)[0]) for register in registers]
    for trans in (False, True):
        assert np.array_equal(warp.rows_of(registers, trans), warp.rows_of(full, trans))
    assert warp.rows_of(registers[:1], False).shape == (1, 1, 8, 16)
