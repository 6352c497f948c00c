"""The block manager: cases by hand; for random lives see test_machines.py."""

import pytest

from kvproof.gpt2.engine import blocks as real

from ._memory import Memory


@pytest.fixture
def blocks():
    """The module; mutants of it take its place in test_machines.py."""
    return real


def pool(blocks, count: int, page: int):
    memory = Memory(count, page)
    return blocks.BlockManager(count, page, memory.copy), memory


def join(manager, memory, tokens, *, last=True):
    """The table of a new sequence, all whose tokens have been computed, perhaps but for the last."""
    table = manager.take(tokens)
    tokens = tokens if last else tokens[:-1]
    assert manager.grow(table, len(tokens))
    memory.write(table, tokens, table.kept)
    manager.keep(table, tokens)
    return table


def test_a_pool_without_blocks_or_slots_is_refused(blocks):
    for count, page in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match=f"{count} blocks of {page} tokens hold nothing"):
            blocks.BlockManager(count, page)
    assert blocks.BlockManager(1, 1).free == 1


def test_blocks_that_tokens_take(blocks):
    manager = blocks.BlockManager(9, 4)
    assert [manager.needed(n) for n in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]


def test_unused_blocks_come_in_an_order_that_only_the_seed_gives(blocks):
    orders = [blocks.BlockManager(40, 1, seed=seed).unused for seed in (0, 0, 1)]
    assert sorted(orders[0]) == list(range(40))
    assert orders[0] == orders[1] != orders[2]
    assert list(range(40)) not in orders
    assert blocks.BlockManager(40, 1).unused == orders[0]


def test_full_blocks_are_shared_and_the_next_is_copied_where_tokens_part(blocks):
    manager, memory = pool(blocks, 8, 4)
    first = join(manager, memory, [0, 1, 2, 3, 4, 5, 6, 7])
    second = manager.take([0, 1, 2, 3, 4, 5, 9, 9, 9])
    assert second.blocks[0] == first.blocks[0]
    assert (second.kept, len(second.blocks), len(second.nodes)) == (6, 2, 1)
    assert memory.copies == [(first.blocks[1], second.blocks[1])]
    memory.check(second, [0, 1, 2, 3, 4, 5])
    assert manager.used == 3


def test_the_last_token_is_left_to_compute(blocks):
    manager, memory = pool(blocks, 8, 4)
    join(manager, memory, list(range(8)))
    assert manager.take([0, 1, 2, 3, 4, 5, 6, 7]).kept == 7
    assert manager.take([0, 1, 2, 3, 4, 5, 6, 7, 8]).kept == 8
    assert manager.take([0, 1, 2, 3]).kept == 3
    assert manager.take([0]).kept == 0
    assert manager.take([5]).kept == 0


def test_a_copy_is_of_the_block_that_is_alike_longest(blocks):
    manager, memory = pool(blocks, 8, 4)
    join(manager, memory, [0, 9, 9, 9])
    best = join(manager, memory, [0, 1, 2, 9])
    join(manager, memory, [0, 1, 9, 9])
    memory.copies = []
    assert manager.take([0, 1, 2, 3, 4]).kept == 3
    assert [source for source, _ in memory.copies] == best.blocks


def test_pages_of_one_token(blocks):
    manager, memory = pool(blocks, 8, 1)
    first = join(manager, memory, [0, 1, 2])
    second = join(manager, memory, [0, 1, 2, 3])
    assert second.blocks[:3] == first.blocks
    assert manager.cut(second, 2)
    assert second.blocks == first.blocks[:2]
    assert memory.copies == []


def test_a_page_longer_than_all_tokens_is_never_known(blocks):
    manager, memory = pool(blocks, 3, 64)
    join(manager, memory, list(range(63)))
    assert manager.take(list(range(63))).kept == 0
    assert manager.node_of == {}


def test_a_long_chain_is_idle_from_its_end(blocks):
    manager, memory = pool(blocks, 300, 2)
    tokens = [i % 7 for i in range(600)]
    table = join(manager, memory, tokens)
    held = list(table.blocks)
    manager.release(table)
    assert list(manager.idle) == held[::-1]
    assert manager.take([*tokens, 0]).blocks == held


def test_the_same_computed_at_once_is_kept_once(blocks):
    manager, memory = pool(blocks, 6, 2)
    tokens = [1, 2, 3, 4, 5]
    tables = [manager.take(tokens) for _ in range(2)]
    for table in tables:
        assert manager.grow(table, 5)
        memory.write(table, tokens, 0)
    assert manager.used == 6
    for table in tables:
        manager.keep(table, tokens)
        memory.check(table, tokens)
    assert tables[0].blocks[:2] == tables[1].blocks[:2]
    assert manager.used == 4
    assert sum(manager.owners) == 6


def test_blocks_without_a_memory_are_copied_by_number_alone(blocks):
    manager = blocks.BlockManager(4, 4)
    table = manager.take([0, 1, 2, 3])
    assert manager.grow(table, 4)
    manager.keep(table, [0, 1, 2, 3])
    assert manager.take([0, 1, 2, 9]).kept == 3


def test_a_copy_of_the_only_free_block_is_that_block(blocks):
    """Which holds what it would be given, and is known no more."""
    manager, memory = pool(blocks, 2, 4)
    manager.release(join(manager, memory, [0, 1, 2, 3]))
    other = join(manager, memory, [7, 7, 7, 7])
    (block,) = manager.idle
    table = manager.take([0, 1, 2, 9])
    assert (table.blocks, table.kept, memory.copies) == ([block], 3, [])
    memory.check(table, [0, 1, 2])
    assert {*manager.node_of} == {*other.blocks}


