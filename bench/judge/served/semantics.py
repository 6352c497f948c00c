"""What a server's log-probabilities mean, asked before the verdict: both paths must be asked for the same thing.

Some servers give them raw, of the model's own logits (vLLM, llama.cpp), some processed, after temperature, top_k and
penalties. At temperature 0 the latter leave one token alone, so such a server is asked at temperature 1, where both
mean the same; its tokens are sampled then, which is as good, since both paths are given the same ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .answers import Row
from .rows import apart, compared
from .server import Prompt, Server

PROCESSED = 0.75  # at temperature 2 processed logprobs lie half as far apart as at 1, raw ones as far
FLAT = 0.01  # nats between the most and the least probable token known: too little to see it by
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Meaning:
    """The temperature at which logprobs are the model's own, whether they are processed, and what was found."""

    temperature: float
    processed: bool
    notes: Sequence[str]


def ask(server: Server, prompt: Prompt) -> Meaning:
    """Ask a server for one token at several temperatures, and with one candidate."""
    cold, warm, hot = (server.generate(prompt, 1, temperature).generated[0] for temperature in (0.0, 1.0, 2.0))
    processed = stretched(hot, warm) < PROCESSED
    usable = 0.9 < stretched(cold, warm) < 1.1
    temperature = 0.0 if usable else 1.0
    notes = [
        "log-probabilities are processed, computed after temperature"
        if processed
        else "log-probabilities are raw: temperature does not change them",
        total(server, cold if usable else warm),
    ]
    if not usable:
        notes.append("at temperature 0 they are of one token alone, so that tokens are sampled at temperature 1")
    if "top_k" in server.takes and len(warm.top) > 1:
        one = server.generate(prompt, 1, temperature, top_k=1).generated[0]
        notes.append(
            f"top_k {'changes' if apart([one], [warm]) > FLAT or len(one.top) < 2 else 'does not change'} them"
        )
    if isinstance(warm.token, int):
        raised = server.generate(prompt, 1, temperature, logit_bias={str(warm.token): -5}).generated[0]
        notes.append(f"logit_bias {'changes' if apart([raised], [warm]) > 1 else 'does not change'} them")
    if not processed and ignores_temperature(server, prompt, warm):
        notes.append("temperature 2 changes no token either: the server seems to ignore temperature")
    return Meaning(temperature, processed, notes)


def stretched(x: Row, y: Row) -> float:
    """How far apart the tokens that both rows know lie in x, in units of y; 1 where that cannot be seen."""
    both = [token for token in y.known if token in x.known]
    if len(both) < 2:
        single = compared(x, y)
        degenerate = x.logprob == 0.0 and len(x.known) < max(2, len(y.known))
        return math.inf if degenerate else 1.0 if single.apart < 0.05 else 0.5
    wide = [max(row.known[token] for token in both) - min(row.known[token] for token in both) for row in (x, y)]
    return wide[0] / wide[1] if wide[1] > FLAT else 1.0


def total(server: Server, row: Row) -> str:
    """What the probabilities of the most probable tokens add up to."""
    known = row.top or row.known
    summed = sum(math.exp(value) for value in known.values() if not math.isnan(value))
    count = f"{len(known)} most probable tokens" if len(known) > 1 else "the chosen token alone"
    return f"{server.client.url} gives the log-probabilities of {count}, {100 * min(summed, 1.0):.3g} % of all"


def ignores_temperature(server: Server, prompt: Prompt, warm: Row) -> bool:
    """Whether samples at temperature 2 are all the greedy ones, though the first was likely to be another."""
    if warm.logprob is None or math.exp(warm.logprob) > 0.9:
        return False
    greedy = [row.token for row in server.generate(prompt, 8, 0.0).generated]
    return all([row.token for row in server.generate(prompt, 8, 2.0, seed=seed).generated] == greedy for seed in SEEDS)
