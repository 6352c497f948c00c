"""The contents of wrong slots: other tokens' rows, other heads', rounded ones; each compared number by number."""

from collections.abc import Iterator

import numpy as np

from .explanation import EXPLAINED, Candidate, Explanation, choose
from .hypotheses import to_narrow

KINDS = ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float32")  # what a cache may be kept in
# Of the rows, both as rms: an 8-bit float loses about 0.03 of a row, and another token in its place all.
NARROWED = 0.05
ROWS = 256  # wrong slots that are looked at
FAR = 64  # slots, by which rows may have moved


def cache_extent(wrong: np.ndarray, size: float) -> str:
    """What is seen of a cache whose slots (B, T, 2 H_kv) are wrong by `size` of its rms."""
    rows, slots = np.nonzero(wrong.any(2))
    half = wrong.shape[2] // 2
    what = [name for name, part in (("keys", wrong[:, :, :half]), ("values", wrong[:, :, half:])) if part.any()]
    first = int(rows[0])
    mine = slots[rows == first].tolist()
    listed = f"slot {mine[0]}" if len(mine) == 1 else f"slots {spans(mine)}"
    others = len(set(rows.tolist())) - 1
    more = f" and of {others} more" if others else ""
    verb = "holds" if len(mine) == 1 and not others else "hold"
    by = f"by {size:.1e} of their rms" if np.isfinite(size) else "some of them NaN or nothing at all"
    return f"in the cache {listed} of sequence {first}{more} {verb} other {' and '.join(what)}, {by}"


def spans(numbers: list[int], most: int = 4) -> str:
    """Numbers in order as ranges: 3 to 7, 9."""
    runs: list[list[int]] = []
    for x in numbers:
        if runs and x == runs[-1][1] + 1:
            runs[-1][1] = x
        else:
            runs.append([x, x])
    words = [str(low) if low == high else f"{low} to {high}" for low, high in runs[:most]]
    return ", ".join(words) + (", …" if len(runs) > most else "")


def explain_cache(a: np.ndarray, b: np.ndarray, wrong: np.ndarray) -> Explanation | None:
    """What the wrong slots of a, (B, T, 2 H_kv, D) as b, hold; wrong (B, T, 2 H_kv).

    None where nothing that is tried gives their numbers, where too much does, or they are not finite.
    """
    rows, slots = (x[:ROWS] for x in np.nonzero(wrong.any(2)))
    half = a.shape[2] // 2
    parts = {"keys": slice(0, half), "values": slice(half, 2 * half), "keys and values": slice(0, 2 * half)}
    changed = [name for name in ("keys", "values") if wrong[:, :, parts[name]].any()]
    words = changed[0] if len(changed) == 1 else "keys and values"
    heads = parts[words]
    came, right = a[rows, slots][:, heads], b[rows, slots][:, heads]
    if not np.isfinite(came).all():
        return None
    both = len(changed) == 2
    size = np.abs(came - right).max()

    def candidate(name: str, sentence: str, other: np.ndarray) -> Candidate:
        left = np.abs(came - other).max() / size
        return Candidate(name, sentence, float(left) if np.isfinite(left) else np.inf)

    tried = [candidate(*x) for x in moved(b[:, :, heads], came, rows, slots, words)]
    tried += [candidate(*x) for x in turned(b[rows, slots], heads, words) if both or "swapped" not in x[1]]
    tried += [candidate(*x) for x in narrowed(came, right, words)]
    rms = np.sqrt(np.mean(np.square(b[:, :, heads])))
    size_in_rms = float(size / (rms or 1.0))
    return choose(tried, size_in_rms) or choose(owned(b[:, :, heads], came, rows, slots, words, size), size_in_rms)


