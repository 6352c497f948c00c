"""Order between programs by atomics: held to a search through all ways from one access to the other."""

import time

import numpy as np
import pytest

from kvproof.kernels.ptx.native.accesses import MOMENT, PLAIN, PROGRAM, READS_ATOMICS, SEVERAL, THREAD, WRITES_ATOMICS
from kvproof.kernels.ptx.native.order import ACQUIRE, RELEASE, ordered

WORD = 1 << THREAD


def who(program, moment, thread, several=False):
    return program + 1 << PROGRAM | moment << MOMENT | thread * WORD | SEVERAL * several


def since(program, moment):
    return program + 1 << PROGRAM - MOMENT | moment


class Programs:
    """Programs that run in turns at random: each step a barrier, an atomic or a plain access."""

    def __init__(self, random, programs, threads, steps, places=3):
        self.log, self.seen = [], []
        moment, barrier = [0] * programs, [0] * programs
        for _ in range(steps):
            p, t = int(random.integers(programs)), int(random.integers(threads))
            kind = random.random()
            if kind < 0.25:
                moment[p] += 1
                barrier[p] = moment[p]
            elif kind < 0.6:
                flags = int(random.choice((0, ACQUIRE, RELEASE, ACQUIRE | RELEASE)))
                address = 1000 + 4 * int(random.integers(places))
                self.log.append((who(p, moment[p], t), address, flags, since(p, barrier[p])))
                moment[p] += 1
            else:
                self.seen.append((p, moment[p], t, since(p, barrier[p]), len(self.log), random.random() < 0.3))


def covers(one, other):
    """Whether what a program did at (program, moment, thread, several) is before an atomic of it."""
    p, moment, t, several = one
    w, _, _, since_ = other
    if w >> PROGRAM != p + 1:
        return False
    own = not several and (w >> THREAD & 0x3FF) == t and (w >> MOMENT & 0x3FFF) >= moment
    return own or since_ > since(p, moment)


def shown(row, other):
    """Whether what an atomic acquired is known to an access of (program, moment, thread, since, several)."""
    p, moment, t, since_, several = other
    w = row[0]
    if w >> PROGRAM != p + 1:
        return False
    own = not several and (w >> THREAD & 0x3FF) == t and (w >> MOMENT & 0x3FFF) < moment
    return own or w >> MOMENT < since_


def by_search(log, before, now):
    """Whether a chain of releases and acquires leads from one access to the other."""
    p, moment, t, *_, several = before
    reached = [r for r, row in enumerate(log) if row[2] & RELEASE and covers((p, moment, t, several), row)]
    found = set(reached)
    while reached:
        r = reached.pop()
        for a in range(r + 1, len(log)):
            if log[a][1] != log[r][1] or not log[a][2] & ACQUIRE:
                continue
            q, _, u, s, _, many = now
            if shown(log[a], (q, now[1], u, s, many)):
                return True
            w = log[a][0]
            mine = (w >> PROGRAM) - 1, (w >> MOMENT & 0x3FFF), w >> THREAD & 0x3FF, False
            for n in range(a, len(log)):
                if n not in found and log[n][2] & RELEASE and covers(mine, log[n]):
                    found.add(n)
                    reached.append(n)
    return False


def conflict(before, now, kind=PLAIN, address=5):
    p, moment, t, _, _, many = before
    q, later, u, s, synced, several = now
    return who(p, moment, t, many), who(q, later, u, several), address, synced, kind, s


@pytest.mark.parametrize("programs", [2, 3, 6])
def test_what_is_ordered_is_so_by_a_chain_of_releases_and_acquires(programs):
    random = np.random.default_rng(programs)
    found = {(a, b): 0 for a in (False, True) for b in (False, True)}
    for _ in range(100):
        run = Programs(random, programs, 2, 40 * programs)
        log = np.array(run.log, np.int64)
        for _ in range(10):
            one, other = sorted(random.choice(len(run.seen), 2, replace=False))
            before, now = run.seen[one], run.seen[other]
            if before[0] != now[0]:
                answer = ordered(log, np.array([conflict(before, now)], np.int64))
                found[answer, by_search(run.log, before, now)] += 1
    assert found[True, False] == 0
    assert found[True, True] > 50
    assert found[False, False] > 50
    assert found[False, True] < 0.1 * found[True, True]  # chains that lead through one thread alone in the middle


def test_all_conflicts_count():
    log = np.array([(who(0, 1, 0), 8, RELEASE, since(0, 1)), (who(1, 0, 0), 8, ACQUIRE, since(1, 0))], np.int64)
    good = (who(0, 0, 3), who(1, 2, 5), 4, 2, PLAIN, since(1, 2))
    early = (who(0, 0, 3), who(1, 1, 5), 4, 2, PLAIN, since(1, 0))  # no barrier after the acquire, another thread
    own = (who(0, 0, 3), who(1, 1, 0), 4, 2, PLAIN, since(1, 0))
    for rows, answer in (([good], True), ([good, own], True), ([good, early], False), ([early], False)):
        assert ordered(log, np.array(rows, np.int64)) is answer
    assert ordered(log[:0], np.zeros((0, 6), np.int64))
    assert not ordered(log[:0], np.array([good], np.int64))


def test_a_plain_access_comes_after_all_atomics_at_its_place():
    log = [(who(p, 1, 0), 8, RELEASE | ACQUIRE, since(p, 1)) for p in range(3)]
    last, first = who(2, 3, 0), who(0, 3, 0)
    for me, p, answer in ((last, 2, True), (first, 0, False)):
        row = (0, me, 8, 3, WRITES_ATOMICS, since(p, 3))
        assert ordered(np.array(log, np.int64), np.array([row], np.int64)) is answer
    relaxed = [(w, a, 0, s) for w, a, _, s in log]
    assert not ordered(np.array(relaxed, np.int64), np.array([(0, last, 8, 3, READS_ATOMICS, since(2, 3))], np.int64))


def test_a_plain_write_ends_what_a_place_has_released():
    log = [(who(0, 1, 0), 8, RELEASE, since(0, 1)), (who(1, 0, 0), 8, ACQUIRE, since(1, 0))]
    read = (who(0, 0, 3), who(1, 2, 5), 4, 2, PLAIN, since(1, 2))
    over = (0, who(0, 2, 0), 8, 1, WRITES_ATOMICS, since(0, 2))
    assert ordered(np.array(log, np.int64), np.array([read], np.int64))
    assert not ordered(np.array(log, np.int64), np.array([read, over], np.int64))


def releases_of(N):
    """A log of N programs that release and acquire 24 places in turn, and reads of what each wrote before that."""
    log = np.array([(who(p, 1, 0), 8 + 4 * (p % 24), 3, since(p, 1)) for p in range(N)], np.int64)
    last = [N - 24 + k for k in range(24)]  # of each place
    rows = [(who(p, 0, 0), who(last[p % 24], 3, 0), 4 * p, N, PLAIN, since(last[p % 24], 3)) for p in range(N - 24)]
    return log, np.array(rows * 7, np.int64)


def test_four_times_the_programs_take_four_times_the_time():
    """Not sixteen times; the least of several turns, for the processor has others to serve."""
    sizes = {N: releases_of(N) for N in (3000, 12000)}
    took = dict.fromkeys(sizes, np.inf)
    for _ in range(7):
        for N, (log, rows) in sizes.items():
            start = time.process_time()
            assert ordered(log, rows)
            took[N] = min(took[N], time.process_time() - start)
    assert took[12000] < 8 * took[3000], took  # a search of all pairs takes 16 times as long
