"""Mutants of the PTX of our kernels and of ordinary ones: which of the machine, the judge and the bits kills each."""

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from kvproof.kernels.ptx.native import tiers
from kvproof.reference.judge.cases import Case

from ._mutants import LIMIT, Mutant, Subject, decode_attention, mutants, one_launch
from .test_kernels import TARGETS, made

# Lone splits, a full one among them; three splits with a needle in the last, and without; nothing; one slot; more slots
# than the cache has. The last block ends in each of a thread's four rows, of which a needle would outshine the others.
SPLITS = (18, 29, 128, 300, 263, 0, 21, 1, 301)
OURS = {
    "ours float32 64": (Case("float32", SPLITS, 300, 64, 2), "sm_90"),
    "ours float16 80": (Case("float16", SPLITS, 300, 80, 2), "sm_80"),
}
# What those calls do not come to: 2 ... 9 splits, of which a chunk has 8; splits of twice and of 4 times as many slots,
# and several turns of each loop. Those of 8, 16 and 32 times from 32768 slots on run the same code with other numbers.
LONGER = [((200, 600, 830, 700, 1090, 960), 1100), ((8_297,), 8_396), ((16_500,), 16_599)]
REDUCTIONS = ["total float32", "softmax float32", "softmax of 1025", "layer_norm bfloat16"]
TOGETHER = ["histogram", "locked", "relay", "decode"]
OTHERS = ["gelu float16", "order int32", "matmul float16", "matmul int8", "matmul float16 of odd shape"]
NAMES = [*OURS, *REDUCTIONS, *TOGETHER, *OTHERS]
SURVIVORS = dict(zip(NAMES, (80, 82, 8, 20, 49, 8, 3, 5, 12, 13, 3, 123, 23, 22, 28), strict=True))  # and no others
# what deleting what orders others may come to
ORDERING = ("Race", "WarpRace", "Uninitialised", "DivergentBarrier", "Deadlock")
CLEARS_ITS_OWN = {"ours float16 80": 1}  # barriers before the tags are cleared, by the threads that have loaded them
MALFORMED = ("ParseError", "UnknownOpcode")


@lru_cache(maxsize=len(NAMES))
def prepared(name: str) -> tuple[Subject, dict[str, bytes], list[list[Mutant]]]:
    """The subject, the bits of its results, and by launch the mutants of the lines that run."""
    if name in OURS:
        subject = decode_attention(*OURS[name])
    else:
        subject = one_launch(made(name), TARGETS[NAMES.index(name) % len(TARGETS)])
    ran = [{i.line for i, _ in report.by_instruction} for report in subject.run()]
    subject.check()
    found = [[m for m in mutants(c.ptx) if m.line in ran[n]] for n, (c, _, _) in enumerate(subject.steps)]
    return subject, subject.bits(), found


def outcomes(name: str, chosen, limit: int = LIMIT) -> list[tuple[Mutant, str]]:
    """What becomes of mutants of one subject; chosen: by launch, a list of mutants -> those to run."""
    subject, expected, found = prepared(name)
    each_chosen = [(n, m) for n, each in enumerate(found) for m in chosen(each)]
    return [(m, subject.outcome(n, m.text, expected, limit=limit)) for n, m in each_chosen]


def enough(subject: Subject) -> int:
    """The max_steps with which a mutant runs as machine code unless it runs half as long again."""
    return 3 * sum(report.total.instructions for report in subject.run(limit=None))


def examined(name: str) -> list[tuple[Mutant, str]]:
    """What becomes of every mutant of one subject; those of our kernel that the first call lets live meet LONGER."""
    subject, _, _ = prepared(name)
    results = outcomes(name, lambda each: each, enough(subject))
    for lengths, T in LONGER if name in OURS else ():
        case, target = OURS[name]
        call = decode_attention(replace(case, lengths=lengths, T=T), target)
        assert call.steps[0][0].ptx == subject.steps[0][0].ptx
        limit, expected = enough(call), call.bits()
        call.check()
        for i, (m, result) in enumerate(results):
            if result == "survived":
                results[i] = m, call.outcome(0, m.text, expected, limit=limit)
    return results


@pytest.mark.parametrize("name", [*OURS, *REDUCTIONS, "decode"])
def test_every_deleted_barrier_of_a_reduction_is_reported(name):
    results = outcomes(name, lambda each: [m for m in each if m.kind == "barrier deleted"])
    assert len(results) >= 2
    others = [(m.line, result) for m, result in results if result not in ORDERING]
    assert len(others) == CLEARS_ITS_OWN.get(name, 0), others


@pytest.mark.parametrize("name", ["relay", "locked", "decode", "total float32"])
def test_every_weaker_atomic_is_reported(name):
    results = outcomes(name, lambda each: [m for m in each if m.kind.startswith("atomic")])
    assert len(results) >= 2
    assert [(m.line, m.new) for m, result in results if result not in ORDERING] == []


def test_a_schedule_shows_what_the_order_of_threads_hides():
    """If every thread tries to take a lock, and the first one wins, all seems well."""
    subject, expected, (found,) = prepared("locked")
    (everyone,) = (m for m in found if m.kind == "guard dropped" and ".cas." in m.new)
    assert subject.outcome(0, everyone.text, expected) == "survived"
    assert subject.outcome(0, everyone.text, expected, seed=0) == "Deadlock"


def test_three_of_four_other_mutants_are_killed():
    rng = np.random.default_rng(0)
    results = [
        result
        for name in (*OURS, "softmax float32", "decode", "relay", "matmul float16")
        for _, result in outcomes(name, lambda each: [each[i] for i in rng.choice(len(each), 13, replace=False)])
    ]
    counts = Counter(results)
    assert len(results) == 78
    assert not sum(counts[kind] for kind in MALFORMED), "a mutant that is no PTX proves nothing"
    assert counts["survived"] <= len(results) / 4, counts
    assert min(counts[kind] for kind in ("Race", "OutOfBounds", "wrong")) > 0, counts


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_every_mutant(name, monkeypatch):
    """As machine code; prints what tests/EXHAUSTIVE.md sums up, and each survivor, which it explains: -s -n 0."""
    monkeypatch.setattr(tiers, "PRICE", -1.0)  # compiled at once
    results = examined(name)
    for kind in sorted({m.kind for m, _ in results}):
        print(f"| {name} | {kind} | {dict(Counter(result for m, result in results if m.kind == kind))} |")
    survived = [m for m, result in results if result == "survived"]
    for m in survived:
        print(f"{name}, PTX line {m.line}, {m.kind}: {m.new}")
    assert not {result for _, result in results} & {*MALFORMED}
    assert len(survived) <= SURVIVORS[name]
