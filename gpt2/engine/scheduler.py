"""Which tokens of which sequences the next step computes: a state machine in plain Python, without torch.

            add                  admit                        end
    ───────────────▶ WAITING ───────────────▶ RUNNING ───────────────▶ ENDED
                        ▲                      │ │ ▲                     ▲
                        └───── preempt ────────┘ └─┘ plan, advance       │
                        └───────────────── end (abort) ──────────────────┘

A sequence has tokens; those whose keys and values lie in its blocks are `kept`, the rest are still to be computed. One
rule serves all: a prompt, a newest token with drafts after it, and a sequence that was preempted and begins again are
tokens to be computed, some per step. Logits follow the last of them.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from .blocks import BlockManager, Table

State = Enum("State", "WAITING RUNNING ENDED")
Propose = Callable[["Sequence", int], list[int]]


@dataclass(eq=False)
class Sequence:
    """A sequence that the scheduler knows.

    number  of its arrival: the older goes first
    tokens  its prompt and the new tokens so far
    limit   tokens that it may have at most, prompt included
    """

    number: int
    tokens: list[int]
    limit: int
    table: Table = field(default_factory=Table)
    state: State = State.WAITING

    @property
    def pending(self) -> int:
        """Tokens that are still to be computed."""
        return len(self.tokens) - self.table.kept


@dataclass
class Span:
    """Tokens of one sequence that one step computes: ids at slots from `start` on, in these blocks.

    drafts  how many at the end are guesses, not tokens of the sequence
    last    whether they reach its last token: then the logits of the last 1 + drafts of them are wanted
    """

    sequence: Sequence
    start: int
    ids: list[int]
    drafts: int
    last: bool

    @property
    def outputs(self) -> int:
        """How many of the ids, at the end, have logits that are wanted."""
        return 1 + self.drafts if self.last else 0


class Scheduler:
    """Sequences that share one pool of blocks.

    blocks       the pool
    running      sequences that may run at once
    step_tokens  tokens that a step computes at most; at least `running`, so that each can have one
    """

    def __init__(self, blocks: BlockManager, running: int, step_tokens: int):
        self.blocks, self.most, self.step_tokens = blocks, running, step_tokens
        self.waiting: deque[Sequence] = deque()  # the oldest first
        self.running: list[Sequence] = []  # the oldest first, and all older than those that wait
        self.preemptions = 0

    def add(self, sequence: Sequence):
        """Let a sequence wait, the newest of all.  Raises ValueError for one that all blocks together cannot hold."""
        needed = self.blocks.needed(sequence.limit - 1)  # the last token is not computed
        if needed > self.blocks.blocks:
            raise ValueError(
                f"{sequence.limit - 1} tokens take {needed} blocks of {self.blocks.page}, and there are "
                f"{self.blocks.blocks}; ask for fewer new tokens, or make an engine of more blocks"
            )
        self.waiting.append(sequence)

    def plan(self, propose: Propose | None = None) -> list[Span]:
        """What the next step computes, with blocks for all of it; [] if nothing is left to do.

        propose  called as propose(sequence, most) for up to `most` tokens that may follow its last

        Newest tokens come first, so that prompts beside them are cut into chunks and stop nobody; then prompts, the
        oldest first, those of waiting sequences last. Planning again without `advance` plans the same tokens.
        """
        spans: dict[Sequence, Span] = {}
        left = self.step_tokens
        for sequence in sorted(self.running, key=lambda s: (s.pending > 1, s.number)):
            if sequence.state is State.RUNNING and left > 0:  # it may have been preempted for one before it
                left -= self.schedule(sequence, left, spans)
        while self.waiting and left > 0 and self.admit():
            left -= self.schedule(self.running[-1], left, spans)
        if propose:
            for span in spans.values():
                left -= self.draft(span, left, propose)
        return list(spans.values())

    def schedule(self, sequence: Sequence, most: int, spans: dict[Sequence, Span]) -> int:
        """Plan up to `most` tokens of a running sequence, if there are blocks for them.  Returns their number."""
        start, count = sequence.table.kept, min(sequence.pending, most)
        while not self.blocks.grow(sequence.table, start + count):
            youngest = self.running[-1]
            self.preempt(youngest)
            spans.pop(youngest, None)
            if youngest is sequence:
                return 0
        ids = sequence.tokens[start : start + count]
        spans[sequence] = Span(sequence, start, ids, 0, count == sequence.pending)
        return count

    def admit(self) -> bool:
        """Let the oldest waiting sequence run, if a place and blocks for its tokens are free.

        Unless it would run alone, blocks by which the others grow are left to them, so that it need not be preempted
        at once.
        """
        if len(self.running) >= self.most:
            return False
        sequence = self.waiting[0]
        if self.running and self.blocks.lacking(sequence.tokens) + len(self.running) > self.blocks.free:
            return False
        sequence.table, sequence.state = self.blocks.take(sequence.tokens), State.RUNNING
        self.running.append(self.waiting.popleft())
        return True

    def draft(self, span: Span, most: int, propose: Propose) -> int:
        """Add drafts to a span that reaches its sequence's last token, where blocks are free.  Returns their number."""
        sequence = span.sequence
        most = min(most, sequence.limit - len(sequence.tokens) - 1)  # a step brings one token more than drafts
        if not span.last or most < 1:
            return 0
        drafts = propose(sequence, most)[:most]
        if not drafts or not self.blocks.grow(sequence.table, len(sequence.tokens) + len(drafts)):
            return 0
        span.ids, span.drafts = span.ids + drafts, len(drafts)
        return len(drafts)

    def advance(self, span: Span, new: list[int]):
        """A span has been computed, and these tokens follow: none, or one more than drafts that proved right."""
        sequence = span.sequence
        computed = span.start + len(span.ids) - span.drafts + max(len(new) - 1, 0)
        sequence.tokens.extend(new)
        self.blocks.keep(sequence.table, sequence.tokens[:computed])
        self.blocks.cut(sequence.table, computed)

    def preempt(self, sequence: Sequence):
        """Take the blocks of the youngest running sequence; it waits again, before all who wait.

        What it has computed stays known by content as long as no other needs the place.
        """
        assert sequence is self.running[-1], "an older sequence was preempted before a younger one"
        self.running.pop()
        self.blocks.release(sequence.table)
        sequence.state = State.WAITING
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def end(self, sequence: Sequence):
        """Forget a sequence, in whatever state it is."""
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is State.RUNNING:
            self.running.remove(sequence)
        self.blocks.release(sequence.table)
        sequence.state = State.ENDED
