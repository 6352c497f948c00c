"""The scheduler: cases by hand; for random lives see test_machines.py."""

import pytest

from kvproof.gpt2.engine import scheduler as real
from kvproof.gpt2.engine.blocks import BlockManager


@pytest.fixture
def scheduler():
    """The module; mutants of it take its place in test_machines.py."""
    return real


def pool(scheduler, count=100, page=2, running=4, step_tokens=8):
    """Blocks, a scheduler, and a function that adds a sequence of a prompt and new tokens."""
    manager = BlockManager(count, page)
    made, numbers = scheduler.Scheduler(manager, running, step_tokens), iter(range(99))

    def add(prompt, new):
        sequence = scheduler.Sequence(next(numbers), list(prompt), len(prompt) + new)
        made.add(sequence)
        return sequence

    return manager, made, add


def step(made, propose=None, following=9):
    """Plan, and advance all: `following` after each last token, whatever was drafted."""
    spans = made.plan(propose)
    for span in spans:
        made.advance(span, [following] if span.last else [])
    return [(span.sequence.number, span.start, span.ids, span.drafts, span.last) for span in spans]


def test_a_sequence_that_all_blocks_cannot_hold_is_refused_at_once(scheduler):
    _, made, add = pool(scheduler, count=3)
    add([1], 6)
    with pytest.raises(ValueError, match="7 tokens take 4 blocks of 2, and there are 3"):
        add([1, 2], 6)
    assert len(made.waiting) == 1


def test_nothing_is_planned_where_nothing_is_left(scheduler):
    _, made, add = pool(scheduler)
    assert made.plan() == []
    made.end(add([1], 1))
    assert made.plan() == []


def test_prompts_are_cut_into_chunks_beside_newest_tokens(scheduler):
    _, made, add = pool(scheduler, step_tokens=4)
    add(range(6), 3)
    add([7, 8], 3)
    assert step(made) == [(0, 0, [0, 1, 2, 3], 0, False)]
    assert step(made) == [(0, 4, [4, 5], 0, True), (1, 0, [7, 8], 0, True)]
    add(range(20, 26), 3)
    assert step(made) == [(0, 6, [9], 0, True), (1, 2, [9], 0, True), (2, 0, [20, 21], 0, False)]
    add([30, 31], 3)
    assert step(made) == [(0, 7, [9], 0, True), (1, 3, [9], 0, True), (2, 2, [22, 23], 0, False)]


def test_no_more_run_than_may(scheduler):
    _, made, add = pool(scheduler, running=2)
    sequences = [add([i], 3) for i in range(4)]
    assert [number for number, *_ in step(made)] == [0, 1]
    made.end(sequences[0])
    assert [number for number, *_ in step(made)] == [1, 2]
    made.end(sequences[3])
    assert list(made.waiting) == []


def test_who_is_let_in_leaves_a_block_to_each_that_runs(scheduler):
    manager, made, add = pool(scheduler, count=5, step_tokens=99)
    add([0, 0, 0, 0], 5)
    step(made)
    add([1, 1, 1, 1], 2)
    made.plan()
    assert len(made.running) == 1  # 2 of 2 free blocks would leave none
    made.end(made.waiting[0])
    add([1, 1], 2)
    assert len(made.plan()) == 2
    assert manager.free == 1


def test_one_alone_is_let_in_whatever_it_takes(scheduler):
    manager, made, add = pool(scheduler, count=2)
    add([0, 0, 0, 0], 1)
    assert step(made) == [(0, 0, [0, 0, 0, 0], 0, True)]
    assert manager.free == 0


def test_the_youngest_makes_place_and_goes_on_where_it_was(scheduler):
    manager, made, add = pool(scheduler, count=4, running=2)
    first, second = add([1, 2], 7), add([3, 4], 4)
    step(made)
    step(made)
    assert manager.free == 0
    step(made)
    spans = step(made)
    assert [number for number, *_ in spans] == [0]
    assert (made.running, list(made.waiting), made.preemptions) == ([first], [second], 1)
    assert (second.state, second.table.blocks) == (scheduler.State.WAITING, [])
    made.end(first)
    known = manager.take(second.tokens)
    kept, rest = known.kept, second.tokens[known.kept :]
    manager.release(known)
    assert kept > 0
    assert step(made) == [(1, kept, rest, 0, True)]


def test_the_youngest_of_three_makes_place_for_both_others(scheduler):
    _, made, add = pool(scheduler, count=6, page=1, running=3)
    first, second, third = add([1], 6), add([2], 6), add([3], 6)
    step(made)
    step(made)
    assert [number for number, *_ in step(made)] == [0, 1]
    assert (made.running, list(made.waiting), made.preemptions) == ([first, second], [third], 1)


