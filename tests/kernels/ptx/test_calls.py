"""device_print and device_assert: what is printed, as C would, and what an assertion that fails is reported with."""

import numpy as np
import pytest
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import calls
from kvproof.kernels.ptx.compile import compile


@triton.jit
def values(f32, f16, i8, i64, u64):
    tl.device_print("floats", tl.load(f32), tl.load(f16))
    tl.device_print("ints", tl.load(i8), tl.load(i64), tl.load(u64))
    tl.device_print("hex", tl.load(i64), tl.load(f16), hex=True)
    tl.device_print("at", i8)


@triton.jit
def table(x, ROWS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * 2 + tl.arange(0, 2)[None, :]
    tl.device_print("x", tl.load(x + at))


@triton.jit
def guarded(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n)
    tl.device_assert(v >= 0, "a length is negative", mask=at < n)
    tl.store(out + at, v, mask=at < n)


@triton.jit
def waits(x, out):
    """The threads for which it holds wait for the others at a barrier."""
    at = tl.arange(0, 64)
    v = tl.load(x + at)
    tl.device_assert(v != 40, "forty")
    tl.store(out, tl.sum(v))


@triton.jit
def overflows(x, stride):
    tl.store(x, tl.program_id(0) * stride)


@triton.jit
def stops(x):
    tl.inline_asm_elementwise("trap; mov.b32 $0, $1;", "=r,r", [tl.load(x)], tl.int32, is_pure=False, pack=1)


def printed(capsys, kernel, grid, *args, **kwargs):
    ptx.run(kernel, grid, *args, num_warps=1, **kwargs)
    return capsys.readouterr().out.splitlines()


def test_each_conversion_prints_what_c_would(capsys):
    arrays = [
        np.array([x], t)
        for x, t in ((1.5, np.float32), (-0.1, np.float16), (-3, np.int8), (-(2**40), np.int64), (2**64 - 1, np.uint64))
    ]
    lines = printed(capsys, values, 1, *arrays)
    assert [line.partition("idx () ")[2] for line in lines] == [
        "floats: (operand 0) 1.500000", "floats: (operand 1) -0.099976",
        "ints: (operand 0) -3", f"ints: (operand 1) {-(2**40)}", f"ints: (operand 2) {2**64 - 1}",
        "hex: (operand 0) 0xffffff0000000000", "hex: (operand 1) 0x(no value)",
        f"at: {arrays[2].ctypes.data:#x}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "bits", "line"),
    [
        ("%5u|", 7, "    7|"), ("%-4d|", 2**32 - 7, "-7  |"), ("%+.3e", 0x3FF8000000000000, "+1.500e+00"),
        ("%08llx", 48879, "0000beef"), ("%#x 100%%", 255, "0xff 100%"), ("%hhd", 255, "-1"), ("%c", 65, "A"),
        ("%p", 4096, "0x1000"), ("%o", 8, "10"), ("%g", 0x7FF0000000000000, "inf"),
    ],
)  # fmt: skip
def test_flags_widths_and_lengths_are_as_in_c(text, bits, line):
    memory = type("Memory", (), {"segments": type("Segments", (), {"back": staticmethod(lambda words: words)})})
    assert calls.CONVERSION.sub(lambda c: calls.converted(c, bits, memory), text) == line


def test_every_element_has_its_line_and_a_value_that_all_threads_share_one(capsys):
    lines = printed(capsys, table, (2, 1), np.arange(8, dtype=np.int32), ROWS=4)
    expected = [f"pid ({p}, 0, 0) idx ({n // 2}, {n % 2}) x: {n}" for p in (0, 1) for n in range(8)]
    assert sorted(lines) == sorted(expected)


def test_what_is_printed_is_capped_with_a_note_and_kept_in_the_report(capsys):
    x = np.arange(2048, dtype=np.int32)
    report = ptx.run(table, 1, x, ROWS=1024)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1001
    assert lines[-1] == "... and 1,048 more lines of device_print, left out after 1,000"
    assert (len(report.printed.lines), report.printed.left_out) == (1000, 1048)
    report = ptx.run(table, 1, x, ROWS=2, prints=False)
    assert capsys.readouterr().out == ""
    assert len(report.printed.lines) == 4


def test_check_prints_once(capsys):
    ptx.check(table, 1, np.arange(4, dtype=np.int32), ROWS=2, targets="sm_90")
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_an_assertion_that_fails_names_its_message_line_program_and_thread(target, seed):
    x, out = np.arange(256, dtype=np.int32), np.zeros(256, np.int32)
    x[201] = -1
    with pytest.raises(ptx.AssertionFailed, match="fails: a length is negative; program") as caught:
        ptx.run(guarded, 2, x, out, 256, BLOCK=128, debug=True, target=target, seed=seed)
    assert caught.value.program == (1, 0, 0)
    assert caught.value.thread is not None
    assert caught.value.where[0] == ("test_calls.py", guarded.fn.__code__.co_firstlineno + 4)
    ptx.run(guarded, 2, x, out, 201, BLOCK=128, debug=True, target=target, seed=seed)  # masked off
    assert (out[:201] == x[:201]).all()


def test_without_debug_assertions_are_not_compiled():
    x, out = np.full(8, -1, np.int32), np.zeros(8, np.int32)
    ptx.run(guarded, 1, x, out, 8, BLOCK=8)
    assert "__assertfail" not in compile(guarded, (x, out, 8), {"BLOCK": 8}).ptx
    assert (out == -1).all()


def test_an_assertion_that_some_threads_pass_is_reported_before_they_are_called_divergent():
    with pytest.raises(ptx.AssertionFailed, match="forty"):
        ptx.run(waits, 1, np.arange(64, dtype=np.int32), np.zeros(1, np.int32), debug=True)


def test_with_debug_triton_s_own_check_finds_an_overflow():
    with pytest.raises(ptx.AssertionFailed, match="int32 overflow detected") as caught:
        ptx.run(overflows, 4, np.zeros(1, np.int32), 2**30, debug=True)
    assert caught.value.program == (2, 0, 0)


def test_a_trap_stops_the_launch():
    with pytest.raises(ptx.Trap, match="stops itself"):
        ptx.run(stops, 1, np.zeros(1, np.int32))
