"""Mutants of the PTX of our kernels and of ordinary ones: which of the machine, the judge and the bits kills each."""

from collections import Counter
from functools import lru_cache

import numpy as np
import pytest

from kvproof.reference.judge.cases import Case

from ._mutants import Mutant, Subject, decode_attention, mutants, one_launch
from .test_kernels import TARGETS, made

# Lone splits, a full one among them; three splits with a needle in the last, and without; nothing. The last block ends
# in each of a thread's four rows once.
SPLITS = (18, 27, 128, 300, 257, 0)
OURS = {
    "ours float32 64": (Case("float32", SPLITS, 300, 64, 2), "sm_90"),
    "ours float16 80": (Case("float16", SPLITS, 300, 80, 2), "sm_80"),
}
REDUCTIONS = ["total float32", "softmax float32", "softmax of 1025", "layer_norm bfloat16"]
TOGETHER = ["histogram", "locked", "relay", "decode"]
OTHERS = ["gelu float16", "order int32", "matmul float16", "matmul int8", "matmul float16 of odd shape"]
NAMES = [*OURS, *REDUCTIONS, *TOGETHER, *OTHERS]
SURVIVORS = dict(zip(NAMES, (78, 82, 8, 20, 49, 8, 3, 5, 12, 13, 3, 123, 23, 22, 28), strict=True))  # and no others
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
    ran = subject.run()
    subject.check()
    found = [[m for m in mutants(c.ptx) if m.line in ran[n]] for n, (c, _, _) in enumerate(subject.steps)]
    return subject, subject.bits(), found


def outcomes(name: str, chosen) -> list[tuple[Mutant, str]]:
    """What becomes of mutants of one subject; chosen: by launch, a list of mutants -> those to run."""
    subject, expected, found = prepared(name)
    return [(m, subject.outcome(n, m.text, expected)) for n, each in enumerate(found) for m in chosen(each)]


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
def test_every_mutant(name):
    """Prints what tests/EXHAUSTIVE.md sums up, and each survivor, which it explains: run with -s -n 0."""
    results = outcomes(name, lambda each: each)
    for kind in sorted({m.kind for m, _ in results}):
        print(f"| {name} | {kind} | {dict(Counter(result for m, result in results if m.kind == kind))} |")
    for m, result in results:
        if result == "survived":
            print(f"{name}, PTX line {m.line}, {m.kind}: {m.new}")
    counts = Counter(result for _, result in results)
    assert not sum(counts[kind] for kind in MALFORMED)
    assert counts["survived"] <= SURVIVORS[name], counts