def moved(b: np.ndarray, came: np.ndarray, rows, slots, words: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """Rows of other tokens or sequences of b (B, T, heads, D) in the slots (rows, slots), which hold `came`."""
    B, T = b.shape[:2]
    first = np.array([slots[rows == row].min() for row in range(B) if (rows == row).any()])
    first = first[np.unique(rows, return_inverse=True)[1]]  # each wrong slot's sequence's first wrong one
    for by in range(-min(FAR, T - 1), min(FAR, T - 1) + 1):
        at = slots - by
        tokens = f"token {abs(by)} {'before' if by > 0 else 'after'} it"
        late = f"they stand {abs(by)} slot{'s' * (abs(by) > 1)} {'late' if by > 0 else 'early'}"
        inside = (at >= 0) & (at < T) & b[rows, at.clip(0, T - 1)].any((1, 2))  # past a sequence's end are zeros
        written = inside & (at >= first)  # before the first wrong slot nothing need have moved
        for known, least in ((inside, 0.75), (written, 0.5)):
            if by and known.mean() >= least:
                beside = ", beside rows of no token of the sequence (padding, a rejected draft, an earlier run's)"
                other = np.where(known[:, None, None], b[rows, at.clip(0, T - 1)], came)
                sentence = f"a slot holds the {words} of the {tokens}: {late}{beside * bool(came[~known].any())}"
                yield "length", sentence, other
                if np.abs(other - came).max() <= EXPLAINED * np.abs(b[rows, slots] - came).max():
                    break
    for by in range(1, B):
        words_rows = f"a sequence's slots hold another one's {words}: rows of the batch are mixed"
        yield "rows", words_rows, b[(rows + by) % B, slots]
    for one in range(min(B, 8)):
        yield "rows", f"every sequence's slots hold the {words} of sequence {one}", b[np.full_like(rows, one), slots]


def owned(b: np.ndarray, came: np.ndarray, rows, slots, words: str, size: float) -> Iterator[Candidate]:
    """Of which tokens of b (B, T, heads, D) the wrong slots' rows `came` are, each by itself; and the next nearest."""
    T = b.shape[1]
    known = b.reshape(-1, *b.shape[2:])
    known_at = np.flatnonzero(np.abs(known).max((1, 2)) > 0)
    far = np.array([np.abs(known[known_at] - x).max((1, 2)) for x in came])  # (wrong, known)
    nearest = far.argmin(1)
    least = far.min(1)
    others = np.where(far > least[:, None] + EXPLAINED * size, far, np.inf).min(1)
    pairs = [
        f"slot {slot} of sequence {row} that of token {at % T}" + f" of sequence {at // T}" * (at // T != row)
        for row, slot, at in zip(rows[:3].tolist(), slots[:3].tolist(), known_at[nearest[:3]].tolist(), strict=True)
    ]
    sentence = f"slots hold {words} of other tokens: {', '.join(pairs)}{', …' * (len(rows) > 3)}"
    yield Candidate("slots", sentence, float(least.max() / size))
    yield Candidate("slots", "the next nearest tokens'", float(others.min() / size))


def turned(right: np.ndarray, heads: slice, words: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """Keys for values, one head's rows for another's, of the right slots (wrong, 2 H_kv, D)."""
    half = right.shape[1] // 2
    k, v = right[:, :half], right[:, half:]
    for sentence, pair in (
        ("the cache holds keys and values swapped", (v, k)),
        ("the cache holds keys for values", (k, k)),
        ("the cache holds values for keys", (v, v)),
    ):
        yield "values", sentence, np.concatenate(pair, 1)[:, heads]
    for shift in range(1, half):
        rolled = np.concatenate([np.roll(k, shift, 1), np.roll(v, shift, 1)], 1)
        yield "heads", f"the cache holds each head's {words} under another head", rolled[:, heads]
    flipped = np.concatenate([k[:, ::-1], v[:, ::-1]], 1)
    if half > 2:
        yield "heads", f"the cache holds each head's {words} under another head", flipped[:, heads]


def narrowed(came: np.ndarray, right: np.ndarray, words: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """The right rows in a narrower dtype, as zeros, as multiples of themselves."""
    yield "stale", f"the slots' {words} are zeros: nothing has been written to them", np.zeros_like(came)
    if not np.abs(came).max(initial=0) < 1e100:  # what nobody wrote, or NaN: no form of the right rows
        return
    factor = float((came * right).sum() / max((right * right).sum(), 1e-300))
    if abs(factor) > EXPLAINED:
        yield "values", f"the {words} are multiplied by {factor:.4g}", factor * right
    near = np.square(came - right).mean() < NARROWED**2 * np.square(right).mean()
    for dtype in KINDS:
        narrow = to_narrow(dtype)
        if near and (narrow(came) == came).all():
            # Which of two neighbours a row was rounded to is the cache's own affair; that it is one of them decides.
            yield "precision", f"the cache keeps {words} in {dtype}", came
            return
    for dtype in KINDS:
        yield "precision", f"the cache keeps {words} in {dtype}", to_narrow(dtype)(right)
    largest = np.abs(right).max(-1, keepdims=True)
    steps = came / np.where(largest == 0, 1, largest) * 127
    if near and np.abs(steps - steps.round()).max() < EXPLAINED:
        yield "precision", f"the cache keeps {words} in 8 bits, a scale for each row", came
