"""Happens-before: each rule with its smallest log, ordered and not; random logs against vector clocks."""

from typing import Any

import numpy as np
import pytest

from kvproof.kernels.ptx.races import find_races

from ._vector_clocks import T, atomic, clocks, fence, load, pairs, random_log, store

PLACES = np.arange(3)[:, None] * 4
THREE: dict[str, Any] = {"programs": (0, 1, 2)}
BOTH: dict[str, Any] = {"programs": (0, 1), "threads": None}
FLAG = {"order": "relaxed", "scope": "gpu"}
WARPS = {"warp_epoch": np.array([[1, 1]])}  # each warp has passed a barrier of its own
WITHIN, BETWEEN = {("w", "r", "within")}, {("w", "r", "between")}
LANES = {"threads": 32, "active": np.arange(32)[None] == 0}
LANE_0 = store("w", 0)._replace(**LANES)
LANE_5 = load("r", 0, warp_epoch=np.array([[1]]))._replace(threads=32, active=np.arange(32)[None] == 5)
ONE = store("w", 0, threads=None, value=7)
DIFFER = np.zeros((1, T, 4), np.uint8)
DIFFER[0, 9, 3] = 1
# Program 0 stores and releases; program 1 acquires and reads.
OUT, IN = [store("w", 0), atomic("out", 64)], [atomic("in", 64, programs=[1]), load("r", 0, programs=[1])]
THIRD = [*OUT, atomic("b", 64, programs=[1]), atomic("c", 68, programs=[1], epoch=1, threads=[9])]
THIRD += [atomic("d", 68, programs=[2]), load("r", 0, programs=[2])]
STRONG = store("mid", 64, **FLAG)
REPLICATED = [load("r", 0, threads=[0, 9, 40]), store("w", 0)]
LATER = [store("a", 0, epoch=1), store("b", 0, threads=[1], epoch=1)]
COPIED = {("r", "w", "within")}

