"""Planted faults, of each kind the machine names: on both engines the same error, and the same bytes left behind."""

import signal
import threading
import time

import numpy as np
import pytest

from kvproof.kernels.ptx.native import tiers

from .. import _text
from ._random import Program
from .test_random import outcome

FIRST = "setp.eq.u32 %p1, %r1, 0; setp.eq.u32 %p2, %r2, 0; and.pred %p3, %p1, %p2; "  # thread 0; program 0; both
STORE = "@%p3 st.global.b32 [%rd1], 5; "  # by the first program
ATOMIC = "@%p1 atom.global.{}.add.u32 %r9, [%rd2], 1; "
READ = "@%p2 bra END; ld.global.b32 %r9, [%rd1]; END: ret;"  # by the other programs
TWO = {"programs": 2}
WARPS = {"threads": 64}
FAULTS = {
    "lanes store two values": ("WarpRace", "st.global.b32 [%rd1], %r1; ret;", {}),
    "lanes store halves of a word": ("WarpRace", "st.global.b32 [%rd1], %r1; st.global.b16 [%rd1+2], 5; ret;", {}),
    "a lane reads what others store": ("WarpRace", "st.global.b32 [%rd11], 1; ld.global.b32 %r9, [%rd1+4]; ret;", {}),
    "a lane stores what others read": ("WarpRace", "ld.global.b32 %r9, [%rd11+4]; st.global.b32 [%rd11], 1; ret;", {}),
    "warps, no barrier": ("Race", "st.global.b32 [%rd11], 1; ld.global.b32 %r9, [%rd1+128]; ret;", WARPS),
    "warps, no barrier in shared": ("Race", "st.shared.b32 [%r5], 1; ld.shared.b32 %r9, [128]; ret;", WARPS),
    "warps, the second stores": (
        "Race", "st.shared.b32 [%r5], 1; bar.sync 0; ld.shared.b32 %r9, [128]; st.shared.b32 [%r5], 2; ret;", WARPS
    ),
    "programs store two values": ("Race", FIRST + "@%p1 st.global.b32 [%rd1], %r2; ret;", TWO),
    "programs store one value": ("Race", FIRST + "@%p1 st.global.b32 [%rd1], 5; ret;", TWO),
    "the second reads": ("Race", FIRST + STORE + READ, TWO),
    "the second stores": (
        "Race", FIRST + "@!%p2 bra W; ld.global.b32 %r9, [%rd1]; ret; W: st.global.b32 [%rd1], 5; ret;", TWO
    ),
    "relaxed": ("Race", FIRST + STORE + ATOMIC.format("gpu.relaxed") + READ, TWO),
    "no acquire": ("Race", FIRST + STORE + ATOMIC.format("gpu.release") + READ, TWO),
    "of one program's scope": ("Race", FIRST + STORE + ATOMIC.format("cta.acq_rel") + READ, TWO),
    "no barrier before an atomic": (
        "Race",
        FIRST + "@%p2 st.global.b32 [%rd11], 5; " + ATOMIC.format("gpu.acq_rel")
        + "bar.sync 0; @%p2 bra END; ld.global.b32 %r9, [%rd1+128]; END: ret;",
        TWO | WARPS,
    ),
    "no barrier after an atomic": (
        "Race", FIRST + STORE + "bar.sync 0; " + ATOMIC.format("gpu.acq_rel") + READ, TWO | WARPS
    ),
    "a plain store beside atomics": (
        "Race", FIRST + "@%p1 red.global.gpu.relaxed.add.u32 [%rd1], 1; " + STORE + "ret;", TWO
    ),
    "unwritten": ("Uninitialised", "ld.global.b32 %r9, [%rd11]; ret;", {"readable": {"a": np.arange(64) != 31}}),
    "unwritten, by an atomic": (
        "Uninitialised", "red.global.gpu.relaxed.add.u32 [%rd11], 1; ret;", {"readable": {"a": False}}
    ),
    "unwritten in shared": (
        "Uninitialised", FIRST + "@!%p1 st.shared.b32 [%r5], 1; ld.shared.b32 %r9, [%r5]; ret;", {}
    ),
    "before the first": ("OutOfBounds", "ld.global.b32 %r9, [%rd11+-4]; ret;", {}),
    "after the last": ("OutOfBounds", "st.global.b32 [%rd11], 1; st.global.b32 [%rd11+132], 1; ret;", {}),
    "into a gap": ("OutOfBounds", "st.global.b32 [%rd2], 1; st.global.b32 [%rd2+4], 1; ret;", {}),
    "over the end of shared": ("OutOfBounds", "st.shared.b32 [%r5+900], 1; ret;", {}),
    "misaligned": ("Misaligned", "st.global.b32 [%rd11], 1; ld.global.b32 %r9, [%rd11+2]; ret;", {}),
    "a barrier that some skip": ("DivergentBarrier", FIRST + "@%p1 bra END; bar.sync 0; END: ret;", WARPS),
    "two barriers": (
        "DivergentBarrier", "setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1; ret; A: bar.sync 2; ret;", WARPS
    ),
    "a lock that is never free": (
        "Deadlock",
        "L: atom.global.gpu.acq_rel.cas.b32 %r9, [%rd1+4], 0, 7; setp.ne.u32 %p2, %r9, 0; @%p2 bra L; ret;",
        {},
    ),
    "a loop that comes back": ("Endless", "L: bra L; ret;", {}),
    "more than max_steps": (
        "Unfinished", "mov.u32 %r9, 0; L: add.u32 %r9, %r9, 1; setp.ne.u32 %p1, %r9, 9999; @%p1 bra L; ret;",
        {"max_steps": 5000},
    ),
    "a trap": ("Trap", "st.global.b32 [%rd11], 1; " + FIRST + "@%p1 trap; ret;", {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    monkeypatch.setattr(tiers, "FUEL_LIMIT", 1 << 16)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_the_same_error(name):
    kind, body, settings = FAULTS[name]
    memory = np.arange(128, dtype=np.uint32)
    program = Program(body, [memory[:64], memory[64:][::2]], settings)
    came = [a.copy() for a in program.arrays]
    usual, _ = outcome(program, "numpy", came)
    now, _ = outcome(program, None, came)
    assert usual.get("error", "").startswith(kind + ":"), usual
    assert now == usual


LOOP = "mov.u32 %r9, 0; L: add.u32 %r9, %r9, 1; setp.ne.u32 %p1, %r9, {}; @%p1 bra L; st.global.b32 [%rd11], %r9; ret;"


@pytest.mark.parametrize("programs", [1, 5])
def test_an_interrupt_ends_a_long_launch_and_undoes_it(programs, monkeypatch):
    """Sent once the kernel, which stores in place, has stored: compiled, and in its loop."""
    monkeypatch.setattr(tiers, "FUEL_LIMIT", 1 << 60)
    out, stored = np.full(160, 7, np.uint32), []
    me, ended = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        while not (out == 5).any():
            if ended.wait(0.01):
                return
        stored.append(time.perf_counter())
        signal.pthread_kill(me, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            _text.run("st.global.b32 [%rd11], 5; " + LOOP.format(4 * 10**9), out, programs=programs, engine="native")
    finally:
        ended.set()
        thread.join()
    assert stored
    assert time.perf_counter() - stored[0] < 5
    assert (out == 7).all()
    assert _text.run(LOOP.format(50), out, programs=programs, engine="native").engine == "native"


def test_launches_from_several_threads_keep_apart():
    wrong = []

    def launches(n: int) -> None:
        out = np.zeros(128, np.uint32)
        for _ in range(5):
            report = _text.run(LOOP.format(n), out, programs=4, engine="native")
            wrong.extend([] if report.engine == "native" and (out == n).all() else [n])

    threads = [threading.Thread(target=launches, args=(100 + k % 3,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
