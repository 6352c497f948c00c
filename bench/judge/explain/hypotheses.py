"""Wrong attentions, computed from the right queries, keys and values.

The one that gives a path's wrong output, where its rivals do not, names the bug: see explanation.py. Queries and keys
are the attention's own inputs, in rotary models after the rotation. Every rival is computed from the same numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import ml_dtypes  # and NumPy knows bfloat16 by name
import numpy as np

from .attention_formula import Formula, Hypothesis, Query, attend, first_slot, fitted, live, right, scores, squares
from .slot_hypotheses import in_blocks, shown, shown_by_length, unmasked

NARROW = ("bfloat16", "float16", "float32")  # each one's numbers are, sizes apart, among the next one's
WIDEST = 1e4  # softcap that is looked for
LOST = 16  # last places, at the rms, that an attention computed in a dtype may lose


def hypotheses(pilot: Query, formula: Formula, longest: int, prefilled: bool) -> Iterator[Hypothesis]:
    """Every wrong attention, those with a free number fitted to the `pilot`; no query to be explained has more slots
    than `longest`, and some come from the prefill if `prefilled`."""
    for family in (
        scaled, capped, normalised, shown, shown_by_length, by_heads, by_rows, swapped, biased, narrowed,
    ):  # fmt: skip
        yield from family(pilot, formula)
    yield from in_blocks(formula, longest)
    yield from unmasked(pilot, formula, prefilled)


def scaled(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    H, D = pilot.q.shape
    scale = fitted(
        lambda c: squares(right(pilot, replace(formula, scale=c)), pilot), 1e-3 * formula.scale, 1e3 * formula.scale
    )
    named = {
        1.0: "the scores are not divided by √head_dim",
        1 / D: "the scores are divided by √head_dim twice",
        (H * D) ** -0.5: "the scores are divided by √n_embd, not √head_dim",
    }
    near = [c for c in named if formula.scale == D**-0.5 and np.isclose(scale, c, rtol=1e-4)]
    words = named[near[0]] if near else f"the scores are multiplied by {scale:.4g}, not by {formula.scale:.4g}"
    yield Hypothesis("scale", words, lambda x: right(x, replace(formula, scale=scale)))
    factor = float((pilot.a * pilot.b).sum() / max((pilot.b * pilot.b).sum(), 1e-300))
    if abs(factor) > 1e-6:
        words = f"the attention's output is multiplied by {factor:.4g}"
        yield Hypothesis("scale", words, lambda x: factor * right(x, formula))
    words = "the weights are scaled after the softmax, not the scores before it"
    yield Hypothesis("scale", words, lambda x: formula.scale * right(x, replace(formula, scale=1.0)))
    yield Hypothesis("length", "the output is zero: no slot is read, or it is lost", lambda x: np.zeros(x.q.shape))


def capped(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    if formula.softcap is not None:
        words = f"the softcap of {formula.softcap:.4g} is left out"
        yield Hypothesis("softcap", words, lambda x: right(x, replace(formula, softcap=None)))
    cap = fitted(lambda c: squares(right(pilot, replace(formula, softcap=c)), pilot), 1e-2, WIDEST)
    words = f"the scores have a softcap of {cap:.4g}" + (f", not of {formula.softcap:.4g}" if formula.softcap else "")
    if cap < 0.9 * WIDEST:  # else it is none
        yield Hypothesis("softcap", words, lambda x: right(x, replace(formula, softcap=cap)))


def normalised(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    if formula.sinks is not None:
        bare = replace(formula, sinks=None)
        yield Hypothesis("sinks", "the sinks are left out of the softmax", lambda x: right(x, bare))
    else:
        one = "the softmax's denominator has a 1 more (a sink of score 0)"
        yield Hypothesis("sinks", one, lambda x: right(x, replace(formula, sinks=np.zeros(len(x.q)))))

    def weights(f):
        def op(x):
            k, v = live(x, formula)
            heads = np.arange(len(x.q)) // (len(x.q) // len(k))
            return np.einsum("hn,hnd->hd", f(scores(x.q, k[heads], formula)), v[heads])

        return op

    yield Hypothesis("softmax", "every weight is 1: the softmax runs over another axis", weights(np.ones_like))
    words = "all slots weigh alike: the scores are lost"
    yield Hypothesis("softmax", words, weights(lambda s: np.full_like(s, 1 / s.shape[1])))
    yield Hypothesis("softmax", "the weights are not divided by their sum", weights(np.exp))


def by_heads(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    """Query heads read other heads' keys and values than their own; which ones is read off the pilot."""
    H, H_kv = len(pilot.q), len(pilot.k)
    own = np.arange(H) // (H // H_kv)
    outputs = np.array([right(pilot, formula, heads=np.full(H, g)) for g in range(H_kv)])  # (H_kv, H, D)
    with np.errstate(all="ignore"):
        heads = np.square(outputs - pilot.a).sum(2).argmin(0)
    for g in (heads, np.arange(H) % H_kv):
        if (g != own).any():
            yield Hypothesis("heads", heads_in_words(g, H_kv), lambda x, g=g: right(x, formula, heads=g))


