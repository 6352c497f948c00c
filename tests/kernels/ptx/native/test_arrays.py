"""Arrays as compiled code works on them: beside GlobalMemory, and undone."""

import weakref

import numpy as np
import pytest

from kvproof.kernels.ptx.memory import GlobalMemory
from kvproof.kernels.ptx.native.arrays import Arrays
from kvproof.kernels.ptx.native.lower import Unlowered
from kvproof.kernels.ptx.native.pieces import BACKUP, CELLS, DIRTY, FIRST, LAST, READERS, SHIFT, STATE
from kvproof.kernels.ptx.segments import Buffer

from .. import _text
from . import _global


def layouts() -> list[Buffer]:
    base, pairs = np.arange(100, dtype=np.uint32), np.arange(64, dtype=np.uint16)
    arrays = base[3:40], base[10:60:2], pairs.reshape(8, 8).T[::-1], np.zeros((3, 0), np.uint32), pairs.view("u4")[2:9]
    return [Buffer("abcde"[n], x) for n, x in enumerate(arrays)]


def test_addresses_and_what_is_unwritten_are_those_of_the_numpy_form():
    buffers = layouts()
    readable, blank = {"a": np.arange(37) > 3, "b": False}, {"c": np.eye(8, dtype=bool)}
    arrays = Arrays(buffers, {"k": b"abc"}, readable, blank)
    memory = GlobalMemory(buffers, {"k": b"abc"}, readable, blank=blank)
    assert arrays.pointers == memory.pointers
    arrays.end()
    assert arrays.unwritten() == memory.unwritten()
    assert arrays.read_bytes() == memory.read_bytes() == dict.fromkeys("abce", 0)
    assert arrays.spans() == {}


def test_elements_are_what_all_arrays_of_a_segment_consist_of():
    arrays = Arrays(layouts(), {})
    assert [piece.shift for piece, *_ in arrays.placed] == [2, 2, 1, 1]
    odd = np.zeros(41, np.uint8)[1:].view(np.uint32)
    assert Arrays([Buffer("x", odd)], {}).pieces[0].shift == (0 if odd.ctypes.data % 4 else 2)


def test_only_what_may_be_written_is_kept_by_writer():
    arrays = [np.zeros(5, np.uint32) for _ in range(3)]
    arrays[2].flags.writeable = False
    made = Arrays([Buffer("xyz"[n], x) for n, x in enumerate(arrays)], {"k": b"1"}, may_write={"y", "z"})
    kept = {buffer.name: CELLS in piece.planes for piece, buffer, _ in made.placed}
    assert kept == {"x": False, "y": True, "z": False}
    assert CELLS not in made.pieces[-1].planes
    fine = Arrays([b for b, _ in made.buffers], {}, fine={"x", "y"})
    assert {b.name: READERS in p.planes for p, b, _ in fine.placed} == {"x": True, "y": True, "z": False}


def test_gaps_between_elements_belong_to_no_array():
    base = np.zeros((4, 8), np.uint32)
    arrays = Arrays([Buffer("x", base[:, :5])], {})
    piece = arrays.pieces[0]
    assert arrays.plane(piece, STATE).sum() == 3 * 20
    assert piece.record[LAST] - piece.record[FIRST] == (3 * 8 + 5) * 4
    assert STATE not in Arrays([Buffer("x", base.T)], {}).pieces[0].planes
    assert piece.record[SHIFT] == 2


@pytest.mark.parametrize(
    "given",
    [
        {"buffers": layouts(), "readable": {"q": False}},
        {"buffers": layouts(), "readable": {"a": np.zeros(5, bool)}},
    ],
)
def test_what_only_the_numpy_form_takes_is_left_to_it(given):
    with pytest.raises(Unlowered):
        Arrays(constants={}, **given)


def test_a_table_of_pointers_is_left_to_the_numpy_form():
    x = np.zeros(4, np.uint32)
    table = np.array([x.ctypes.data], np.uint64)
    with pytest.raises(Unlowered, match="table"):
        Arrays([Buffer("x", x), Buffer("t", table)], {})
    Arrays([Buffer("t", table)], {})


def test_a_launch_that_looks_wrong_leaves_no_trace():
    """Each thread stores, far apart and near; then one reads out of bounds."""
    body = "shl.b32 %r6, %r4, {}; mul.wide.u32 %rd5, %r6, 4; add.u64 %rd5, %rd1, %rd5; st.global.b32 [%rd5], 9; "
    for shift in (0, 5, 10):
        x = np.arange(40000, dtype=np.uint32)[1:]
        came = x.copy()
        text = body.format(shift) + "ld.global.b32 %r9, [%rd2+400]; ret;"
        found, _ = _global.outcome(text, [x, np.zeros(4, np.uint32)], "native")
        assert "belongs to no argument" in found["error"]
        assert (x == came).all()


def test_undo_gives_back_what_was_there():
    x = np.arange(5000, dtype=np.uint32)[1:]
    came = x.copy()
    arrays = Arrays([Buffer("x", x)], {})
    piece = arrays.pieces[0]
    for chunk in (0, 2, 4):
        low, high = max(chunk << 12, piece.pad), min(chunk + 1 << 12, piece.pad + piece.length)
        arrays.plane(piece, BACKUP)[low:high] = x.view(np.uint8)[low - piece.pad : high - piece.pad]
        arrays.plane(piece, DIRTY)[chunk] = 2
        x.view(np.uint8)[low - piece.pad : high - piece.pad] = 7
    arrays.undo()
    assert (x == came).all()


@pytest.mark.parametrize("first", [0, 1, 3])
def test_what_was_written_and_read_is_told_by_element(first):
    x = np.arange(200, dtype=np.uint32)[first:]
    views = [x[2:50:3], x[40:120]]
    body = "add.u64 %rd5, %rd2, %rd10; @%p1 st.global.b32 [%rd5+8], %r1; ld.global.b32 %r9, [%rd5+160]; ret;"
    body = "setp.lt.u32 %p1, %r1, 20; " + body
    runs = []
    for engine in ("numpy", "native"):
        written: dict = {}
        report = _text.run(body, *views, engine=engine, written=written, readable={"b": np.arange(80) > 30})
        runs.append((report.unique, report.unwritten, {n: m.tolist() for n, m in written.items()}))
        assert report.engine == engine
    assert runs[0] == runs[1]


def test_how_arrays_lie_is_kept_but_they_are_not():
    x = np.zeros((3, 17), np.float32)
    gone = weakref.ref(x)
    Arrays([Buffer("x", x)], {}).end()
    del x
    assert gone() is None
