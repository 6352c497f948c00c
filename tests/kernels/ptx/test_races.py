"""Races by happens-before: each rule with its smallest log, ordered and not; random logs against vector clocks."""

import time
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx.races import find_races

from ._race_clocks import T, access, atomic, clocks, fence, load, pairs, random_log, store


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


@pytest.mark.parametrize(
    ("who", "level"), [(([0], 0, [9]), "warp"), (([0], 0, [40]), "program"), (([0], 1, [0]), "launch")]
)
def test_a_race_says_whether_warps_or_programs_have_a_part_in_it(who, level):
    threads, program, others = who
    (race,) = find_races([store("w", 0, threads=threads), load("r", 0, programs=[program], threads=others)])
    assert race.level == level


def test_every_level_of_one_pair_is_found_and_the_gravest_comes_first():
    every = store("w", 0, programs=(0, 1), threads=None)
    races = find_races([every._replace(value=np.arange(2 * T, dtype="<u4").reshape(2, T, 1).view(np.uint8))])
    assert [race.level for race in races] == ["launch", "program", "warp"]
    lanes = store("w", np.arange(T)[None] // 2 * 4, threads=None)
    races = find_races([lanes._replace(value=np.arange(T, dtype="<u4").reshape(1, T, 1).view(np.uint8))])
    assert [race.level for race in races] == ["warp"]


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
