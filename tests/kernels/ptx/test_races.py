"""Races between kernels' threads: in place, in lockstep, among thousands of programs, and at what cost."""

import time

import numpy as np
import pytest
import triton
import triton.language as tl

from kvproof.kernels import ptx


@triton.jit
def doubled(x, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x + at, tl.load(x + at, at < n) * 2, at < n)


@triton.jit
def softmax(x, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * n + tl.arange(0, BLOCK)
    row = tl.load(x + at, tl.arange(0, BLOCK) < n, other=float("-inf"))
    e = tl.exp(row - tl.max(row, 0))
    tl.store(x + at, e / tl.sum(e, 0), tl.arange(0, BLOCK) < n)


@triton.jit
def shifted(x, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x + at, tl.load(x + at + 1, at < n), at < n)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize(("n", "num_warps"), [(4, 1), (64, 4), (128, 4)])
def test_kernels_in_place_are_sound_and_shifted_ones_race(n, num_warps, seed):
    def run(kernel, programs, x):
        ptx.run(kernel, programs, x, n, BLOCK=triton.next_power_of_2(n), num_warps=num_warps, seed=seed)
        return x

    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, n)).astype(np.float32)
    assert np.array_equal(run(doubled, 1, x[0].copy()), 2 * x[0])
    e = np.exp(x.astype(np.float64))
    assert np.abs(run(softmax, 3, x.copy()) - e / e.sum(1, keepdims=True)).max() < 1e-6
    with pytest.raises(ptx.Race, match=r"a race (within one warp )?at x\["):
        run(shifted, 1, np.append(x[0], x[1, :1]))


@triton.jit
def lanes_disagree(x, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x + at // 2, at)


@triton.jit
def warps_disagree(x, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x + at % 32, at)


@triton.jit
def lanes_read_each_other(x, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x + at, at)
    tl.store(x + BLOCK + at, tl.load(x + (at ^ 1)))


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(
    ("kernel", "kind", "words"),
    [
        (lanes_disagree, ptx.WarpRace, "within one warp at x.*store two values, and PTX does not say which stays"),
        (lanes_read_each_other, ptx.WarpRace, "within one warp at x.*lanes need not be in step"),
        (warps_disagree, ptx.Race, r"a race at x\[0\].*of the same program.*no barrier"),
    ],
)
def test_a_race_of_lanes_has_a_kind_of_its_own_and_can_be_a_warning(kernel, kind, words, seed):
    x = np.zeros(256, np.int32)
    with pytest.raises(ptx.Race, match=words) as caught:
        ptx.run(kernel, 1, x, BLOCK=128, seed=seed)
    assert type(caught.value) is kind
    if kind is ptx.Race:
        with pytest.raises(ptx.Race, match=words):
            ptx.run(kernel, 1, x, BLOCK=128, seed=seed, warp_races="warn")
    else:
        with pytest.warns(RuntimeWarning, match=words):
            ptx.run(kernel, 1, x, BLOCK=128, seed=seed, warp_races="warn")


@triton.jit
def meet(x, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    for _ in range(n):
        tl.store(x + at, tl.load(x + at) + 1)


@triton.jit
def one_writes(x, out, who):
    if tl.program_id(0) == who:
        tl.store(x, 1)
    tl.store(out + tl.program_id(0), tl.load(x))


@triton.jit
def handed_on(x, count, out):
    """The last of all programs to count reads what the first wrote; the others count alone."""
    if tl.program_id(0) == 0:
        tl.store(x, 7)
    if tl.atomic_add(count, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.store(out, tl.load(x))


@pytest.mark.parametrize("who", [0, 1, 700, 1999])
def test_among_thousands_of_programs_the_one_that_writes_is_found(who):
    x, out = np.zeros(1, np.int32), np.zeros(2000, np.int32)
    with pytest.raises(ptx.Race, match=r"at x\[0\]") as caught:
        ptx.run(one_writes, 2000, x, out, who)
    assert "PTX line" in str(caught.value)
    ptx.run(one_writes, 2000, x, out, -1)


def test_thousands_of_programs_that_synchronise_race_only_where_they_do():
    x, count, out = (np.zeros(1, np.int32) for _ in range(3))
    ptx.run(handed_on, 2000, x, count, out)
    assert out == 7


@triton.jit
def counts_and_looks(x, count):
    tl.atomic_add(count, 1)
    tl.store(x + tl.program_id(0), tl.load(count))


@pytest.mark.parametrize("kernel", [meet, counts_and_looks])
def test_programs_that_race_on_one_place_cost_their_number_and_not_its_square(kernel):
    def seconds(programs):
        x, count = np.zeros(programs, np.int32), np.zeros(32, np.int32)
        arguments = {"x": count, "n": 2, "BLOCK": 32} if kernel is meet else {"x": x, "count": count}
        start = time.process_time()
        with pytest.raises(ptx.Race):
            ptx.run(kernel, programs, **arguments, num_warps=1)
        return time.process_time() - start

    seconds(16)
    few, many = (min(seconds(n) for _ in range(2)) for n in (256, 4096))
    assert many < 64 * max(few, 0.01)  # sixteen times as many programs, whose square is 256 times as much
