"""Random lives of the block manager, each step compared with plain lists."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ._memory import Memory, check_counts

SEEDS = st.integers(0, 2**32 - 1)  # of all that a rule chooses, which is spread more evenly so than if drawn one by one
WRONG = 2  # a draft that no sequence has


@dataclass(eq=False)
class Owner:
    """A table, and the tokens whose keys and values its blocks hold."""

    table: Any
    tokens: list[int] = field(default_factory=list)


class Lists:
    """What is known, idle and unused, in plain lists.

    known  tokens from the first to the last of a full block -> its block
    idle   those of known blocks without an owner, the longest so first
    """

    def __init__(self, blocks: int, page: int):
        self.blocks, self.page = blocks, page
        self.known: dict[tuple, int] = {}
        self.idle: list[tuple] = []
        self.unused = set(range(blocks))

    @property
    def free(self) -> int:
        return len(self.unused) + len(self.idle)

    def chain(self, tokens) -> list[tuple]:
        """The known beginnings of tokens, whole blocks of them, that are shorter than they."""
        ends = range(self.page, len(tokens), self.page)
        return [tuple(tokens[:end]) for end in ends if tuple(tokens[:end]) in self.known]

    def longest(self, tokens) -> tuple[int, list[tuple]]:
        """The most tokens, but for the last, with which anything known begins, and all known that begins so."""
        alike = {known: common(known, tokens[:-1]) for known in self.known}
        best = max(alike.values(), default=0)
        return best, [known for known, n in alike.items() if n == best]

    def own(self, tokens: tuple):
        """A known block has an owner more."""
        if tokens in self.idle:
            self.idle.remove(tokens)

    def disown(self, block: int):
        """A block has lost its last owner."""
        for tokens, known in self.known.items():
            if known == block:
                self.idle.append(tokens)
                return
        self.unused.add(block)

    def given(self, block: int):
        """A block was given: an unused one, or that which has been idle longest."""
        if self.unused:
            assert block in self.unused
            self.unused.remove(block)
        else:
            assert block == self.known.pop(self.idle.pop(0))


def common(a, b) -> int:
    """The number of equal tokens that both begin with."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def machine(blocks) -> type[RuleBasedStateMachine]:
    """Lives of the BlockManager of a module: that of kvproof.gpt2.engine.blocks, or of a mutant."""

    class Lives(RuleBasedStateMachine):
        owners: list[Owner]

        @initialize(seed=SEEDS)
        def begin(self, seed):
            rng = Random(seed)
            count, page = rng.randint(1, 8), rng.choice((1, 2, 3, 4, 4))
            self.memory = Memory(count, page)
            self.manager = blocks.BlockManager(count, page, self.memory.copy, rng.randint(0, 3))
            self.lists, self.page, self.owners = Lists(count, page), page, []

        def holders(self, block: int) -> int:
            return sum(block in owner.table.blocks for owner in self.owners)

        @rule(seed=SEEDS)
        def join(self, seed):
            """A new owner, whose tokens may begin as those of another or of what is known; the rest is computed."""
            rng = Random(seed)
            begun = rng.choice([(), *self.lists.known, *(owner.tokens for owner in self.owners)])
            tokens = [*begun[: rng.randint(0, len(begun) + 2)], *rng.choices((0, 1), k=rng.randint(1, 6))]
            self.take(tokens)
            if rng.random() < 0.8:
                self.compute_if_it_fits(self.owners[-1], tokens[self.owners[-1].table.kept :], rng.randint(0, 3))

        def take(self, tokens):
            chain, (best, likest) = self.lists.chain(tokens), self.lists.longest(tokens)
            free, self.memory.copies = self.lists.free, []
            lacking = self.manager.lacking(tokens)
            table = self.manager.take(tokens)
            for known in chain:
                self.lists.own(known)
            full = len(chain) * self.page
            assert table.blocks[: len(chain)] == [self.lists.known[known] for known in chain]
            if best > full and self.lists.free:
                assert table.kept == best
                sources, (target,) = [self.lists.known[known] for known in likest], table.blocks[len(chain) :]
                self.lists.given(target)
                copied = [(source, target) for source in sources if source != target]
                assert self.memory.copies in ([], *([pair] for pair in copied))
                assert self.memory.copies or target in sources
                self.memory.spoil(target, best - full)
            else:
                assert (table.kept, len(table.blocks), self.memory.copies) == (full, len(chain), [])
            self.owners.append(Owner(table, tokens[: table.kept]))
            more = -(-len(tokens) // self.page) - len(table.blocks)
            assert free - self.lists.free + more == lacking

        @precondition(lambda self: self.owners)
        @rule(seed=SEEDS)
        def grow(self, seed):
            rng = Random(seed)
            owner = rng.choice(self.owners)
            self.grown(owner, len(owner.tokens) + rng.randint(0, 2 * self.page + 1))

        def grown(self, owner: Owner, tokens: int) -> bool:
            table, before = owner.table, list(owner.table.blocks)
            more = max(0, -(-tokens // self.page) - len(before))
            fits, self.memory.copies = more <= self.lists.free, []
            assert self.manager.grow(table, tokens) is fits
            assert table.blocks[: len(before)] == before
            assert len(table.blocks) == len(before) + more * fits
            for block in table.blocks[len(before) :]:
                self.lists.given(block)
                self.memory.spoil(block)
            assert self.memory.copies == []
            return fits

        @precondition(lambda self: self.owners)
        @rule(seed=SEEDS)
        def compute(self, seed):
            """Tokens, perhaps those that another has computed."""
            rng = Random(seed)
            owner, other = rng.choice(self.owners), rng.choice(self.owners).tokens
            tokens = other[len(owner.tokens) :][: 2 * self.page] or rng.choices((0, 1), k=rng.randint(1, 5))
            self.compute_if_it_fits(owner, tokens, rng.randint(0, 5))

        def compute_if_it_fits(self, owner: Owner, tokens: list[int], wrong: int):
            """Tokens of a sequence, and drafts after them that prove wrong."""
            kept, new = len(owner.tokens), [*owner.tokens, *tokens]
            if not self.grown(owner, len(new) + wrong):
                return
            for t in range(kept, len(new) + wrong):
                block = owner.table.blocks[t // self.page]
                assert self.holders(block) == 1
                assert block not in self.lists.known.values()
            self.memory.write(owner.table, [*new, *[WRONG] * wrong], kept)
            self.keep(owner, kept, new)
            self.cut_to(owner, len(new))

        def keep(self, owner: Owner, kept: int, new: list[int]):
            written = list(owner.table.blocks)
            self.manager.keep(owner.table, new)
            owner.tokens, expected = new, list(written)
            for i in range(kept // self.page, len(new) // self.page):
                full = tuple(new[: (i + 1) * self.page])
                if full in self.lists.known:
                    expected[i] = self.lists.known[full]
                    self.lists.own(full)
                    self.lists.disown(written[i])
                else:
                    self.lists.known[full] = written[i]
            assert owner.table.blocks == expected

        @precondition(lambda self: self.owners)
        @rule(seed=SEEDS)
        def cut(self, seed):
            rng = Random(seed)
            owner = rng.choice(self.owners)
            self.cut_to(owner, rng.randint(0, len(owner.tokens) + 1))

        def cut_to(self, owner: Owner, tokens: int):
            table, before, lists = owner.table, list(owner.table.blocks), self.lists
            full, inside = divmod(tokens, self.page)
            stays = full + (inside > 0)
            known = before[full] if inside and full < len(before) and before[full] in lists.known.values() else None
            alone = [block for block in before[full:] if self.holders(block) == 1]
            self.memory.copies = []
            if known is not None and not lists.free and not alone:
                assert self.manager.cut(table, tokens) is False
                assert (table.blocks, table.kept, self.memory.copies) == (before, len(owner.tokens), [])
                return
            assert self.manager.cut(table, tokens) is True
            owner.tokens = owner.tokens[:tokens]
            for block in reversed(before[stays:]):
                if block in alone:
                    lists.disown(block)
            if known is not None and lists.free:
                lists.given(table.blocks[full])
                assert self.memory.copies == [(known, table.blocks[full])]
                if known in alone:
                    lists.disown(known)
                self.memory.spoil(table.blocks[full], inside)
            else:
                assert self.memory.copies == []
                assert table.blocks == before[:stays]
                for forgotten in [full for full, block in lists.known.items() if block == known]:
                    del lists.known[forgotten]

        @precondition(lambda self: self.owners)
        @rule(seed=SEEDS)
        def release(self, seed):
            owner = Random(seed).choice(self.owners)
            self.let_go(owner)
            self.owners.remove(owner)

        def let_go(self, owner: Owner):
            alone = [block for block in owner.table.blocks[::-1] if self.holders(block) == 1]
            self.manager.release(owner.table)
            assert (owner.table.blocks, owner.table.nodes, owner.table.kept) == ([], [], 0)
            for block in alone:
                self.lists.disown(block)

        @precondition(lambda self: len(self.owners) < 2)
        @rule()
        def reset(self):
            if any(owner.table.blocks for owner in self.owners):
                try:
                    self.manager.reset()
                except ValueError:
                    return
                raise AssertionError("reset while a block has an owner")
            self.manager.reset()
            self.lists = Lists(self.lists.blocks, self.page)

        @invariant()
        def agrees(self):
            manager, lists = self.manager, self.lists
            check_counts(manager, [owner.table for owner in self.owners])
            assert {*manager.unused} == lists.unused
            assert list(manager.idle) == [lists.known[tokens] for tokens in lists.idle]
            assert {*manager.node_of} == {*lists.known.values()}
            for tokens, block in lists.known.items():
                assert [node.block for node in manager.known([*tokens, 0])][-1:] == [block]
            for owner in self.owners:
                table, full = owner.table, len(owner.tokens) // self.page
                assert table.kept == len(owner.tokens)
                assert [node.block for node in table.nodes] == table.blocks[:full]
                self.memory.check(table, owner.tokens)

        def teardown(self):
            """All that is let go leaves no block with an owner, and one owner can have all."""
            for owner in getattr(self, "owners", []):
                self.let_go(owner)
            if hasattr(self, "manager"):
                self.owners = []
                self.agrees()
                table = blocks.Table()
                assert self.manager.grow(table, self.lists.blocks * self.page)
                assert self.manager.free == 0
                assert self.manager.node_of == {}

    return Lives
