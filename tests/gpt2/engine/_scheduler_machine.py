"""Random lives of the scheduler: what a step may compute; every sequence ends with the tokens of its lone run."""

from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvproof.gpt2.engine.blocks import BlockManager

from ._memory import Memory, check_counts

SEEDS = st.integers(0, 2**32 - 1)  # of all that a rule chooses, which is spread more evenly so than if drawn one by one
WRONG = 2  # a draft that no sequence has


class Counting(BlockManager):
    """Counts what could not be grown."""

    failed = 0

    def grow(self, table, tokens):
        grown = super().grow(table, tokens)
        self.failed += not grown
        return grown


def following(tokens: list[int]) -> int:
    """The token that follows these, 0 or 1, as if a model had computed it."""
    return (sum((i % 3 + 1) * token for i, token in enumerate(tokens)) + len(tokens) // 2) // 2 % 2


def lone(prompt: list[int], limit: int) -> list[int]:
    """Prompt and new tokens of a sequence that is alone."""
    tokens = list(prompt)
    while len(tokens) < limit:
        tokens.append(following(tokens))
    return tokens


class Drafts:
    """Proposes `right` tokens that follow and `wrong` ones after them, however many are asked for."""

    def __init__(self, right: int, wrong: int):
        self.right, self.wrong = right, wrong

    def __call__(self, sequence, most: int) -> list[int]:
        assert 1 <= most < sequence.limit - len(sequence.tokens)
        true = lone(sequence.tokens, len(sequence.tokens) + self.right)
        return true[len(sequence.tokens) :] + [WRONG] * self.wrong


def machine(scheduler) -> type[RuleBasedStateMachine]:
    """Lives of the Scheduler of a module: that of kvproof.gpt2.engine.scheduler, or of a mutant."""
    RUNNING, WAITING, ENDED = scheduler.State.RUNNING, scheduler.State.WAITING, scheduler.State.ENDED

    class Lives(RuleBasedStateMachine):
        @initialize(seed=SEEDS)
        def begin(self, seed):
            rng = Random(seed)
            count, page, running = rng.randint(2, 12), rng.randint(1, 3), rng.randint(1, 5)
            self.memory = Memory(count, page)
            self.manager = Counting(count, page, self.memory.copy)
            self.page, self.most, self.step_tokens = page, running, running + rng.randint(0, 6)
            self.scheduler = scheduler.Scheduler(self.manager, running, self.step_tokens)
            self.there, self.prompts, self.count = [], {}, 0
            for _ in range(rng.randint(1, 5)):
                self.add(rng.randint(0, 2**32))

        @rule(seed=SEEDS)
        def add(self, seed):
            """A sequence, whose prompt may begin as the tokens of another."""
            rng = Random(seed)
            begun = rng.choice([[], *(sequence.tokens for sequence in self.there)])
            prompt = [*begun[: rng.randint(0, len(begun))], *rng.choices((0, 1), k=rng.choice((1, 1, 2, 3, 8)))]
            new = rng.randint(1, max(1, self.manager.blocks * self.page - len(prompt) + 2))
            sequence = scheduler.Sequence(self.count, list(prompt), len(prompt) + new)
            before = list(self.scheduler.waiting)
            if len(prompt) + new - 1 > self.manager.blocks * self.page:
                try:
                    self.scheduler.add(sequence)
                except ValueError:
                    assert list(self.scheduler.waiting) == before
                    return
                raise AssertionError("a sequence that all blocks cannot hold was added")
            self.scheduler.add(sequence)
            assert list(self.scheduler.waiting) == [*before, sequence]
            self.there.append(sequence)
            self.prompts[sequence] = prompt
            self.count += 1

        @rule(seed=SEEDS)
        def steps(self, seed):
            """Up to eight, some with drafts; in one of them a sequence may stop."""
            rng = Random(seed)
            stops = rng.randint(0, 40)
            for i in range(rng.randint(1, 8)):
                drafts = Drafts(rng.randint(0, 3), rng.randint(0, 2)) if rng.random() < 0.5 else None
                self.run(self.planned(drafts), stops == i)
                self.agrees()

        @rule()
        def step_that_fails(self):
            """And is planned again."""
            assert self.planned(None) == self.planned(None)

        @precondition(lambda self: self.there)
        @rule(seed=SEEDS)
        def abort(self, seed):
            self.end(Random(seed).choice(self.there))

        def end(self, sequence):
            self.scheduler.end(sequence)
            assert sequence.state is ENDED
            assert sequence not in [*self.scheduler.running, *self.scheduler.waiting]
            assert sequence.table.blocks == []
            self.there.remove(sequence)

        def planned(self, propose) -> list:
            """A step's spans, checked."""
            ran, preempted = list(self.scheduler.running), self.scheduler.preemptions
            newest = [sequence for sequence in ran if sequence.pending == 1]
            self.manager.failed = 0
            spans = self.scheduler.plan(propose)
            preempted = self.scheduler.preemptions - preempted
            running, planned = self.scheduler.running, {span.sequence: span for span in spans}
            assert len(planned) == len(spans)
            assert bool(spans) is bool(self.there)
            assert sum(len(span.ids) for span in spans) <= self.step_tokens
            for span in spans:
                self.check_span(span, propose)
            if spans:
                assert running[0] is min(self.there, key=lambda sequence: sequence.number)
                assert running[0] in planned
            assert all(sequence in planned for sequence in newest if sequence.state is RUNNING)
            prompts = [sequence for sequence in running if sequence not in newest]
            whole = [sequence in planned and planned[sequence].last for sequence in prompts]
            assert whole == sorted(whole, reverse=True), "a younger prompt goes before an older"
            if propose is None:
                assert self.manager.failed == preempted
                if not preempted:
                    assert ran == running[: len(ran)]
                    self.check_nothing_idles(spans, all(whole))
            elif self.manager.failed == preempted == 0 and sum(len(span.ids) for span in spans) < self.step_tokens:
                for span in spans:
                    most = span.sequence.limit - len(span.sequence.tokens) - 1
                    assert span.drafts == (len(propose(span.sequence, most)[:most]) if most > 0 else 0)
            return spans

        def check_span(self, span, propose):
            """Its tokens, and that it writes to blocks that nobody else reads."""
            sequence, start, drafts = span.sequence, span.start, span.drafts
            tokens = list(sequence.tokens)
            assert sequence.state is RUNNING
            assert sequence in self.scheduler.running
            assert start == sequence.table.kept < start + len(span.ids) <= sequence.limit - 1
            assert span.last is (start + len(span.ids) - drafts == len(tokens))
            assert span.outputs == (drafts + 1 if span.last else 0)
            assert span.last or not drafts
            proposed = propose(sequence, sequence.limit - len(tokens) - 1)[:drafts] if drafts else []
            assert len(proposed) == drafts
            assert span.ids == [*tokens, *proposed][start : start + len(span.ids)]
            assert len(sequence.table.blocks) == self.manager.needed(start + len(span.ids))
            for t in range(start, start + len(span.ids)):
                block = sequence.table.blocks[t // self.page]
                assert self.manager.owners[block] == 1
                assert block not in self.manager.node_of

        def check_nothing_idles(self, spans, whole: bool):
            """Where tokens of the step are left, all that runs is computed whole, and who waits has no place."""
            if sum(len(span.ids) for span in spans) == self.step_tokens:
                return
            assert whole
            waiting, running = self.scheduler.waiting, self.scheduler.running
            if waiting and len(running) < self.most:
                assert running
                assert self.manager.lacking(waiting[0].tokens) > self.manager.free - len(running)

        def run(self, spans, stops: bool):
            """Compute spans and what follows; of those that reach their last token, one may stop there."""
            for span in spans:
                self.memory.write(span.sequence.table, [*span.sequence.tokens[: span.start], *span.ids], span.start)
            for span in spans:
                self.memory.check(span.sequence.table, [*span.sequence.tokens[: span.start], *span.ids])
            for span in spans:
                sequence, before = span.sequence, list(span.sequence.tokens)
                new = []
                for draft in [*span.ids[len(span.ids) - span.drafts :], None] if span.last else []:
                    new.append(following([*before, *new]))
                    if draft != new[-1]:
                        break
                self.scheduler.advance(span, new)
                assert sequence.tokens == before + new
                assert sequence.table.kept == (len(sequence.tokens) - 1 if span.last else span.start + len(span.ids))
                if span.last and (stops or len(sequence.tokens) == sequence.limit):
                    stops = False
                    self.end(sequence)
            assert all(sequence.pending == 1 for sequence in self.scheduler.running[:-1])

        @invariant()
        def agrees(self):
            running, waiting = self.scheduler.running, list(self.scheduler.waiting)
            assert [*running, *waiting] == sorted(self.there, key=lambda sequence: sequence.number)
            assert len(running) <= self.most
            assert all(sequence.state is RUNNING and sequence.pending > 0 for sequence in running)
            assert all(sequence.state is WAITING and sequence.table.blocks == [] for sequence in waiting)
            check_counts(self.manager, [sequence.table for sequence in self.there])
            for sequence in self.there:
                assert sequence.tokens == lone(self.prompts[sequence], len(sequence.tokens))
                assert self.page * len(sequence.table.blocks) >= sequence.table.kept
                self.memory.check(sequence.table, sequence.tokens[: sequence.table.kept])

        def teardown(self):
            """Every sequence ends, in no more steps than tokens: the oldest has at least one in each."""
            for _ in range(sum(sequence.limit for sequence in getattr(self, "there", []))):
                self.run(self.planned(None), False)
                self.agrees()
            assert not getattr(self, "there", [])
            if hasattr(self, "scheduler"):
                assert self.planned(None) == []
                assert self.manager.used == 0

    return Lives
