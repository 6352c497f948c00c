"""Global memory as machine code: what the NumPy form finds wrong never passes, and what passes is told alike."""

import numpy as np
import pytest

from .._text import run
from . import _global

HALF = "setp.lt.u32 %p1, %r1, 16; "
EACH = "add.u64 %rd5, %rd2, %rd10; "


def arrays(n=512):
    return [np.arange(n, dtype=np.uint32) % 3, np.zeros(n, np.uint32)]


def same(body, *given, native=None, **settings):
    """Run on both engines; native: whether machine code is to take it."""
    given = given or arrays()
    usual, _ = _global.outcome(body, [*given], "numpy", **settings)
    found, engine = _global.outcome(body, [*given], "native", **settings)
    assert found == usual
    if native is not None:
        assert (engine == "native") is native
    return found


@pytest.mark.parametrize("write", [_global.body, _global.publication])
def test_random_bodies_end_alike_on_both_engines(write):
    took = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        settings = {"programs": int(random.integers(1, 4)), "threads": int(random.choice([32, 64]))}
        given, text = [np.arange(512, dtype=np.uint32) % 3, np.zeros(4, np.uint32)], write(random)
        usual, _ = _global.outcome(text, given, "numpy", **settings)
        found, engine = _global.outcome(text, given, "native", **settings)
        assert found == usual, (seed, settings, text)
        took.append("error" if "error" in usual else engine)
    assert took.count("native") > 2 * took.count("numpy")
    assert took.count("error") > 5


@pytest.mark.parametrize(("other", "native"), [("%rd1", True), ("%rd2", True), ("1234567", False)])
@pytest.mark.parametrize("stored", ["", "st.global.b32 [%rd11], %r1; bar.sync 0; "])
def test_lanes_of_a_load_may_each_read_another_array(other, native, stored):
    """Of odd lanes each reads %rd3's, where that is read only, of even ones another's, which may be written to."""
    body = stored + f"and.b32 %r6, %r1, 1; setp.eq.u32 %p1, %r6, 0; mov.u64 %rd6, {other}; "
    body += "selp.b64 %rd7, %rd6, %rd3, %p1; add.u64 %rd7, %rd7, %rd10; ld.global.b32 %r9, [%rd7]; "
    given = [*arrays(), np.arange(1000, 1512, dtype=np.uint32)]
    found = same(body + EACH + "st.global.b32 [%rd5], %r9; ret;", *given, native=native)
    assert ("error" in found) is not native


WHERE = [f"{x};" for x in ("mov.u32 %r6, %r4", "and.b32 %r6, %r1, 3", "mul.lo.u32 %r6, %r1, 7", "sub.u32 %r6, 63, %r1")]
WHERE.append("mov.u32 %r6, 5;")


