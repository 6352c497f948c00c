"""A results file as pictures: tokens per second by arm, what speculation brings by text, resident memory."""

import textwrap
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes

from ..report.canvas import INK, Picture, interval, panels
from .summary import NEVER, SPECULATION, names, rate, rates, ratio, row_of
from .table import MB

# Okabe and Ito's colours, as the other pictures'; hatches differ in grey.
LOOKS = {
    "engine": ("#000000", ""),
    "generate": ("#0072B2", "////"),
    "generate-sorted": ("#56B4E9", "\\\\\\\\"),
    "generate_batch": ("#E69F00", "...."),
    "hf-generate": ("#CC79A7", "xxxx"),
}
DRAFTS = ("#009E73", "#D55E00", "#0072B2", "#CC79A7")
MARKERS = ("o", "s", "^", "D")

Rounds = list[dict]


def latest_runs(records: Sequence[dict]) -> list[Rounds]:
    """The rounds of each run; of runs that measured the same in the same arms, those of the one written last."""
    runs: dict[str, Rounds] = {}
    for record in records:
        runs.setdefault(record["run"], []).append(record)
    last: dict[str, Rounds] = {}
    for rounds in runs.values():
        last[f"{rounds[0]['cell']} {sorted(row['arm'] for row in rounds[0]['arms'])}"] = rounds
    return [sorted(rounds, key=lambda one: one["round"]) for rounds in last.values()]


def pictures(records: Sequence[dict]) -> Iterator[tuple[str, Picture]]:
    """(name, figure) of every job in the records."""
    runs = latest_runs(records)
    for job, draw in (("throughput", throughput), ("speculation", speculation), ("memory", memory)):
        of_job = [rounds for rounds in runs if rounds[0]["cell"]["job"] == job]
        if of_job:
            yield f"requests-{job}", draw(of_job)


