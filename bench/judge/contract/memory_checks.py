"""The contract's checks that reach into the cache's memory: dead slots are never read, the newest one always is."""

from typing import Any

import numpy as np

from .buffers import Buffer, as_float64, memory, nudge, put
from .report import BROKEN, HELD, Finding, NotChecked
from .trial import Trial

POISONS = (np.nan, np.inf, 1e4)
# Weights may be so peaked that rounding swallows a step of 1; of the large ones, one sign makes the key outshine all.
NUDGES = (1.0, 1e30, -1e30)


def fill(value: float, count: list[int] | None = None):
    """A `before` for Trial.run: every dead slot gets value. count[0] grows by the numbers that were filled.

    So do tokens out of reach, but they stay finite: a cache may rely on their weight of 0.
    """

    def before(cache):
        for array, live, dead, _ in memory(cache):
            put(array, dead, value)
            put(array, ~live & ~dead, value if np.isfinite(value) else 0.0)
            if count is not None:
                count[0] += int((~live).sum())

    return before


def dead_slots(trial: Trial) -> Finding:
    """NaN, inf and 1e4 in every dead slot change no bit, nor does 1e4 for a token that no step may read any more."""
    count = [0]
    clean = trial.run(before=fill(0.0, count))
    if not count[0]:
        raise NotChecked("buffers() shows no dead slot")
    findings = {
        value: trial.compare(trial.run(before=fill(value)), clean, "", f"{value} there changes the logits", bits=True)
        for value in POISONS
    }
    numbers = {f"error with {value}": finding.numbers["error"] for value, finding in findings.items()}
    wrong = [value for value, finding in findings.items() if finding.outcome != HELD]
    if not wrong:
        return Finding(HELD, "NaN, inf and 1e4 in every dead slot change no bit", numbers)
    hint = "dead slots are read like live ones: look at the length and the mask"
    if 1e4 not in wrong:
        hint = "1e4 there changes nothing: dead slots are masked but not skipped, and 0 * NaN is NaN"
    worst = findings[wrong[0]]
    return Finding(worst.outcome, f"{worst.sentence}; {hint}", numbers)


def slots_past_the_newest(trial: Trial) -> list[np.ndarray | None]:
    """Per buffer, the slot that the second step will write and neither step before it may read; None if it grows.

    Raises NotChecked if there is no such slot in any buffer.
    """
    scout = trial.make()
    scout.prefill(trial.ids[:, : trial.prompt])
    before = memory(scout)
    scout.step(trial.ids[:, trial.prompt])
    newest = memory(scout)
    scout.step(trial.ids[:, trial.prompt + 1])
    past: list[np.ndarray | None] = []
    for old, new, later in zip(before, newest, memory(scout), strict=True):
        same = old.live.shape == new.live.shape == later.live.shape
        free = same and ~old.live & ~new.live
        written = later.live if later.place is None else later.place == later.place.max(initial=0)
        past.append(written & free if same else None)
    if all(where is None for where in past):
        raise NotChecked("the buffers grow: there is no slot past the newest")
    if not any(where is not None and where.any() for where in past):
        raise NotChecked("every slot is taken: the next token is written where one lies that may still be read")
    return past


def one_past(trial: Trial) -> Finding:
    """While the first step writes its slot, nothing of the slot after it is read."""
    past = slots_past_the_newest(trial)

    def needled(value: float) -> np.ndarray:
        cache = trial.make()
        cache.prefill(trial.ids[:, : trial.prompt])
        fill(0.0)(cache)
        for buffer, where in zip(memory(cache), past, strict=True):
            if where is not None:
                put(buffer.array, where, value)
        return as_float64(cache.step(trial.ids[:, trial.prompt]), len(trial.ids))[None]

    clean = needled(0.0)
    for needle in (1e4, -1e4):  # a key of one sign is overlooked by queries of the other
        broken = "the slot one past the newest is read: the length is long by one"
        finding = trial.compare(
            needled(needle), clean, "what lies one past the newest slot is not read", broken, bits=True
        )
        if finding.outcome != HELD:
            return finding
    return finding


