"""What a launch may touch beyond its arguments, and the array in whose terms a stray address is reported."""

import gc
import re

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton import knobs

from kvproof.kernels import ptx
from kvproof.kernels.ptx import launch
from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.memory import GlobalMemory
from kvproof.kernels.ptx.segments import Buffer


@triton.jit
def gather(table, out, n, BLOCK: tl.constexpr):
    p = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    row = tl.load(table + p).to(tl.pointer_type(tl.float32))
    tl.store(out + p * n + at, tl.load(row + at, mask=at < n), mask=at < n)


@triton.jit
def scatter(table, n, BLOCK: tl.constexpr):
    """Every program writes the row of its number modulo 2, which two of them share."""
    at = tl.arange(0, BLOCK)
    row = tl.load(table + tl.program_id(0) % 2).to(tl.pointer_type(tl.float32))
    tl.store(row + at, at.to(tl.float32) + tl.program_id(0), mask=at < n)


@triton.jit
def nested(table, out):
    inner = tl.load(table).to(tl.pointer_type(tl.int64))
    tl.store(out, tl.load(tl.load(inner + 1).to(tl.pointer_type(tl.float32))))


@triton.jit
def by_number(address, out):
    tl.store(out, tl.load(address.to(tl.pointer_type(tl.float32))))


@triton.jit
def table_of(x, table, n):
    for i in range(n):
        tl.store(table + i, (x + 4 * i).to(tl.int64))


@triton.jit
def beside(x, y, out, offset):
    tl.store(out, tl.load(x + offset) + tl.load(y))


@triton.jit
def dot(a, b, c, M: tl.constexpr):
    at = tl.arange(0, M)[:, None] * M + tl.arange(0, M)[None, :]
    tl.store(c + tl.program_id(0) * M * M + at, tl.dot(tl.load(a + at), tl.load(b + at)))


def rows(n=3, width=16):
    return [np.arange(width, dtype=np.float32) + 100 * i for i in range(n)]


def addresses(arrays):
    return np.array([x.ctypes.data for x in arrays], np.int64)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("given", [list, tuple, lambda x: {f"row {i}": row for i, row in enumerate(x)}])
def test_arrays_that_a_table_points_to_are_reachable_where_they_are_named(given, seed):
    x, out = rows(), np.zeros((3, 16), np.float32)
    ptx.run(gather, 3, addresses(x), out, 16, BLOCK=16, reachable=given(x), seed=seed)
    assert (out == np.stack(x)).all()


def test_an_array_that_nobody_named_is_out_of_bounds_with_what_to_do():
    x = rows()
    with pytest.raises(ptx.OutOfBounds, match=r"address 0x[0-9a-f]+ of this process.*reachable=\[array\]"):
        ptx.run(gather, 3, addresses(x), np.zeros((3, 16), np.float32), 16, BLOCK=16, reachable=x[:2])


def test_live_tensors_are_found_by_their_address_and_dead_ones_are_not():
    x, out = [torch.randn(16) for _ in range(3)], torch.zeros(3, 16)
    table = torch.tensor([row.data_ptr() for row in x])
    with ptx.route():
        gather[(3,)](table, out, 16, BLOCK=16)  # pyright: ignore[reportArgumentType]
        assert torch.equal(out, torch.stack(x))
        whole = torch.arange(64.0)  # rows of one tensor, of which no view lives
        table = torch.tensor([whole[i].data_ptr() for i in (0, 16, 32)])
        gather[(3,)](table, out, 16, BLOCK=16)  # pyright: ignore[reportArgumentType]
        assert torch.equal(out.ravel(), whole[:48])
        table.fill_(torch.randn(1 << 20).data_ptr())
        gc.collect()
        with pytest.raises(ptx.OutOfBounds, match="of this process, where no array known here lies"):
            gather[(3,)](table, out, 16, BLOCK=16)  # pyright: ignore[reportArgumentType]


