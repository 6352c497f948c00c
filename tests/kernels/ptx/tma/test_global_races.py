"""Races in global memory between bulk copies, other programs, and the program that has issued them."""

import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import Race

from ._kernels import BLOCK, descriptor, planted


@triton.jit
def hand_over(a, parts, p, done, out, N: tl.constexpr, B: tl.constexpr):
    parts.store([tl.program_id(0), 0], a.load([tl.program_id(0), 0]) + 1)
    if tl.atomic_add(done, 1) == N - 1:
        total = tl.zeros((B,), tl.float32)
        for k in range(N):
            total += tl.load(p + k * B + tl.arange(0, B))
        tl.store(out + tl.arange(0, B), total)


@triton.jit
def read_back(a, b, p, out, N, B0: tl.constexpr, B1: tl.constexpr):
    i = tl.program_id(0) * B0
    at = (i + tl.arange(0, B0)[:, None]) * N + tl.arange(0, B1)
    for j in range(0, N, B1):
        b.store([i, j], a.load([i, j]) + 1)
        tl.store(out + at + j, tl.load(p + at + j))


@triton.jit
def one_box(a, b, B: tl.constexpr):
    b.store([0, 0], a.load([tl.program_id(0), 0]))


def launch_hand_over(**settings):
    x, parts, total = torch.randn(4, 256), torch.zeros(4, 256), torch.zeros(256)
    done = torch.zeros(1, dtype=torch.int32)
    ptx.run(hand_over, 4, descriptor(x, 1, 256), descriptor(parts, 1, 256), parts, done, total, 4, 256, **settings)
    assert torch.equal(total, x[0] + 1 + (x[1] + 1) + (x[2] + 1) + (x[3] + 1))


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_store_that_was_waited_for_is_handed_over_by_an_atomic(seed):
    launch_hand_over(seed=seed)


@pytest.mark.parametrize(
    "fault",
    [(r"bulk\.wait_group\s+0;", "bulk.wait_group.read 0;"), ("acq_rel", "relaxed"), ("acq_rel", "acquire")],
    ids=["a wait for reads", "relaxed", "no release"],
)
def test_a_store_that_may_be_under_way_is_not(fault):
    with planted(fault), pytest.raises(Race, match=r"race at parts\[\d, 0\]: this load and a store by a bulk copy by"):
        launch_hand_over()


def test_a_program_reads_its_own_store_too_early():
    x, y, out = (torch.zeros(16, 256) for _ in range(3))
    with pytest.raises(Race, match=r"of the same program, .*, PTX line .* with no cp.async.bulk.wait_group between"):
        ptx.run(read_back, 1, descriptor(x), descriptor(y), y, out, 256, *BLOCK)


def test_two_programs_that_store_one_box_race():
    x = torch.randn(4, 256)
    with pytest.raises(
        Race, match=r"at b\[0, 0\]: this store by a bulk copy and a store by a bulk copy by thread"
    ) as caught:
        ptx.run(one_box, 4, descriptor(x, 1, 256), descriptor(torch.zeros(4, 256), 1, 256), 256)
    assert caught.value.program == (1, 0, 0)
