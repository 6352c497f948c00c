"""One launch per call: its programs meet in the workspace, and whatever it holds, no wrong sum leaves it in silence.

The PTX machine runs every schedule that a seed gives, and looks for races on workspaces that are in order. On those
that a test has put in disorder it looks for none: to notice the disorder, the programs read what nothing orders.
"""

import re

import pytest
import torch

from kvproof.kernels import ptx
from kvproof.kernels.attention import Workspace, WorkspaceFault
from kvproof.kernels.attention import launch as ours
from kvproof.kernels.ptx import PtxError

from ._planted_kernels import load_kernels
from ._protocol_calls import UNREADABLE, Call, is_clean, same

ENGINES = ("simt", "mma")
EDGES = sorted({e + d for e in (0, 16, 32, 128, 144, 160, 256, 288, 384) for d in (-1, 0, 1, 2)} - {-1})
DIRTY = (0, 1, 2, 3, 4, 2**30, 2**31 - 1, -1, -2, -3, -(2**31))
both_engines = pytest.mark.parametrize("engine", ENGINES)


def of_three_splits(engine: str, **how) -> Call:
    """Sequences of one to three splits, and an empty one."""
    return Call(engine, [384, 0, 300, 129, 128], 384, **how)


def assert_in_order(call: Call, seeds) -> None:
    """Launched again and again on one workspace, under any schedule, the bits and a clean workspace are the same."""
    partials = call.workspace()
    for seed in seeds:
        assert same(call.launch(partials, seed=seed, readable=UNREADABLE), call.exact), seed
        assert is_clean(partials)
    partials.check()


def assert_none_is_wrong(call: Call, found: torch.Tensor, partials: Workspace) -> torch.Tensor:
    """Every number is exact, or NaN with the flag raised; returns which rows have NaN (two programs may answer)."""
    nan = found.isnan()
    assert (nan | (found == call.exact)).all()
    assert bool(partials.fault) >= bool(nan.any())
    return nan.any(-1)


def assert_sticky(call: Call, partials: Workspace) -> None:
    """Until reset the flag is up and nothing wrong comes out; then all is exact."""
    assert_none_is_wrong(call, call.launch(partials, checks=False, seed=0), partials)
    with pytest.raises(WorkspaceFault, match=re.escape("call reset()")):
        partials.check()
    partials.reset()
    assert same(call.launch(partials), call.exact)
    assert is_clean(partials)


def assert_dirty_counters_are_noticed(engine: str, kernels=ours, seeds=(None,)) -> None:
    """A sequence of three splits for each number that its counters start from, 0 among them."""
    call = Call(engine, [384] * len(DIRTY), 384, kernels=kernels)
    B = len(DIRTY)
    for seed in seeds:
        partials = call.workspace()
        used = partials.counters[: 2 * B].view(B, 2)
        used[:] = torch.tensor(DIRTY)[:, None]
        nan = assert_none_is_wrong(call, call.launch(partials, checks=False, seed=seed), partials)
        for value, found in zip(DIRTY, nan, strict=True):
            assert found.any() == (value != 0) or value == 1  # all may be there if the last but one passes for the last
        assert_sticky(call, partials)


def assert_a_launch_after_an_aborted_one_is_not_wrong(call: Call, shares, seeds=(0,)) -> list[bool]:
    """Aborted after such a share of its instructions; returns by row whether there was NaN."""
    found = []
    for share in shares:
        for seed in seeds:
            partials = call.workspace()
            with pytest.raises(ptx.Unfinished):
                call.launch(partials, limit=int(share * call.instructions(seed)), seed=seed)
            nan = assert_none_is_wrong(call, call.launch(partials, checks=False, seed=seed + 1), partials)
            found += nan.flatten().tolist()
            if nan.any():
                assert_sticky(call, partials)
    return found


def assert_a_part_in_other_hands_is_not_combined(call: Call) -> None:
    """Of three splits the first two did not run and seem to be done; one of them is being written by another launch."""
    for others in ("begun", "done"):
        partials = call.workspace()
        for x in partials[:3]:
            x.fill_(1.0)
        partials.begun.fill_(3)
        partials.done.fill_(3)
        getattr(partials, others)[1::3] = 2
        partials.counters.fill_(2)
        found = call.launch(partials, 3, without=[n for n in range(9 * call.q.shape[2]) if n % 3 < 2], checks=False)
        assert found.isnan().all()
        assert partials.fault
        assert (partials.counters[:2] == 3).all()


def battery(kernels) -> None:
    """What a protocol must pass, by the kernels of a `launches` module."""
    for engine in ENGINES:
        call = of_three_splits(engine, kernels=kernels)
        assert_in_order(call, (None, 0, 1))
        assert_a_part_in_other_hands_is_not_combined(Call(engine, [384], 384, kernels=kernels))
        assert_dirty_counters_are_noticed(engine, kernels)
        assert_a_launch_after_an_aborted_one_is_not_wrong(call, (0.9,))


@both_engines
@pytest.mark.parametrize("M", [1, pytest.param(6, marks=pytest.mark.exhaustive)], ids=["one token", "two tiles"])
def test_any_schedule_gives_the_same_bits_and_leaves_the_workspace_clean(engine, M):
    call = Call(engine, EDGES, 400, M)
    assert call.error() <= 1
    assert_in_order(call, (None, 0, 1))