def throughput(runs: Sequence[Rounds]) -> Picture:
    """A bar per arm, the median; its interval; a dot per round. RED arms say so."""
    picture, grid = panels("Tokens per second of many requests, by arm", len(runs))
    picture.set_size_inches(picture.get_figwidth(), 1.2 + 4.2 * len(picture.grid))
    for axes, rounds in zip(grid, runs, strict=True):
        arms = names(rounds)
        for place, arm in enumerate(arms):
            found = rate(rounds, arm)
            if found is None:
                continue
            color, hatch = LOOKS.get(arm.rpartition("-")[0], ("#666666", ""))
            axes.barh(place, found["median"] or 0.0, color=color, alpha=0.55, hatch=hatch, edgecolor="white")
            spread(axes, found, place)
            values = rates(rounds, arm)
            axes.plot(values, [place] * len(values), linestyle="none", marker="o", markersize=3, color="0.2")
        axes.set_yticks(range(len(arms)), [label(rounds, arm) for arm in arms], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("new tokens that were asked for, per second")
        axes.set_title(title(rounds), fontsize=9)
    note = "Bars: medians of the rounds; lines: 95 % of the median; dots: every round. RED: not the lone runs' tokens."
    return caption(picture, runs, note)


def label(rounds: Rounds, arm: str) -> str:
    parity = row_of(rounds, arm)["parity"]
    if rate(rounds, arm) is None:
        return f"{arm}: WRONG, not timed"
    return arm if parity["green"] else f"{arm}: RED, {parity['differ']} of {parity['of']}"


def spread(axes: Axes, found: dict, place: float):
    """The interval of a median as a horizontal line; none from a single round."""
    low, high = interval(found)
    axes.plot([low, high], [place, place], color="#D55E00", linewidth=2, solid_capstyle="butt")


def speculation(runs: Sequence[Rounds]) -> Picture:
    """Tokens per second with drafts over without, by text: a panel per model and number of requests at once."""
    groups: dict[tuple, list[Rounds]] = {}
    for rounds in runs:
        groups.setdefault((rounds[0]["cell"]["model"], names(rounds)[0]), []).append(rounds)
    picture, grid = panels("Speculation: tokens per second over those without drafts", len(groups))
    for axes, ((model, base), texts) in zip(grid, groups.items(), strict=True):
        for place, rounds in enumerate(texts):
            for i, arm in enumerate(names(rounds)[1:]):
                if found := ratio(rounds, arm, base):
                    y = place + 0.22 * (i - 0.5)
                    spread(axes, found, y)
                    (mark,) = axes.plot(
                        found["median"] or 0.0, y, marker=MARKERS[i % 4], color=DRAFTS[i % 4], linestyle="none"
                    )
                    picture.keys.setdefault(f"draft {arm.rpartition('-')[2]}", mark)
        axes.set_yticks(range(len(texts)), [could(rounds) for rounds in texts], fontsize=8)
        axes.invert_yaxis()
        axes.axvline(1, color="0.3", linewidth=1)
        for bar in (NEVER, SPECULATION):
            axes.axvline(bar, color="0.6", linewidth=1, linestyle=":")
        axes.set_xlim(left=0)
        axes.set_xlabel("times the tokens per second without drafts")
        axes.set_title(f"{model}, {base.rpartition('-')[2]} at once", fontsize=9)
    picture.legend(list(picture.keys.values()), list(picture.keys), loc="outside right upper", frameon=False)
    note = (
        "Marks: medians of the rounds' ratios; lines: 95 % of the median. Dotted: bars, never below 0.95, 1.5 where "
        "text repeats. In brackets: tokens that a step brings to a request if every draft is tried."
    )
    return caption(picture, runs, note)


def could(rounds: Rounds) -> str:
    """A text's name, and how much it repeats itself: what the arm with most drafts could bring."""
    most = row_of(rounds, names(rounds)[-1])["tokens_per_step"]
    return f"{rounds[0]['cell']['text']} ({most:.1f})"


def memory(runs: Sequence[Rounds]) -> Picture:
    """Resident memory by requests answered, from the warm-up on."""
    picture, grid = panels("Resident memory over many short requests", len(runs))
    for axes, (record,) in zip(grid, runs, strict=True):
        found = record["memory"]
        done, sizes = zip(*found["resident"][1:], strict=True)
        axes.plot(done, [size / MB for size in sizes], color="#0072B2", marker="o", markersize=3)
        axes.set_ylim(0, 1.15 * max(sizes) / MB)
        axes.set_xlabel("requests answered, those of the warm-up included")
        axes.set_ylabel("resident memory, MB")
        blocks = f"at most {found['most_blocks']} of {found['blocks']} blocks in use, {found['leaked']} leaked"
        axes.set_title(f"{record['cell']['model']}: {found['growth']:+.2%}; {blocks}", fontsize=9)
    return caption(picture, runs, "")


def title(rounds: Rounds) -> str:
    cell = rounds[0]["cell"]
    asked, threads = cell["requests"], f"{cell['threads']} threads"
    return f"{cell['model']}, {cell['dtype']}, {threads}\n{len(asked['new_tokens'])} requests of mixed lengths"


def caption(picture: Picture, runs: Sequence[Rounds], note: str) -> Picture:
    """Device, versions, commit, and what the marks are."""
    places = {}
    for rounds in runs:
        e = rounds[0]["environment"]
        dirty = " with changes" if e["dirty"] else ""
        torch, peer = e["versions"].get("torch"), e["versions"].get("transformers")
        places[f"{e['device']}; torch {torch}, transformers {peer}; commit {e['commit'] or 'unknown'}{dirty}"] = None
    loaded = "LOADED: others might use the machine. " * any(rounds[0]["cell"]["loaded"] for rounds in runs)
    text = f"{' · '.join(places)}. {loaded}{note}"
    picture.supxlabel(textwrap.fill(text, int(picture.get_figwidth() * 17)), x=0.01, ha="left", fontsize=7, color=INK)
    return picture