def test_nothing_is_copied_where_none_is_free(blocks):
    manager, memory = pool(blocks, 2, 4)
    join(manager, memory, [0, 1, 2, 3])
    join(manager, memory, [7, 7, 7, 7])
    table = manager.take([0, 1, 2, 9])
    assert (table.blocks, table.kept, memory.copies) == ([], 0, [])


def test_what_take_and_grow_use_is_what_lacks(blocks):
    manager, memory = pool(blocks, 9, 2)
    owned = join(manager, memory, [1, 2, 3, 4])
    manager.release(join(manager, memory, [1, 2, 3, 4, 5, 6]))
    assert manager.lacking([1, 2, 3, 4, 5, 6, 7]) == 2  # two are owned; one is idle, one unused
    assert manager.lacking([9]) == 1
    manager.release(owned)
    assert manager.lacking([1, 2, 3, 4, 5, 6, 7]) == 4


def test_growth_that_does_not_fit_changes_nothing(blocks):
    manager, memory = pool(blocks, 3, 2)
    table = join(manager, memory, [1, 2, 3])
    held = list(table.blocks)
    assert manager.grow(table, 7) is False
    assert (table.blocks, table.kept, manager.free) == (held, 3, 1)
    assert manager.grow(table, 6) is True
    assert manager.grow(table, 1) is True
    assert (table.blocks[:2], manager.free) == (held, 0)


def test_the_block_without_an_owner_for_longest_goes_first(blocks):
    manager, memory = pool(blocks, 3, 2)
    tables = [join(manager, memory, [i, i]) for i in range(3)]
    for i in (1, 0, 2):
        manager.release(tables[i])
    again = manager.take([1, 1, 5])  # owned, and idle again: the last to go
    manager.release(again)
    table = blocks.Table()
    assert manager.grow(table, 2)
    assert [manager.take([i, i, 5]).kept for i in range(3)] == [0, 2, 2]


def test_a_block_goes_after_those_that_follow_it(blocks):
    manager, memory = pool(blocks, 4, 2)
    trunk = join(manager, memory, [1, 2])
    manager.release(join(manager, memory, [1, 2, 3, 4]))
    manager.release(join(manager, memory, [1, 2, 5, 6]))
    manager.release(trunk)
    assert manager.grow(blocks.Table(), 4)
    assert [manager.take([1, 2, *rest, 0]).kept for rest in ([3, 4], [5, 6])] == [2, 4]


def test_a_cut_through_a_shared_block_copies_it(blocks):
    manager, memory = pool(blocks, 4, 4)
    first = join(manager, memory, list(range(8)))
    second = manager.take([*range(8), 9])
    assert manager.cut(second, 6)
    assert (second.kept, second.blocks[0], len(second.nodes)) == (6, first.blocks[0], 1)
    assert memory.copies == [(first.blocks[1], second.blocks[1])]
    memory.write(second, [*range(6), 9], 6)
    memory.check(first, list(range(8)))


def test_a_cut_that_needs_a_block_where_none_is_free_changes_nothing(blocks):
    manager, memory = pool(blocks, 2, 4)
    first = join(manager, memory, list(range(8)))
    second = manager.take([*range(8), 9])
    assert manager.cut(second, 6) is False
    assert (second.kept, second.blocks, len(second.nodes)) == (8, first.blocks, 2)
    assert manager.cut(second, 4) is True  # at an edge it needs none
    assert second.blocks == first.blocks[:1]


def test_a_cut_through_its_own_known_block_forgets_it_where_none_is_free(blocks):
    manager, memory = pool(blocks, 2, 4)
    table = join(manager, memory, list(range(8)))
    held = list(table.blocks)
    assert manager.cut(table, 6) is True
    assert (table.blocks, memory.copies) == (held, [])
    assert {*manager.node_of} == {held[0]}
    assert manager.take([*range(8), 9]).kept == 4


def test_a_cut_has_the_blocks_that_it_frees_itself(blocks):
    manager, memory = pool(blocks, 3, 2)
    first = join(manager, memory, [1, 2, 3, 4])
    second = join(manager, memory, [1, 2, 3, 4, 5])
    freed = second.blocks[2]
    assert manager.free == 0
    assert manager.cut(second, 3) is True
    assert second.blocks == [first.blocks[0], freed]
    assert memory.copies == [(first.blocks[1], freed)]


def test_a_cut_beyond_its_tokens_frees_blocks_for_drafts(blocks):
    manager, memory = pool(blocks, 6, 2)
    table = join(manager, memory, [1, 2, 3])
    assert manager.grow(table, 12)
    assert manager.cut(table, 7)
    assert (table.kept, len(table.blocks)) == (3, 4)


def test_a_reset_forgets_all_and_waits_for_owners(blocks):
    manager, memory = pool(blocks, 4, 2)
    table = join(manager, memory, [1, 2, 3])
    with pytest.raises(ValueError, match="2 blocks still have owners"):
        manager.reset()
    manager.release(table)
    manager.reset()
    assert manager.take([1, 2, 3]).kept == 0
    assert (manager.free, manager.idle, manager.node_of) == (4, {}, {})


def test_tokens_alike(blocks):
    pairs = (((), ()), ((1,), ()), ((1, 2), (1, 2, 3)), ((1, 2, 3), (1, 2)), ((2, 1), (1, 1)), ((1, 2, 3), (1, 5, 3)))
    assert [blocks.common(*pair) for pair in pairs] == [0, 0, 2, 2, 0, 1]
