"""Loops that never end are reported at once, loops that show no end within seconds, and long ones run."""

import time

import numpy as np
import pytest
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import progress, termination


@triton.jit
def forgets_to_count(x, out, n):
    i = 0
    while i < n:
        tl.store(out + i, tl.load(x + i) + 1)


@triton.jit
def counts_inside_only(x, out, n):
    i = 0
    while i < n:
        for j in range(7):
            tl.store(out + j, tl.load(x + j) + 1)


@triton.jit
def swings(x, out, n):
    i = n
    while i != 5:
        i = 1 - i
    tl.store(out, i)


@triton.jit
def has_a_period(x, out, n):
    s = n
    while s != 12345678:
        s = (s * 5 + 3) & 1023
    tl.store(out, s)


@triton.jit
def writes_a_counter_round_and_round(x, out, n):
    i = 0
    while i < n:
        tl.store(out, (tl.load(out) + 1) & 3)


@triton.jit
def waits(x, out, n):
    while tl.atomic_add(out, 0) == 0:
        pass


@triton.jit
def steps_over(x, out, n):
    i = n
    while i != -5:
        i += 2
    tl.store(out, i)


@triton.jit
def converges(x, out, n):
    v = tl.load(x)
    while v > 1e-30:
        v = v * 0.99
    tl.store(out, v)


@triton.jit
def collatz(x, out, n):
    s, k = n.to(tl.int64), 0
    while s != 1:
        s = tl.where(s % 2 == 0, s // 2, 3 * s + 1)
        k += 1
    tl.store(out, k)


@triton.jit
def nested(x, out, n):
    total = tl.load(x) * 0
    for _ in range(n):
        j = 0
        while j * j < 20:
            j += 1
            total += tl.load(x + j)
    tl.store(out, total.to(tl.int32))


@triton.jit
def two_conditions(x, out, n):
    i = 0
    while (i < n) & (tl.load(x) > 0):
        i += 1
    tl.store(out, i)


def launch(kernel, n=8, programs=1, **settings):
    x, out = np.ones(64, np.float32), np.zeros(64, np.int32)
    ptx.run(kernel, programs, x, out, n, num_warps=1, **settings)
    return out[0]


ENDLESS = [forgets_to_count, counts_inside_only, swings, has_a_period, writes_a_counter_round_and_round]


@pytest.mark.parametrize("kernel", ENDLESS)
@pytest.mark.parametrize("seed", [None, 1])
def test_a_loop_that_comes_back_to_its_state_never_ends_for_certain(kernel, seed):
    with pytest.raises(ptx.Endless, match=r"never ends.*after [\d,]+ instructions.*test_termination\.py:\d+"):
        launch(kernel, 8 if kernel is not swings else 0, seed=seed)


def test_a_loop_that_waits_for_nobody_is_still_a_deadlock():
    with pytest.raises(ptx.Deadlock, match="nobody is left to change it"):
        launch(waits, programs=2)


def test_a_loop_that_shows_no_end_is_stopped_and_not_called_endless(monkeypatch):
    monkeypatch.setenv("KVPROOF_PTX_ENGINE", "numpy")
    monkeypatch.setattr(termination, "BUDGET", 100_000)
    for kernel in (steps_over, converges):
        words = r"did not end within [\d,]+ instructions; if it is only long, .*max_steps=\d+.*test_termination\.py:\d+"
        with pytest.raises(ptx.Unfinished, match=words) as failure:
            launch(kernel)
        assert "endless" not in str(failure.value).lower()


def test_loops_that_count_run_on_past_the_budget_unless_their_end_is_out_of_reach(monkeypatch):
    assert launch(collatz, 27) == 111
    monkeypatch.setattr(termination, "BUDGET", 5_000)
    assert launch(nested, 500) == 2500
    assert launch(two_conditions, 1000) == 1000
    with pytest.raises(ptx.Unfinished, match="did not end within"):
        launch(nested, 2**31 - 1)


def test_max_steps_is_a_limit_in_both_directions(monkeypatch):
    monkeypatch.setattr(termination, "BUDGET", 5_000)
    with pytest.raises(ptx.Unfinished, match=r"within 1,000 instructions; .*more than max_steps=1000"):
        launch(nested, 2000, max_steps=1000)
    launch(converges, max_steps=10**9)  # which the budget alone would stop


@pytest.mark.exhaustive
def test_the_default_budget_is_spent_within_seconds():
    start = time.process_time()
    with pytest.raises(ptx.Unfinished):
        launch(steps_over)
    assert 1 < time.process_time() - start < 20


class Terminal:
    """Standard error that is one, or is not."""

    def __init__(self, is_one):
        self.is_one, self.text = is_one, ""

    def isatty(self):
        return self.is_one

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("is_one", [True, False])
def test_a_launch_that_takes_long_says_so_on_a_terminal_only(monkeypatch, is_one):
    screen = Terminal(is_one)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    launch(nested, 1000, engine="numpy")
    assert ("instructions in" in screen.text) == is_one
    assert screen.text.endswith("\r\x1b[K") == is_one
    monkeypatch.setattr(progress, "PATIENCE", 60.0)
    screen.text = ""
    launch(nested, 10)
    assert not screen.text
