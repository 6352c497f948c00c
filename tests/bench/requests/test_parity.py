"""The parity gate: each planted fault of an arm is caught, before and while it is timed; a peer may round, not err."""

from contextlib import contextmanager

import pytest
import torch

from kvproof.bench.requests import parity
from kvproof.bench.requests.arms import Ask, EngineArm, StaticArm, in_batches, lone
from kvproof.bench.requests.parity import compare
from kvproof.bench.requests.rounds import Cell
from kvproof.bench.requests.texts import TEXTS, prompts

ASKS = [Ask((5, 6, 7), 4), Ask((9,), 1), Ask(tuple(range(20)), 6)]


@pytest.fixture(scope="module")
def truth(endless):
    return [lone(endless, ask) for ask in ASKS]


class Planted:
    """An arm that gives the lone runs' tokens, changed from its n-th run on."""

    name, settings, drafts = "engine-2", {}, None

    def __init__(self, truth, change, peer=False, first=0):
        self.truth, self.change, self.peer, self.left = truth, change, peer, first

    @contextmanager
    def ready(self, asks):
        found = [list(ids) for ids in self.truth]
        if self.left <= 0:
            found = self.change(found)
        self.left -= 1
        yield lambda: found


def cell(model, *arms) -> Cell:
    return Cell({"job": "throughput", "model": "tiny", "dtype": "float32", "text": None}, model, ASKS, arms)


def dropped(found):
    return [found[0][:-1], *found[1:]]


def one_wrong(found):
    return [*found[:-1], [*found[-1][:3], (found[-1][3] + 1) % 2049, *found[-1][4:]]]


def swapped(found):
    return [found[2], found[1], found[0]]


def one_more(found):
    return [*found[:2], [*found[2], 7]]


FAULTS = [dropped, one_wrong, swapped, one_more]


@pytest.mark.parametrize("arm", [EngineArm, StaticArm])
def test_our_arms_give_the_lone_runs_tokens(endless, truth, arm):
    here = cell(endless, arm(endless, 2))
    here.prove(lambda _: None)
    assert here.green
    assert here.truth == truth
    (row,) = here.round(0)
    assert row["parity"]["green"]
    assert row["tokens_per_s"] == pytest.approx(11 / row["seconds"])


@pytest.mark.parametrize("change", FAULTS)
@pytest.mark.parametrize("peer", [False, True])
def test_a_fault_is_wrong_before_anything_is_timed(endless, truth, change, peer):
    said = []
    here = cell(endless, Planted(truth, change, peer))
    here.prove(said.append)
    assert here.green == peer  # of a peer the other arms do not suffer
    assert "WRONG" in said[0]
    (row,) = here.round(0)
    assert row["seconds"] is None
    assert row["parity"]["wrong"]


@pytest.mark.parametrize("change", FAULTS)
def test_a_fault_that_comes_while_an_arm_is_timed_takes_its_time_away(endless, truth, change):
    here = cell(endless, Planted(truth, change, first=2))
    here.prove(lambda _: None)
    first, second = here.round(0)[0], here.round(1)[0]
    assert first["seconds"] is not None
    assert (second["seconds"], second["tokens_per_s"], second["parity"]["wrong"]) == (None, None, True)


def test_where_an_arm_parts_and_by_what_margin_is_said(endless, truth):
    found = compare(one_wrong(truth), truth, ASKS, endless, "float32", peer=True)
    at = found.worst
    assert at
    assert (found.differ, found.of, at.request, at.token) == (1, 3, 2, 3)
    whole = torch.tensor([[*ASKS[2].prompt, *truth[2][:3]]])
    with torch.no_grad():
        logits = endless.logits(endless.hidden(whole)[:, -1])[0]
    above = logits[truth[2][3]] - logits[(truth[2][3] + 1) % 2049]
    assert at.margin == pytest.approx(float(above / logits.abs().max().clamp(min=1)), rel=1e-3)
    assert "request 2 at new token 3, margin" in str(found)


@pytest.mark.parametrize(("apart", "wrong"), [(9e-5, False), (1.1e-4, True)])
def test_a_peer_may_choose_the_other_of_two_tokens_that_rounding_cannot_tell_apart(
    endless, truth, monkeypatch, apart, wrong
):
    def two_alike(source, prompts, ids):
        logits = torch.zeros(1, ids.shape[1], 2049, dtype=torch.float64)
        logits[0, -1, truth[2][3]] = 1.0
        logits[0, -1, (truth[2][3] + 1) % 2049] = 1.0 - apart
        return logits

    monkeypatch.setattr(parity, "forced_logits", two_alike)
    theirs = compare(one_wrong(truth), truth, ASKS, endless, "float32", peer=True)
    assert (theirs.green, theirs.wrong) == (False, wrong)
    assert compare(one_wrong(truth), truth, ASKS, endless, "float32", peer=False).wrong


def test_a_peer_that_fails_is_refused_by_its_own_words_and_an_arm_of_ours_is_not(endless, truth):
    def fails(found):
        raise RuntimeError("no block is free")

    here = cell(endless, Planted(truth, fails, peer=True))
    here.prove(lambda _: None)
    assert here.green
    (row,) = here.round(0)
    assert row["parity"]["refused"] == "RuntimeError: no block is free"
    assert row["seconds"] is None
    with pytest.raises(RuntimeError, match="no block"):
        cell(endless, Planted(truth, fails)).prove(lambda _: None)


def test_rounds_move_on_by_one_arm(endless, truth):
    arms = [Planted(truth, list) for _ in range(3)]
    for arm, name in zip(arms, "abc", strict=True):
        arm.name = name
    here = cell(endless, *arms)
    here.prove(lambda _: None)
    assert ["".join(row["arm"] for row in here.round(n)) for n in range(4)] == ["abc", "bca", "cab", "abc"]


@pytest.mark.parametrize(("by_length", "batches"), [(False, [[0, 1], [2]]), (True, [[1, 0], [2]])])
def test_batches_cut_what_lies_past_a_request_s_own_number(by_length, batches):
    seen = []

    def answer(part):
        seen.append([ASKS.index(ask) for ask in part])
        return [[ASKS.index(ask)] * 9 for ask in part]

    assert in_batches(ASKS, 2, by_length, answer) == [[0] * 4, [1], [2] * 6]
    assert seen == batches


def test_a_text_that_repeats_itself_brings_more_tokens_per_step(endless, tokenizer):
    asks = [Ask(prompts(TEXTS[0], 1, endless, tokenizer)[0], 24)]
    plain, drafting = EngineArm(endless, 1), EngineArm(endless, 1, 16)
    assert plain.tokens_per_step(asks) == 1
    assert drafting.tokens_per_step(asks) > 2
    with drafting.ready(asks) as call:
        call()
    assert drafting.drafts
    assert drafting.drafts[0] >= drafting.drafts[1] >= 0
    with plain.ready(asks) as call:
        call()
    assert plain.drafts is None
