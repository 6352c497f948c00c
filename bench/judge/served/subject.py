"""A server against itself, decode against prefill, or two servers against each other, as a subject for the judge."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ....reference.judge.difference import rms
from ....reference.judge.verdict import BUG, INCONCLUSIVE, Verdict
from .answers import Row
from .client import ServerError
from .limits import LEAST_SIZE, decided, limit
from .rows import Compared, apart, arrays, compared, earlier, one_late, same_context
from .semantics import ask
from .server import STEPWISE, Prompt, Server

ONE_SERVER = "decode against prefill of the same server; what both share (weights, GELU, the head) it cannot see"
TWO_SERVERS = "one server against another, through prefill and through decode"
SETTLE = (
    "run the server in float32 with an unquantised cache and say --dtype float32 (vLLM: --dtype float32 with "
    "--no-enable-prefix-caching; llama.cpp: an F32 GGUF with -fa off -ctk f32 -ctv f32), or save both paths' logits in "
    "float64 for --logits"
)
COMPANY = 3  # other requests in flight beside each


@dataclass(frozen=True)
class Way:
    """One way to the log-probabilities of a prompt's continuation, beside the trusted one: rows of the same tokens.

    start  which of the generated tokens is the first
    """

    name: str
    prompt: int
    start: int
    a: Sequence[Row]
    b: Sequence[Row]

    @cached_property
    def pairs(self) -> list[tuple[int, Compared]]:
        """(which generated token it is, what both say of it), where they know any token in common."""
        found = [compared(x, y) for x, y in zip(self.a, self.b, strict=False)]
        return [(self.start + j, x) for j, x in enumerate(found) if x.tokens]


class ServedSubject:
    """What servers said of the same tokens; everything is asked when it is made.

    server   under test
    against  the trusted one; None for the same one's prefill
    texts    prompts
    steps    generated tokens per prompt, all of which are compared
    dtype    what the servers compute in, as the user says

    Raises ServerError for what servers do not give.
    """

    prefilled = 1

    def __init__(self, server: Server, against: Server | None, texts: Sequence[str], steps: int, dtype: str):
        self.server, self.against, self.steps, self.dtype = server, against, steps, dtype
        self.name_a = server.client.url
        self.name_b = against.client.url if against else "its own prefill"
        self.question = TWO_SERVERS if against else ONE_SERVER
        self.notes: list[str] = []
        self.decoded: list[Sequence[Row]] = []
        others = [x for x in (server, against) if x is not None]
        found = [x.prompts(texts) for x in others]
        if len({prompts[0].ids is None for prompts in found}) > 1:
            found = [x.prompts(texts, by_ids=False) for x in others]
        self.prompts = found[0]
        if any(prompts != self.prompts for prompts in found):
            raise ServerError(
                f"{self.name_a} and {self.name_b} split {texts[0]!r} into other tokens: compare one model"
            )
        self.temperature = self._meaning(others)
        self.ways = [way for way in (self._two(against) if against else self._one()) if way.pairs]
        if not self.ways:
            raise ServerError(f"{self.name_a} names no token in both paths, so that there is nothing to compare")
        self.made = arrays([[x for _, x in way.pairs] for way in self.ways])
        last = self.made[0].shape[1]
        self.positions = np.array(
            [[way.pairs[min(j, len(way.pairs) - 1)][0] for j in range(last)] for way in self.ways]
        )
        self.real = np.array([[j < len(way.pairs) for j in range(last)] for way in self.ways])  # others fill rows
        self.contradiction = self._contradiction()
        self._note_rows()

    def paths(self, dtype: str, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (B, n, K) of both: a sequence per way and prompt, the most probable tokens of each."""
        if dtype != self.dtype:
            raise NotImplementedError(f"the server computes in {self.dtype}")
        if shift:
            raise NotImplementedError("a server takes no shift")
        return self.made

    def qualify(self, verdict: Verdict) -> Verdict:
        """The verdict on log-probabilities and not on logits, in words about servers."""
        if verdict.difference is not None:  # the judge counts columns, which are no tokens, and repeated positions
            a, b = self.made
            agree = (a.argmax(-1) == b.argmax(-1)) & ~np.isnan(a + b).any(-1) & self.real
            counted = {"agree": int(agree.sum()), "of": int(self.real.sum())}
            verdict = replace(verdict, difference=replace(verdict.difference, flips=(), **counted))
        place = f"{self._place(*verdict.rungs[-1].where)}; {self._flips()}"
        verdict = decided(verdict, SETTLE, place, self.server.may_reuse(alone=self.against is None))
        if verdict.verdict == BUG and self.contradiction:
            return replace(verdict, verdict=INCONCLUSIVE, reason=f"{verdict.reason} But {self.contradiction}")
        return verdict

    def _place(self, i: int, j: int, column: int) -> str:
        way = self.ways[i]
        at, x = way.pairs[min(j, len(way.pairs) - 1)]
        token = x.tokens[min(column, len(x.tokens) - 1)]
        return f"{way.name}, prompt {way.prompt}, generated token {at}, of the token {token!r}"

    def _flips(self) -> str:
        """Where the most probable token differs, and by how much it leads at most."""
        a, b = self.made
        lead = np.take_along_axis(b, b.argmax(-1)[..., None], -1) - np.take_along_axis(b, a.argmax(-1)[..., None], -1)
        lead = lead[self.real]
        flips = int((lead > 0).sum())
        if not flips:
            return "no most probable token differs"
        most = np.nanmax(lead)
        return f"the most probable token differs at {flips} of {lead.size} places, by leads up to {most:.2g} nats"

    def _contradiction(self) -> str:
        """What speaks for a server whose two paths part: its logprobs mean two things; "" where nothing does.

        The prefix up to the largest difference is sent by itself. If the next token's log-probabilities agree with
        decode, echo is at fault, or the server keeps its cache although it was asked for another prompt in between.
        """
        a, b = self.made
        error = np.where(np.isnan(a - b), np.inf, np.abs(a - b)).max(-1)
        way = self.ways[int(error.max(1).argmax())]
        bound = limit(self.dtype, rms(b))
        if error.max() <= bound:
            return ""
        if self.processed and not {"top_k", "min_p and penalties"} <= self.server.takes:
            return (
                "its log-probabilities are processed, and it refuses to be asked without its own penalties and top_k."
            )
        at = max(way.pairs, key=lambda pair: pair[1].apart)[0]
        if len(way.a[at - way.start].top) < self.server.top and whole(way.a[at - way.start]):
            return "its candidates add up to 1 without the others: top_k or top_p is on at the server; switch it off."
        if self.against or self.server.form == STEPWISE:
            return ""
        alone = self.server.step(self.prompts[way.prompt], self.decoded[way.prompt][:at], self.temperature)
        if apart([way.a[at - way.start]], [alone]) > bound:
            return ""
        return (
            f"a prefill of that prefix alone agrees with decode: either {self.server.form} gives other numbers than "
            "the model's, or the server answered from its cache; start it without prefix caching."
        )

    def _meaning(self, servers: Sequence[Server]) -> float:
        meanings = [ask(server, self.prompts[0]) for server in servers]
        for server, meaning in zip(servers, meanings, strict=True):
            name = f"{server.client.url}: " if len(servers) > 1 else ""
            self.notes += [f"{name}{note}" for note in meaning.notes]
        self.processed = any(meaning.processed for meaning in meanings)
        return max(meaning.temperature for meaning in meanings)

    def _generate(self, server: Server, prompt: Prompt, n: int | None = None) -> Sequence[Row]:
        return server.generate(prompt, self.steps if n is None else n, self.temperature).generated

    def _prefills(self, server: Server, decoded: Sequence[Sequence[Row]]) -> list[Sequence[Row]]:
        """Each prompt's rows, moved to where they belong where the server gives each one position late."""
        both = zip(self.prompts, decoded, strict=True)
        found = [server.prefill(prompt, rows, self.temperature) for prompt, rows in both]
        within = limit(self.dtype, LEAST_SIZE)
        if not any(one_late(*rows, made, within) for rows, made in zip(found, decoded, strict=True)):
            return [rows for _, rows in found]
        late = "echo gives each token the log-probabilities of the position after it, which is a bug of echo, not of "
        note = f"{server.client.url}: {late}the cache; they are compared where they belong"
        self.notes += [note] * (note not in self.notes)
        return [earlier(before, rows) if before else rows for before, rows in found]

    def _one(self) -> list[Way]:
        """Generation in several ways, each against the prefill of the same tokens."""
        server, ways = self.server, []
        later = []
        for prompt in self.prompts:
            rows = self._generate(server, prompt)
            again, half = self._generate(server, prompt), self._cut(server, prompt, rows)
            self.decoded.append(rows)
            ways.append(("decode of the same request again", 0, again[: same_context(again, rows)]))
            longer = self._generate(server, prompt.followed_by(rows[:half]), len(rows) - half) if half else []
            later.append(("decode of a longer prompt", half, longer[: same_context(longer, rows[half:])]))
        trusted = self._prefills(server, self.decoded)
        company = self._in_company()
        together = [rows[: same_context(rows, made)] for rows, made in zip(company, self.decoded, strict=True)]
        named = {"decode": self.decoded, "decode among other requests": together}
        if server.form != STEPWISE:
            named["prefill again"] = self._prefills(server, self.decoded)
        found = [
            Way(name, i, 0, rows, trusted[i]) for name, all_rows in named.items() for i, rows in enumerate(all_rows)
        ]
        for made in (ways, later):
            found += [Way(name, i, at, rows, trusted[i][at:]) for i, (name, at, rows) in enumerate(made)]
        self._note_spread(found)
        return found

    def _cut(self, server: Server, prompt: Prompt, rows: Sequence[Row]) -> int:
        """How many of the tokens to move into the prompt: half, or some more where a text would be split otherwise."""
        middle = len(rows) // 2
        fits = (i for i in range(middle, min(middle + 4, len(rows))) if server.keeps_tokens(prompt, rows[:i]))
        if (found := next(fits, 0)) == 0:
            self.notes.append("no longer prompt was tried: its text would be split into other tokens")
        return found

    def _in_company(self) -> list[Sequence[Row]]:
        """The generations of all prompts, asked for at once, in the company of others."""
        others = [reversed_prompt(prompt) for prompt in self.prompts][:COMPANY]
        with ThreadPoolExecutor(len(self.prompts) + len(others)) as pool:
            beside = [pool.submit(self._generate, self.server, other) for other in others]
            found = list(pool.map(lambda prompt: self._generate(self.server, prompt), self.prompts))
        if failed := [task for task in beside if task.exception() is not None]:
            self.notes.append(f"{len(failed)} of {len(beside)} other requests failed: {failed[0].exception()}")
        return found

    def _two(self, against: Server) -> list[Way]:
        """Both servers' prefill of the same tokens, and both servers' decode."""
        self.decoded = [self._generate(self.server, prompt) for prompt in self.prompts]
        prefills = zip(*(self._prefills(server, self.decoded) for server in (self.server, against)), strict=True)
        ways = [Way("prefill", i, 0, a, b) for i, (a, b) in enumerate(prefills)]
        for i, (prompt, rows) in enumerate(zip(self.prompts, self.decoded, strict=True)):
            ways.append(Way("decode", i, 0, rows, self._forced(against, prompt, rows)))
        both = [pair for way in ways for pair in zip(way.a, way.b, strict=False)]
        if both and not any(x.known.keys() & y.known.keys() for x, y in both):
            raise ServerError(
                f"{self.name_a} and {self.name_b} name no token alike (such as {both[0][0].token!r} and "
                f"{both[0][1].token!r}), so that there is nothing to compare: do both serve one model?"
            )
        return ways

    def _forced(self, server: Server, prompt: Prompt, rows: Sequence[Row]) -> Sequence[Row]:
        """A server's generation of another one's tokens: begun anew behind each token that it would not have chosen."""
        found: list[Row] = []
        while len(found) < len(rows) and server.keeps_tokens(prompt, rows[: len(found)]):
            rest = rows[len(found) :]
            made = self._generate(server, prompt.followed_by(rows[: len(found)]), len(rest))
            found += made[: same_context(made, rest)]
        return found

    def _note_rows(self) -> None:
        counted = sum(len(way.pairs) for way in self.ways)
        form = f"prefill by {self.server.form}" + (f" and {self.against.form}" if self.against else "")
        names = [f"{i}: {way.name}, prompt {way.prompt}" for i, way in enumerate(self.ways)]
        servers = [server for server in (self.server, self.against) if server]
        self.notes += dict.fromkeys(note for server in servers for note in (*server.notes, *server.client.waited))
        self.notes.append(f"{form}; {counted} positions compared; sequences are {'; '.join(names)}")
        if self.server.cached:
            self.notes.append(f"up to {self.server.cached} tokens of a prompt came from the server's prefix cache")

    def _note_spread(self, ways: Sequence[Way]) -> None:
        """How far the same tokens' answers part, and whether tokens were chosen greedily."""
        for name in dict.fromkeys(way.name for way in ways if way.name.startswith("decode ")):
            apart_by = (apart(way.a, self.decoded[way.prompt][way.start :]) for way in ways if way.name == name)
            spread = max(apart_by, default=0.0)
            self.notes.append(f"{name}: {f'differs by {spread:.1e} nats' if spread else 'the same bits'}")
        rows = [row for rows in self.decoded for row in rows if row.top and row.logprob is not None]
        other = sum(max(row.top.values()) > (row.logprob or 0.0) for row in rows)
        if self.temperature == 0 and other:
            self.notes.append(f"{other} of {len(rows)} tokens are not the most probable, though temperature is 0")


def whole(row: Row) -> bool:
    """Whether the candidates known have all of the probability."""
    return sum(math.exp(value) for value in row.top.values() if not math.isnan(value)) > 1 - 1e-4


def reversed_prompt(prompt: Prompt) -> Prompt:
    """Another prompt of about the same length."""
    return Prompt(prompt.text[::-1], None if prompt.ids is None else prompt.ids[::-1])
