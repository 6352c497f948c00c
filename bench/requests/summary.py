"""What the rounds of a run say: tokens per second of each arm, ratios between arms, and the bars they are held to."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..measure.stats import summarize

THROUGHPUT, PAGED = 1.5, 1.3  # the engine's tokens/s, times static batches' and transformers' generate_batch's
SPECULATION, NEVER = 1.5, 0.95  # with drafts over without: on repetitive text, on any text
GROWTH = 0.05  # of resident memory

Summary = dict[str, float | None]


def rates(rounds: Sequence[dict], arm: str) -> list[float]:
    """Tokens per second of an arm, round by round; nothing for rounds in which it was not timed."""
    return [row["tokens_per_s"] for one in rounds for row in one["arms"] if row["arm"] == arm and row["tokens_per_s"]]


def names(rounds: Sequence[dict]) -> list[str]:
    """The arms, in the order of the first round's rotation, the first of the command first."""
    first = min(rounds, key=lambda one: one["round"])
    found, number = [row["arm"] for row in first["arms"]], first["round"]
    back = -number % len(found)
    return [*found[back:], *found[:back]]


def rate(rounds: Sequence[dict], arm: str) -> Summary | None:
    """Median, p20, p80 of an arm's tokens per second and the interval of the median; None if it was never timed."""
    found = rates(rounds, arm)
    return summarize([[value] for value in found]) if found else None


def ratio(rounds: Sequence[dict], arm: str, other: str) -> Summary | None:
    """An arm's tokens per second over another's of the same round, so that the machine's drift hits both."""
    found = []
    for one in rounds:
        rows = {row["arm"]: row["tokens_per_s"] for row in one["arms"]}
        if rows.get(arm) and rows.get(other):
            found.append([rows[arm] / rows[other]])
    return summarize(found) if found else None


def row_of(rounds: Sequence[dict], arm: str) -> dict:
    """An arm's row of the last round."""
    return next(row for row in rounds[-1]["arms"] if row["arm"] == arm)


@dataclass(frozen=True)
class Bar:
    """A ratio and the least that it must be: its median counts, and the interval says how sure that is."""

    what: str
    least: float
    found: Summary

    @property
    def met(self) -> bool:
        median = self.found["median"]
        return median is not None and median >= self.least

    def __str__(self) -> str:
        low, high, median = self.found["low"], self.found["high"], self.found["median"]
        span = "" if low is None or high is None else f" (95 % {low:.2f} - {high:.2f})"
        return f"{'met   ' if self.met else 'MISSED'} {self.what}: {median:.2f}{span}, bar {self.least:g}"


def best(rounds: Sequence[dict], start: str) -> str | None:
    """The arm with the highest median among those whose name starts so."""
    medians = {
        arm: found["median"] or 0.0 for arm in names(rounds) if arm.startswith(start) and (found := rate(rounds, arm))
    }
    return max(medians, key=lambda arm: medians[arm], default=None)


def bars(rounds: Sequence[dict]) -> list[Bar]:
    """The bars of a run of throughput or speculation, those whose arms were timed."""
    arms, about = names(rounds), rounds[0]["cell"]
    if about["job"] == "speculation":
        least = SPECULATION if about["text"] == "repetitive" else NEVER
        pairs = [(arm, arms[0], least if arm.endswith("-16") else NEVER) for arm in arms[1:]]
    else:
        engine = "engine-32" if "engine-32" in arms else best(rounds, "engine-")
        others = [
            ("generate-8", THROUGHPUT),
            (best(rounds, "generate-"), 1.0),
            (best(rounds, "generate_batch-"), PAGED),
        ]
        pairs = [(engine, other, least) for other, least in others if engine and other]
    found = [(f"{arm} / {other}", least, ratio(rounds, arm, other)) for arm, other, least in pairs]
    return [Bar(what, least, value) for what, least, value in found if value]
