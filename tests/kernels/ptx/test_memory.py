"""Memory of each kind, on PTX written by hand: what an access may do, and what is reported with which words."""

import numpy as np
import pytest

from kvproof.kernels.ptx import errors
from kvproof.kernels.ptx.arrays import near
from kvproof.kernels.ptx.segments import address_of

from ._text import OWN, SEEDS, fails, own, run

tid = np.arange(64)

LOCAL = {
    "unwritten": (errors.Uninitialised, "ld.local.b32 %r9, [%r6];"),
    "past its end": (errors.OutOfBounds, "st.local.b32 [%r6+16], %r1;"),
    "before its start": (errors.OutOfBounds, "st.local.b32 [%r6+-4], %r1;"),
    "misaligned": (errors.Misaligned, "st.local.b32 [%r6+2], %r1;"),
    "half written": (errors.Uninitialised, "st.local.b32 [%r6], %r1; ld.local.b64 %rd9, [%r6];"),
}


@pytest.mark.parametrize("name", LOCAL)
def test_a_wrong_access_to_local_memory_is_reported(name):
    kind, body = LOCAL[name]
    fails(kind, "local memory", "mov.b32 %r6, depot; " + body + " ret;")


@SEEDS
def test_local_memory_is_each_threads_own(seed):
    body = (
        "mov.b32 %r6, depot; setp.lt.u32 %p1, %r4, 40; mov.b32 %r7, 5; @%p1 mov.b32 %r7, %r4; "
        "st.local.v2.b32 [%r6+8], {%r7, %r1}; ld.local.b64 %rd9, [%r6+8]; cvt.u32.u64 %r9, %rd9; "
    )
    assert own(body, threads=64, programs=2, seed=seed).tolist() == [t if t < 40 else 5 for t in range(128)]


SHARED = {
    # name: (body after which a thread wrote its own word, error or None, words of it)
    "another's word": ("ld.shared.b32 %r9, [%r6];", errors.Race, "wrote"),
    "another's word after a barrier": ("bar.sync 0; ld.shared.b32 %r9, [%r6];", None, ""),
    "a lane's word": ("ld.shared.b32 %r9, [%r7];", errors.WarpRace, r"that thread \d+ of the same warp wrote"),
    "a lane's word after its warp's barrier": ("bar.warp.sync -1; ld.shared.b32 %r9, [%r7];", None, ""),
    "another warp's after a warp's barrier": ("bar.warp.sync -1; ld.shared.b32 %r9, [%r6];", errors.Race, "wrote"),
    "a write after a read": ("bar.sync 0; ld.shared.b32 %r9, [%r6]; st.shared.b32 [%r5], %r1;", errors.Race, "read"),
    "a write after a read and a barrier": (
        "bar.sync 0; ld.shared.b32 %r9, [%r6]; bar.sync 0; st.shared.b32 [%r5], %r1;", None, ""),
    "a write after several reads": ("bar.sync 0; ld.shared.b32 %r9, [%r8]; @%p1 st.shared.b32 [%r8], %r1;",
                                    errors.Race, "that several warps read"),
    "a write by the last of the readers": ("bar.sync 0; ld.shared.b32 %r9, [%r8]; @%p2 st.shared.b32 [%r8], %r1;",
                                           errors.Race, "that several warps read"),
    "a write after reads in one's own warp": (
        "bar.sync 0; setp.lt.u32 %p3, %r1, 32; @%p3 ld.shared.b32 %r9, [%r8]; @%p1 st.shared.b32 [%r8], %r1;",
        errors.WarpRace, "that warp 0 read"),
    "a write after a write": ("st.shared.b32 [%r6], %r1;", errors.Race, "wrote"),
    "its own words again": ("ld.shared.b32 %r9, [%r5]; st.shared.b32 [%r5], %r9; ld.shared.b32 %r9, [%r5];", None, ""),
    "copies of one value": ("bar.sync 0; st.shared.b32 [%r8], 7;", None, ""),
    "copies of two sums in one word": (
        "bar.sync 0; and.b32 %r9, %r1, 1; or.b32 %r9, %r9, 0x3C00BC00; st.shared.b32 [%r8], %r9;", None, ""),
    "several values": ("bar.sync 0; st.shared.b32 [%r8], %r1;", errors.Race, "two values"),
    "atomics": ("bar.sync 0; atom.shared.add.u32 %r9, [%r8], 1;", None, ""),
    "a read beside atomics": ("bar.sync 0; atom.shared.add.u32 %r9, [%r8], 1; ld.shared.b32 %r9, [%r8];",
                              errors.Race, "wrote"),
    "an atomic after a write": ("atom.shared.add.u32 %r9, [%r6], 1;", errors.Race, "changed"),
    "a word nobody wrote": ("ld.shared.b32 %r9, [%r5+256];", errors.Uninitialised, "nothing has written"),
    "past its end": ("st.shared.b32 [%r5+1024], %r1;", errors.OutOfBounds, "1024 bytes"),
    "misaligned": ("st.shared.b32 [%r5+258], %r1;", errors.Misaligned, "multiple of 4"),
}  # fmt: skip


