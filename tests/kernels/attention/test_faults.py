"""Bugs planted in the kernels' own source: a call of decode attention rejects each of them."""

import pytest

from kvproof.kernels.ptx import PtxError
from kvproof.reference.judge.cases import Case, check

from ._planted_faults import DECODE, FAULTS, GENERAL, NOT_IN_DECODE
from ._planted_kernels import decode_op, load_kernels, planted_op, source

IN_THE_SUITE = 6  # compiling a fault takes seconds
CASES = list(dict.fromkeys(fault.case for fault in FAULTS.values()))
DECODE_CASES = list(dict.fromkeys(fault.case for fault in DECODE.values()))


def exhaustive_from(n: int, names) -> list:
    """Every so many of the names for the suite, all others exhaustive."""
    every = -(-len(names) // n)
    return [pytest.param(x, marks=[] if i % every == 0 else pytest.mark.exhaustive) for i, x in enumerate(names)]


def loaded(folder, file="", *edit):
    """The op whose source has one edit, or none: kernels/decode.py for an edit of that file, else the general op."""
    edits = [(file, *edit)] if edit else []
    return (
        decode_op(load_kernels(folder, *edits, module="decode"))
        if file == "decode"
        else planted_op(load_kernels(folder, *edits))
    )


@pytest.fixture(scope="module")
def unedited(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("unedited"))


def test_every_fault_is_a_change_of_what_stands_once_in_its_file():
    for name, (_, file, old, new) in FAULTS.items():
        text = source(file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} is stale: {old!r}"
        assert old != new


@pytest.mark.parametrize("case", exhaustive_from(2, CASES))
def test_the_source_loaded_without_a_fault_passes(case, unedited):
    check(unedited, case)


@pytest.mark.parametrize("case", exhaustive_from(2, DECODE_CASES))
def test_decode_loaded_without_a_fault_passes(case, tmp_path):
    check(loaded(tmp_path, "decode"), case)


@pytest.mark.parametrize("name", exhaustive_from(IN_THE_SUITE, FAULTS))
def test_a_call_rejects(name, tmp_path):
    case, *edit = FAULTS[name]
    op = loaded(tmp_path, *edit)
    # By its results, or, where the PTX machine runs it, by what it does to get there.
    with pytest.raises((AssertionError, PtxError), match=r"the error of|is not as it was|must return|PTX line"):
        check(op, case)


def test_every_fault_is_one_of_its_own():
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS.values()}) == len(FAULTS) >= 45
    assert {fault.file for fault in GENERAL.values()} == {"append", "steps", "combine", "simt", "mma"}
    assert {fault.file for fault in DECODE.values()} == {"decode"}


def test_a_fault_of_the_general_op_is_planted_in_decode_too_where_it_applies():
    asked = ("group", "M", "int8", "window", "sinks", "softcap", "alibi", "causal", "scale")
    plain = {
        name
        for name, fault in GENERAL.items()
        if fault.file != "mma" and all(getattr(fault.case, x) == getattr(Case, x) for x in asked)
    }
    assert plain - set(DECODE) == NOT_IN_DECODE
    assert set(DECODE) - plain == {"split_left_out", "append_after_attending"}
