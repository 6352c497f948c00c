"""Shared memory in compiled code: what it holds and counts is the NumPy form's, and it suspects what that raises."""

import numpy as np
import pytest

from kvproof.kernels.ptx import access
from kvproof.kernels.ptx.native import memory

from ._lockstep import Did, Native, compare, decoded_of

SIZE = 1024
PLAIN = [
    "st.shared.b32 [%r1], %r2;", "ld.shared.b32 %r3, [%r1];", "st.shared.v4.b32 [%r1+16], {%r2, %r3, %r4, %r5};",
    "ld.shared.v4.b32 {%r2, _, %r4, %r5}, [%r1];", "ld.shared.b32 %r3, [%r30+4];", "st.shared.b32 [%r30], %r31;",
    "st.shared.v2.b64 [%r1], {%rd1, %rd2};", "ld.shared.b64 %rd1, [%r1];", "st.shared.b32 [%r1], %r31;",
]  # fmt: skip
SMALL = [
    "st.shared.b8 [%r1], %r2;", "ld.shared.s8 %r3, [%r1];", "st.shared.v4.b16 [%r1], {%h1, %h2, %h3, %h4};",
    "ld.shared.b16 %h1, [%r1];", "ld.shared.v2.u16 {%h1, %h2}, [%r1];",
]  # fmt: skip
ATOMIC = [
    "st.shared.b32 [%r1], %r2;", "ld.shared.b32 %r3, [%r1];", "atom.shared.add.u32 %r3, [%r1], %r2;",
    "red.shared.max.s32 [%r1], %r2;", "atom.shared.exch.b32 %r3, [%r1], %r2;", "red.shared.add.u32 [%r1], %r2;",
    "atom.shared.cas.b32 %r3, [%r1], %r2, %r4;", "atom.shared.inc.u32 %r3, [%r1], %r2;",
]  # fmt: skip
COPIES = [
    "st.shared.b32 [%r1], %r2;", "ld.shared.b32 %r3, [%r1];", "cp.async.ca.shared.global [%r1], [%rd1], 4;",
    "cp.async.cg.shared.global [%r1], [%rd1], 16, %r6;", "cp.async.commit_group;", "cp.async.wait_group 1;",
    "cp.async.wait_all;", "ld.shared.v4.b32 {%r2, %r3, %r4, %r5}, [%r1];",
]  # fmt: skip


