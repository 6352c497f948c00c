"""Which blocks of the KV pool each sequence owns: counted owners, blocks shared by content, blocks kept for later.

A block is a page of the paged cache: the keys and values of `page` tokens in a row. Its content is a function of these
tokens and all before them, bit for bit, so a sequence that begins alike can read what another has computed. Plain
Python: this file knows no memory, only numbers of blocks.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class Node:
    """A full block whose content is known: the tokens in it, after the tokens of its parents.

    block     its number; -1 for the root, which stands for no tokens
    children  the full blocks that follow it, by their tokens
    """

    def __init__(self, block: int, parent: "Node | None" = None, tokens: tuple[int, ...] = ()):
        self.block, self.parent, self.tokens = block, parent, tokens
        self.children: dict[tuple[int, ...], Node] = {}


@dataclass
class Table:
    """What one sequence owns: its blocks in the order of its tokens.

    nodes  its first len(nodes) blocks are full and may be shared, so nothing is written to them any more
    kept   tokens whose keys and values lie in the blocks
    """

    blocks: list[int] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    kept: int = 0


class BlockManager:
    """Gives blocks to sequences and takes them back.

    blocks  their number
    page    tokens per block
    copy    called as copy(source, target) to copy a block's memory; None where there is no memory
    seed    of the order in which unused blocks are given, so that no code comes to rely on neighbours

    A full block stays known by its content until its place is needed: the one that has been without an owner longest
    goes first, and always before its parent, whose owners include its own.
    """

    def __init__(self, blocks: int, page: int, copy: Callable[[int, int], object] | None = None, seed: int = 0):
        if blocks < 1 or page < 1:
            raise ValueError(f"{blocks} blocks of {page} tokens hold nothing; both must be 1 or more")
        self.blocks, self.page, self.copy, self.seed = blocks, page, copy, seed
        self.owners = [0] * blocks
        self.reset()

    def reset(self):
        """Forget all content.  Raises ValueError while a block has an owner."""
        if any(self.owners):
            raise ValueError(f"{self.used} blocks still have owners; release their tables before reset")
        self.root = Node(-1)
        self.node_of: dict[int, Node] = {}  # block -> what is known to lie there
        self.idle: dict[int, None] = {}  # known blocks without an owner, the longest so first
        self.unused = list(range(self.blocks))
        random.Random(self.seed).shuffle(self.unused)

    @property
    def free(self) -> int:
        """Blocks that can be had now."""
        return len(self.unused) + len(self.idle)

    @property
    def used(self) -> int:
        """Blocks that have an owner."""
        return self.blocks - self.free

    def needed(self, tokens: int) -> int:
        """The number of blocks that so many tokens take."""
        return -(-tokens // self.page)

    def take(self, tokens: Sequence[int]) -> Table:
        """A new owner, of the known blocks that hold a beginning of its tokens; the last token is left to compute.

        Full blocks are shared. Where the tokens part from a known block inside it, that block is copied, if another is
        free, since the sequence will write to the rest of it.
        """
        nodes = self.known(tokens)
        for node in nodes:
            self.own(node.block)
        table = Table([node.block for node in nodes], nodes, len(nodes) * self.page)
        rest, last = tokens[table.kept : len(tokens) - 1], nodes[-1] if nodes else self.root
        best = max(last.children.values(), key=lambda node: common(rest, node.tokens), default=None)
        if best and (alike := common(rest, best.tokens)) and self.free:
            table.blocks.append(self.another_like(best.block))
            table.kept += alike
        return table

    def known(self, tokens: Sequence[int]) -> list[Node]:
        """The known full blocks that tokens begin with, without the one that holds their last token."""
        found, node = [], self.root
        while len(tokens) > (len(found) + 1) * self.page:
            node = node.children.get(self.content(tokens, len(found) * self.page))
            if node is None:
                break
            found.append(node)
        return found

    def lacking(self, tokens: Sequence[int]) -> int:
        """The number of free blocks that `take` and `grow` would use for all of these tokens."""
        return self.needed(len(tokens)) - sum(self.owners[node.block] > 0 for node in self.known(tokens))

    def grow(self, table: Table, tokens: int) -> bool:
        """Give a table the blocks for its first `tokens` tokens. False if too few are free; nothing changes then."""
        more = self.needed(tokens) - len(table.blocks)
        if more > self.free:
            return False
        table.blocks.extend(self.another() for _ in range(more))
        return True

    def keep(self, table: Table, tokens: Sequence[int]):
        """Say that the table's blocks hold these tokens by now, all of the sequence's that have been computed.

        Its full blocks become known. Where another sequence has computed the same, the table takes that block and
        frees its own, which holds the same bits.
        """
        for i in range(len(table.nodes), len(tokens) // self.page):
            parent, content = table.nodes[-1] if i else self.root, self.content(tokens, i * self.page)
            node = parent.children.get(content)
            if node is None:
                node = parent.children[content] = Node(table.blocks[i], parent, content)
                self.node_of[node.block] = node
            elif node.block != table.blocks[i]:
                self.own(node.block)
                self.disown(table.blocks[i])
                table.blocks[i] = node.block
            table.nodes.append(node)
        table.kept = len(tokens)

    def cut(self, table: Table, tokens: int) -> bool:
        """Forget a table's tokens from this number on, and free the blocks beyond.

        A block that others may read and that the cut goes through is copied. False if that takes a block and none is
        free: then nothing changes.
        """
        full, inside = divmod(tokens, self.page)
        stays = self.needed(tokens)
        if inside and full < len(table.nodes):
            freed = sum(self.owners[block] == 1 for block in table.blocks[full:])
            if not (self.free or freed):
                return False
            self.part(table, full)
        del table.nodes[full:]
        for block in reversed(table.blocks[stays:]):
            self.disown(block)
        del table.blocks[stays:]
        table.kept = min(table.kept, tokens)
        return True

    def release(self, table: Table):
        """Free all that a table owns."""
        self.cut(table, 0)

    def part(self, table: Table, i: int):
        """Give the table a copy of its block i that it may write to; blocks after i are freed."""
        for block in reversed(table.blocks[i + 1 :]):
            self.disown(block)
        del table.blocks[i + 1 :]
        shared = table.blocks[i]
        if not self.free:  # it is this table's alone, and nothing follows it
            self.forget(shared)
            return
        table.blocks[i] = self.another_like(shared)
        self.disown(shared)

    def content(self, tokens: Sequence[int], start: int) -> tuple[int, ...]:
        """The tokens of the block that begins at token `start`."""
        return tuple(tokens[start : start + self.page])

    def own(self, block: int):
        """One owner more."""
        self.idle.pop(block, None)
        self.owners[block] += 1

    def disown(self, block: int):
        """One owner less; the last leaves a known block idle, any other unused."""
        self.owners[block] -= 1
        if not self.owners[block]:
            if block in self.node_of:
                self.idle[block] = None
            else:
                self.unused.append(block)

    def another(self) -> int:
        """A free block, with an owner now: an unused one, else the one that has been idle longest."""
        if self.unused:
            block = self.unused.pop()
        else:
            block = next(iter(self.idle))
            del self.idle[block]
            self.forget(block)
        self.owners[block] = 1
        return block

    def another_like(self, source: int) -> int:
        """A free block with a copy of another's memory."""
        block = self.another()
        if self.copy and block != source:  # the source may have been idle longest itself
            self.copy(source, block)
        return block

    def forget(self, block: int):
        """What lies in the block is not known any more."""
        node = self.node_of.pop(block)
        assert node.parent
        assert not node.children, "a block was forgotten before those that follow it"
        del node.parent.children[node.tokens]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of equal tokens that both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
