"""Scales of other groups: along the wrong axis, of another head, token or half, of a last group that is not full."""

from dataclasses import replace

import numpy as np

from ..computation import RIGHT, Kept, decode_step, round_trip, run, scale_step
from ..format import Format, regrouped
from ..groups import split
from ..scales import Scale
from .base import Hypothesis, scaled


def read_with_moved(move):
    """Codes are read with the scale that stands elsewhere; move(positions of groups, f, x, pieces) -> positions."""

    def apply(f: Format, x, pieces):
        y = x.copy()
        for a, b in f.spans(pieces):
            y[..., a:b, :] = one_span(f, x[..., a:b, :], move)
        return y

    return apply


def one_span(f: Format, x, move):
    cut = split(x, f.group, f.size)
    order = move(np.arange(len(cut.g)), f, x)
    if order is None:
        return x * np.array(np.nan, x.dtype)

    def decode(f, codes, kept: Kept, dtype):
        moved = kept._replace(s=kept.s[order], low=kept.low[order], zero=kept.zero[order])
        return decode_step(f, codes, moved, dtype)

    return run(f, x, RIGHT._replace(decode=decode))


def group_shape(f: Format, x) -> tuple[int, ...] | None:
    """How the groups of x (B, H, T, D) lie: (B, H, T, blocks) or the like; None where they cross heads."""
    B, H, T, D = x.shape
    blocks = {"row": (B, H, T, 1), "head": (B, H, 1, 1), "block": (B, H, T, -(-D // max(f.size, 1))),
        "channel": (B, H, D, -(-T // (f.size or T)))}  # fmt: skip
    return blocks.get(f.group)


def along(axis: int, by=1):
    def move(at, f, x):
        shape = group_shape(f, x)
        return None if shape is None or shape[axis] < 2 else np.roll(at.reshape(shape), by, axis).ravel()

    return move


def reduced(axis: int):
    """The first one's scale for all of that axis."""

    def move(at, f, x):
        shape = group_shape(f, x)
        if shape is None or shape[axis] < 2:
            return None
        first = np.take(at.reshape(shape), [0], axis)
        return np.broadcast_to(first, shape).ravel()

    return move


def transposed(first: int, second: int):
    """Scales lie with two axes exchanged."""

    def move(at, f, x):
        shape = group_shape(f, x)
        if shape is None or min(shape[first], shape[second]) < 2:
            return None
        return at.reshape(shape).swapaxes(first, second).ravel()

    return move


def halves(at, f, x):
    shape = group_shape(f, x)
    return None if shape is None or shape[0] % 2 else np.roll(at.reshape(shape), shape[0] // 2, 0).ravel()


def swizzled(at, f, x):
    """Scales of four tokens and four blocks lie in a square each, transposed."""
    shape = group_shape(f, x)
    if shape is None or shape[2] % 4 or shape[3] % 4:
        return None
    squares = at.reshape(*shape[:2], shape[2] // 4, 4, shape[3] // 4, 4)
    return squares.swapaxes(3, 5).ravel()


def block_rows(f: Format) -> bool:
    return scaled(f) and f.group == "block"


def many(f: Format) -> bool:
    """A row has several scales."""
    return scaled(f) and f.group in ("block", "channel")


def reads(name, sentence, move, fits=lambda f: f.group in ("row", "block", "channel", "head") and scaled(f)):
    return Hypothesis(name, sentence, fits, read_with_moved(move))


def other_groups(group: str, size=None):
    """Numbers share scales otherwise, in quantising and in reading."""

    def apply(f: Format, x, pieces):
        whole = x.shape[-2] if size is None else size
        other = regrouped(f, group, whole if group == "channel" else f.size)
        y = x.copy()
        for a, b in f.spans(pieces):
            y[..., a:b, :] = run(other, x[..., a:b, :])
        return y

    return apply


def resized(change):
    def apply(f: Format, x, pieces):
        other, y = replace(f, size=max(1, change(f.size))), x.copy()
        for a, b in f.spans(pieces):
            y[..., a:b, :] = run(other, x[..., a:b, :])
        return y

    return apply


def last_group(change):
    """The last group of each row, where it is not full; change(scale of it, of the one before, x) -> y of it."""

    def apply(f: Format, x, pieces):
        y, n = round_trip(f, x, pieces), x.shape[-1] % max(f.size, 1)
        if f.group == "block" and n:
            y[..., -n:] = change(f, x, n)
        return y

    return apply


def of_the_one_before(f: Format, x, n):
    before = x[..., -n - f.size : -n]
    scale = scale_step(f, split(before, "row"), x.dtype)
    return run(regrouped(f, "row"), x[..., -n:], given=Scale(*scale))


def padded_with_zeros(f: Format, x, n):
    full = np.concatenate([x[..., -n:], np.zeros((*x.shape[:-1], f.size - n), x.dtype)], -1)
    return run(regrouped(f, "row"), full)[..., :n]


def block(f: Format) -> bool:
    return f.group == "block"


HYPOTHESES: tuple[Hypothesis, ...] = (
    reads("another head's scale", "codes are read with the scale of the next head", along(1, -1)),
    reads("another head's scale", "codes are read with the scale of the head before", along(1)),
    reads("another head's scale", "codes of all heads are read with the first head's scale", reduced(1)),
    reads("another sequence's scale", "codes of all sequences are read with the first one's scale", reduced(0)),
    reads("keys' and values' scales", "codes of one half of the batch are read with the scales of the other: keys' and "
        "values' are swapped", halves),
    reads("another token's scale", "codes are read with the scale of the next token", along(2, -1),
        lambda f: f.group in ("row", "block")),
    reads("another token's scale", "codes are read with the scale of the token before", along(2),
        lambda f: f.group in ("row", "block")),
    reads("another token's scale", "codes of all tokens are read with the first token's scale", reduced(2),
        lambda f: f.group in ("row", "block")),
    reads("another channel's scale", "codes are read with the scale of the next channel", along(2, -1),
        lambda f: f.group == "channel"),
    reads("another block's scale", "codes are read with the scale of the next block", along(3, -1), many),
    reads("another block's scale", "codes are read with the scale of the block before", along(3), many),
    reads("another block's scale", "codes of all blocks are read with the first block's scale", reduced(3), many),
    reads("scale layout", "scales are stored heads first and read tokens first (transposed)", transposed(1, 2)),
    reads("scale layout", "scales are stored tokens first and read blocks first (transposed)", transposed(2, 3),
        block_rows),
    reads("scale layout", "scales are written in squares of four tokens and four blocks, and read in order", swizzled,
        block_rows),
    *(Hypothesis("axis", f"numbers share a scale per {words}", lambda f, group=group: scaled(f) and f.group != group and
        f.group not in ("flat", "flat-channel"), other_groups(group)) for group, words in (("row", "token and head"),
        ("channel", "channel, over all tokens"), ("head", "head"), ("tensor", "tensor"))),
    Hypothesis("axis", "numbers share a scale per channel of each group of tokens", lambda f: f.group == "block",
        lambda f, x, pieces: other_groups("channel", f.size)(f, x, pieces)),
    Hypothesis("axis", "numbers share a scale per block of a row, not per channel", lambda f: f.group == "channel",
        other_groups("block")),
    Hypothesis("axis", "groups of tokens cross from one sequence or head into the next", lambda f: f.group == "channel",
        lambda f, x, pieces: other_groups("flat-channel")(f, x, pieces)),
    Hypothesis("block size", "blocks are half as large", lambda f: f.size > 1, resized(lambda n: n // 2)),
    Hypothesis("block size", "blocks are twice as large", lambda f: f.size > 0, resized(lambda n: 2 * n)),
    Hypothesis("last group", "a last group that is not full takes the scale of the one before", block,
        last_group(of_the_one_before)),
    Hypothesis("last group", "a last group that is not full is filled with zeros, which count for its range", lambda f:
        block(f) and f.rule == "minmax", last_group(padded_with_zeros)),
    Hypothesis("last group", "a last group that is not full is not quantised", block,
        last_group(lambda f, x, n: x[..., -n:])),
    Hypothesis("last group", "a last group that is not full is lost: zeros", block,
        last_group(lambda f, x, n: x[..., -n:] * 0)),
)  # fmt: skip
