"""Speculation by prompt lookup: what came after the same few tokens before is drafted again.

A step computes a sequence's newest token and the drafts after it at once. The token that follows each of them is drawn
as ever, by (seed, step); drafts are right as long as they are the tokens drawn, so no answer changes, only the number
of tokens that a step brings. Source: Saxena 2023, "Prompt Lookup Decoding".
"""

from .scheduler import Sequence, Span

LONGEST, SHORTEST = 5, 2  # tokens that must have come before
REMEMBERED = 2**16  # tokens of ended sequences, in some 35 MB; then all are forgotten
DRAFTS = 16  # at most, after one token
FADE = 0.9  # what an older draft counts for, beside the next
HOPE = 0.005  # of the way back to an even chance, at each step on which drafting did not pay
FRESH = 0.98  # what the time of an older step counts for, beside the next


class Index:
    """Where the tokens that come after each n-gram of one list of tokens are.

    tokens  the list, which may grow
    """

    def __init__(self, tokens: list[int]):
        self.tokens, self.seen = tokens, 0
        self.after: dict[tuple[int, ...], int] = {}

    def catch_up(self):
        """Read the tokens that are new."""
        for at in range(max(self.seen, SHORTEST), len(self.tokens)):
            for n in range(SHORTEST, min(LONGEST, at) + 1):
                self.after[tuple(self.tokens[at - n : at])] = at
        self.seen = len(self.tokens)

    def find(self, tail: list[int]) -> tuple[int, int]:
        """(n, place) of what came after the longest n-gram that ends the tail; (0, 0) if none has come before."""
        for n in range(min(LONGEST, len(tail)), SHORTEST - 1, -1):
            if (place := self.after.get(tuple(tail[-n:]))) is not None:
                return n, place
        return 0, 0

    def follow(self, place: int, count: int) -> list[int]:
        """`count` tokens from this place on; where the list ends, what was drafted goes on as it began."""
        found = self.tokens[place : place + count]
        period = len(self.tokens) - place
        while len(found) < count:
            found.append(found[len(found) - period])
        return found


class Chance:
    """How probable it is that a draft is right, from those before."""

    def __init__(self, right: float = 1.0, wrong: float = 1.0):
        self.right, self.wrong = right, wrong

    @property
    def value(self) -> float:
        return self.right / (self.right + self.wrong)

    def learn(self, right: int, wrong: int):
        self.right, self.wrong = self.right * FADE + right, self.wrong * FADE + wrong

    def hope(self):
        """Nothing was tried: move towards an even chance, so that it will be."""
        self.right += (self.wrong - self.right) * HOPE if self.right < self.wrong else 0


class Pace:
    """The seconds that a step takes for its number of tokens, a line through those measured."""

    def __init__(self):
        self.sums = [0.0] * 5  # of weights, tokens, seconds, tokens squared, tokens times seconds
        self.each: float | None = None  # seconds per token more, once steps of several sizes were seen
        self.fixed = 0.0  # seconds of a step without tokens
        self.sequences = self.new = 0.0

    def learn(self, sequences: int, computed: int, new: int, seconds: float):
        """A step computed so many tokens of so many sequences and brought `new` ones."""
        terms = (1.0, computed, seconds, computed * computed, computed * seconds)
        self.sums = [s * FRESH + x for s, x in zip(self.sums, terms, strict=True)]
        self.sequences, self.new = self.sequences * FRESH + sequences, self.new * FRESH + new
        weight, x, y, xx, xy = self.sums
        spread = xx - x * x / weight
        if spread > 0.1 * weight:  # else all steps had the same number, which says nothing about another
            self.each = max((xy - x * y / weight) / spread, 0.0)
            self.fixed = max((y - self.each * x) / weight, 0.0)

    def bar(self, sequences: int) -> float:
        """The chance from which on one draft more brings more tokens per second, beside so many sequences.

        A step of theirs brings as many tokens, and computes as many, for each as the latest steps did. Where the time
        of a token is not known yet, an even chance.
        """
        if self.each is None:
            return 0.5
        seconds = self.fixed + self.each * sequences * self.sums[1] / self.sequences
        return min(self.each * sequences * self.new / self.sequences / seconds, 1.0) if seconds else 0.0


class Drafter:
    """Drafts for the sequences of an engine; as many as pay.

    most    tokens after the newest one, at most
    of_all  whether what ended sequences held is looked up too
    always  draft `most` tokens wherever a draft is found, whether it pays or not
    """

    def __init__(self, most: int, of_all: bool = False, always: bool = False):
        self.most, self.always = most, always
        self.own: dict[Sequence, Index] = {}
        self.ended = Index([]) if of_all else None
        self.chances: dict[Sequence, list[Chance]] = {}
        self.overall = [Chance() for _ in range(LONGEST + 1)]
        self.tried: dict[Sequence, int] = {}  # the length of the n-gram that led to a sequence's drafts
        self.pace = Pace()
        self.sequences = 1  # that run
        self.drafted = self.right = 0

    def propose(self, sequence: Sequence, most: int) -> list[int]:
        """Up to `most` tokens that may follow the sequence's last."""
        index = self.own.setdefault(sequence, Index(sequence.tokens))
        index.catch_up()
        tail = sequence.tokens[-LONGEST:]
        n, place = index.find(tail)
        if self.ended and not n:
            index = self.ended
            n, place = index.find(tail)
        count = min(self.most, most)
        if n and not self.always:
            count = min(count, self.worth(self.chance(sequence, n)))
        if not n or not count:
            return []
        self.tried[sequence] = n
        return index.follow(place, count)

    def chance(self, sequence: Sequence, n: int) -> Chance:
        """That of a sequence's drafts after n-grams of n tokens; a new sequence begins with that of all."""
        known = self.chances.setdefault(sequence, [Chance(2 * all_.value, 2 - 2 * all_.value) for all_ in self.overall])
        return known[n]

    def worth(self, chance: Chance) -> int:
        """How many drafts to try, each right only after those before it."""
        count, probable, bar = 0, chance.value, self.pace.bar(self.sequences)
        while count < self.most and probable >= bar:
            count, probable = count + 1, probable * chance.value
        if not count:
            chance.hope()
        return count

    def learn(self, sequence: Sequence, drafts: int, right: int):
        """Of a sequence's drafts, this many proved right."""
        n, wrong = self.tried.pop(sequence), int(right < drafts)
        self.drafted, self.right = self.drafted + drafts, self.right + right
        self.chance(sequence, n).learn(right, wrong)
        self.overall[n].learn(right, wrong)

    def time(self, spans: list[Span], new: int, seconds: float):
        """A step took so many seconds and brought so many new tokens; one with parts of prompts says nothing."""
        if all(len(span.ids) == span.outputs for span in spans):
            self.pace.learn(len(spans), sum(span.outputs for span in spans), new, seconds)

    def end(self, sequence: Sequence):
        """A sequence has ended; its tokens are remembered for others, if that was asked for."""
        for known in (self.own, self.chances, self.tried):
            known.pop(sequence, None)
        if self.ended:
            if len(self.ended.tokens) + len(sequence.tokens) > REMEMBERED:
                self.ended = Index([])
            self.ended.tokens.extend(sequence.tokens)
            self.ended.catch_up()