def addresses(rng: np.random.Generator, T: int, size: int, wild: bool) -> np.ndarray:
    """Of an access of `size` bytes: in a row, over and over, permuted, far apart, all alike, or these with a fault."""
    at, room = np.arange(T), SIZE // size
    kind = rng.integers(8)
    if kind == 1:
        at = at ^ rng.integers(8)
    elif kind == 2:
        at = at * rng.integers(1, 9)
    elif kind == 3:
        at = rng.permutation(room)[at % room]
    elif kind == 4:
        at = np.full(T, rng.integers(room))
    elif kind == 5:
        at = at // rng.choice([2, 4, 32])
    elif kind == 6:
        at = at % rng.choice([4, 8, 16])
    at = (at + rng.integers(0, 9)) % room * size
    if wild:
        at[rng.integers(T)] += rng.choice([1, size // 2, SIZE])
    return at


def history(rng: np.random.Generator, decoded, sizes: list[int], T: int, barriers: float) -> list[Did]:
    """Some accesses after all of memory was written; half of the time few threads at few places."""
    done, last, few = [], {}, rng.random() < 0.5
    for start in range(0, SIZE, T * sizes[0]):
        at = start + np.arange(T) * sizes[0]
        done.append(Did(0, at < SIZE, {"%r1": at, "%r2": rng.integers(0, 4, T)}))
    done[-1] = done[-1]._replace(barrier="program")
    chosen = rng.integers(len(sizes), size=2 if few else len(sizes))
    for _ in range(rng.integers(2, 7)):
        n = int(rng.choice(chosen))
        on = np.ones(T, bool) if rng.random() < 0.6 else rng.random(T) < rng.random()
        if rng.random() < 0.2:
            on = np.arange(T) % 32 < rng.choice([4, 8, 16])
        if rng.random() < 0.2:
            on &= np.arange(T) // 32 == rng.integers(T // 32)
        values = 2 if rng.random() < 0.5 else 1
        registers = {name: rng.integers(0, values, T) for name in decoded.slots if name[1] in "rh"}
        at = last.get(sizes[n]) if rng.random() < 0.6 else None
        at = addresses(rng, T, sizes[n], rng.random() < 0.03) if at is None else at
        if few:
            at, on = np.arange(T) // 2 % 2 * sizes[n], np.isin(np.arange(T), rng.integers(T // 16, size=3) * 16)
        last[sizes[n]] = at
        registers |= {"%r1": at, "%r30": np.full(T, at[0]), "%r31": np.full(T, 1), "%r6": 16 * rng.integers(0, 2, T)}
        registers |= {"%rd1": rng.integers(0, 2, T)}
        registers = {name: x for name, x in registers.items() if name in decoded.slots}
        done.append(Did(n, on, registers, rng.choice(["program", "warp"]) if rng.random() < barriers else ""))
    return done


LINES = {"plain": PLAIN, "small": SMALL, "atomic": ATOMIC, "copies": COPIES}
SIZES = {"plain": [4, 4, 16, 16, 4, 4, 16, 8, 4], "small": [1, 1, 8, 2, 4], "atomic": [4] * 8}
SIZES["copies"] = [4, 4, 4, 16, 4, 4, 4, 16]


@pytest.fixture
def addresses_as_global_memory(monkeypatch):
    """Global memory in which each address holds itself, in both forms."""

    def there(block, at, f, active):
        words = at.astype(np.uint64)
        return np.stack([words, words * 0], -1) if f.size == 16 else words.astype(f"u{f.size}")

    def compiled(w, address, size, on):
        place = w.room(32 * size)
        w.b.store(w.L.resize(w.L.splat(address), 8 * size), place, align=1)
        return place

    monkeypatch.setattr(access, "load_global", there)
    monkeypatch.setattr(memory, "load", compiled)


@pytest.mark.usefixtures("addresses_as_global_memory")
@pytest.mark.parametrize("T", [32, 64, 128])
@pytest.mark.parametrize("name", LINES)
def test_random_accesses_do_in_machine_code_what_they_do_in_numpy(name, T):
    decoded = decoded_of(LINES[name])
    native, rng = Native(decoded, T, SIZE), np.random.default_rng(T)
    ends = [compare(native, history(rng, decoded, SIZES[name], T, rng.random())) for _ in range(60)]
    assert min(ends.count(x) for x in ("raised", "same")) > 5
    assert ends.count("suspicious") < (4 if name in ("plain", "small") else 40)


FIRST, SECOND = 0, 32  # threads of two warps


def at_one_place(*accesses: tuple[int, tuple[int, ...], int]) -> list[Did]:
    """Accesses (instruction, threads, value) of threads of two warps to one word, with no barrier in between."""
    T = np.arange(64)
    start = Did(0, T < 64, {"%r1": 4 * T, "%r2": 0 * T}, "program")
    return [start] + [Did(n, np.isin(T, who), {"%r1": 0 * T, "%r2": 0 * T + x}) for n, who, x in accesses]


STORE, LOAD, OTHER = 0, 1, 2
HIDDEN = {
    "a write of another instruction before that which both do": [(OTHER, (FIRST,), 5), (STORE, (FIRST, SECOND), 5)],
    "another value before that which both store": [(STORE, (FIRST,), 4), (STORE, (FIRST, SECOND), 5)],
    "a read of what the reader stored before another did": [
        (STORE, (SECOND,), 5), (LOAD, (SECOND,), 0), (STORE, (FIRST,), 5)
    ],
    "a read of the last of several that stored one value": [(STORE, (FIRST, SECOND), 5), (LOAD, (FIRST,), 0)],
    "a write after a read": [(LOAD, (SECOND,), 0), (STORE, (FIRST,), 5)],
    "a read after reads of a warp and before a write of another": [
        (LOAD, (FIRST, 1), 0), (LOAD, (SECOND,), 0), (STORE, (FIRST,), 5)
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", HIDDEN)
def test_what_lockstep_finds_is_not_hidden_by_one_warp_after_the_other(what):
    native = Native(
        decoded_of(["st.shared.b32 [%r1], %r2;", "ld.shared.b32 %r3, [%r1];", "st.shared.b32 [%r1], %r2;"]), 64, SIZE
    )
    assert compare(native, at_one_place(*HIDDEN[what])) == "raised"


@pytest.mark.usefixtures("addresses_as_global_memory")
def test_a_copy_that_arrives_is_not_hidden_by_a_store_of_a_warp_that_ran_before():
    T, native = np.arange(64), Native(decoded_of(COPIES), 64, SIZE)
    start, after = at_one_place((STORE, (FIRST,), 5))
    copy = Did(2, T == SECOND, {"%r1": 0 * T, "%rd1": 0 * T}, "program")
    assert compare(native, [start, copy, Did(6, T == SECOND, {}), after]) == "raised"


def test_copies_of_one_value_by_several_warps_are_no_suspicion():
    native = Native(decoded_of(["st.shared.b32 [%r1], %r2;"]), 64, SIZE)
    everybody = tuple(range(64))
    assert compare(native, at_one_place((STORE, everybody, 5), (STORE, everybody, 5))) == "same"


def test_atomics_whose_order_cannot_matter_are_no_suspicion():
    decoded = decoded_of(
        ["st.shared.b32 [%r1], %r2;", "red.shared.add.u32 [%r1], %r2;", "red.shared.add.u32 [%r1], 3;"]
    )
    everybody = tuple(range(64))
    assert (
        compare(Native(decoded, 64, SIZE), at_one_place((1, everybody, 5), (2, everybody, 0), (1, (SECOND,), 7)))
        == "same"
    )


@pytest.mark.parametrize(
    ("first", "then", "ends"), [(STORE, LOAD, "raised"), (LOAD, STORE, "raised"), (LOAD, LOAD, "same")]
)
def test_lanes_that_repeat_the_accesses_of_the_first_ones_are_all_known(first, then, ends):
    """Each of eight words is accessed by four lanes; the first of them may not go on alone, as if it had been."""
    native = Native(decoded_of(["st.shared.b32 [%r1], %r2;", "ld.shared.b32 %r3, [%r1];"]), 32, SIZE)
    T = np.arange(32)
    all_, few = ({"%r1": x, "%r2": x} for x in (4 * T, 4 * (T % 8)))
    history = [Did(0, T < 32, all_, "program"), Did(first, T < 32, few), Did(then, T < 8, few)]
    assert compare(native, history) == ends
