"""Races by happens-before: each rule with its smallest log, ordered and not; random logs against vector clocks."""

from typing import Any

import numpy as np
import pytest
from race_clocks import T, access, atomic, clocks, fence, load, pairs, random_log, store

from kvproof.kernels.ptx.races import find_races


def test_a_thread_is_ordered_with_itself_and_not_with_its_neighbour():
    assert pairs([store("w", 0), load("r", 0), store("w2", 0)]) == set()
    assert pairs([store("w", 0), load("r", 0, threads=[1])]) == {("w", "r", "within")}


def test_loads_and_separate_bytes_never_race():
    assert pairs([load("r", 0, threads=None), load("r2", 0, programs=(0, 1), threads=None), store("w", 4)]) == set()


def test_a_barrier_of_the_program_orders_its_threads_but_no_other_program():
    log = [store("w", 0), load("r", 0, threads=[40], epoch=1)]
    assert pairs(log) == set()
    assert pairs([log[0], log[1]._replace(epoch=np.array([0]))]) == {("w", "r", "within")}
    assert pairs([log[0], log[1]._replace(programs=np.array([1]))]) == {("w", "r", "between")}


def test_a_barrier_of_the_warp_orders_its_lanes_but_no_other_warp():
    passed = np.array([[1, 1]])
    assert pairs([store("w", 0), load("r", 0, threads=[31], warp_epoch=passed)]) == set()
    assert pairs([store("w", 0), load("r", 0, threads=[32], warp_epoch=passed)]) == {("w", "r", "within")}


def test_in_a_program_of_one_warp_the_barrier_of_the_warp_is_the_programs():
    lanes = {"threads": 32, "active": np.arange(32)[None] == 0}
    log = [store("w", 0)._replace(**lanes), load("r", 0, warp_epoch=np.array([[1]]))._replace(**lanes)]
    log[1] = log[1]._replace(active=np.arange(32)[None] == 5)
    assert pairs(log) == set()
    assert pairs([log[0], log[1]._replace(warp_epoch=None)]) == {("w", "r", "within")}


def test_atomics_race_with_plain_accesses_only():
    both = {"programs": (0, 1), "threads": None}
    assert pairs([atomic("a", 0, "relaxed", **both), load("r", 0, order="relaxed", scope="sys", **both)]) == set()
    assert pairs([atomic("a", 0, "relaxed"), load("r", 0, programs=[1])]) == {("a", "r", "between")}


def test_atomics_of_cta_scope_are_atomic_within_their_program_only():
    assert pairs([atomic("a", 0, "relaxed", "cta", threads=None)]) == set()
    assert pairs([atomic("a", 0, "relaxed", "cta", programs=(0, 1))]) == {("a", "a", "between")}


PLACES = np.arange(3)[:, None] * 4
THREE: dict[str, Any] = {"programs": (0, 1, 2)}


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


def test_only_the_thread_that_acquires_knows_before_the_next_barrier():
    log = [store("w", 0), atomic("out", 64), atomic("in", 64, programs=[1]), load("r", 0, programs=[1])]
    assert pairs(log) == set()
    assert pairs([*log[:3], load("r", 0, programs=[1], threads=[1])]) == {("w", "r", "between")}
    assert pairs([*log[:3], load("r", 0, programs=[1], threads=[1], epoch=1)]) == set()


def test_fences_make_a_pattern_of_relaxed_accesses():
    flag = {"order": "relaxed", "scope": "gpu"}
    log = [store("w", 0), fence(), store("set", 64, **flag)]
    log += [load("get", 64, programs=[1], **flag), fence(programs=[1]), load("r", 0, programs=[1])]
    assert pairs(log) == set()
    for missing in (1, 4):
        assert pairs(log[:missing] + log[missing + 1 :]) == {("w", "r", "between")}
        near = [a._replace(scope="cta") if i == missing else a for i, a in enumerate(log)]
        assert pairs(near) == {("w", "r", "between")}


