"""Copies of one value that several threads hold are no race where they cannot matter, and are one where they can."""

import numpy as np
import pytest
import triton
import triton.language as tl

from kvproof.kernels import ptx

from ._race_clocks import atomic, load, pairs, store

REPLICATED = [load("r", 0, threads=[0, 9, 40]), store("w", 0)]
LATER = [store("a", 0, epoch=1), store("b", 0, threads=[1], epoch=1)]


@pytest.mark.parametrize(
    ("log", "races"),
    [
        (REPLICATED, set()),
        ([load("r", 0), *REPLICATED[::-1]], set()),  # copies made late are as useless
        (REPLICATED * 3, set()),
        ([load("r", 0), *REPLICATED[::-1], *LATER], {("a", "b", "within")}),  # what else happens there has no say
        ([REPLICATED[0], atomic("w", 0, "relaxed")], {("r", "w", "within")}),  # what an atomic writes is for others
        (REPLICATED[::-1], {("w", "r", "within")}),  # the writer loads what it has stored, and so do the others
        ([load("r", 0, threads=[9]), store("w", 0)], {("r", "w", "within")}),
        ([load("r2", 0), *REPLICATED], set()),
        ([load("r2", 0), load("r", 0, threads=[9]), store("w", 0)], {("r", "w", "within")}),
        ([load("r", 0), load("r", 0, threads=[9], epoch=1), store("w", 0, epoch=1)], {("r", "w", "within")}),
        ([REPLICATED[0], store("w", 0, threads=[0, 9], value=1)], {("r", "w", "within")}),  # both go on from it
        ([REPLICATED[0], load("r", 0, programs=[1]), store("w", 0, programs=[1])], {("r", "w", "between")}),
        ([load("r", 0, order="relaxed", scope="gpu", threads=[0, 9]), store("w", 0)], {("r", "w", "within")}),
    ],
)  # fmt: skip
def test_a_load_is_a_copy_if_whoever_writes_has_loaded_likewise_before(log, races):
    assert pairs(log) == races


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
