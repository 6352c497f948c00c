"""A server against itself, decode against prefill, or two servers against each other, as a subject for the judge."""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ....reference.judge.verdict import BUG, ROUNDING, Verdict
from .answers import Row
from .client import Client, ServerError
from .limits import bug_reason, coarse, qualified
from .rows import Compared, apart, arrays, compared, listed, one_late, same_context
from .semantics import ask
from .server import STEPWISE, Prompt, Server

PROMPTS = ("Once upon a time there was a king", "ROMEO:")
STEPS = 32  # past a page of 16 slots, vLLM's
DTYPE = "bfloat16"  # what servers compute in unless told otherwise
KEY = "OPENAI_API_KEY"
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
    """One way to the logprobs of a prompt's continuation, beside the trusted one: rows of the same tokens.

    start  which of the generated tokens is the first
    """

    name: str
    prompt: int
    start: int
    a: Sequence[Row]
    b: Sequence[Row]

    @property
    def pairs(self) -> list[Compared]:
        return [compared(x, y) for x, y in zip(self.a, self.b, strict=False)]


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
        self.ways = self._two(against) if against else self._one()
        self.ways = [way for way in self.ways if way.a and way.b]
        self.made = arrays([way.pairs for way in self.ways])
        rows = [[way.start + min(j, len(way.pairs) - 1) for j in range(self.made[0].shape[1])] for way in self.ways]
        self.positions = np.array(rows)
        self._note_rows()

    def paths(self, dtype: str, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (B, n, K) of both: a sequence per way and prompt, the most probable tokens of each."""
        if dtype != self.dtype:
            raise NotImplementedError(f"the server computes in {self.dtype}")
        if shift:
            raise NotImplementedError("a server takes no shift")
        return self.made

    def qualify(self, verdict: Verdict) -> Verdict:
        """The judge's verdict in words about servers; INCONCLUSIVE where coarser rounding inside may explain it."""
        verdict = qualified(verdict, SETTLE)
        if verdict.difference is not None:  # the judge counts columns, which are no tokens
            verdict = replace(verdict, difference=replace(verdict.difference, flips=()))
        rung = verdict.rungs[-1]
        if verdict.verdict == ROUNDING and not rung.error and self.server.cached:
            words = "the server answered from its prefix cache, so that both may be one computation"
            return replace(verdict, verdict="INCONCLUSIVE", reason=f"They agree bit for bit, but {words}. {SETTLE}.")
        if verdict.verdict != BUG:
            return verdict
        i, j, column = rung.where
        way = self.ways[i]
        j = min(j, len(way.pairs) - 1)
        tokens = way.pairs[j].tokens
        token = tokens[min(column, len(tokens) - 1)]
        place = f"{way.name}, prompt {way.prompt}, generated token {way.start + j}, for the token {token!r}"
        return bug_reason(verdict, place, self._flips())

    def _flips(self) -> str:
        """Where the most probable token differs, and by how much it leads at most."""
        a, b = self.made
        lead = np.take_along_axis(b, b.argmax(-1)[..., None], -1) - np.take_along_axis(b, a.argmax(-1)[..., None], -1)
        flips = int((lead > 0).sum())
        if not flips:
            return "no most probable token differs"
        return f"the most probable token differs at {flips} of {lead.size} places, by leads up to {lead.max():.2g} nats"

    def _meaning(self, servers: Sequence[Server]) -> float:
        meanings = [ask(server, self.prompts[0]) for server in servers]
        for server, meaning in zip(servers, meanings, strict=True):
            name = f"{server.client.url}: " if len(servers) > 1 else ""
            self.notes += [f"{name}{note}" for note in meaning.notes]
        return max(meaning.temperature for meaning in meanings)

    def _generate(self, server: Server, prompt: Prompt, n: int | None = None) -> Sequence[Row]:
        return server.generate(prompt, self.steps if n is None else n, self.temperature).generated

    def _prefill(self, server: Server, prompt: Prompt, rows: Sequence[Row]) -> Sequence[Row]:
        """The prompt's rows, moved to where they belong where the server gives each one position late."""
        before, found = server.prefill(prompt, rows, self.temperature)
        if not one_late(before, found, rows, coarse(1.0)):
            return found
        assert before is not None
        late = "echo gives each token the log-probabilities of the position after it, which is a bug of echo, not of "
        note = f"{server.client.url}: {late}the cache; they are compared where they belong"
        self.notes += [note] * (note not in self.notes)
        return [listed(row) for row in (before, *found[:-1])]

    def _one(self) -> list[Way]:
        """Generation in several ways, each against the prefill of the same tokens."""
        server, ways, decoded, trusted = self.server, [], [], []
        for i, prompt in enumerate(self.prompts):
            rows = self._generate(server, prompt)
            again = self._generate(server, prompt)
            decoded.append(rows)
            trusted.append(self._prefill(server, prompt, rows))
            ways.append(Way("decode", i, 0, rows, trusted[i]))
            ways.append(Way("decode of the same request again", i, 0, again[: same_context(again, rows)], trusted[i]))
            half = len(rows) // 2
            later = self._generate(server, prompt.followed_by(rows[:half]), len(rows) - half) if half else []
            later = later[: same_context(later, rows[half:])]
            ways.append(Way("decode of a longer prompt", i, half, later, trusted[i][half:]))
            if server.form != STEPWISE:
                ways.append(Way("prefill again", i, 0, self._prefill(server, prompt, rows), trusted[i]))
        for i, rows in enumerate(self._in_company()):
            kept = rows[: same_context(rows, decoded[i])]
            ways.append(Way("decode among other requests", i, 0, kept, trusted[i]))
        self._note_spread(ways, decoded)
        return ways

    def _in_company(self) -> list[Sequence[Row]]:
        """The generations of all prompts, asked for at once, in the company of others."""
        others = [replace_first(prompt) for prompt in self.prompts][:COMPANY]
        with ThreadPoolExecutor(len(self.prompts) + len(others)) as pool:
            for other in others:
                pool.submit(self._generate, self.server, other)
            return list(pool.map(lambda prompt: self._generate(self.server, prompt), self.prompts))

    def _two(self, against: Server) -> list[Way]:
        """Both servers' prefill of the same tokens, and both servers' decode."""
        ways = []
        for i, prompt in enumerate(self.prompts):
            rows = self._generate(self.server, prompt)
            prefills = [self._prefill(server, prompt, rows) for server in (self.server, against)]
            ways.append(Way("prefill", i, 0, *prefills))
            ways.append(Way("decode", i, 0, rows, self._forced(against, prompt, rows)))
        return ways

    def _forced(self, server: Server, prompt: Prompt, rows: Sequence[Row]) -> Sequence[Row]:
        """A server's generation of another one's tokens: begun anew behind each token that it would not have chosen."""
        found: list[Row] = []
        while len(found) < len(rows):
            rest = rows[len(found) :]
            made = self._generate(server, prompt.followed_by(rows[: len(found)]), len(rest))
            found += made[: same_context(made, rest)]
        return found

    def _note_rows(self) -> None:
        counted = sum(len(way.pairs) for way in self.ways)
        form = f"prefill by {self.server.form}" + (f" and {self.against.form}" if self.against else "")
        names = [f"{i}: {way.name}, prompt {way.prompt}" for i, way in enumerate(self.ways)]
        self.notes += [*self.server.notes, *(self.against.notes if self.against else ())]
        self.notes += [*self.server.client.waited, *(self.against.client.waited if self.against else ())]
        self.notes.append(f"{form}; {counted} positions compared; sequences are {'; '.join(names)}")
        if self.server.cached:
            self.notes.append(f"up to {self.server.cached} tokens of a prompt came from the server's prefix cache")

    def _note_spread(self, ways: Sequence[Way], decoded: Sequence[Sequence[Row]]) -> None:
        """How far the same request's answers part, and whether tokens were chosen greedily."""
        for name in ("decode of the same request again", "decode of a longer prompt", "decode among other requests"):
            spread = max(
                (apart(way.a, decoded[way.prompt][way.start :]) for way in ways if way.name == name), default=0
            )
            self.notes.append(f"{name}: {f'differs by {spread:.1e} nats' if spread else 'the same bits'}")
        rows = [row for rows in decoded for row in rows if row.top and row.logprob is not None]
        other = sum(max(row.top.values()) > (row.logprob or 0.0) for row in rows)
        if self.temperature == 0 and other:
            self.notes.append(f"{other} of {len(rows)} tokens are not the most probable, though temperature is 0")


def replace_first(prompt: Prompt) -> Prompt:
    """Another prompt of about the same length."""
    return Prompt(prompt.text[::-1], None if prompt.ids is None else prompt.ids[::-1])


def served(args: argparse.Namespace) -> ServedSubject:
    """The subject of --url and --against.  Raises ServerError for what the servers do not give."""
    variable = args.api_key_env or KEY
    key = os.environ.get(variable) or None
    if args.api_key_env and key is None:
        raise ServerError(f"--api-key-env names {variable}, which is not set; put the key in it")
    steps = STEPS if args.steps is None else args.steps
    if steps < 1:
        raise ServerError(f"--steps is {steps}; at least 1 position must be compared")
    texts = args.prompt or list(PROMPTS)
    if not all(texts):
        raise ServerError("an empty --prompt came; a server's prompt has at least one token")
    asked = ((args.url, args.model), (args.against, args.against_model))
    servers = [Server(Client(url, key, args.timeout), model, texts[0]) for url, model in asked if url]
    subject = ServedSubject(servers[0], servers[1] if len(servers) > 1 else None, texts, steps, args.dtype or DTYPE)
    if args.dtype is None:
        subject.notes.insert(0, f"no --dtype came, so {DTYPE} is assumed, which can accuse and cannot clear")
    return subject