@SEEDS
@pytest.mark.parametrize("name", SHARED)
def test_shared_memory_takes(name, seed):
    body, kind, what = SHARED[name]
    # %r5, %r6, %r7, %r8: bytes of a thread's own word, of one in another warp, of one of its neighbour's, of the first.
    body = (
        "xor.b32 %r6, %r5, 128; xor.b32 %r7, %r5, 4; mov.b32 %r8, 0; setp.eq.u32 %p1, %r1, 0; "
        f"setp.eq.u32 %p2, %r1, 63; st.shared.b32 [%r5], %r1; {body} ret;"
    )
    if kind is None:
        run(body, np.zeros(1), threads=64, programs=2, seed=seed)
    elif issubclass(kind, errors.Race) and seed is not None:  # the warp that reads may come before the one that writes
        with pytest.raises((errors.Race, errors.Uninitialised), match="of shared memory"):
            run(body, np.zeros(1), threads=64, programs=2, seed=seed)
    else:
        fails(kind, what, body, threads=64, programs=2, seed=seed)


COPY = "cp.async.ca.shared.global [%r5], [%rd13], 4; "  # what lies at %rd13, to the thread's own word
COPIES = {
    "read before it is waited for": (COPY + "cp.async.commit_group; ld.shared.b32 %r9, [%r5]; ", "may still be"),
    "waited for but not committed": (COPY + "cp.async.wait_group 0; ld.shared.b32 %r9, [%r5]; ", "may still be"),
    "the latest group is left": (
        COPY + "cp.async.commit_group; cp.async.ca.shared.global [%r5+256], [%rd13], 4; cp.async.commit_group; "
        "cp.async.wait_group 1; ld.shared.b32 %r9, [%r5+256]; ", "may still be"),
    "read by another with no barrier": (
        COPY + "cp.async.commit_group; cp.async.wait_group 0; ld.shared.b32 %r9, [%r6]; ", "wrote"),
    "written again too early": (COPY + "st.shared.b32 [%r6], %r1; ", "wrote"),
    "committed by another warp alone": (
        COPY + "setp.lt.u32 %p1, %r1, 32; @%p1 cp.async.commit_group; cp.async.wait_group 0; "
        "ld.shared.b32 %r9, [%r5]; ",
        "may still be"),
    "all waited for": (COPY + "cp.async.wait_all; ld.shared.b32 %r9, [%r5]; ", None),
    "its group waited for": (
        COPY + "cp.async.commit_group; cp.async.ca.shared.global [%r5+256], [%rd13], 4; cp.async.commit_group; "
        "cp.async.wait_group 1; ld.shared.b32 %r9, [%r5]; ", None),
    "read by another after a barrier": (
        COPY + "cp.async.commit_group; cp.async.wait_group 0; bar.sync 0; ld.shared.b32 %r9, [%r6]; ", None),
}  # fmt: skip


@SEEDS
@pytest.mark.parametrize("name", COPIES)
def test_an_asynchronous_copy_is(name, seed):
    body, what = COPIES[name]
    body = "xor.b32 %r6, %r5, 4; and.b64 %rd12, %rd10, 255; add.u64 %rd13, %rd2, %rd12; " + body + OWN.format("%r9")
    out, source = np.zeros(128, np.uint32), np.arange(64, dtype=np.uint32) + 500
    if what:
        fails(errors.Race, what, body, out, source, threads=64, programs=2, seed=seed)
    else:
        report = run(body, out, source, threads=64, programs=2, seed=seed)
        order = tid ^ 1 if "another" in name else tid
        assert out.tolist() == (order + 500).tolist() * 2
        assert report.total.loaded.bytes == 4 * 128 * body.count("cp.async.ca")  # once, though they are stored as well