def test_bounds_unwritten_memory_and_races_are_checked_in_reachable_arrays():
    x = rows()
    named = dict(zip("abc", x, strict=True))
    with pytest.raises(ptx.OutOfBounds, match=r"at a \+64 bytes, 0 past its end"):
        ptx.run(gather, 3, addresses(x), np.zeros((3, 17), np.float32), 17, BLOCK=32, reachable=named)
    with pytest.raises(ptx.Uninitialised, match=r"b\[5\].*nothing that was written"):
        ptx.run(gather, 3, addresses(x), np.zeros((3, 16), np.float32), 16, BLOCK=16, reachable=named,
                readable={"b": np.arange(16) != 5})  # fmt: skip
    with pytest.raises(ptx.Race, match=r"a race at a\[0\].*of program"):
        ptx.run(scatter, 3, addresses(x[:2]), 16, BLOCK=16, reachable=named)
    ptx.run(scatter, 2, addresses(x[:2]), 16, BLOCK=16, reachable=named)
    assert (x[1] == np.arange(1, 17)).all()


def test_tables_of_tables_numbers_and_tables_made_by_kernels_lead_to_the_same_bytes():
    x, out = rows(), np.zeros(1, np.float32)
    inner = addresses(x)
    ptx.run(nested, 1, addresses([inner]), out, reachable=[inner, *x])
    assert out[0] == 100
    ptx.run(by_number, 1, x[2].ctypes.data, out, reachable=x)
    assert out[0] == 200
    table = np.zeros(4, np.int64)
    ptx.run(table_of, 1, x[0], table, 4)
    assert (table == x[0].ctypes.data + 16 * np.arange(4)).all()
    found = np.zeros((4, 4), np.float32)
    ptx.run(gather, 4, table, found, 4, BLOCK=4, reachable=x[0])
    assert (found.ravel() == x[0]).all()


def test_integers_that_are_no_addresses_come_back_as_they_are():
    rng = np.random.default_rng(0)
    words = rng.integers(-(2**63), 2**63, 4096)
    kept, x = words.copy(), np.arange(4, dtype=np.float32)
    memory = GlobalMemory([Buffer("words", words.view("u8")), Buffer("x", x.view("u4"))], {}, {})
    assert (memory.regions[0].of(memory.bytes).view(np.int64) == kept).all()
    memory.wrote(np.arange(len(memory.bytes)), 1)
    memory.write_back()
    assert (words == kept).all()


def test_reachable_takes_arrays_alone():
    with pytest.raises(TypeError, match=r"reachable\[1\] is int; reachable= takes arrays"):
        ptx.run(gather, 1, np.zeros(1, np.int64), np.zeros(1, np.float32), 1, BLOCK=1, reachable=[np.zeros(1), 3])


@pytest.mark.parametrize("offset", [-3000, 3000, 10**6, -(10**8)])
def test_a_stray_address_is_reported_by_the_array_it_was_derived_from(offset):
    whole = np.zeros(4000, np.float32)
    y, x, z = whole[:1000], whole[1500:1600], whole[2000:]  # in this process, some of them are met on the way
    past = f"{4 * offset - 400} past its end" if offset > 0 else f"{-4 * offset} before its start"
    with pytest.raises(ptx.OutOfBounds, match=re.escape(f"at x {4 * offset:+d} bytes, {past}: ")) as caught:
        ptx.run(beside, 1, x, y, z, offset)
    assert caught.value.where[0][0] == "test_reachable.py"


@pytest.mark.parametrize(("dtype", "unit"), [("u1", 1), ("u2", 2), ("u4", 4), ("u8", 8)])
def test_an_offset_that_overflowed_32_bits_is_called_one(dtype, unit):
    x = np.zeros(100, dtype)
    memory = GlobalMemory([Buffer("y", np.zeros(10, "u4")), Buffer("x", x)], {}, {})
    at = memory.pointers["x"] + 17 * unit
    wrapped = [(-1, "2**32 elements further"), (-2, "2 * 2**32 elements further"), (1, "2**32 elements back")]
    for times, words in wrapped:
        assert f"overflowed: {words} it is inside" in memory.stray(at + times * (unit << 32))
    assert "overflowed" not in memory.stray(at - (unit << 32) - 100 * unit)
    if unit > 1:
        assert "overflowed: 2**32 bytes further" in memory.stray(at - (1 << 32))


