"""Bugs planted in the kernels' own source: a call of decode attention rejects each of them."""

from pathlib import Path

import pytest

from kvproof.kernels.ptx import PtxError
from kvproof.reference.judge.cases import check

from ._planted_faults import FAULTS
from ._planted_kernels import load_kernels, planted_op

IN_THE_SUITE = 6  # compiling a fault takes seconds
CASES = list(dict.fromkeys(fault.case for fault in FAULTS.values()))


def exhaustive_from(n: int, names) -> list:
    """Every so many of the names for the suite, all others exhaustive."""
    every = -(-len(names) // n)
    return [pytest.param(x, marks=[] if i % every == 0 else pytest.mark.exhaustive) for i, x in enumerate(names)]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return planted_op(load_kernels(tmp_path_factory.mktemp("honest")))


def test_every_fault_is_a_change_of_what_stands_once_in_its_file():
    for name, (_, file, old, new) in FAULTS.items():
        text = (Path(__file__).parents[3] / "kernels" / "attention" / f"{file}.py").read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} is stale: {old!r}"
        assert old != new


@pytest.mark.parametrize("case", exhaustive_from(2, CASES))
def test_the_source_loaded_without_a_fault_passes(case, honest):
    check(honest, case)


@pytest.mark.parametrize("name", exhaustive_from(IN_THE_SUITE, FAULTS))
def test_a_call_rejects(name, tmp_path):
    case, file, old, new = FAULTS[name]
    op = planted_op(load_kernels(tmp_path, (file, old, new)))
    # By its results, or, where the PTX machine runs it, by what it does to get there.
    with pytest.raises((AssertionError, PtxError), match=r"the error of|is not as it was|PTX line"):
        check(op, case)


def test_every_fault_is_one_of_its_own():
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS.values()}) == len(FAULTS) >= 45
    assert {fault.file for fault in FAULTS.values()} == {"steps", "combine", "simt", "mma"}
