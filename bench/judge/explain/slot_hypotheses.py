"""Attentions that read other slots than they should: too few, too many, those to come, padding."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from .attention_formula import Formula, Hypothesis, Query, attend, first_slot, fitted, live, right, scores, squares

BLOCKS = (8, 16, 32, 64, 128, 256)
WEAKEST = 1e5  # what a mask may add that is no -infinity: -65504 in float16, often -10000
KEPT = (1, 2, 4, 8, 16)  # first slots that a window may keep


def shown(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    """Other slots than those that the token should see; which ones is read off the pilot."""
    x, n = pilot, pilot.n
    heads = np.arange(len(x.q)) // (len(x.q) // len(x.k))
    s = scores(x.q, x.k[heads, :n], formula)
    top = s.max(1, keepdims=True)
    e = np.exp(s - top)[..., None]  # (H, n, 1)
    whole = np.concatenate([e, e * x.v[heads, :n]], 2)  # (H, n, 1 + D): what each slot adds to the sum and the output
    sink = 0.0 if formula.sinks is None else np.exp(formula.sinks[:, None] - top)
    head, tail = np.cumsum(whole, 1), np.cumsum(whole[:, ::-1], 1)

    def best(sums: np.ndarray) -> int:
        """Which of sums (H, m, 1 + D) gives the output that came."""
        if not sums.shape[1]:
            return -1
        with np.errstate(all="ignore"):
            error = np.square(sums[..., 1:] / (sums[..., :1] + sink[..., None]) - x.a[:, None]).sum((0, 2))  # type: ignore[index]
        return int(np.argmin(np.where(np.isfinite(error), error, np.inf)))

    sink = np.broadcast_to(sink, (len(x.q), 1))
    yield from few(pilot, formula, best(head[:, :-1]) + 1, best(tail) + 1)
    low = first_slot(x, formula)
    seen = whole[:, low:]
    if n - low > 2 and (slot := best((seen.sum(1, keepdims=True) - seen)[:, 1:-1])) >= 0:
        slot += low + 1
        yield Hypothesis("length", f"slot {slot} is not read", without(formula, lambda x: slot))
        words = f"the slot {n - 1 - slot} before the newest is not read"
        yield Hypothesis("length", words, without(formula, lambda x: slot + x.n - n))
    for kept in KEPT:
        if kept < n - 1 and (width := best(tail[:, : n - kept - 1] + head[:, kept - 1 : kept]) + 1):
            words = f"only the first {kept} and the last {width} slots are seen"
            yield Hypothesis("window", words, ends(formula, kept, width))


def few(pilot: Query, formula: Formula, first: int, last: int) -> Iterator[Hypothesis]:
    """Only so many of the first slots are seen, or of the last; or all but so many of the new, or of the old."""
    n = pilot.n
    words = "the newest slot is not read: the length is one short"
    yield Hypothesis("length", words, prefix(formula, lambda x: x.n - 1))
    if first:
        words = {1: "only the first slot is seen: a causal mask aligned at the top left"}
        words = words.get(first, f"only the first {first} slots are read: the length does not grow")
        yield Hypothesis("mask" if first == 1 else "length", words, prefix(formula, lambda x: min(first, x.n)))
        gone = n - first
        if gone > 1:
            yield Hypothesis("length", f"the newest {gone} slots are not read", prefix(formula, lambda x: x.n - gone))
        if pilot.prefilled:
            words = f"in the chunk from token {gone} on the causal mask is aligned at the top left"
            yield Hypothesis("mask", words, prefix(formula, lambda x: x.n - gone if x.n > gone else x.n))
    if last:
        if formula.window and last > formula.window:
            words = f"the window of {formula.window} slots is not applied: every slot is seen"
            yield Hypothesis("window", words, suffix(lambda x: x.n, formula))
        instead = f", the window is {formula.window}" if formula.window else ""
        words = f"only the last {last} slots are seen{instead}, as by a sliding window" * (not formula.window)
        words = words or f"a window of {last} slots is applied, not of {formula.window}"
        yield Hypothesis("window", words, suffix(lambda x: last, formula))
        gone = n - last
        if gone:
            words = f"the oldest {gone} slots are not read" if gone > 1 else "the oldest slot is not read"
            yield Hypothesis("length", words, suffix(lambda x: x.n - gone, formula))


def over(formula: Formula, slots: Callable[[Query], Iterable[int]]):
    def op(x):
        seen = np.array([*slots(x)], int)
        return attend(x.q, x.k[:, seen], x.v[:, seen], formula)

    return op


def prefix(formula: Formula, count: Callable[[Query], int]):
    """Of the slots that should be seen, those below `count`."""
    return over(formula, lambda x: range(first_slot(x, formula), count(x)))


def suffix(count: Callable[[Query], int], formula: Formula):
    return over(formula, lambda x: range(max(x.n - count(x), 0), x.n))


def without(formula: Formula, slot: Callable[[Query], int]):
    return over(formula, lambda x: (t for t in range(first_slot(x, formula), x.n) if t != slot(x)))


def ends(formula: Formula, kept: int, width: int):
    return over(formula, lambda x: (t for t in range(x.n) if t < kept or t >= x.n - width))


def shown_by_length(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    """Slots missed or added by a rule of the length: slots of zeros, the lengths of other sequences."""
    words = "one slot past the last is read (zeros): the length is one long"
    yield Hypothesis("length", words, lambda x: right(x, formula, zeros=1))
    words = "the newest slot is read before it is written (zeros)"
    yield Hypothesis("stale", words, lambda x: emptied(x, formula))
    yield Hypothesis("length", "only the prompt is read", prefix(formula, lambda x: min(x.prompt, x.n)))
    words = "the prompt is not read, only what came after it"
    yield Hypothesis("length", words, suffix(lambda x: x.n - min(x.prompt, x.n - 1), formula))
    if len(pilot.rows) > 1:
        for words, choose in {"shortest": min, "longest": max, "first": lambda n: n[0]}.items():
            sentence = f"every sequence is read as far as the {words} one, slots past its own being zeros"

            def op(x, choose=choose):
                n = choose([rows[2] for rows in x.rows])
                return prefix(formula, lambda _: n)(x) if n <= x.n else right(x, formula, zeros=n - x.n)

            yield Hypothesis("length", sentence, op)


def in_blocks(formula: Formula, longest: int) -> Iterator[Hypothesis]:
    for block in BLOCKS:
        if block <= longest:  # else nothing at all is read
            skipped = f"the last, partial block of {block} slots is skipped"
            yield Hypothesis("tail", skipped, prefix(formula, lambda x, block=block: x.n // block * block))
        read = f"the last block of {block} slots is read whole (zeros): the tail mask is missing"
        yield Hypothesis("tail", read, lambda x, block=block: right(x, formula, zeros=-x.n % block))


def emptied(x: Query, formula: Formula) -> np.ndarray:
    k, v = (side.copy() for side in live(x, formula))
    k[:, -1] = v[:, -1] = 0
    return attend(x.q, k, v, formula)


def seeing(x: Query, formula: Formula, ahead: int | None = 0, pads=False, low: float = 0.0) -> np.ndarray:
    """The output of a token that sees what a mask should hide.

    ahead  so many tokens of its prompt after it; None: all of them, and padding after them where it is known
    pads   the padding before its sequence too
    low    what is added to the scores of all that it should not see
    """
    start, stop, k, v = first_slot(x, formula), x.n, x.k, x.v
    if x.prefilled and ahead != 0:
        k, v = k[:, : x.prompt], v[:, : x.prompt]
        if x.beyond is not None:
            k, v = np.concatenate([k, x.beyond[0]], 1), np.concatenate([v, x.beyond[1]], 1)
        stop = k.shape[1] if ahead is None else min(x.n + ahead, k.shape[1])
    k, v, hidden = k[:, start:stop], v[:, start:stop], np.arange(start, stop) >= x.n
    if pads and x.pads is not None:
        k, v = np.concatenate([x.pads[0], k], 1), np.concatenate([x.pads[1], v], 1)
        hidden = np.concatenate([np.ones(x.pads[0].shape[1], bool), hidden])
    return attend(x.q, k, v, formula, bias=np.where(hidden, low, 0.0))


def unmasked(pilot: Query, formula: Formula, prefilled: bool) -> Iterator[Hypothesis]:
    """The causal mask or the padding's is missing, aligned wrongly, or too weak to hide anything.

    prefilled  whether the prefill is among what is to be explained, without which no causal mask counts
    """
    every = {"the causal mask": (None, False), "the padding mask": (0, True), "the mask": (None, True)}
    for words, (ahead, pads) in every.items():
        if (ahead is None and not prefilled) or (pads and pilot.pads is None):
            continue
        low = -fitted(lambda c, a=ahead, p=pads: squares(seeing(pilot, formula, a, p, -c), pilot), 0.05, WEAKEST)
        if low < -0.1:  # else it is nothing
            sentence = f"what {words} should hide gets {low:.6g} added, not -infinity"
            yield Hypothesis("mask", sentence, lambda x, a=ahead, p=pads, low=low: seeing(x, formula, a, p, low))
    if pilot.pads is not None:
        words = "the padding before a sequence is attended to"
        yield Hypothesis("padding", words, lambda x: seeing(x, formula, 0, True))
    if pilot.pads is not None and prefilled:
        words = "nothing is masked: a token sees the padding and what comes after it"
        yield Hypothesis("mask", words, lambda x: seeing(x, formula, None, True))
    if prefilled:
        yield from acausal(formula)


def acausal(formula: Formula) -> Iterator[Hypothesis]:
    words = "tokens of the prompt see those after them: the prefill is not causal"
    yield Hypothesis("causal", words, lambda x: seeing(x, formula, None))
    for many in (1, 2, 3):
        sentence = f"a token of the prompt sees {many} after it: the causal mask is {many} too far"
        yield Hypothesis("causal", sentence, lambda x, many=many: seeing(x, formula, many))
    if formula.window:
        whole, wide = replace(formula, window=None), formula.window - 1
        yield Hypothesis("causal", words, lambda x: seeing(x, whole, None))
        yield Hypothesis("causal", f"{words}, its window reaches to both sides", lambda x: seeing(x, formula, wide))
    words = "a token of the prompt sees itself and those after it: the causal mask is transposed"
    yield Hypothesis("causal", words, lambda x: seeing(x, replace(formula, window=1), None))