@triton.jit
def notes(global_scratch, out, READ: tl.constexpr, BLOCK: tl.constexpr):
    """A program keeps numbers in 64 bytes of its own."""
    p, at = tl.program_id(0), tl.arange(0, BLOCK)
    own = global_scratch + p * 64
    tl.store(own + at, (at + p).to(tl.int8))
    tl.debug_barrier()
    tl.store(out + p * BLOCK + at, tl.load(own + (BLOCK - 1 - at) + READ))


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_scratch_memory_is_unwritten_bounded_and_each_program_s_own(seed, monkeypatch):
    def wants(*args):
        return compile(*args)._replace(scratch={"global_scratch": (64, 128)})

    monkeypatch.setattr(launch, "compile", wants)
    out = np.zeros((4, 32), np.int8)
    given = np.zeros(1, np.int8), out
    report = ptx.run(notes, 4, *given, READ=0, BLOCK=32, num_warps=1, seed=seed)
    assert (out == np.arange(4)[:, None] + np.arange(31, -1, -1)).all()
    assert report.unique["global_scratch"] == 4 * 32
    with pytest.raises(ptx.Uninitialised, match=r"global_scratch\[\d+\].*nothing that was written"):
        ptx.run(notes, 4, *given, READ=1, BLOCK=32, num_warps=1, seed=seed)
    with pytest.raises(ptx.OutOfBounds, match=r"global_scratch \+\d+ bytes, \d+ past its end"):
        ptx.run(notes, 1, *given, READ=64, BLOCK=32, num_warps=1, seed=seed)


def test_triton_s_instrumented_dot_runs(monkeypatch):
    """It keeps its operands in scratch memory, as integers in place of floats: the same ones on every GPU."""
    monkeypatch.setattr(knobs.compilation, "instrumentation_mode", "fpsan")
    a, b = (np.random.default_rng(n).normal(size=(32, 32)).astype(np.float32) for n in (0, 1))
    found = []
    for target in ("sm_80", "sm_90"):
        c = np.zeros((2, 32, 32), np.float32)
        report = ptx.run(dot, 2, a, b, c, M=32, target=target, num_warps=2)
        assert report.unique["profile_scratch"] == 2 * 3 * 32 * 32 * 4
        found.append(c.view("u4"))
    assert (found[0][0] == found[0][1]).all()
    assert found[0].any()
    assert (found[0] == found[1]).all()


@triton.jit
def picked(x, index, out, stride, step, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at * stride + tl.load(index + at) * step))


def test_a_view_that_repeats_a_part_of_a_tensor_reaches_the_rest_behind_it():
    x, index, out = torch.arange(24.0).view(4, 6), torch.tensor([5, 0, 3, 5]), torch.zeros(4)
    view = x.as_strided((4, 6), (6, 0))
    ptx.run(picked, 1, view, index, out, 6, 1, N=4)
    assert out.tolist() == [5.0, 6.0, 15.0, 23.0]
    with pytest.raises(ptx.OutOfBounds, match=r"x"):
        ptx.run(picked, 1, view, index + 1, out, 6, 1, N=4)


def test_a_tensor_that_is_repeated_as_a_whole_ends_where_it_ends():
    x, index, out = torch.arange(4.0), torch.tensor([0, 0, 0, 1]), torch.zeros(4)
    with pytest.raises(ptx.OutOfBounds, match=r"x\[\d, 3\]|past its end"):
        ptx.run(picked, 1, x.expand(3, 4), index, out, 1, 1, N=4)
