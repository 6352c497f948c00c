"""A pool's memory in plain lists: in each slot all tokens up to it, of which its keys and values are a function."""

from collections.abc import Sequence

from kvproof.gpt2.engine.blocks import Table

STALE = ("stale",)  # lies where a block was given anew, or where a draft proved wrong


class Memory:
    """The slots of every block, and the copies that were asked for."""

    def __init__(self, blocks: int, page: int):
        self.page = page
        self.slots: list[list[tuple]] = [[STALE] * page for _ in range(blocks)]
        self.copies: list[tuple[int, int]] = []

    def copy(self, source: int, target: int):
        assert source != target
        self.copies.append((source, target))
        self.slots[target] = list(self.slots[source])

    def spoil(self, block: int, start: int = 0):
        """What lies in a block from this slot on is nobody's."""
        self.slots[block][start:] = [STALE] * (self.page - start)

    def write(self, table: Table, tokens: Sequence[int], start: int):
        """Compute tokens from number `start` on, into the blocks of a table."""
        for t in range(start, len(tokens)):
            self.slots[table.blocks[t // self.page]][t % self.page] = tuple(tokens[: t + 1])

    def check(self, table: Table, tokens: Sequence[int]):
        """A table's blocks hold these tokens, each after all before it."""
        for t in range(len(tokens)):
            found = self.slots[table.blocks[t // self.page]][t % self.page]
            assert found == tuple(tokens[: t + 1]), f"token {t} of {tokens} reads {found} in {table.blocks}"


def check_counts(manager, tables: Sequence[Table]):
    """Each block has as many owners as tables that hold it; the rest are free, once each."""
    held = [block for table in tables for block in table.blocks]
    assert manager.owners == [held.count(block) for block in range(manager.blocks)]
    assert all(len({*table.blocks}) == len(table.blocks) for table in tables)
    assert sorted([*manager.unused, *manager.idle, *{*held}]) == list(range(manager.blocks))
    assert manager.used == len({*held})
    assert manager.free == manager.blocks - len({*held})
