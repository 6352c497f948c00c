"""Timing: every arm once per round, in an order that moves on by one place from round to round."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...gpt2 import GPT2
from ..measure.interleaved import PAUSE
from .arms import Arm, Ask, EngineArm, Ids, lone
from .parity import Parity, compare
from .quiet import Others


@dataclass
class Cell:
    """What is compared: requests, and the arms that answer them.

    about  "cell" of its records
    model  computes the lone runs
    """

    about: dict[str, Any]
    model: GPT2
    asks: Sequence[Ask]
    arms: Sequence[Arm]
    truth: Ids = field(default_factory=list)
    parity: dict[str, Parity] = field(default_factory=dict)
    per_step: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        text = self.about["text"]
        words = [self.about["job"], self.about["model"], self.about["dtype"], *([text] if text else [])]
        return ", ".join(words) + f", {len(self.asks)} requests"

    @property
    def useful(self) -> int:
        return sum(ask.new_tokens for ask in self.asks)

    def prove(self, say: Callable[[str], None]):
        """The lone runs, then each arm once, which also warms it up."""
        self.truth = [lone(self.model, ask) for ask in self.asks]
        for arm in self.arms:
            self.parity[arm.name] = self.first_run(arm)
            say(f"  {arm.name:24} {self.parity[arm.name]}")
            if self.about["job"] == "speculation" and isinstance(arm, EngineArm):
                self.per_step[arm.name] = arm.tokens_per_step(self.asks)

    def first_run(self, arm: Arm) -> Parity:
        """An arm's verdict; a peer that fails is refused by its own words."""
        try:
            with arm.ready(self.asks) as call:
                return self.judge(arm, call())
        except (RuntimeError, ValueError, MemoryError) as error:
            if not arm.peer:
                raise
            return Parity(len(self.asks), len(self.asks), None, True, f"{type(error).__name__}: {error}"[:300])

    def judge(self, arm: Arm, found: Ids) -> Parity:
        return compare(found, self.truth, self.asks, self.model, self.about["dtype"], arm.peer)

    @property
    def green(self) -> bool:
        """Whether all arms of ours give the lone runs' tokens: else nothing is timed."""
        return all(self.parity[arm.name].green for arm in self.arms if not arm.peer)

    def round(self, number: int, between: Callable[[], object] = lambda: None) -> list[dict]:
        """Time each arm once, and judge again what it wrote.  Returns the arms of the round's record, in their order.

        between  called before each arm, when nothing is timed
        """
        start = number % len(self.arms)
        rows = []
        for arm in [*self.arms[start:], *self.arms[:start]]:
            between()
            parity, seconds, used = self.parity[arm.name], None, None
            arm.drafts = None
            if not parity.wrong:
                with arm.ready(self.asks) as call:
                    found, seconds, used = timed(call)
                parity = self.judge(arm, found)
            seconds = None if parity.wrong else seconds
            rows.append(
                {
                    "arm": arm.name,
                    "peer": arm.peer,
                    "settings": arm.settings,
                    "parity": parity.record(),
                    "seconds": seconds,
                    "tokens_per_s": self.useful / seconds if seconds else None,
                    "tokens_per_step": self.per_step.get(arm.name),
                    "drafts": arm.drafts and list(arm.drafts),
                    "others": used,
                }
            )
        return rows


def timed(call: Callable[[], Ids]) -> tuple[Ids, float, float | None]:
    """A call's tokens, its seconds, and the CPUs that others used meanwhile; after a pause, as between impls."""
    gc.collect()
    time.sleep(PAUSE)
    others, begun = Others(), time.perf_counter()
    found = call()
    seconds = time.perf_counter() - begun
    return found, seconds, others.used()
