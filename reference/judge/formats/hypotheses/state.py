"""What goes wrong as tokens are appended: stale scales, tokens quantised again, a window off by one."""

from dataclasses import replace
from itertools import accumulate

import numpy as np

from ..computation import RIGHT, round_trip, run, scale_step
from ..format import Format
from ..groups import split
from .base import Hypothesis, always, scaled


def first_scale(f: Format, x, pieces):
    """Every later token is quantised with the scale of the first token."""
    y, given = x.copy(), None
    n = f.quantised(pieces)
    for t in range(n):
        part = x[..., t : t + 1, :]
        if given is None:
            given = scale_step(f, split(part, f.group, f.size), x.dtype)
        y[..., t : t + 1, :] = run(f, part, given=given)
    return y


def first_append(f: Format, x, pieces):
    """Later tokens are quantised with the scales that the first append's last token, or group, had."""
    n, m = f.quantised(pieces), min(pieces[0], f.quantised(pieces))
    y = x.copy()
    y[..., :m, :] = run(f, x[..., :m, :])
    if not f.spans_tokens:
        given = scale_step(f, split(x[..., m - 1 : m, :], f.group, f.size), x.dtype)
        for t in range(m, n):
            y[..., t : t + 1, :] = run(f, x[..., t : t + 1, :], given=given)
    elif f.group in ("head", "tensor"):
        given = scale_step(f, split(x[..., :m, :], f.group, f.size), x.dtype)
        y[..., m:n, :] = run(f, x[..., m:n, :], given=given)
    return y


def first_append_read(f: Format, x, pieces):
    """Later tokens are quantised with their own scales and read with that of the first append's last token."""
    n, m = f.quantised(pieces), min(pieces[0], f.quantised(pieces))
    y = round_trip(f, x, pieces)
    if n > m:
        kept = RIGHT.store(f, scale_step(f, split(x[..., m - 1 : m, :], f.group, f.size), x.dtype), x.dtype)
        steps = RIGHT._replace(decode=lambda f, codes, own, dtype: RIGHT.decode(f, codes, kept, dtype))
        for t in range(m, n):
            y[..., t : t + 1, :] = run(f, x[..., t : t + 1, :], steps)
    return y


def later_read_with(value: float):
    """Scales of later tokens are never written."""

    def apply(f: Format, x, pieces):
        m, n = pieces[0], f.quantised(pieces)
        y = round_trip(f, x, pieces)
        steps = RIGHT._replace(decode=lambda f, c, own, d: RIGHT.decode(f, c, own._replace(s=own.s * 0 + value), d))
        if n > m:
            y[..., m:n, :] = run(f, x[..., m:n, :], steps)
        return y

    return apply


def newest_scale(f: Format, x, pieces):
    """Codes stay, and all are read with the newest append's scale."""
    y, steps = x.copy(), None
    last = x[..., -pieces[-1] :, :]
    kept = RIGHT.store(f, scale_step(f, split(last, f.group, f.size), x.dtype), x.dtype)
    steps = RIGHT._replace(decode=lambda f, codes, own, dtype: RIGHT.decode(f, codes, kept, dtype))
    if f.group not in ("head", "tensor"):
        return x * np.array(np.nan, x.dtype)
    for a, b in f.spans(pieces):
        y[..., a:b, :] = run(f, x[..., a:b, :], steps)
    return y


def own_growth(f: Format, x, pieces):
    return round_trip(replace(f, growth="own" if f.growth == "frozen" else "frozen"), x, pieces)


def again(f: Format, x, pieces):
    """Whenever tokens are quantised, all are: older ones anew, from what they are read back as."""
    y, done, ends = x.copy(), 0, list(accumulate(pieces))
    for i in range(len(ends)):
        n = f.quantised(pieces[: i + 1])
        if n > done:
            y[..., :n, :] = run(f, y[..., :n, :])
            done = n
    return y


def never_again(f: Format, x, pieces):
    """Only the first append is quantised."""
    y = x.copy()
    n = f.quantised(pieces[:1])
    if n:
        y[..., :n, :] = run(f, x[..., :n, :])
    return y


def at_once(f: Format, x, pieces):
    """The first append is quantised whole; of later tokens the newest stay."""
    n, first = f.quantised(pieces), pieces[0]
    y = x.copy()
    y[..., :first, :] = run(f, x[..., :first, :])
    if n > first:
        y[..., first:n, :] = run(f, x[..., first:n, :])
    return y


