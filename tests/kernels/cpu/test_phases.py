"""kernels/cpu/phases.py: every share is taken once, and nobody passes a meeting early."""

import threading
from typing import Any

import numpy as np
import pytest

from kvproof.kernels.cpu import forward, job, phases, pointers, vectors

from ._compiled import address, compiled

SHARES = 1000
P: Any = phases  # what is called below is no Python function
M: Any = pointers
F: Any = forward


def crowd(at, out, thread, count):
    """Each thread adds 1 to every share that it takes; after the meeting it counts what it sees."""
    counters, found = M.pointer("int64", "float32", at), M.pointer("int64", "float32", out)
    if thread == 0:
        P.count_up(counters, 0)
    elif not P.all_here(counters):
        return -1
    crew = P.Crew(counters, thread, count)
    taken, i = 0, P.share(crew, 1, SHARES)
    while i < SHARES:
        P.count_up(found, i)
        taken, i = taken + 1, P.share(crew, 1, SHARES)
    P.meet(crew, 1)
    seen = 0
    for k in range(SHARES):
        seen += P.look(found, k)
    M.write(found, SHARES + thread, seen)
    return taken


@pytest.fixture(scope="module")
def run():
    return compiled(crowd)


def start(run, count: int, numbers):
    counters, found, taken = job.phases(1), np.zeros(SHARES + count, np.int64), {}

    def work(thread):
        taken[thread] = run(address(counters), address(found), thread, count)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in numbers]
    for worker in workers:
        worker.start()
    return counters, found, taken, workers


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_every_share_is_taken_once_and_all_have_met(run, count):
    for _ in range(20):
        _, found, taken, workers = start(run, count, range(count))
        for worker in workers:
            worker.join()
        assert (found[:SHARES] == 1).all()
        assert (found[SHARES:] == SHARES).all()
        assert sum(taken.values()) == SHARES


def test_a_caller_that_never_comes_lets_the_others_go(run):
    counters, found, taken, workers = start(run, 3, (1, 2))
    counters[0, 1] = 1
    for worker in workers:
        worker.join(10)
    assert taken == {1: -1, 2: -1}
    assert not found.any()


def test_what_python_and_numba_know_of_a_job_is_the_same():
    assert vectors.LANES == vectors.Vectors("float32", 1).vector.count == job.LANES == 16
    assert P.LINE == job.LINE
    assert job.LINE * 8 >= 128  # two counters of different phases share no cache line, nor a pair of them
    assert F.PHASES == job.PHASES
    rows = len(job.phases(7))
    assert rows > 2 + 7 * job.PHASES + 1  # the last phase is the head's
    assert not job.phases(7).any()


@pytest.mark.parametrize("size", [4, 8])
def test_scratch_memory_holds_all_that_a_thread_writes(size):
    for head_dim, splits in ((1, 1), (64, 8), (25, 3)):
        need = 8 * 64 + size * (64 + 64 + head_dim + 2 * splits + splits * head_dim)
        assert need <= job.scratch_bytes(head_dim, splits, size) < need + 128
        assert job.scratch_bytes(head_dim, splits, size) % 128 == 0
