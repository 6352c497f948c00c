"""What the driver keeps of a launch for the next one of the same kernel shows in neither."""

import os
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kvproof.kernels.ptx import progress
from kvproof.kernels.ptx.errors import Refused, Unfinished
from kvproof.kernels.ptx.native import code, kernel, records, tiers
from kvproof.kernels.ptx.native import engine as driver
from kvproof.kernels.ptx.native.records import aligned

from .._text import own, run
from ._both import facts

# Every program adds to a counter, and the last to come sums up what all wrote.
LAST = """
    .shared .align 4 .b8 turn[4];
    ld.global.b32 %r6, [%rd11]; mul.wide.u32 %rd12, %r4, 4; add.u64 %rd12, %rd2, %rd12; st.global.b32 [%rd12], %r6;
    bar.sync 0; setp.eq.u32 %p1, %r1, 0; mov.u32 %r8, turn;
    @%p1 atom.global.acq_rel.gpu.add.u32 %r7, [%rd3], 1;
    @%p1 st.shared.b32 [%r8], %r7;
    bar.sync 0; ld.shared.b32 %r7, [%r8]; setp.ne.u32 %p2, %r7, 2;
    @%p2 bra END;
    mul.wide.u32 %rd13, %r1, 4; add.u64 %rd13, %rd2, %rd13; ld.global.b32 %r10, [%rd13];
    ld.global.b32 %r11, [%rd13+256]; ld.global.b32 %r12, [%rd13+512];
    add.u32 %r10, %r10, %r11; add.u32 %r10, %r10, %r12; st.global.b32 [%rd13], %r10;
    END: ret;
"""


def launched(seed: int, engine: str):
    arrays = [aligned((size,)).view(np.uint32) for size in (768, 768, 4)]  # alike in the sectors that they lie in
    arrays[0][:] = np.random.default_rng(seed).integers(0, 1 << 30, 192)
    arrays[1][:] = arrays[2][:] = 0
    report = run(LAST, *arrays, programs=3, threads=64, engine=engine)
    found = facts(report) | {"left": [a.tobytes() for a in arrays]}
    assert report.engine == engine
    del found["stored_to"]  # addresses
    return found


def test_a_launch_after_others_is_as_it_would_be_alone():
    alone = [launched(seed, "numpy") for seed in range(3)]
    for seed in (0, 1, 1, 2, 0):
        assert launched(seed, "native") == alone[seed]


def test_a_launch_without_checks_leaves_the_same_and_reports_as_little():
    found = {}
    for engine in ("numpy", "native"):
        arrays = [aligned((4 * size,)).view(np.uint32) for size in (768, 768, 4)]
        for array in arrays:
            array[:] = 0
        written = {}
        settings = {"checks": False, "readable": {"b": False}, "written": written}  # the last of which nobody looks at
        report = run(LAST, *arrays, programs=3, threads=64, engine=engine, **settings)
        assert report.unique == report.unwritten == written == {}
        found[engine] = facts(report) | {"left": [a.tobytes() for a in arrays]}
        del found[engine]["stored_to"]  # addresses
    assert found["numpy"] == found["native"]


def test_code_is_better_where_the_engine_is_asked_for_or_once_it_has_run_for_long(monkeypatch, tmp_path):
    monkeypatch.setenv("KVPROOF_CACHE_DIR", str(tmp_path))
    asked, code_of = [], kernel.code_of
    monkeypatch.setattr(kernel, "code_of", lambda *known: asked.append(known[-1]) or code_of(*known))
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    body = "xor.b32 %r9, %r4, 0x1e5e1; "
    want = own(body, engine="numpy")
    for limit, engine in ((1e9, None), (0.0, None), (1e9, "native")):
        monkeypatch.setattr(kernel, "LASTING", limit)
        assert (own(body, engine=engine) == want).all()
    assert asked == [0, 1, 1]


def test_threads_launch_one_kernel_at_a_time_of_their_own():
    alone = [launched(seed, "numpy") for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(launched, range(8), ["native"] * 8)) == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("lock", [code._lock, records._lock], ids=["code", "records"])
