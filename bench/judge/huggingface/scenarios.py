"""How the cached path is fed, by the names of --scenario. Whatever the order of the calls, one token's logits are what
the sequence up to it has alone: that is what every scenario is held to.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .caches import DoesNotApply
from .play import Play

DRAFTS = 3  # tokens that are fed and taken back
PIECE = 3  # tokens fed at once


def steps(play: Play) -> torch.Tensor:
    """The prompts in one call, then one token per call -> logits (B, n, V)."""
    return torch.cat([play.prefill(), *(play.feed(play.forced[:, i : i + 1], [0]) for i in later(play))], 1)


def later(play: Play) -> range:
    """Which of the forced tokens are fed: all but the last."""
    return range(play.forced.shape[1] - 1)


def chunks(play: Play) -> torch.Tensor:
    """The prompts in three calls; the first reaches into the shortest, so that no row is padding alone."""
    width, first = play.width, int(play.padding.max()) + 1
    ends = sorted({first, first + (width - first) // 2, width})
    if len(ends) < 2:
        raise DoesNotApply("its first call must reach into the shortest prompt, and there is nothing left for a second")
    for start, end in zip([0, *ends], ends, strict=False):
        logits = play.feed(play.columns[:, start:end], [end - start - 1] if end == width else [])
    return torch.cat([logits, *(play.feed(play.forced[:, i : i + 1], [0]) for i in later(play))], 1)


def pieces(play: Play) -> torch.Tensor:
    """The prompts in one call, then several tokens per call, as a verifier of drafts feeds them."""
    found, tokens = [play.prefill()], play.forced[:, :-1]
    if tokens.shape[1] < 2:
        raise DoesNotApply("it needs 3 steps or more")
    for start in range(0, tokens.shape[1], PIECE):
        ids = tokens[:, start : start + PIECE]
        found.append(play.feed(ids, range(ids.shape[1])))
    return torch.cat(found, 1)


def crop(play: Play) -> torch.Tensor:
    """Wrong drafts after the prompts and in between are taken back by crop()."""
    if not later(play):
        raise DoesNotApply("it takes tokens back before each further one: it needs 2 steps or more")
    play.record_past()
    found = [play.prefill()]
    for i in later(play):
        if i % 2 == 0:
            wrong = (play.forced[:, i : i + 1] + torch.arange(1, DRAFTS + 1)) % play.lm.n_vocab
            play.feed(wrong)
            play.crop(DRAFTS)
        found.append(play.feed(play.forced[:, i : i + 1], [0]))
    return torch.cat(found, 1)


def beams(play: Play) -> torch.Tensor:
    """Two rows of each sequence, reordered before each step as beam search does: some twice, none lost."""
    n = len(play.prompts)
    if not later(play):
        raise DoesNotApply("it reorders rows before each further token: it needs 2 steps or more")
    play.rows = np.tile(play.rows, 2)
    found = [play.prefill()]
    for i in later(play):
        order = [*range(2 * n)][::-1] if i % 2 == 0 else [(j + 1) % n for j in range(n)] * 2
        play.reorder(order)
        found.append(play.feed(play.forced[:, i : i + 1], [0]))
    return torch.cat(found, 1)


def reuse(play: Play) -> torch.Tensor:
    """The cache has served longer prompts before, and was emptied by reset()."""
    others = (play.columns.roll(1, 1) + 1) % play.lm.n_vocab
    play.feed(others)
    for i in later(play):
        play.feed(play.forced[:, i : i + 1].flip(0))
    play.reset()
    return steps(play)


@dataclass(frozen=True)
class Scenario:
    """A way to feed the cached path.

    what     in words, for a table
    run      run(play) -> logits (B, n, V) after the prompts and each further token; DoesNotApply says why not
    how      what Play is given beside
    alone    one sequence at a time, whatever else
    padding  columns of padding on the left beyond the rows' own
    drafts   tokens fed beyond the sequence's
    """

    what: str
    run: Callable[[Play], torch.Tensor]
    how: dict[str, Any] = field(default_factory=dict)
    alone: bool = False
    padding: int = 0
    drafts: int = 0


PLAIN, PADDED, BARE, GENERATE = "steps", "left-padded", "bare", "generate"
SAME_CALLS = (PLAIN, "chunks", "pieces")  # in which a quantised cache and ours get the same calls
SCENARIOS = {
    PLAIN: Scenario("the prompts in one call, then a token per call", steps),
    BARE: Scenario("one sequence at a time, given ids and cache and nothing else", steps, {"bare": True}, alone=True),
    PADDED: Scenario("a batch with 3 columns of padding more on the left", steps, padding=3),
    "chunks": Scenario("the prompts in three calls", chunks),
    "pieces": Scenario(f"after the prompts, {PIECE} tokens per call", pieces),
    "crop": Scenario(f"{DRAFTS} wrong tokens are fed and taken back by crop()", crop, drafts=DRAFTS),
    "beams": Scenario("rows are doubled and reordered before each step", beams),
    "reuse": Scenario("a cache that has served other prompts, after reset()", reuse),
    GENERATE: Scenario("through the model's own generate()", Play.generate),
}
