"""Prompt lookup: what is found again, and how much of it is worth a try."""

import pytest

from kvproof.gpt2.engine import Drafter
from kvproof.gpt2.engine.lookup import REMEMBERED, Chance, Index, Pace
from kvproof.gpt2.engine.scheduler import Sequence, Span


def sequence(tokens, number=0) -> Sequence:
    return Sequence(number, list(tokens), 10_000)


def test_the_longest_ngram_decides_and_the_latest_place_of_it():
    index = Index([1, 2, 3, 9, 8, 2, 3, 7, 2, 3, 6, 5, 2, 3])
    index.catch_up()
    assert index.find([2, 3]) == (2, 10)
    assert index.find([8, 2, 3]) == (3, 7)
    assert index.find([4, 4]) == (0, 0)
    assert index.find([3]) == (0, 0)
    assert index.follow(7, 4) == [7, 2, 3, 6]


def test_the_end_itself_is_not_found():
    tokens = [1, 2, 3, 4]
    index = Index(tokens)
    index.catch_up()
    assert index.find([3, 4]) == (0, 0)
    tokens += [5]
    index.catch_up()
    assert index.find([2, 3, 4]) == (3, 4)


@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_a_loop_is_drafted_past_its_end(period):
    tokens = [10 + i % period for i in range(30)]
    drafts = Drafter(16, always=True).propose(sequence(tokens), 16)
    assert drafts == [10 + i % period for i in range(30, 46)]


def test_as_many_as_are_wanted_and_no_more():
    drafter, one = Drafter(5, always=True), sequence([1, 2] * 9)
    assert len(drafter.propose(one, 9)) == 5
    assert len(drafter.propose(one, 3)) == 3
    assert drafter.propose(sequence([1, 2, 3], 1), 3) == []


def test_what_ended_sequences_held_is_looked_up_on_request():
    old, new = sequence([4, 5, 6, 7, 8]), sequence([9, 5, 6], 1)
    for of_all, found in ((False, []), (True, [7, 8])):
        drafter = Drafter(2, of_all, always=True)
        drafter.propose(old, 2)
        drafter.end(old)
        assert drafter.propose(new, 2) == found
        assert old not in drafter.own
        assert old not in drafter.chances


def test_what_ended_sequences_held_is_forgotten_before_it_grows_without_end():
    drafter = Drafter(2, of_all=True, always=True)
    for i in range(6):
        drafter.end(sequence(range(i * REMEMBERED // 4, (i + 1) * REMEMBERED // 4), i))
        assert len(drafter.ended.tokens) <= REMEMBERED
    assert drafter.propose(sequence([2, 3]), 2) == []
    last = 5 * REMEMBERED // 4
    assert drafter.propose(sequence([last, last + 1], 1), 2) == [last + 2, last + 3]


def test_chances_follow_what_proved_right():
    good, bad = Chance(), Chance()
    for _ in range(20):
        good.learn(8, 0)
        bad.learn(0, 1)
    assert good.value > 0.98
    assert bad.value < 0.02
    for _ in range(2000):
        bad.hope()
    assert 0.4 < bad.value < 0.5


def test_the_bar_is_what_one_token_more_costs():
    pace = Pace()
    assert pace.bar(4) == 0.5
    for _ in range(9):
        pace.learn(4, 4, 4, 0.02)
    assert pace.bar(4) == 0.5  # steps of one size say nothing about another
    for _ in range(200):
        pace.learn(4, 4, 4, 0.02)
        pace.learn(4, 12, 6, 0.03)
    assert pace.each == pytest.approx(0.01 / 8)
    assert pace.fixed == pytest.approx(0.015)
    for sequences in (1, 4, 32):  # a step brings 1.25 tokens for each and computes 2
        seconds = 0.015 + 0.00125 * 2 * sequences
        assert pace.bar(sequences) == pytest.approx(0.00125 * 1.25 * sequences / seconds, rel=0.02)


def steps(drafter: Drafter, one: Sequence, right: bool, seconds, count: int) -> int:
    """Play steps of which a token costs `seconds(tokens)`; returns how many drafts the last five had."""
    drafted = []
    for _ in range(count):
        drafts = drafter.propose(one, 16)
        span = Span(one, 0, [0, *drafts], len(drafts), True)
        good = len(drafts) if right else 0
        if drafts:
            drafter.learn(one, len(drafts), good)
        drafter.time([span], 1 + good, seconds(1 + len(drafts)))
        drafted.append(len(drafts))
    return sum(drafted[-5:])


@pytest.mark.parametrize(("fixed", "each"), [(0.020, 0.001), (0.020, 0.004), (0.0, 0.005)])
def test_it_drafts_where_that_pays_and_hardly_where_it_does_not(fixed, each):
    """Drafts that are never right take less than 3 % of the time, those that always are bring what they can."""
    right, wrong = Drafter(16), Drafter(16)
    for drafter in (right, wrong):
        steps(drafter, sequence([1, 2] * 30), drafter is right, lambda tokens: fixed + each * tokens, 200)
    assert not fixed or right.drafted > 0.7 * 16 * 200
    assert 0 < wrong.drafted * each < 0.03 * 200 * (fixed + each)


def test_a_new_sequence_begins_with_what_the_others_showed():
    drafter = Drafter(16)
    for number in range(8):
        steps(drafter, sequence([1, 2] * 30, number), False, lambda tokens: 0.02 + 0.002 * tokens, 30)
    before = drafter.drafted
    steps(drafter, sequence([1, 2] * 30, 99), False, lambda tokens: 0.02 + 0.002 * tokens, 10)
    assert drafter.drafted - before <= 1