def test_a_process_forked_while_a_thread_compiles_or_launches_can_do_both(lock):
    held = threading.Event()

    def hold():
        with lock:
            held.set()
            time.sleep(0.2)

    (thread := threading.Thread(target=hold)).start()
    held.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which is what is tested
        child = os.fork()
    if not child:
        signal.alarm(20)
        right = False
        try:  # a kernel that no launch has compiled
            right = own(f"xor.b32 %r9, %r4, {os.getpid()}; ", engine="native").any()
        finally:
            os._exit(not right)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


def test_a_launch_that_takes_longer_than_the_last_is_given_to_threads_and_later_ones_too(monkeypatch):
    """The first was quick, so that the second begins where nothing could interrupt it."""
    monkeypatch.setattr(records, "STEPS", 1000)
    monkeypatch.setattr(records, "ALONE", 60.0)
    made = driver.Records.__init__
    kept: list = []
    monkeypatch.setattr(driver.Records, "__init__", lambda self, *a: [made(self, *a), kept.append(self)][0])
    body = "ld.global.b32 %r6, [%rd2]; AGAIN: sub.u32 %r6, %r6, 1; setp.ne.u32 %p1, %r6, 0; @%p1 bra AGAIN; "
    shares = []
    for steps in (1, 2, 3, 2000, 4, 5):
        n, out = np.full(1, steps, np.uint32), np.zeros(256, np.uint32)
        assert run(body + "st.global.b32 [%rd11], %r6; ret;", out, n, programs=8, engine="native").engine == "native"
        shares.append(kept[-1].mine)
    assert shares == [0, kept[-1].threads, kept[-1].threads, 0, 0, 0]
    assert len(kept) == 2


def test_moved_approximations_are_left_to_the_numpy_form():
    body = "cvt.rn.f32.u32 %r9, %r4; ex2.approx.f32 %r9, %r9; "
    plain, moved = own(body, engine="native"), own(body, engine="numpy", approximation_ulps=64)
    assert (plain != moved).any()
    assert (own(body, approximation_ulps=64) == moved).all()
    with pytest.raises(Refused, match="approximations"):
        own(body, engine="native", approximation_ulps=64)


# Two rounds, with an atomic in each that warp 1 of odd programs passes by in the first.
ROUNDS = """
    mov.u32 %r6, 0; and.b32 %r7, %r2, 1; shr.u32 %r8, %r1, 5; and.b32 %r7, %r7, %r8;
    TOP: setp.eq.u32 %p1, %r7, 1; setp.eq.u32 %p2, %r6, 0; and.pred %p1, %p1, %p2;
    @%p1 bra PAST;
    and.b32 %r10, %r1, 31; setp.eq.u32 %p3, %r10, 0;
    @%p3 atom.global.add.u32 %r9, [%rd2], 1;
    PAST: add.u32 %r6, %r6, 1; setp.lt.u32 %p4, %r6, 2;
    @%p4 bra TOP;
    and.b32 %r10, %r1, 31; setp.ne.u32 %p3, %r10, 0;
    @%p3 bra END;
    st.global.b32 [%rd11], %r9;
    END: ret;
"""


def test_warps_come_to_an_atomic_in_the_order_of_the_numpy_form_whatever_their_ways():
    tickets = {}
    for engine in ("numpy", "native"):
        out, counter = np.zeros(256, np.uint32), np.zeros(4, np.uint32)
        run(ROUNDS, out, counter, programs=4, threads=64, engine=engine)
        tickets[engine] = out[::32].tolist()
    assert tickets["native"] == tickets["numpy"]
    assert sorted(tickets["numpy"]) != tickets["numpy"] or len(set(tickets["numpy"])) == 8


@pytest.mark.parametrize("most", [20, 400000])
def test_a_launch_that_needs_more_than_max_steps_is_stopped(most):
    body = "add.u32 %r9, %r1, 1; " * 40 if most == 20 else (
        "mov.u32 %r9, 0; TOP: add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 10000000; @%p1 bra TOP; "
    )  # fmt: skip
    with pytest.raises(Unfinished, match=f"max_steps={most}"):
        own(body, engine="native", max_steps=most)


