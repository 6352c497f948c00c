"""The corpus: every fault is called a BUG and named for what it is, from a public thread."""

import re

import pytest

from kvproof.reference.judge.formats.catalogue import named
from kvproof.reference.judge.formats.faults import FORMAT_FAULTS
from kvproof.reference.judge.formats.hypotheses import HYPOTHESES
from kvproof.reference.judge.formats.verdict import BUG, judge_format


@pytest.mark.parametrize("fault", FORMAT_FAULTS, ids=lambda fault: fault.name)
def test_each_fault_is_called_and_named(fault):
    verdict = judge_format(named(fault.format), fault.subject, state=fault.state)
    assert verdict.verdict == BUG
    assert verdict.names, str(verdict)
    assert set(verdict.names) <= set(fault.named), str(verdict)


def test_the_corpus_names_each_fault_once_and_its_thread():
    assert len({fault.name for fault in FORMAT_FAULTS}) == len(FORMAT_FAULTS) == 54
    for fault in FORMAT_FAULTS:
        assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", fault.link), fault.name
        assert fault.imitates
        assert set(fault.named) <= {h.name for h in HYPOTHESES}, fault.name
