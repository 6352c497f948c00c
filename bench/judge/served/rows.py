"""Two paths' log-probabilities of the same positions, of which a server tells the most probable tokens alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .answers import Row, Token
from .client import ServerError

ENOUGH = 3  # positions that must fit for rows to be taken for those of other positions


@dataclass(frozen=True)
class Compared:
    """What two rows say of the same tokens, most probable in b first: a and b in nats, a[i] and b[i] of tokens[i]."""

    tokens: Sequence[Token]
    a: Sequence[float]
    b: Sequence[float]

    @property
    def apart(self) -> float:
        """The largest difference; infinite where one is NaN."""
        gaps = (math.inf if math.isnan(x - y) else abs(x - y) for x, y in zip(self.a, self.b, strict=True))
        return max(gaps, default=0.0)


def compared(a: Row, b: Row) -> Compared:
    """The tokens that both rows know, and those that one knows and the other's list leaves out.

    Of the latter only a bound is known: no token outside a list is more probable than the last one in it. Where the
    bound is kept the two count as equal, else as apart by what it is exceeded by, the least that they can be.

    Raises ServerError where one names tokens by ids and the other by texts.
    """
    of_a, of_b = a.known, b.known
    if len({type(token) for token in (*of_a, *of_b)}) > 1:
        raise ServerError(
            f"tokens are named by ids and by texts ({a.token!r}, {b.token!r}), which cannot be compared; let the "
            "server name them in one way"
        )
    found = []
    for token in of_a.keys() | of_b.keys():
        if token in of_a and token in of_b:
            found.append((token, of_a[token], of_b[token]))
        elif token in of_a and b.floor is not None:
            found.append((token, of_a[token], least(of_a[token], b.floor)))
        elif token in of_b and a.floor is not None:
            found.append((token, least(of_b[token], a.floor), of_b[token]))
    found.sort(key=lambda x: (-x[2] if not math.isnan(x[2]) else math.inf, str(x[0])))
    return Compared(*(tuple(column) for column in zip(*found, strict=True))) if found else Compared((), (), ())


def least(known: float, bound: float) -> float:
    return known if math.isnan(known) else min(known, bound)


def apart(a: Sequence[Row], b: Sequence[Row]) -> float:
    """The largest difference of two paths at positions that both have; 0 where they have none in common."""
    return max((compared(x, y).apart for x, y in zip(a, b, strict=False)), default=0.0)


def same_context(a: Sequence[Row], b: Sequence[Row]) -> int:
    """How many rows of two generations stand behind the same tokens: those up to the first that differ, and its own."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x.token != y.token:
            return i + 1
    return min(len(a), len(b))


def one_late(before: Row | None, rows: Sequence[Row], decoded: Sequence[Row], within: float) -> bool:
    """Whether a prompt's rows are those of the position after each: what stands at a token follows it.

    before   the row before the first of `rows`
    decoded  the rows of the same tokens from generation
    within   the difference up to which two rows are the same
    """
    if before is None or apart(rows, decoded) <= within:
        return False
    moved = earlier(before, rows)
    seen = [len(compared(x, listed(y)).tokens) > 1 for x, y in zip(moved, decoded, strict=False)]
    return sum(seen) >= ENOUGH and apart(moved, [listed(row) for row in decoded]) <= within


def earlier(before: Row, rows: Sequence[Row]) -> list[Row]:
    """The rows moved by one position to where they belong, without the log-probability of a token that follows."""
    return [listed(row) for row in (before, *rows[:-1])]


def listed(row: Row) -> Row:
    """The row without its own token where that is not among the most probable."""
    floor = row.floor
    top = {key: value for key, value in row.top.items() if floor is None or value >= floor}
    return Row(row.token, None, top, floor)


def arrays(pairs: Sequence[Sequence[Compared]]) -> tuple[np.ndarray, np.ndarray]:
    """a and b (B, n, K) of B sequences of positions, for the judge.

    Shorter sequences repeat their last position and shorter lists their last token, which adds no difference and no
    other number. A list of one token gets what is left to all others, in both: the judge weighs a token against others.
    """
    n, K = max(map(len, pairs)), max(2, *(len(x.tokens) for row in pairs for x in row))
    a, b = np.empty((len(pairs), n, K)), np.empty((len(pairs), n, K))
    for i, row in enumerate(pairs):
        for j in range(n):
            x = row[min(j, len(row) - 1)]
            more, alone = K - len(x.tokens), len(x.tokens) == 1
            a[i, j] = [*x.a, *[rest(x.b[0]) if alone else x.a[-1]] * more]
            b[i, j] = [*x.b, *[rest(x.b[0]) if alone else x.b[-1]] * more]
    return a, b


def rest(logprob: float) -> float:
    """The log-probability of all other tokens together."""
    return math.log(max(-math.expm1(min(logprob, 0.0)), 1e-13)) if not math.isnan(logprob) else 0.0