@pytest.mark.parametrize("threads", [32, 64])
@pytest.mark.parametrize("address", WHERE)
@pytest.mark.parametrize("kind", ["b8", "b16", "b32", "v2.b32", "v4.b32", "b64", "v2.b64", "v4.u16"])
def test_loads_of_every_width_and_pattern(kind, address, threads):
    size = {"b8": 1, "b16": 2, "b32": 4, "b64": 8}.get(kind, 16 if kind != "v2.b32" and kind != "v4.u16" else 8)
    count = int(kind[1]) if kind[0] == "v" else 1
    register = {"b8": "%h{}", "b16": "%h{}", "u16": "%h{}", "b32": "%r1{}", "b64": "%rd1{}"}[kind.split(".")[-1]]
    first = 2 if "rd" in register else 0
    parts = [register.format(n + first) for n in range(count)]
    into = f"{{{', '.join(parts)}}}" if count > 1 else parts[0]
    body = f"{address} mul.wide.u32 %rd5, %r6, {size}; add.u64 %rd5, %rd1, %rd5; setp.lt.u32 %p1, %r1, 23; "
    body += f"ld.global.{kind} {into}, [%rd5]; mul.wide.u32 %rd6, %r4, {size}; add.u64 %rd6, %rd2, %rd6; "
    body += f"@%p1 st.global.{kind} [%rd6], {into}; ret;"
    item = np.dtype(f"u{size // count}")
    x, y = (
        np.random.default_rng(0).integers(0, 255, 8192).astype(np.uint8).view(item),
        np.zeros(4096 // item.itemsize, item),
    )
    same(body, x, y, native=True, threads=threads)


@pytest.mark.parametrize(
    "body",
    [
        "ld.global.b32 %r9, [%rd11+2048]; ret;",  # out of bounds at its end
        "ld.global.b32 %r9, [%rd11-4]; ret;",
        "ld.global.b32 %r9, [%rd11+2]; ret;",
        "ld.global.b64 %rd9, [%rd11]; ret;",
        "setp.eq.u32 %p1, %r1, 7; @%p1 ld.global.b32 %r9, [%rd11+4096]; ret;",
        "mov.u64 %rd5, 4096; ld.global.b32 %r9, [%rd5]; ret;",
        "st.global.b32 [%rd11+2048], 1; ret;",
        "ld.global.b16 %h1, [%rd11]; ret;",  # half of an element
        "ld.global.b32 %r9, [%rd1]; st.global.b32 [%rd1], %r1; ret;",
        "st.global.b32 [%rd1], 5; ld.global.b32 %r9, [%rd1]; ret;",
        "shr.u32 %r6, %r1, 1; mul.wide.u32 %rd5, %r6, 4; add.u64 %rd5, %rd1, %rd5; st.global.b32 [%rd5], %r1; ret;",
        "atom.global.gpu.add.u32 %r9, [%rd1], 1; st.global.b32 [%rd1], 5; ret;",
    ],
)
def test_what_is_wrong_or_rare_is_left_to_the_numpy_form(body):
    same(body, native=False, threads=64)


def test_what_nothing_has_written_is_not_read():
    given = arrays()
    same("ld.global.b32 %r9, [%rd11]; ret;", *given, native=False, readable={"a": np.arange(512) != 31})
    same("ld.global.b32 %r9, [%rd11]; ret;", *given, native=True, readable={"a": np.arange(512) < 32})
    same("st.global.b32 [%rd11], 1; ld.global.b32 %r9, [%rd11]; ret;", *given, native=True, readable={"a": False})
    same(EACH + "ld.global.b32 %r9, [%rd5]; ret;", *given, native=False, blank={"b": np.arange(512) == 31})


COPIES = "mov.u32 %r8, 3; {} setp.eq.u32 %p2, %r1, {}; @%p2 st.global.b32 [%rd1], %r8; ret;"


@pytest.mark.parametrize("storing", [0, 7, 40])
@pytest.mark.parametrize("who", [None, 5, 39, 63])
def test_a_copy_that_disagrees_with_what_is_stored_is_counted(storing, who):
    """One thread stores what all hold; another's copy may differ, of the same warp or of the other."""
    wrong = "" if who is None else f"setp.eq.u32 %p1, %r1, {who}; @%p1 mov.u32 %r8, 4;"
    found = same(COPIES.format(wrong, storing), threads=64, native=who is None)
    assert (found["disagreeing"] > 0) is (who is not None)


def test_copies_are_compared_however_many_programs_pass_between_two_warps():
    """One warp waits at an atomic, while the other stores what its copy should be, and thousands of programs go by."""
    body = "setp.lt.u32 %p1, %r1, 32; @%p1 bra SKIP; atom.global.relaxed.gpu.add.u32 %r6, [%rd2], 1; SKIP: "
    body += "shr.u32 %r9, %r1, 5; setp.eq.u32 %p2, %r2, {}; selp.b32 %r9, %r9, 0, %p2; mul.wide.u32 %rd5, %r2, 4; "
    body += "add.u64 %rd5, %rd1, %rd5; setp.eq.u32 %p1, %r1, 40; @%p1 st.global.b32 [%rd5], %r9; ret;"
    for one in range(8):
        arrays = np.zeros(3000, np.uint32), np.zeros(1, np.uint32)
        assert run(body.format(one), *arrays, programs=3000, threads=64, engine="native").disagreeing == 1


def test_a_masked_tail_is_no_copy():
    body = "setp.lt.u32 %p1, %r4, 77; @%p1 st.global.b32 [%rd11], %r4; ret;"
    same(body, native=True, threads=64, programs=3)


def test_in_place_a_thread_may_write_what_it_has_read():
    body = "ld.global.b32 %r9, [%rd11]; add.u32 %r9, %r9, 1; st.global.b32 [%rd11], %r9; ret;"
    same(body, native=True, threads=64, programs=3)
    same("ld.global.b32 %r9, [%rd1]; setp.eq.u32 %p1, %r1, 0; @%p1 st.global.b32 [%rd1], %r9; ret;", native=True)


@pytest.mark.parametrize("operation", ["add.u32", "add.f32", "max.s32", "min.u32", "and.b32", "xor.b32", "exch.b32",
                                       "inc.u32", "dec.u32", "cas.b32"])  # fmt: skip
@pytest.mark.parametrize("threads", [32, 64])
def test_atomics_go_in_the_order_of_the_numpy_form(operation, threads):
    other = "%r9, %r4" if operation.startswith("cas") else "%r4"
    body = "and.b32 %r6, %r1, 5; mul.wide.u32 %rd5, %r6, 4; add.u64 %rd5, %rd2, %rd5; mov.u32 %r9, 1; "
    body += f"atom.global.gpu.relaxed.{operation} %r9, [%rd5], {other}; setp.lt.u32 %p1, %r1, 20; "
    body += f"@%p1 atom.global.gpu.relaxed.{operation} %r9, [%rd5], {other}; st.global.b32 [%rd11], %r9; ret;"
    same(body, native=True, threads=threads, programs=3)