def test_a_launch_within_max_steps_runs_natively():
    out = np.zeros(32, np.uint32)
    assert run("st.global.b32 [%rd11], %r1; ret;", out, engine="native", max_steps=1000).engine == "native"


def test_bytes_of_an_array_with_a_stride_of_0_count_once():
    x = np.broadcast_to(np.arange(16, dtype=np.uint32), (4, 16))
    body = "and.b32 %r6, %r1, 15; mul.wide.u32 %rd12, %r6, 4; add.u64 %rd12, %rd1, %rd12; ld.global.b32 %r9, [%rd12]; "
    body += "mul.wide.u32 %rd13, %r1, 4; add.u64 %rd13, %rd2, %rd13; st.global.b32 [%rd13], %r9; ret;"
    for engine in ("numpy", "native"):
        report = run(body, x, np.zeros(32, np.uint32), engine=engine)
        assert report.unique["a"] == 64


def test_an_atomic_right_behind_a_barrier_waits_for_its_turn():
    body = "bar.sync 0; atom.global.add.f32 %r9, [%rd2], %r6; st.global.b32 [%rd11], %r9; ret;"
    found = {}
    for engine in ("numpy", "native"):
        out, total = np.zeros(256, np.uint32), np.zeros(4, np.float32)
        run("cvt.rn.f32.u32 %r6, %r4; div.full.f32 %r6, %r6, 0f40E00000; " + body, out, total, programs=4, threads=64,
            engine=engine)  # fmt: skip
        found[engine] = out.tobytes(), total.tobytes()
    assert found["native"] == found["numpy"]


@pytest.mark.parametrize("is_one", [True, False])
def test_a_long_launch_says_how_far_it_is_on_a_terminal_only(monkeypatch, capsys, is_one):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(driver, "LOOK", 1e-3)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_one, raising=False)
    body = "mov.u32 %r9, 0; TOP: add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 30000000; @%p1 bra TOP; "
    assert (own(body, engine="native", programs=2) == 30000000).all()
    found = capsys.readouterr().err
    assert ("of 2 programs begun in" in found) == is_one
    assert found.endswith("\r\x1b[K") == is_one


# Eight places, of which each thread holds a copy; only the first eight store it. Twice: once they differ, or not.
COPIES = """
    and.b32 %r6, %r1, 7; mul.wide.u32 %rd12, %r6, 4; add.u64 %rd12, %rd1, %rd12; setp.lt.u32 %p1, %r1, 8;
    mov.u32 %r7, 0;
    TOP: mad.lo.u32 %r8, %r7, {}, %r6;
    @%p1 st.global.b32 [%rd12], %r8;
    add.u32 %r7, %r7, 1; setp.lt.u32 %p2, %r7, 2; @%p2 bra TOP;
    ret;
"""


def test_copies_that_no_lane_stores_count_only_where_another_program_stores_some(monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    body = "setp.eq.u32 %p1, %r4, 32; @%p1 st.global.b32 [%rd1], %r1; ret;"
    for programs, found in ((1, 0), (2, 62)):
        for engine in ("numpy", None):
            report = run(body, np.zeros(8, np.uint32), programs=programs, threads=32, engine=engine)
            assert report.disagreeing == found


CASES = [("0", 32, 0), ("%r1", 32, 24), ("%r6", 32, 0), ("%r1", 64, 56)]


@pytest.mark.parametrize(("times", "threads", "found"), CASES)
def test_copies_that_disagree_are_counted_within_a_warp_alone(times, threads, found, monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    counts, out = {}, np.zeros(8, np.uint32)
    for engine in ("numpy", None):
        report = run(COPIES.format(times), out, threads=threads, engine=engine)
        counts[report.engine] = facts(report) | {"left": out.tobytes()}
        assert report.disagreeing == found
        assert engine or report.engine == ("native" if threads == 32 else "numpy")
    assert len({*map(str, counts.values())}) == 1