@pytest.mark.exhaustive
@both_engines
@pytest.mark.parametrize("M", [1, 2, 6, 16])
@pytest.mark.parametrize("first", range(0, 420, 60))
def test_every_length_up_to_three_splits_under_ten_schedules(engine, M, first):
    call = Call(engine, list(range(first, first + 60)), 420, M)
    assert call.error() <= 1
    assert_in_order(call, (None, *range(10)))


@both_engines
def test_many_splits_are_combined_chunk_by_chunk(engine):
    """Nine, 17 and 65 splits, and the last of 66 that is twice as long: more than a chunk, and more than 64 tags."""
    call = Call(engine, [8300, 8193, 2049, 1025, 1024], 8448)
    assert call.error() <= 1
    assert_in_order(call, (None, 0))


@both_engines
def test_a_captured_launch_brings_its_ticket_again(engine):
    call = of_three_splits(engine)
    partials = call.workspace()
    for seed in range(3):
        assert same(call.launch(partials, 5, seed=seed, readable=UNREADABLE), call.exact)
        assert is_clean(partials)


@both_engines
def test_launches_of_their_own_combine_the_same_bits_and_count_nothing(engine):
    call = of_three_splits(engine)
    partials = call.workspace()
    partials.counters.fill_(2)
    assert same(call.launch(partials, fused=False), call.exact)
    assert (partials.counters == 2).all()


@both_engines
def test_infinite_values_are_no_fault(engine):
    call = of_three_splits(engine, poison=torch.inf)
    assert call.exact[[0, 2, 3, 4], ..., 1].isinf().all()
    call.v[0, :, 0] = -torch.inf
    partials = call.workspace()
    assert call.launch(partials)[0, ..., 0].isnan().all()
    assert is_clean(partials)


@both_engines
def test_dirty_counters_give_nan_and_the_flag_or_the_exact_result(engine):
    assert_dirty_counters_are_noticed(engine, seeds=(None, 0))


@both_engines
def test_after_an_aborted_launch_a_row_is_exact_or_nan(engine):
    found = assert_a_launch_after_an_aborted_one_is_not_wrong(of_three_splits(engine), (0.5, 0.9, 0.97))
    assert 0 < sum(found) < len(found)


@pytest.mark.exhaustive
@both_engines
def test_wherever_a_launch_is_aborted_a_row_is_exact_or_nan(engine):
    shares = [n / 40 for n in range(1, 40)]
    found = assert_a_launch_after_an_aborted_one_is_not_wrong(of_three_splits(engine), shares, range(3))
    assert 0 < sum(found) < len(found)


@both_engines
def test_a_part_that_another_launch_is_writing_is_not_combined(engine):
    assert_a_part_in_other_hands_is_not_combined(Call(engine, [384], 384))


DEFECTS = {  # the barrier before arrival, which Triton has for its own sake too, is deleted in ../ptx/test_mutants.py
    "relaxed": ('sem="acq_rel"', 'sem="relaxed"'),
    "released only": ('sem="acq_rel"', 'sem="release"'),
    "acquired only": ('sem="acq_rel"', 'sem="acquire"'),
    "within a block": ('sem="acq_rel")', 'sem="acq_rel", scope="cta")'),
    "tags unchecked": ("ours = all_are(done, splits, ticket, True)", "ours = tl.full([], 1, tl.int32)"),
    "others' writing unnoticed": ("tl.minimum(ours, all_are(begun, splits, ticket, False))", "ours"),
    "tags of any launch": ("(tag == ticket)", "(tag != 0)"),
    "tags kept": ("            tl.store(tags + split, 0, mask=live)\n", "            pass\n"),
    "counter kept": ("tl.store(partials.counters + counter, 0)", "pass"),
    "counter reset in any case": (
        "        if ours > 0:\n            tl.store(partials.c",
        "        if ours >= 0:\n            tl.store(partials.c",
    ),
    "fault not flagged": ("tl.store(partials.fault, 1)", "pass"),
    "negative counters trusted": (" | (arrived < 0)", ""),
    "counters above trusted": ("if (arrived >= before)", "if (arrived == before)"),
    "one too early": ("before = other_splits(splits)", "before = other_splits(splits) - 1"),
    "one too late": ("before = other_splits(splits)", "before = other_splits(splits) + 1"),
    "one counter for all": (
        "counter = b * tl.num_programs(1) + tl.program_id(1)\n    begun",
        "counter = b * tl.num_programs(1)\n    begun",
    ),
    "not marked as begun": (
        "        begin_partial(b, split, partials, ticket, CFG)\n"
        "        at = row * tl.num_programs(0) + split\n        d =",
        "        at = row * tl.num_programs(0) + split\n        d =",
    ),
}


@pytest.mark.exhaustive
def test_the_battery_passes_the_source_loaded_again(tmp_path):
    battery(load_kernels(tmp_path))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", DEFECTS)
def test_the_battery_rejects(name, tmp_path):
    kernels = load_kernels(tmp_path, ("combine", *DEFECTS[name]))
    with pytest.raises((AssertionError, PtxError)):
        battery(kernels)