def last_slot(trial: Trial) -> Finding:
    """What the newest slot holds is seen by the next token, in every row and, as far as is shown, in every buffer."""
    P = trial.prompt
    plain = trial.run(trial.ids[:, : P + 2])
    if np.isnan(plain).any():
        return Finding(BROKEN, "the logits of an undisturbed run are NaN")
    unseen = {
        P - 1: "the last token of the prompt is not seen by the first step",
        P: "the first step's token is not seen by the second",
    }
    for slot, sentence in unseen.items():
        ids = trial.ids[:, : P + 2].copy()
        ids[:, slot] = trial.other[:, slot]
        step = slot - P + 2
        rows = rows_unmoved(trial.run(ids)[step], plain[step])
        if rows and (overlooked := rows - rows_without_a_step(trial, ids, slot)):
            words = f"{sentence} ({named(overlooked)}): the length is short by one, or its row was not written"
            return Finding(BROKEN, words)
        if rows:
            raise NotChecked(f"token {slot + 1} does not see the one before it in a prefill either ({named(rows)})")
    held = "the newest token is seen by the next in every row"
    try:
        return newest_in_each_buffer(trial, held)
    except NotChecked as missing:
        return Finding(HELD, f"{held} (not told apart by buffer: {missing})")


def rows_without_a_step(trial: Trial, ids: np.ndarray, slot: int) -> set[int]:
    """The rows whose token slot + 1 overlooks another token in `slot` without any decode step: it need not see it."""
    fresh = [trial.make().prefill(x[:, : slot + 2]) for x in (ids, trial.ids)]
    return rows_unmoved(*(as_float64(logits, len(ids)) for logits in fresh))


def newest_in_each_buffer(trial: Trial, held: str) -> Finding:
    """Change the newest slot in one buffer at a time: the next logits must not stay what they were.

    A buffer whose newest slot the next step may not read, as at the border of a chunk, is passed over.
    """
    cache, old = filled(trial)
    newest = [new.newest(before) for new, before in zip(memory(cache), old, strict=True)]
    shown = [i for i, (where, _) in enumerate(newest) if where.any()]
    if not shown:
        raise NotChecked(newest[0][1] if newest else "buffers() shows nothing")
    want = [as_float64(filled(trial)[0].step(following), len(trial.ids)) for following in next_tokens(trial)]
    for i in shown:
        if rows := rows_blind_to(trial, i, newest[i][0], want):
            broken = f"the newest slot of buffer {i} of {len(newest)} is not read ({named(rows)})"
            return Finding(BROKEN, f"{broken}: it is stale, or another is read in its place")
    count = str(len(shown)) if len(shown) == len(newest) else f"{len(shown)} of {len(newest)}"
    return Finding(HELD, f"{held}, and its slot is read from each of {count} buffers", {"buffers": len(shown)})


def filled(trial: Trial) -> tuple[Any, list[Buffer]]:
    """A cache after the prompt and one step, and what its buffers showed before that step."""
    cache = trial.make()
    cache.prefill(trial.ids[:, : trial.prompt])
    old = memory(cache)
    cache.step(trial.ids[:, trial.prompt])
    return cache, old


def next_tokens(trial: Trial):
    """Two tokens for each row's second step: one may be a padding token, whose query of zeros looks at no key."""
    return [ids[:, trial.prompt + 1] for ids in (trial.ids, trial.other)]


def rows_blind_to(trial: Trial, i: int, where: np.ndarray, want: list[np.ndarray]) -> set[int]:
    """The rows that no change at `where` in buffer i moves from the logits they should have, for either next token."""
    rows = set(range(len(trial.ids)))
    for following, plain in zip(next_tokens(trial), want, strict=True):
        for by in NUDGES:
            if rows:
                cache, _ = filled(trial)
                nudge(memory(cache)[i].array, where, by)
                rows &= rows_unmoved(as_float64(cache.step(following), len(plain)), plain)
    return rows


def rows_unmoved(got, plain) -> set[int]:
    """Which rows of logits (B, V) are what they were before a change that each must see."""
    return {b for b in range(len(plain)) if np.array_equal(got[b], plain[b])}


def named(rows: set[int]) -> str:
    return f"row {', '.join(map(str, sorted(rows)))}"