def test_a_masked_asynchronous_copy_fills_with_zeros_and_reads_nothing():
    body = (
        "and.b64 %rd12, %rd10, 127; add.u64 %rd13, %rd2, %rd12; setp.lt.u32 %p1, %r1, 5; selp.b32 %r6, 4, 0, %p1; "
        "cp.async.ca.shared.global [%r5], [%rd13], 4, %r6; cp.async.wait_all; ld.shared.b32 %r9, [%r5]; "
    )
    out = np.zeros(32, np.uint32)
    run(body + OWN.format("%r9"), out, np.arange(1, 6, dtype=np.uint32))
    assert out.tolist() == [1, 2, 3, 4, 5] + [0] * 27


MATRIX = {
    # name: (what lanes hold, of which a row's four lie in one place with the other rows' four; error or None)
    "one float32": ("mov.b32 %r7, 0f3F800000;", None),
    "sums of float32 in several orders": ("mov.b32 %r7, 0f3F800000; @%p1 add.u32 %r7, %r7, 3;", None),
    "sums of float16 in several orders": ("mov.b32 %r7, 0x3C003C00; @%p1 add.u32 %r7, %r7, 65537;", None),
    "other float32s": ("mov.b32 %r7, 0f3F800000; @%p1 mov.b32 %r7, 0f40000000;", errors.WarpRace),
    "integers": ("shr.u32 %r7, %r1, 2;", errors.WarpRace),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRIX)
def test_rows_that_stmatrix_stores_in_one_place_may_differ_as_sums_do(name):
    values, kind = MATRIX[name]
    body = "setp.ge.u32 %p1, %r1, 4; mov.b32 %r6, 0; " + values
    body += " stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r6], {%r7}; ret;"
    if kind is not None:
        fails(kind, "two threads of one warp store two values", body)
    else:
        assert run(body, np.zeros(32, np.uint32)).disagreeing == (0 if name == "one float32" else 1)


GLOBAL = {
    "before the first array": (errors.OutOfBounds, "ld.global.b32 %r9, [%rd1+-4];", "a -4 bytes, 4 before its start"),
    "past the last array": (errors.OutOfBounds, "ld.global.b32 %r9, [%rd2+40];", "b .40 bytes, 0 past its end"),
    "far away": (errors.OutOfBounds, "mov.b64 %rd9, 0; st.global.b32 [%rd9], %r1;", "address 0, a null pointer"),
    "further away": (errors.OutOfBounds, "mov.b64 %rd9, -8; ld.global.b32 %r9, [%rd9];", "0xf{15}8, far from every"),
    "half outside": (errors.OutOfBounds, "ld.global.b64 %rd9, [%rd2+40];", "past its end"),
    "misaligned": (errors.Misaligned, "ld.global.v2.b32 {%r8, %r9}, [%rd2+4];", "no multiple of 8"),
    "an unmasked element": (errors.Uninitialised, "ld.global.b32 %r9, [%rd2+12];", r"b\[3\].*nothing that was written"),
    "an atomic on it": (errors.Uninitialised, "atom.global.add.u32 %r9, [%rd2+12], 1;", r"b\[3\]"),
    "from local memory's side": (errors.OutOfBounds, "st.global.b32 [%rd2+-8], %r1;", "b -8 bytes, 8 before its start"),
}  # fmt: skip


@pytest.mark.parametrize("name", GLOBAL)
def test_a_wrong_access_to_global_memory_is_reported(name):
    kind, body, what = GLOBAL[name]
    live = np.arange(10) != 3
    found = fails(kind, what, "setp.eq.u32 %p1, %r1, 6; @!%p1 ret; " + body + " ret;",
                  np.zeros(32, np.uint32), np.zeros(10, np.uint32), readable={"b": live})  # fmt: skip
    assert (found.program, found.thread) == ((0, 0, 0), 6)


def test_a_view_with_holes_is_bounded_by_its_own_elements():
    whole = np.arange(40, dtype=np.uint32)
    body = "mul.lo.u32 %r6, %r1, {}; cvt.s64.s32 %rd9, %r6; add.u64 %rd9, %rd9, %rd2; ld.global.b32 %r9, [%rd9]; "
    for view, step in ((whole[39::-1], -4), (whole[30:].repeat(9)[::3], 12), (whole.reshape(20, 2)[:, 1], 8)):
        out, inside = np.zeros(32, np.uint32), min(32, len(view))
        keep = f"setp.ge.u32 %p1, %r1, {inside}; @%p1 ret; " + body.format(step) + OWN.format("%r9")
        run(keep, out, view)
        assert out[:inside].tolist() == view[:inside].tolist()
        beside = "ld.global.b32 %r9, [%rd2+4]; ret;"
        fails(errors.OutOfBounds, "belongs to no argument", beside, out, view)


