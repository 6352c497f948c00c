"""Pipelined kernels for sm_90: right under every schedule, and red without any one line that orders or waits."""

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
}  # fmt: skip


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
    """(line, opcode, the name of an error, or "" if bits and all stay) of each deletion among the lines that ran."""
    text, ran, expected = compiled(name)
    found = []
    for line, opcode, mutant in deletions(text):
        if line not in ran:
            continue
        try:
            result, _ = run(CASES[name], lambda _, mutant=mutant: mutant)
        except ptx.PtxError as error:
            found.append((line, opcode, type(error).__name__))
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


@pytest.mark.parametrize("name", CASES)
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
    assert any(error for _, opcode, error in found if opcode == "bar.sync")
    assert len(found) > 12


@pytest.mark.parametrize("name", CASES)
def test_without_any_barrier_a_kernel_is_reported(name):
    text, _, _ = compiled(name)
    lines = [line for line in text.splitlines() if "bar.sync" not in line]
    with pytest.raises((ptx.Race, ptx.InvalidBarrier)):
        run(CASES[name], lambda _: "\n".join(lines))