@pytest.mark.parametrize(("kind", "races"), [("atomic", set()), ("store", {("w", "r", "between")})])
def test_a_read_modify_write_continues_a_release_and_a_store_replaces_it(kind, races):
    between = access("mid", kind, 64, order="relaxed", scope="gpu", programs=[2])
    log = [store("w", 0), atomic("out", 64), between, atomic("in", 64, programs=[1]), load("r", 0, programs=[1])]
    assert pairs(log) == races


def test_what_a_thread_does_after_its_release_is_not_published():
    log = [store("w", 0), atomic("out", 64), atomic("in", 64, programs=[1]), load("r", 0, programs=[1])]
    assert pairs([log[0], *log]) == set()
    assert pairs([*log[:2], store("w", 0), *log[2:]]) == {("w", "r", "between")}


def test_knowledge_travels_through_a_third_program():
    log = [
        store("w", 0),
        atomic("a", 64),
        atomic("b", 64, programs=[1]),
        atomic("c", 68, programs=[1], epoch=1, threads=[9]),
    ]
    log += [atomic("d", 68, programs=[2]), load("r", 0, programs=[2])]
    assert pairs(log) == set()
    assert pairs([*log[:3], log[3]._replace(epoch=np.array([0])), *log[4:]]) == {("w", "r", "between")}


@pytest.mark.parametrize(("unlock", "races"), [("release", set()), ("relaxed", {"r", "w"})])
def test_a_spin_lock_protects_what_it_guards(unlock, races):
    log = []
    for p in range(3):
        log += [atomic("spin", 64, "acquire", programs=[p]) for _ in range(3)]
        log += [load("r", 0, programs=[p]), store("w", 0, programs=[p]), atomic("free", 64, unlock, programs=[p])]
    assert {name for pair in pairs(log) for name in pair[:2]} == races


def test_the_same_value_twice_is_replicated_in_one_program_and_a_race_in_two():
    one = store("w", 0, threads=None, value=7)
    differ = np.zeros((1, T, 4), np.uint8)
    differ[0, 9, 3] = 1
    assert pairs([one]) == set()
    assert pairs([one._replace(value=differ)]) == {("w", "w", "within")}
    assert pairs([one, one._replace(instruction="w2")]) == {("w", "w2", "within")}
    assert pairs([one._replace(programs=np.array([0, 1]), epoch=np.zeros(2, int))]) == {("w", "w", "between")}


def test_replicas_are_told_by_each_value_that_a_thread_stores():
    log = [store("w", 0, value=0), store("w", 0, value=1), store("w", 0, threads=[1], value=1)]
    assert pairs(log) == {("w", "w", "within")}
    assert pairs(log[1:]) == set()


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
    assert pairs(log) == ({("w", "r", "between")} if meets else set())


def test_a_race_names_its_threads_its_address_and_one_example_for_each_pair():
    log = [
        store("w", np.arange(T)[None] * 4 + 1000, threads=None),
        load("r", 1000, size=16, threads=[9, 3], programs=[4]),
    ]
    (race,) = find_races(log)
    assert (race.first, race.second) == (("w", "store", 0, 0), ("r", "load", 4, 3))
    assert race.address == 1000
    assert not race.within


def test_a_release_outlives_its_threads_own_strong_store_and_no_weak_one():
    log = [store("w", 0), atomic("out", 64), store("mid", 64, order="relaxed", scope="gpu")]
    log += [atomic("in", 64, programs=[1]), load("r", 0, programs=[1])]
    assert pairs(log) == set()
    log[2] = log[2]._replace(order="", scope="")
    assert pairs(log) == {("w", "r", "between"), ("mid", "in", "between")}


@pytest.mark.parametrize("seed", range(8))
def test_random_logs_have_the_races_that_vector_clocks_find(seed):
    rng, racy = np.random.default_rng(seed), 0
    for _ in range(30):
        log = random_log(rng)
        expected = clocks(log)
        assert {(*sorted(pair[:2]), pair[2]) for pair in pairs(log)} == expected
        racy += bool(expected)
    assert racy > 5
