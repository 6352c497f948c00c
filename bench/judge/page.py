"""An investigation as one page: the verdict, the ladder, where it starts, and pictures of error, slots and margins."""

from collections.abc import Iterator

import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..report import page
from ..report.canvas import Picture, hover
from ..report.page import Html
from ..report.summary import number
from ..report.svg import svg
from .investigation import Investigation

# Okabe and Ito's colours; the five states also differ in lightness.
STATES = {
    "filled and read": "#0072B2",
    "filled, not read": "#D55E00",
    "dead, NaN in it not read": "#DDDDDD",
    "dead, but read": "#000000",
}


def report(found: Investigation, command: str, environment: dict[str, str]) -> str:
    v = found.verdict
    at = found.origin
    starts = [page.prose(f"{found.start}.")] if found.start else []
    starts += [page.prose(f"Seen: {at.seen}.")] if at else []
    explanation = [page.prose(f"Explains it: {at.explanation}.")] if at and at.explanation else []
    unknown = [page.prose(f"Not known is {reason}.") for reason in found.unknown]
    unknown += [page.prose(f"{note[:1].upper()}{note[1:]}.") for note in found.notes]
    return page.page(
        f"{v.verdict}: {found.name_a} against {found.name_b}, {found.numbers}",
        page.section("Verdict", page.prose(f"{v.verdict}. {v.reason}", class_="lead"), *difference(found), *unknown),
        *([page.section("Where it starts", *starts, *explanation)] if starts else []),
        page.section("The ladder", ladder(found)),
        page.section("Pictures", *pictures(found)),
        page.section("Where and how", page.definitions(environment), page.code(command)),
    )


def ladder(found: Investigation) -> Html:
    rows = [[r.dtype, number(r.error), number(r.gate), number(r.noise), r.word, r.note] for r in found.verdict.rungs]
    if found.verdict.op is not None:
        op = found.verdict.op
        rows.append(["attention alone", number(op), "1", "", "green" if op <= 1 else "RED", "in multiples of its gate"])
    header = ("rung", "largest difference", "gate", "measured rounding", "", "note")
    return page.table(header, rows, "In logits. A gate is a calibrated multiple of rounding that was measured here.")


def difference(found: Investigation) -> Iterator[Html]:
    """The difference in the dtype asked for, in units that can be weighed."""
    d = found.verdict.difference
    if d is None:
        return
    risk = "" if found.margins is None else f"; {int(found.margins.at_risk.sum())} of {d.of} could be flipped by it"
    facts = {
        f"Largest difference in {d.dtype}": f"{number(d.largest)} logits, {number(d.relative)} of their rms, "
        f"{number(d.ulps)} ulps",
        "In units of rounding": "not measured" if d.rounding is None else f"{number(d.rounding)} times",
        "KL divergence": f"{number(d.kl_mean)} nats on average, {number(d.kl_max)} at most",
        "Most probable tokens": f"{d.agree} of {d.of} agree{risk}",
    }
    yield page.definitions(facts)
    if d.flips:
        rows = [[str(f.where), f"{f.tokens[0]} for {f.tokens[1]}", number(f.margin), number(f.error)] for f in d.flips]
        yield page.table(("at", "token", "margin", "error there"), rows, "Tokens that differ, smallest margin first.")


def pictures(found: Investigation) -> Iterator[Html]:
    drawn = [
        ("Error of each layer at each position", found.ulps is not None and heat_map(found)),
        ("The cache, slot by slot", found.slots is not None and cache(found)),
        ("How narrowly each token was decided", found.margins is not None and margins(found)),
    ]
    for title, figure in drawn:
        if isinstance(figure, Figure):
            yield page.figure(svg(figure, title, f"{title}. The tables have the numbers."), title)


def heat_map(found: Investigation) -> Figure:
    assert found.ulps is not None
    picture, ulps = Picture(1, 1, ""), np.where(np.isfinite(found.ulps), found.ulps, np.nan)
    axes = picture.grid.flat[0]
    top = max(float(np.nanmax(ulps, initial=0.0)), 1.0)
    low = float(np.nanmin(ulps[ulps > 0], initial=top)) if (ulps > 0).any() else top / 10
    mesh = axes.pcolormesh(
        np.where(ulps > 0, ulps, np.nan), norm=LogNorm(min(low, top / 10), top), cmap="viridis", edgecolors="none"
    )
    picture.colorbar(mesh, ax=axes, label=f"largest error, ulps of {found.dtype} (log)")
    axes.set(xlabel="compared positions, prefill first", ylabel="layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False)
    axes.set_yticks(np.arange(len(ulps)) + 0.5, [str(i) for i in range(len(ulps))])
    y, x = np.indices(ulps.shape).reshape(2, -1)
    (points,) = axes.plot(x + 0.5, y + 0.5, "o", markersize=4, alpha=0, linestyle="none")
    texts = [f"layer {i}, position {j}: {number(float(found.ulps[i, j]))} ulps" for i, j in zip(y, x, strict=True)]
    hover(picture, points, texts)
    return picture


def cache(found: Investigation) -> Figure:
    assert found.slots is not None
    live, read = found.slots.live, found.slots.read
    state = np.select([live & read, live & ~read, ~live & ~read], [0, 1, 2], 3)
    picture = Picture(1, 1, "")
    axes = picture.grid.flat[0]
    axes.pcolormesh(state, cmap=ListedColormap(list(STATES.values())), vmin=-0.5, vmax=3.5, edgecolors="white")
    axes.set(xlabel="slot", ylabel="sequence")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False)
    axes.set_yticks(np.arange(len(state)) + 0.5, [str(i) for i in range(len(state))])
    names = list(STATES)
    for index, (name, colour) in enumerate(STATES.items()):
        if (state == index).any():
            axes.plot([], [], "s", color=colour, label=f"{name}: {int((state == index).sum())}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
    y, x = np.indices(state.shape).reshape(2, -1)
    (points,) = axes.plot(x + 0.5, y + 0.5, "o", markersize=3, alpha=0, linestyle="none")
    hover(picture, points, [f"sequence {b}, slot {t}: {names[state[b, t]]}" for b, t in zip(y, x, strict=True)])
    return picture


def margins(found: Investigation) -> Figure:
    """Each position's margin against its error; below the line the error could flip the token."""
    assert found.margins is not None
    picture = Picture(1, 1, "")
    axes, m = picture.grid.flat[0], found.margins
    error, margin = (np.maximum(x.ravel(), np.finfo(float).tiny) for x in (m.error, m.margin))
    low = max(min(error.min(), margin.min()), 1e-17)
    error, margin = np.maximum(error, low), np.maximum(margin, low)
    ends = np.array([error.min() / 2, error.max() * 2])
    axes.plot(ends, 2 * ends, "--", color="#D55E00", label="margin = 2 errors: below it a token can flip")
    (points,) = axes.plot(error, margin, "o", color="#0072B2", linestyle="none", markersize=5, label="a position")
    texts = [
        f"sequence {b}, position {t}: margin {number(float(m.margin[b, t]))}, error {number(float(m.error[b, t]))}"
        + (", FLIPPED" if m.flipped[b, t] else "")
        for b, t in np.ndindex(m.margin.shape)
    ]
    hover(picture, points, texts)
    axes.set(xscale="log", yscale="log", xlabel="largest error of a logit (log)", ylabel="margin of the token (log)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    return picture
