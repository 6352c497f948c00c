"""The contract's checks that reach into the cache's memory: dead slots are never read, the newest one always is."""

import numpy as np
import torch

from .report import BROKEN, HELD, Finding, NotChecked
from .trial import Trial, capability, exact

POISONS = (np.nan, np.inf, 1e4)


def memory(cache) -> list[tuple]:
    """[(array, live)] of a cache's own memory, live a bool array of array's shape; NotChecked if not shown."""
    found = []
    for array, live in capability(cache, "buffers")():
        live = live.detach().cpu().numpy() if isinstance(live, torch.Tensor) else np.asarray(live)
        found.append((array, np.broadcast_to(live.astype(bool), tuple(array.shape))))
    return found


def put(array, where: np.ndarray, value: float):
    """array[where] = value, in place, for NumPy and torch; where the dtype has no such number, its nearest."""
    if isinstance(array, torch.Tensor):
        floats = array.dtype.is_floating_point
        limits = torch.finfo(array.dtype) if floats else torch.iinfo(array.dtype)
    else:
        floats = array.dtype.kind not in "iu"
        limits = None if floats else np.iinfo(array.dtype)
    if limits and (not floats or np.isfinite(value)):
        value = limits.max if np.isnan(value) else min(max(value, limits.min), limits.max)
    if isinstance(array, torch.Tensor):
        array.masked_fill_(torch.from_numpy(where.copy()).to(array.device), value)
    else:
        array[where] = value


def nudge(array, where: np.ndarray):
    """Change every number of array[where], in place: floats by 1, integers by 8 towards zero."""
    if not isinstance(array, torch.Tensor):
        there = array[where]
        array[where] = there + (1 if array.dtype.kind not in "iu" else np.where(there > 0, -8, 8).astype(array.dtype))
        return
    step = torch.ones_like(array) if array.dtype.is_floating_point else torch.where(array > 0, -8, 8).to(array.dtype)
    array += step * torch.from_numpy(where.copy()).to(array.device)


def fill(value: float, count: list[int] | None = None):
    """A `before` for Trial.run: every dead slot gets value. count[0] grows by the numbers that were filled."""

    def before(cache):
        for array, live in memory(cache):
            put(array, ~live, value)
            if count is not None:
                count[0] += int((~live).sum())

    return before


def dead_slots(trial: Trial) -> Finding:
    """NaN, inf and 1e4 in every dead slot change no bit."""
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


def lives(cache) -> list[np.ndarray]:
    return [live for _, live in memory(cache)]


def one_past(trial: Trial) -> Finding:
    """While the first step writes its slot, nothing of the slot after it is read."""
    scout = trial.make()
    scout.prefill(trial.ids[:, : trial.prompt])
    scout.step(trial.ids[:, trial.prompt])
    newest = lives(scout)
    scout.step(trial.ids[:, trial.prompt + 1])
    later = lives(scout)
    if [live.shape for live in newest] != [live.shape for live in later]:
        raise NotChecked("the buffers grow: there is no slot past the newest")

    def needled(value: float) -> np.ndarray:
        cache = trial.make()
        cache.prefill(trial.ids[:, : trial.prompt])
        fill(0.0)(cache)
        for (array, _), old, new in zip(memory(cache), newest, later, strict=True):
            put(array, new & ~old, value)
        return exact(cache.step(trial.ids[:, trial.prompt]), len(trial.ids))[None]

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
        if rows := rows_unmoved(trial.run(ids)[step], plain[step]):
            return Finding(BROKEN, f"{sentence} ({rows}): the length is short by one, or its row was not written")
    held = "the newest token is seen by the next in every row"
    try:
        return newest_in_each_buffer(trial, plain[2], held)
    except NotChecked as missing:
        return Finding(HELD, f"{held} (not told apart by buffer: {missing})")


def newest_in_each_buffer(trial: Trial, plain: np.ndarray, held: str) -> Finding:
    """Change the newest slot in one buffer at a time: the next logits (B, V) must not stay `plain`."""

    def stepped():
        cache = trial.make()
        cache.prefill(trial.ids[:, : trial.prompt])
        old = lives(cache)
        cache.step(trial.ids[:, trial.prompt])
        return cache, old, memory(cache)

    count = len(stepped()[2])
    for i in range(count):
        cache, old, new = stepped()
        array, live = new[i]
        if live.shape != old[i].shape:
            raise NotChecked("the buffers grow")
        nudge(array, live & ~old[i])
        if rows := rows_unmoved(exact(cache.step(trial.ids[:, trial.prompt + 1]), len(plain)), plain):
            broken = f"the newest slot of buffer {i} of {count} is not read ({rows})"
            return Finding(BROKEN, f"{broken}: it is stale, or another is read in its place")
    return Finding(HELD, f"{held}, and its slot is read from each of {count} buffers", {"buffers": count})


def rows_unmoved(got, plain) -> str:
    """Which rows of logits (B, V) are what they were before a change that each must see; empty if none."""
    rows = [str(b) for b in range(len(plain)) if np.array_equal(got[b], plain[b])]
    return f"row {', '.join(rows)}" if rows else ""