def test_a_sequence_that_makes_place_for_itself_waits_before_the_others(scheduler):
    manager, made, add = pool(scheduler, count=4, page=1, running=2)
    first, second, third = add([1], 4), add([2], 4), add([3], 4)
    step(made)
    step(made)
    assert (manager.free, made.running) == (0, [first, second])
    step(made)
    assert (made.running, list(made.waiting)) == ([first], [second, third])
    assert made.preemptions == 1


def test_drafts_fill_what_is_left_of_a_step(scheduler):
    _, made, add = pool(scheduler, step_tokens=5, running=2)
    add([1], 9)
    add([2], 3)
    step(made)
    asked = []

    def propose(sequence, most):
        asked.append((sequence.number, most))
        return [5] * 9 if sequence.number else [5, 5]

    assert step(made, propose) == [(0, 1, [9, 5, 5], 2, True), (1, 1, [9, 5], 1, True)]
    assert asked == [(0, 3), (1, 1)]


def test_no_draft_is_asked_for_that_could_not_be_used(scheduler):
    _, made, add = pool(scheduler, step_tokens=4)
    add(range(5), 1)

    def never(sequence, most):
        raise AssertionError(f"{most} drafts were asked for")

    assert step(made, never) == [(0, 0, [0, 1, 2, 3], 0, False)]  # logits of its last token do not come
    assert step(made, never) == [(0, 4, [4], 0, True)]  # its one new token comes without


def test_a_draft_for_one_more_new_token(scheduler):
    _, made, add = pool(scheduler)
    add([1], 2)
    assert step(made, lambda sequence, most: [5] * most) == [(0, 0, [1, 5], 1, True)]


def test_drafts_make_nobody_wait_and_none_is_no_draft(scheduler):
    manager, made, add = pool(scheduler, count=2, page=1)
    add([1], 2)
    add([2], 1)
    step(made)
    assert (manager.free, len(made.running)) == (1, 1)
    assert step(made, lambda sequence, most: [])[0][3] == 0


def test_drafts_that_find_no_block_are_left_out(scheduler):
    manager, made, add = pool(scheduler, count=4, page=1)
    add([1, 1, 1], 2)
    add([2], 1)
    assert len(step(made)) == 1
    made.end(made.running[0])
    add([3], 3)
    made.blocks.take([0])
    held = real.Table()
    assert manager.grow(held, 2)
    assert [(number, drafts) for number, _, _, drafts, _ in step(made, lambda s, most: [5] * most)] == [(1, 0)]
    assert manager.used == 3


def test_right_drafts_are_kept_and_wrong_ones_are_not(scheduler):
    manager, made, add = pool(scheduler)
    sequence = add([1, 2, 3], 9)
    (span,) = made.plan(lambda sequence, most: [4, 5, 0, 0, 0])
    assert (span.outputs, len(sequence.table.blocks)) == (6, 4)
    made.advance(span, [4, 5, 6])
    assert (sequence.tokens, sequence.table.kept, sequence.pending) == ([1, 2, 3, 4, 5, 6], 5, 1)
    assert len(sequence.table.blocks) == 3
    assert manager.take([1, 2, 3, 4, 0]).kept == 4


def test_a_chunk_brings_no_token_and_wants_no_logits(scheduler):
    _, made, add = pool(scheduler, step_tokens=4)
    sequence = add(range(6), 3)
    (span,) = made.plan()
    assert span.outputs == 0
    made.advance(span, [])
    assert (sequence.table.kept, sequence.pending, len(sequence.tokens)) == (4, 2, 6)


def test_what_was_not_computed_is_planned_again(scheduler):
    _, made, add = pool(scheduler, step_tokens=5)
    add(range(4), 3)
    add(range(10, 14), 3)
    first = made.plan()
    assert made.plan() == first
    assert [span.ids for span in first] == [[0, 1, 2, 3], [10]]


def test_a_sequence_may_end_at_any_time(scheduler):
    for steps in (0, 1, 3):
        manager, made, add = pool(scheduler, count=8, page=1, running=2)
        sequences = [add([i], 5) for i in range(3)]
        for _ in range(steps):
            step(made)
        for sequence in sequences:
            made.end(sequence)
            assert (sequence.state, sequence.table.blocks) == (scheduler.State.ENDED, [])
        assert (made.running, list(made.waiting), manager.used) == ([], [], 0)
