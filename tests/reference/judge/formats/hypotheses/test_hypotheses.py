"""Every hypothesis changes the numbers of some format, and is named where it is what was done."""

import numpy as np
import pytest

from kvproof.reference.judge.formats.catalogue import FORMATS, named
from kvproof.reference.judge.formats.hypotheses import HYPOTHESES
from kvproof.reference.judge.formats.verdict import BUG, judge_format

NAMES = (*FORMATS, "fp8-head,growth=own")
PLANTED = [(name, h) for name in NAMES for h in HYPOTHESES if h.fits(named(name))]


def planted(name, h):
    """A cache that computes the hypothesis."""

    class Wrong:
        def __init__(self):
            self.parts = []

        def append(self, x):
            self.parts.append(x)

        def read(self):
            x = np.concatenate(self.parts, -2)
            return h.apply(named(name), x, tuple(part.shape[-2] for part in self.parts))

    return Wrong


def test_hypotheses_say_different_things():
    sentences = [h.sentence for h in HYPOTHESES]
    assert len(set(sentences)) == len(sentences) > 120
    assert {h.sentence for _, h in PLANTED} == set(sentences)


def check(name, h):
    """Whether it is seen; where an explanation is given, it contains this one."""
    verdict = judge_format(named(name), planted(name, h), state=True)
    if verdict.explained:
        assert h.sentence in {x.sentence for x in verdict.explained}, str(verdict)
    return verdict.verdict == BUG, bool(verdict.explained)


@pytest.mark.parametrize("name", ["int8-row", "uint4-block-zero-point", "mxfp4", "nvfp4"])
def test_a_planted_hypothesis_is_never_taken_for_another(name):
    for i, (other, h) in enumerate(PLANTED):
        if other == name and i % 24 == 0:
            check(name, h)


@pytest.mark.parametrize("name", ["uint4-block", "q8_0"])
def test_a_planted_least_scale_is_never_taken_for_another(name):
    for other, h in PLANTED:
        if other == name and h.name == "scale floor":
            check(name, h)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["int8-row", "uint4-block", "mxfp4", "nvfp4"])
def test_all_planted_hypotheses_are_seen_and_none_is_taken_for_another(name):
    found = [check(name, h) for other, h in PLANTED if other == name]
    seen, explained = (sum(x) for x in zip(*found, strict=True))
    print(f"{name}: {len(found)} planted, {seen} called BUG, {explained} explained, none as another")
    assert seen > 0.9 * len(found)