@pytest.mark.parametrize("engine", ["numpy", "native"])
@pytest.mark.parametrize("checks", [True, False])
def test_an_array_between_two_that_are_stored_to_is_not(engine, checks):
    a, b, c = np.zeros((3, 4096), np.uint32)
    each = "setp.eq.u32 %p1, %r2, 0; selp.b64 %rd9, %rd1, %rd3, %p1; "
    each += "mul.wide.u32 %rd8, %r1, 4; add.u64 %rd9, %rd9, %rd8; "
    report = run(each + "st.global.b32 [%rd9], 7; ret;", a, b, c, programs=2, checks=checks, engine=engine)
    assert report.engine == engine
    assert [*report.stored_to] == ["a", "c"]
    each = each.replace(" 0;", " 1;")
    report = run(each + "red.global.add.u32 [%rd9], 1; ret;", a, b, c, programs=2, checks=checks, engine=engine)
    assert [*report.stored_to] == ["a", "c"]


def test_arguments_that_overlap_are_one_memory():
    whole = np.zeros(40, np.uint32)
    run("st.global.b32 [%rd11], %r1; ret;", whole[:32], whole[4:])
    assert whole.tolist() == [*range(32), *[0] * 8]
    run("setp.ne.u32 %p1, %r1, 0; @%p1 ret; st.global.b32 [%rd2], 7; ld.global.b32 %r9, [%rd1+16]; "
        "st.global.b32 [%rd1], %r9; ret;", whole[:32], whole[4:])  # fmt: skip
    assert (whole[0], whole[4]) == (7, 7)


@pytest.mark.parametrize("kind", ["b32", "v4.b32"])
def test_an_atomic_takes_the_elements_of_a_vector_one_by_one(kind):
    sums, olds = np.zeros(4, np.float32), np.full(64, 99, np.uint32)
    one = "{%r9, _, _, %r9}" if kind[0] == "v" else "%r9"
    values = "{%r6, %r7, %r6, %r7}" if kind[0] == "v" else "%r6"
    body = (
        "mov.b32 %r6, 0f3F800000; mov.b32 %r7, 0f40000000; "
        f"atom.global.gpu.relaxed.add.{kind[:-3]}f32 {one}, [%rd2], {values}; cvt.rni.u32.f32 %r9, %r9; "
    )
    run(body + OWN.format("%r9"), olds, sums, programs=2)
    assert sums.tolist() == ([64, 128, 64, 128] if kind[0] == "v" else [64, 0, 0, 0])
    assert sorted(olds) == list(range(0, 128, 2) if kind[0] == "v" else range(64))


def halves(*values: float) -> np.ndarray:
    """Pairs of float16 in words of 32 bits."""
    return np.array(values, np.float16).view(np.uint32)


NEAR = {  # two words -> whether they may be copies of one sum, or of two in one word
    "a last bit of float32": (np.array([0x3F800000], "u4"), np.array([0x3F800001], "u4"), True),
    "a last bit of both halves": (halves(1.0, -3.0), halves(1.001, -3.002), True),
    "a last bit of the lower half": (halves(1.0, -3.0), halves(1.001, -3.0), True),
    "bfloat16": (np.array([0x3F80BF80], "u4"), np.array([0x3F81BF80], "u4"), True),
    "of several threads, stored by one": (halves(1.0, -3.0, 1.001, -3.0), halves(1.0, -3.0), True),
    "another upper half": (halves(1.0, -3.0), halves(1.0, -3.3), False),
    "small integers": (np.array([15000], "u4"), np.array([15001], "u4"), False),
    "an integer beside a float": (np.array([0x00013C00], "u4"), np.array([0x00023C00], "u4"), False),
}


@pytest.mark.parametrize(("a", "b", "alike"), NEAR.values(), ids=NEAR)
def test_words_are_near_as_floats_of_32_bits_or_as_pairs_of_16(a, b, alike):
    assert near(a, b, 32) == near(b, a, 32) == alike


@pytest.mark.parametrize("array", [np.arange(9)[3:], np.zeros((4, 5), "u2").T[::-1], np.zeros((3, 0)), np.empty(())])
def test_an_array_lies_where_numpy_says(array):
    array.flags.writeable = False
    assert address_of(array) == array.__array_interface__["data"][0]
