"""kernels/cpu/team.py: any number of threads, callers at once, a fork, and Ctrl-C while a job is handed out."""

import os
import signal
import sys
import threading
import time
from unittest.mock import patch

import numpy as np
import pytest
import torch

from kvproof.gpt2 import load
from kvproof.kernels.cpu.job import phases
from kvproof.kernels.cpu.team import Team

from ... import _child
from ._requests import hashes, run, threads

PROMPTS = [[1, 2, 3, 4, 5], [6, 7], [8]]
FORCED = torch.tensor([[3, 4, 5, 6]] * 3)
LIMIT = 60  # seconds after which a program hangs


def model():
    return load("tiny", impl="numba")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(count):
    tiny = model()
    with threads(1):
        want = hashes(run(tiny, PROMPTS, FORCED))
    with threads(count):
        for _ in range(5):
            assert hashes(run(tiny, PROMPTS, FORCED)) == want


def test_each_thread_runs_a_job_once_and_threads_are_kept():
    team, seen = Team(), []
    for count in (3, 2, 4, 1):
        job, counters = np.zeros(1, np.int64), phases(1)
        team.run(lambda address, number: seen.append(number) or 0, job, counters, count)
        limit = time.monotonic() + 10
        while len(seen) < count and time.monotonic() < limit:
            time.sleep(0.001)
        assert sorted(seen) == list(range(count))
        seen.clear()
    assert len(team.queues) == 3


def test_a_call_that_is_interrupted_lets_the_other_threads_go():
    """They wait for the caller's thread, which never comes."""
    team, left = Team(), []

    def job(address, number):
        if number == 0:
            raise KeyboardInterrupt
        while not counters[0, 0]:
            if counters[0, 1]:
                left.append(number)
                return 0
            time.sleep(0.001)
        return 0

    for _ in range(3):
        counters = phases(1)
        with pytest.raises(KeyboardInterrupt):
            team.run(job, np.zeros(1, np.int64), counters, 3)
    limit = time.monotonic() + 10
    while len(left) < 6 and time.monotonic() < limit:
        time.sleep(0.001)
    assert sorted(left) == [1, 1, 1, 2, 2, 2]
    assert not team.lock.locked()


def test_two_python_threads_at_once_have_their_own_results():
    tiny, other = model(), load("tiny", dtype="bfloat16", impl="numba")
    want, found = [hashes(run(x, PROMPTS, FORCED)) for x in (tiny, other)], {}

    def work(x, number):
        found[number] = [hashes(run(x, PROMPTS, FORCED)) for _ in range(10)]

    with threads(2):
        workers = [threading.Thread(target=work, args=(x, number)) for number, x in enumerate((tiny, other, tiny))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(LIMIT)
    assert [found[number] for number in range(3)] == [[want[number % 2]] * 10 for number in range(3)]


def fork():
    """A child has no threads of its parent's, and makes its own. torch's, OpenMP's, hang in a child: they are one."""
    tiny = model()
    with threads(1), patch("torch.get_num_threads", lambda: 2):
        want = hashes(run(tiny, PROMPTS, FORCED))
        child = os.fork()
        if child == 0:
            os._exit(0 if hashes(run(tiny, PROMPTS, FORCED)) == want else 1)
        assert hashes(run(tiny, PROMPTS, FORCED)) == want
        _, status = os.waitpid(child, 0)
    print("equal" if status == 0 else f"status {status}")


def interrupted():
    """Ctrl-C by a timer, while jobs are handed out; the next call then gives the usual bits."""
    tiny, rng, caught = model(), np.random.default_rng(0), 0
    with threads(3):
        want = hashes(run(tiny, PROMPTS, FORCED))
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for _ in range(150):
            try:
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(2e-4, 8e-3)))
                for _ in range(100):
                    run(tiny, PROMPTS, FORCED)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                caught += 1
        assert hashes(run(tiny, PROMPTS, FORCED)) == want
    print("equal" if caught > 100 else f"{caught} interruptions")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork and no such timer")
@pytest.mark.parametrize("program", ["fork", "interrupted"])
def test_a_program_that_forks_or_is_interrupted_goes_on(program):
    words = [sys.executable, "-W", "ignore", *_child.words(__file__), program]
    done = _child.run(words, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout.strip() == "equal", done.stderr


if __name__ == "__main__":
    {"fork": fork, "interrupted": interrupted}[sys.argv[1]]()
