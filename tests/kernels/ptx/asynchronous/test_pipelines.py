"""Pipelined kernels: right under every schedule, and red, at their own line, without any that orders or waits."""

from functools import lru_cache

import pytest
import torch

from kvproof.kernels import ptx

from ._pipelines import cases, deletions, right, run

CASES = cases()
# Lines that may go, by the start of their opcode: at most how many, and why nothing is lost.
SPARE = {
    "product": {"cp.async.commit_group": 1},  # the first: its copy joins the next group, which is waited for as soon
    "persistent": {
        "cp.async.bulk.commit_group": 3, "cp.async.bulk.wait_group.read": 3,  # of tensor maps: nothing is under way
        "wgmma.wait_group": 1,  # after the loop, whose last tile has waited
    },
    "apart": {
        "cp.async.bulk.commit_group": 3, "cp.async.bulk.wait_group.read": 3,
        "mbarrier.try_wait": 3,  # for phases before the first, which are complete
        "mbarrier.arrive": 1,  # after the last tile: nobody waits for it
        "bar.warp.sync": 4,  # around what one lane does, and what only it has to do with
        "tcgen05.dealloc": 1,  # of two: its guard holds for no warp of that partition
    },
}  # fmt: skip
LONG = pytest.mark.exhaustive  # two minutes
EACH = pytest.mark.parametrize("name", [pytest.param(name, marks=LONG if name == "apart" else ()) for name in CASES])


@lru_cache(maxsize=len(CASES))
def compiled(name: str) -> tuple[str, frozenset[int], torch.Tensor]:
    """The PTX of a case, the lines that its launch ran, and the result."""
    texts: list[str] = []

    def keep(text: str) -> str:
        texts.append(text)
        return text

    result, report = run(CASES[name], keep)
    return texts[0], frozenset(i.line for i, _ in report.by_instruction), result.clone()


def outcomes(name: str) -> list[tuple[int, str, str]]:
    """(line, opcode, error and the file of its line, or "" if all stays) of each deletion among the lines that ran."""
    text, ran, expected = compiled(name)
    found = []
    for line, opcode, mutant in deletions(text):
        if line not in ran:
            continue
        try:
            result, _ = run(CASES[name], lambda _, mutant=mutant: mutant)
        except ptx.PtxError as error:
            files = {file for file, _ in error.where[:1]}
            found.append((line, opcode, f"{type(error).__name__} in {', '.join(files) or 'no file'}"))
        else:
            assert torch.equal(result, expected), f"line {line}: {opcode} is gone, and other bits come in silence"
            found.append((line, opcode, ""))
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_pipelined_kernel_is_right_under_every_schedule(name):
    expected = compiled(name)[2]
    assert right(CASES[name], expected)
    for seed in range(3):
        assert torch.equal(run(CASES[name], seed=seed)[0], expected)


@EACH
def test_every_deleted_wait_fence_and_arrival_is_reported(name):
    """Of the barriers many are spare, as Triton puts two or three in a row: test_orders.py has the truth of those."""
    found, spare = outcomes(name), dict(SPARE.get(name, {}))
    for _, opcode, error in found:
        start = next((start for start in spare if opcode.startswith(start)), "")
        if not error and start:
            spare[start] -= 1
        elif opcode != "bar.sync":
            assert error, f"{opcode} may go, and nothing is reported"
    assert all(n >= 0 for n in spare.values())
    assert {error.partition(" in ")[2] for _, _, error in found} - {""} == {"_pipelines.py"}
    assert any(error for _, opcode, error in found if opcode == "bar.sync")
    assert len(found) > 12


@pytest.mark.parametrize("name", CASES)
def test_without_any_barrier_a_kernel_is_reported(name):
    text, _, _ = compiled(name)
    lines = [line for line in text.splitlines() if "bar.sync" not in line]
    with pytest.raises((ptx.Race, ptx.InvalidBarrier)):
        run(CASES[name], lambda _: "\n".join(lines))