def windowed(change):
    """Another count of quantised tokens: change(n, T, f)."""

    def apply(f: Format, x, pieces):
        T = int(sum(pieces))
        n = int(np.clip(change(f.quantised(pieces), T, f), 0, T))
        y = x.copy()
        if n:
            y[..., :n, :] = run(f, x[..., :n, :])
        return y

    return apply


def oldest_kept(f: Format, x, pieces):
    y, kept = x.copy(), int(sum(pieces)) - f.quantised(pieces)
    if kept < y.shape[-2]:
        y[..., kept:, :] = run(f, x[..., kept:, :])
    return y


def single_tokens(f: Format, x, pieces):
    """Tokens that leave the window are quantised each for itself: groups of one token, which lose nothing."""
    y, at = x.copy(), 0
    for end in accumulate(pieces):
        n = f.quantised((end,)) if f.window_kind == "sliding" else max(0, end - f.window)
        if n > at:
            y[..., at:n, :] = run(f, x[..., at:n, :])
            at = n
    return y


def per_append(f: Format, x, pieces):
    """Groups of tokens start anew with each append."""
    y, at = x.copy(), 0
    for m in pieces:
        y[..., at : at + m, :] = run(f, x[..., at : at + m, :])
        at += m
    return y


def window(f: Format) -> bool:
    return f.window > 0


def spans(f: Format) -> bool:
    return f.spans_tokens and scaled(f)


HYPOTHESES: tuple[Hypothesis, ...] = (
    Hypothesis("not quantised", "nothing is quantised: numbers come back as they went in", always,
        lambda f, x, pieces: x.copy()),
    Hypothesis("stale scale", "all tokens are quantised with the first token's scale", lambda f: scaled(f) and not
        f.spans_tokens, first_scale),
    Hypothesis("stale scale", "tokens appended later are quantised with the scale of the first append's last token",
        lambda f: scaled(f) and not f.spans_tokens, first_append),
    Hypothesis("stale scale", "tokens appended later are read with the scale of the first append's last token",
        lambda f: scaled(f) and not f.spans_tokens, first_append_read),
    *(Hypothesis("stale scale", f"scales of tokens appended later are never written: they are read as {value:g}",
        lambda f: scaled(f) and not f.spans_tokens, later_read_with(value)) for value in (0.0, 1.0)),
    Hypothesis("stale scale", "tokens appended later are quantised with the first append's scale", lambda f: f.group in
        ("head", "tensor") and f.growth == "own" and scaled(f), first_append),
    Hypothesis("stale scale", "all codes are read with the newest append's scale", lambda f: f.group in ("head",
        "tensor"), newest_scale),
    Hypothesis("scale growth", "each append is quantised with a scale of its own", lambda f: spans(f) and f.growth ==
        "frozen", own_growth),
    Hypothesis("quantised again", "every append quantises older tokens again, from what they are read back as", spans,
        again),
    Hypothesis("not quantised", "only the first append is quantised, later tokens are not", always, never_again),
    Hypothesis("window", "the first append is quantised whole, its newest tokens too", window, at_once),
    Hypothesis("window", "the window keeps one token more", window, windowed(lambda n, T, f: n - 1)),
    Hypothesis("window", "the window keeps one token fewer", window, windowed(lambda n, T, f: n + 1)),
    Hypothesis("window", "there is no window: all tokens are quantised", window, windowed(lambda n, T, f: T)),
    Hypothesis("window", "the window holds the newest tokens always, not what does not fill a block", lambda f:
        f.window_kind == "blocks" and window(f), windowed(lambda n, T, f: T - f.window)),
    Hypothesis("window", "the window holds what does not fill a block, not the newest tokens always", lambda f:
        f.window_kind == "sliding" and window(f), windowed(lambda n, T, f: T // f.window * f.window)),
    Hypothesis("window", "the window keeps the oldest tokens, not the newest", window, oldest_kept),
    Hypothesis("window", "tokens that leave the window are quantised one by one, in groups of one token", lambda f:
        window(f) and f.spans_tokens, single_tokens),
    Hypothesis("newest token", "the newest token is not quantised", lambda f: not window(f),
        windowed(lambda n, T, f: T - 1)),
    Hypothesis("groups", "groups of tokens start anew with each append", lambda f: window(f) and f.spans_tokens,
        per_append),
)  # fmt: skip