def heads_in_words(heads: np.ndarray, H_kv: int) -> str:
    H = len(heads)
    if (heads == heads[0]).all():
        return f"every head reads head {heads[0]}: the head index is lost"
    if H_kv < H and (heads == np.arange(H) % H_kv).all():
        return "query head h reads head h mod H_kv; it must read h // (H / H_kv)"
    return f"the heads are permuted: query heads 0 to {H - 1} read heads {', '.join(map(str, heads[:16].tolist()))}"


def by_rows(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    if len(pilot.rows) < 2:
        return

    def op(x):
        """The output that is nearest to what came, of all the sequences'."""
        others = [right(x, formula)]
        for row, (k, v, n) in enumerate(x.rows):
            if row != x.row:
                others += [right(replace(x, k=k, v=v, n=m), formula) for m in {min(x.n, k.shape[1]), n}]
        return min(others, key=lambda o: squares(o, x))

    yield Hypothesis("rows", "a sequence reads another one's slots: rows of the batch are mixed", op)


def swapped(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    for words, k_from, v_from in (
        ("the values are read from the keys", 0, 0),
        ("the keys are read from the values", 1, 1),
        ("keys and values are swapped", 1, 0),
    ):

        def op(x, k_from=k_from, v_from=v_from):
            both = live(x, formula)
            return attend(x.q, both[k_from], both[v_from], formula)

        yield Hypothesis("values", words, op)


def biased(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    """ALiBi where there is none.  Source: Press et al. 2022, the slopes of a power of two of heads."""

    def op(x):
        H, first = len(x.q), first_slot(x, formula)
        slopes = 2.0 ** (-8.0 * np.arange(1, H + 1) / H)
        return right(x, formula, bias=-slopes[:, None] * (x.n - 1 - np.arange(first, x.n)))

    yield Hypothesis("bias", "ALiBi's biases are added to the scores", op)


def to_narrow(dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: x.astype(np.float32).astype(dtype).astype(np.float64)


def narrowed(pilot: Query, formula: Formula) -> Iterator[Hypothesis]:
    """Something is kept in a narrower dtype: the result, which then is among its numbers, or what leads to it."""
    moved = np.abs(pilot.a - pilot.b).max() / np.sqrt(np.mean(np.square(pilot.b)))
    for dtype in NARROW:
        narrow = to_narrow(dtype)
        if moved <= LOST * float(ml_dtypes.finfo(dtype).eps) and (narrow(pilot.a) == pilot.a).all():
            words = f"the output, or all of the attention, is kept in {dtype}"
            yield Hypothesis("precision", words, lambda x, narrow=narrow: narrow(x.a))
            return

    def inputs(x, narrow, rounded=None):
        k, v = live(x, formula)
        return attend(narrow(x.q), narrow(k), narrow(v), formula, rounded=rounded)

    for dtype in NARROW:
        narrow = to_narrow(dtype)
        words = f"scores and weights are kept in {dtype}"
        yield Hypothesis("precision", words, lambda x, f=narrow: right(x, formula, rounded=f))
        words = f"queries, keys and values are rounded to {dtype}"
        yield Hypothesis("precision", words, lambda x, f=narrow: inputs(x, f))
        words = f"queries, keys, values, scores and weights are kept in {dtype}"
        yield Hypothesis("precision", words, lambda x, f=narrow: inputs(x, f, f))
        words = f"the scores are rounded to {dtype}"
        yield Hypothesis("precision", words, lambda x, f=narrow: rounded_once(x, formula, f, 0))
        words = f"the weights are rounded to {dtype}"
        yield Hypothesis("precision", words, lambda x, f=narrow: rounded_once(x, formula, f, 1))


def rounded_once(x: Query, formula: Formula, narrow, which: int) -> np.ndarray:
    """The scores alone are rounded, before the softmax (0), or the weights alone, after it (1)."""
    calls = iter(narrow if which == i else lambda s: s for i in (0, 1))
    return right(x, formula, rounded=lambda s: next(calls)(s))