RULES = {
    "a thread is ordered with itself": [
        ([store("w", 0), load("r", 0), store("w2", 0)], set()),
        ([store("w", 0), load("r", 0, threads=[1])], WITHIN),  # not with its neighbour
    ],
    "loads and other bytes never race": [([load("r", 0, threads=None), load("r2", 0, **BOTH), store("w", 4)], set())],
    "a barrier of the program orders its threads and no other program": [
        ([store("w", 0), load("r", 0, threads=[40], epoch=1)], set()),
        ([store("w", 0), load("r", 0, threads=[40])], WITHIN),
        ([store("w", 0), load("r", 0, threads=[40], epoch=1, programs=[1])], BETWEEN),
    ],
    "a barrier of the warp orders its lanes and no other warp": [
        ([store("w", 0), load("r", 0, threads=[31], **WARPS)], set()),
        ([store("w", 0), load("r", 0, threads=[32], **WARPS)], WITHIN),
    ],
    "in a program of one warp the warp's barrier is the program's": [
        ([LANE_0, LANE_5], set()),
        ([LANE_0, LANE_5._replace(warp_epoch=None)], WITHIN),
    ],
    "atomics race with plain accesses only": [
        ([atomic("a", 0, "relaxed", **BOTH), load("r", 0, order="relaxed", scope="sys", **BOTH)], set()),
        ([atomic("a", 0, "relaxed"), load("r", 0, programs=[1])], {("a", "r", "between")}),
    ],
    "atomics of cta scope are atomic within their program only": [
        ([atomic("a", 0, "relaxed", "cta", threads=None)], set()),
        ([atomic("a", 0, "relaxed", "cta", programs=(0, 1))], {("a", "a", "between")}),
    ],
    "before the next barrier only the thread that acquires is ordered": [
        ([*OUT, *IN], set()),
        ([*OUT, IN[0], load("r", 0, programs=[1], threads=[1])], BETWEEN),
        ([*OUT, IN[0], load("r", 0, programs=[1], threads=[1], epoch=1)], set()),
    ],
    "a read-modify-write continues a release, and a store replaces it": [
        ([*OUT, atomic("mid", 64, "relaxed", programs=[2]), *IN], set()),
        ([*OUT, store("mid", 64, programs=[2], **FLAG), *IN], BETWEEN),
    ],
    "what a thread does after its release is not published": [
        ([OUT[0], *OUT, *IN], set()),
        ([*OUT, OUT[0], *IN], BETWEEN),
    ],
    "order passes through a third program": [
        (THIRD, set()),
        ([*THIRD[:3], THIRD[3]._replace(epoch=np.array([0])), *THIRD[4:]], BETWEEN),
    ],
    "a release outlives its thread's own strong store and no weak one": [
        ([*OUT, STRONG, *IN], set()),
        ([*OUT, STRONG._replace(order="", scope=""), *IN], BETWEEN | {("mid", "in", "between")}),
    ],
    "the same value twice is replicated in one program and a race in two": [
        ([ONE], set()),
        ([ONE._replace(value=DIFFER)], {("w", "w", "within")}),
        ([ONE, ONE._replace(instruction="w2")], {("w", "w2", "within")}),
        ([ONE._replace(programs=np.array([0, 1]), epoch=np.zeros(2, int))], {("w", "w", "between")}),
    ],
    "replicas are compared by each value that a thread stores": [
        ([store("w", 0, value=0), store("w", 0, value=1), store("w", 0, threads=[1], value=1)], {("w", "w", "within")}),
        ([store("w", 0, value=1), store("w", 0, threads=[1], value=1)], set()),
    ],
    "a load is a copy if every thread that writes has loaded likewise before": [
        (REPLICATED, set()),
        ([load("r", 0), *REPLICATED[::-1]], set()),  # copies made late are as useless
        (REPLICATED * 3, set()),
        ([load("r", 0), *REPLICATED[::-1], *LATER], {("a", "b", "within")}),  # other accesses there do not matter
        ([REPLICATED[0], atomic("w", 0, "relaxed")], COPIED),  # what an atomic writes is for others
        (REPLICATED[::-1], WITHIN),  # the writer loads what it has stored, and so do the others
        ([load("r", 0, threads=[9]), store("w", 0)], COPIED),
        ([load("r2", 0), *REPLICATED], set()),
        ([load("r2", 0), load("r", 0, threads=[9]), store("w", 0)], COPIED),
        ([load("r", 0), load("r", 0, threads=[9], epoch=1), store("w", 0, epoch=1)], COPIED),
        ([REPLICATED[0], store("w", 0, threads=[0, 9], value=1)], COPIED),  # both go on from it
        ([REPLICATED[0], load("r", 0, programs=[1]), store("w", 0, programs=[1])], {("r", "w", "between")}),
        ([load("r", 0, order="relaxed", scope="gpu", threads=[0, 9]), store("w", 0)], COPIED),
    ],
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_that(rule):
    for log, races in RULES[rule]:
        assert pairs(log) == races


def last_program_reduces(change=None, **to):
    """Three programs store a partial each by thread 5 and count by thread 0; the last to count reads all and resets."""
    log = {
        "part": store("part", PLACES, threads=[5], **THREE),
        "count": atomic("count", 64, epoch=1, sequence=np.array([T, 0, 2 * T]), **THREE),
        "read": load("read", np.arange(T)[None] % 3 * 4, programs=[2], epoch=2, threads=[5, 6, 7, 40, 41]),
        "reset": store("reset", 64, programs=[2], epoch=2),
    }
    if change:
        log[change] = log[change]._replace(**to)
    return list(log.values())


BROKEN = {("part", "read", "between"), ("count", "reset", "between")}


@pytest.mark.parametrize(
    ("change", "to", "races"),
    [
        (None, {}, set()),
        ("count", {"epoch": np.zeros(3, int)}, {("part", "read", "between")}),  # no barrier before the atomic
        ("count", {"order": "relaxed"}, BROKEN),
        ("count", {"order": "release"}, BROKEN),
        ("count", {"order": "acquire"}, BROKEN),
        ("count", {"scope": "cta"}, BROKEN | {("count", "count", "between")}),
        ("read", {"epoch": np.array([1])}, {("part", "read", "between")}),  # no barrier after it
        ("count", {"sequence": np.array([2 * T, 0, T])}, BROKEN),  # read by the first to count
        ("part", {"address": np.zeros((1, 1), int)}, {("part", "part", "between")}),  # two splits write one place
    ],
)
def test_the_last_program_reduces_what_it_has_acquired(change, to, races):
    assert pairs(last_program_reduces(change, **to)) == races


def test_fences_make_a_pattern_of_relaxed_accesses():
    log = [store("w", 0), fence(), store("set", 64, **FLAG)]
    log += [load("get", 64, programs=[1], **FLAG), fence(programs=[1]), load("r", 0, programs=[1])]
    assert pairs(log) == set()
    for missing in (1, 4):
        assert pairs(log[:missing] + log[missing + 1 :]) == BETWEEN
        near = [a._replace(scope="cta") if i == missing else a for i, a in enumerate(log)]
        assert pairs(near) == BETWEEN


@pytest.mark.parametrize(("unlock", "races"), [("release", set()), ("relaxed", {"r", "w"})])
def test_a_spin_lock_protects_what_it_guards(unlock, races):
    log = []
    for p in range(3):
        log += [atomic("spin", 64, "acquire", programs=[p]) for _ in range(3)]
        log += [load("r", 0, programs=[p]), store("w", 0, programs=[p]), atomic("free", 64, unlock, programs=[p])]
    assert {name for pair in pairs(log) for name in pair[:2]} == races


def test_threads_that_are_masked_off_touch_nothing():
    ragged = np.zeros((2, T), bool)
    ragged[0, :40], ragged[1, 40:] = True, True
    log = store("w", np.arange(T)[None] * 4, programs=(0, 1), threads=None)._replace(active=ragged)
    assert pairs([log]) == set()
    ragged[1, 39] = True
    (race,) = find_races([log])
    assert (race.address, race.first[2:], race.second[2:]) == (39 * 4, (0, 39), (1, 39))


@pytest.mark.parametrize(("address", "meets"), [(0, False), (2, True), (16, True), (18, False), (17, True)])
def test_vector_accesses_meet_where_they_share_a_byte(address, meets):
    log = [store("w", 2, size=16), load("r", address, size=2, programs=[1])]
    assert pairs(log) == (BETWEEN if meets else set())


def test_a_race_names_its_threads_its_address_and_one_example_for_each_pair():
    log = store("w", np.arange(T)[None] * 4 + 1000, threads=None)
    (race,) = find_races([log, load("r", 1000, size=16, threads=[9, 3], programs=[4])])
    assert (race.first, race.second) == (("w", "store", 0, 0), ("r", "load", 4, 3))
    assert race.address == 1000
    assert not race.within


@pytest.mark.parametrize("seed", range(8))
def test_random_logs_have_the_races_that_vector_clocks_find(seed):
    rng, racy = np.random.default_rng(seed), 0
    for _ in range(30):
        log = random_log(rng)
        expected = clocks(log)
        assert {(*sorted(pair[:2]), pair[2]) for pair in pairs(log)} == expected
        racy += bool(expected)
    assert racy > 5


@pytest.mark.parametrize(("program", "thread", "level"), [(0, 9, "warp"), (0, 40, "program"), (1, 0, "launch")])
def test_a_race_says_whether_warps_or_programs_have_a_part_in_it(program, thread, level):
    (race,) = find_races([store("w", 0), load("r", 0, programs=[program], threads=[thread])])
    assert race.level == level


def test_every_level_of_one_pair_is_found_and_the_gravest_comes_first():
    every = store("w", 0, programs=(0, 1), threads=None)
    races = find_races([every._replace(value=np.arange(2 * T, dtype="<u4").reshape(2, T, 1).view(np.uint8))])
    assert [race.level for race in races] == ["launch", "program", "warp"]
    lanes = store("w", np.arange(T)[None] // 2 * 4, threads=None)
    races = find_races([lanes._replace(value=np.arange(T, dtype="<u4").reshape(1, T, 1).view(np.uint8))])
    assert [race.level for race in races] == ["warp"]
