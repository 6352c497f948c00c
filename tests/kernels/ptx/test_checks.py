"""Faults planted in ordinary kernels: the machine reports each one, at the right Python line, under every schedule.

A fault is a piece of text that occurs exactly once in the kernel's file and what replaces it, or, where only a compiler
could make it, an edit of the PTX.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from kvproof.kernels import ptx
from kvproof.kernels.ptx import launch
from kvproof.kernels.ptx.compile import compile

from ._kernels import make, run
from ._planted_text import load_text
from .test_kernels import LAUNCHES, TARGETS

SEEDS = (None, 0, 1, 2)
OUTSIDE, MISALIGNED, UNWRITTEN, RACE = (ptx.OutOfBounds,), (ptx.Misaligned,), (ptx.Uninitialised,), (ptx.Race,)
DEADLOCK, DIVERGED = (ptx.Deadlock,), (ptx.DivergentBarrier,)
EARLY = UNWRITTEN + RACE  # which of them a reader that does not wait commits depends on the schedule


class Fault(NamedTuple):
    launch: str
    errors: tuple[type[ptx.PtxError], ...]
    old: str
    new: str
    at: tuple[str, ...] = ()  # texts of the lines one of which the report names; empty: the new line itself
    in_ptx: bool = False  # old is a pattern, of which the first match in the PTX is replaced


LOAD, ATOMIC = "tl.load(x + at, mask=live)", 'if tl.atomic_add(done + b, 1, sem="acq_rel")'
WAIT, GIVE = 'while tl.atomic_add(flags + p - 1, 0, sem="acquire")', 'tl.atomic_xchg(flags + p, 1, sem="release")'
TAKE, RELEASE = "while tl.atomic_cas(lock, 0, 1) == 1:", 'tl.atomic_xchg(lock, 0, sem="release")'
PARTS = ("tl.store(part_m +", "tl.store(part_l +", "tl.store(part_acc +")
PARTS += ("tl.load(part_m +", "tl.load(part_l +", "tl.load(part_acc +")
RELAYED, SUMMED = ("s += tl.load(sums", "tl.store(sums + p, s)"), ("s = tl.load(sums", "tl.store(sums + at, s + row")
# The barrier before what follows, and the one that Triton 3.9 adds before an atomic that releases: 3.8 adds none.
BARRIERS = r"(?s)bar\.sync\s+0;((?:(?!bar\.sync|\b(?:ld|st|atom)\.).)*)(?:bar\.sync\s+0;)?(?=(?:(?!bar\.sync).)*"
COPIED = ("left = tl.load(", "right = tl.load(", "acc = tl.dot(")

FAULTS = {
    "load_without_mask": Fault("gelu float32", OUTSIDE, LOAD, "tl.load(x + at)"),
    "store_without_mask": Fault("softmax float16", OUTSIDE, "tl.sum(e, 0)).to(out.dtype.element_ty), mask=at < n)",
        "tl.sum(e, 0)).to(out.dtype.element_ty))"),
    "length_one_too_many": Fault("decode", UNWRITTEN, "row < tl.load(len", "row <= tl.load(len", ("tl.load(k +",)),
    "output_read_before_it_is_written": Fault("gelu bfloat16", UNWRITTEN, LOAD, "tl.load(out + at, mask=live)"),
    "part_never_written": Fault("decode", UNWRITTEN, "tl.store(part_l + part, tl.sum(p, 0))", "tl.sum(p, 0)",
        ("tl.load(part_l +",)),
    "odd_pointer": Fault("gelu float16", MISALIGNED, LOAD,
        "tl.load((x + 1).to(tl.pointer_type(tl.float32)) + at // 2, mask=at + 2 < n)"),
    "two_splits_write_one_part": Fault("decode", RACE, "* SPLITS + split\n", "* SPLITS + split // 2\n", PARTS),
    "two_rows_write_one_row": Fault("softmax float32", RACE, "tl.store(out + row * n + at, (e",
        "tl.store(out + row // 2 * n + at, (e"),
    "sequences_write_one_output": Fault("decode", RACE, "tl.store(out + b * D + d, acc", "tl.store(out + d, acc"),
    "counted_without_atomics": Fault("histogram", RACE, 'tl.atomic_add(counts + bins, 1, mask=at < n, sem="relaxed")',
        "tl.store(counts + bins, tl.load(counts + bins) + 1, mask=at < n)"),
    "relaxed_atomic": Fault("decode", RACE, ATOMIC, ATOMIC.replace("acq_rel", "relaxed"), PARTS),
    "atomic_without_release": Fault("decode", RACE, ATOMIC, ATOMIC.replace("acq_rel", "acquire"), PARTS),
    "atomic_without_acquire": Fault("decode", RACE, ATOMIC, ATOMIC.replace("acq_rel", "release"), PARTS),
    "atomic_of_one_block": Fault("decode", RACE, ATOMIC, ATOMIC.replace(")", ', scope="cta")'), (*PARTS, ATOMIC[:-1])),
    "no_barrier_before_the_atomic": Fault("decode", RACE, BARRIERS + r"atom\.global)", r"\1",
        (*PARTS, ATOMIC), in_ptx=True),
    "consumer_does_not_wait": Fault("relay", EARLY, f"        {WAIT} == 0:\n            pass\n", "", RELAYED),
    "consumer_waits_relaxed": Fault("relay", RACE, WAIT, WAIT.replace("acquire", "relaxed"), RELAYED),
    "producer_gives_relaxed": Fault("relay", RACE, GIVE, GIVE.replace("release", "relaxed"), RELAYED),
    "producer_gives_before_it_stores": Fault("relay", RACE, f"{RELAYED[1]}\n    tl.debug_barrier()\n    {GIVE}",
        f"{GIVE}\n    {RELAYED[1]}", RELAYED),
    "producer_gives_nothing": Fault("relay", DEADLOCK, GIVE, GIVE.replace("1", "0"), (WAIT,)),
    "lock_not_taken": Fault("locked", RACE, f"    {TAKE}\n        pass\n", "", SUMMED),
    "lock_given_relaxed": Fault("locked", RACE, RELEASE, RELEASE.replace("release", "relaxed"), SUMMED),
    "lock_given_without_a_barrier": Fault("locked", RACE, BARRIERS + r"atom\.global\S*exch)", r"\1", SUMMED,
        in_ptx=True),
    "lock_never_given": Fault("locked", DEADLOCK, RELEASE, RELEASE.replace("0", "1"), (TAKE,)),
    "barrier_of_one_thread": Fault("total float32", DIVERGED, r"(?s)(@%p\d+)( st\.global.*?)(bar\.sync)", r"\1\2\1 \3",
        ("tl.debug_barrier()  # every thread's part",), in_ptx=True),
    "barrier_of_a_sum_deleted": Fault("total int32", EARLY, r"bar\.sync\s+0;", "",
        ("s = tl.sum(tl.load(x + at, mask=at < n, other=0).to",), in_ptx=True),
    "copy_not_waited_for": Fault("matmul float16", EARLY, r"cp\.async\.wait_group\s+\d+;", "", COPIED, in_ptx=True),
}  # fmt: skip


def plant(fault: Fault, path: Path, monkeypatch):
    """The module of the kernel, with the fault in a copy of its text at `path`, or in what it compiles to."""
    module = sys.modules[LAUNCHES[fault.launch][0].__module__]
    if not fault.in_ptx:
        text = Path(inspect.getfile(module)).read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, f"stale: {fault.old!r} occurs {text.count(fault.old)} times"
        name = f"{module.__package__}.{path.stem}"  # whose relative imports are the original's
        return load_text(path, text.replace(fault.old, fault.new), name)

    def edited(*args):
        compiled = compile(*args)
        edit, n = re.subn(fault.old, fault.new, compiled.ptx, count=1)
        assert n == 1, f"stale: nothing in the PTX is {fault.old}"
        return compiled._replace(asm={"ptx": edit})

    monkeypatch.setattr(launch, "compile", edited)
    return module


def lines_with(texts: tuple[str, ...], path: Path) -> set[int]:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [[i for i, line in enumerate(lines, 1) if text in line] for text in texts]
    assert [len(places) for places in found] == [1] * len(texts), f"each of {texts} is to be in one line, not {found}"
    return {places[0] for places in found}


@pytest.mark.parametrize("name", FAULTS)
def test_the_machine_reports(name, tmp_path, monkeypatch):
    fault = FAULTS[name]
    module = plant(fault, tmp_path / f"{name}.py", monkeypatch)
    path = Path(inspect.getfile(module))
    expected = lines_with(fault.at or (fault.new,), path)
    case_of, options = LAUNCHES[fault.launch]
    for seed in SEEDS:
        case = make(getattr(module, case_of.__name__), **options)
        if fault.errors == RACE:  # scratch that an earlier launch wrote, so that the race is all there is to find
            case = case._replace(readable={})
        with pytest.raises(fault.errors) as caught:
            run(case, target=TARGETS[list(FAULTS).index(name) % len(TARGETS)], seed=seed)
        file, line = caught.value.where[-1]
        assert line in expected, f"{caught.value}; expected {expected}"
        # Triton keeps what it compiled by the kernel's text and line, so that a copy in another file may stand for it.
        assert fault.in_ptx or Path(file).name == path.name
        assert f"{file}:{line}" in str(caught.value)
        assert caught.value.program is not None
        assert caught.value.line is not None


def test_every_kind_of_error_is_planted():
    assert len(FAULTS) == 27
    kinds = {ptx.OutOfBounds, ptx.Misaligned, ptx.Uninitialised, ptx.Race, ptx.DivergentBarrier, ptx.Deadlock}
    assert {kind for fault in FAULTS.values() for kind in fault.errors} == kinds
