"""Rows of several arms: calls in turns, what each found, the claims on it, and how a terminal shows them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..measure.stats import summarize
from .judge import Parity

FORMS = ("native", "numpy")  # arms that are the engine of this name


class Bar(NamedTuple):
    """A claim of a row: of the median time of an arm, in multiples of another's, or of the native arm's MB."""

    of: str
    least: float | None = None
    most: float | None = None
    over: str = "native"

    def check(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """The claim, with what was found and whether it holds; None where that was not measured."""
        if self.of == "mb":
            found = record["mb"]["native"]
        elif {self.of, self.over} <= {*record["ratio"]}:
            found = record["ratio"][self.of]["median"] / record["ratio"][self.over]["median"]
        else:
            found = None
        if found is None:
            return None
        holds = (self.least is None or found >= self.least) and (self.most is None or found <= self.most)
        return {**self._asdict(), "found": found, "holds": holds and not record["others"]}


class Row(NamedTuple):
    """One comparison.

    ask      by arm, a call: {"ms", "engines", "out"} and what else is known of it
    judge    how right an "out" is
    bars     what is claimed of it
    repeats  the most rounds that are timed
    once     arms that are asked in the first of these alone, since one call takes many seconds
    warm     whether a first round only warms up
    forms    whether the arms of FORMS must have run on that engine alone, or no claim holds
    """

    name: str
    title: str
    ask: dict[str, Callable[[], dict[str, Any]]]
    judge: Callable[[str], Parity]
    bars: tuple[Bar, ...]
    repeats: int = 1000
    once: tuple[str, ...] = ()
    warm: bool = True
    forms: bool = True


def in_turns(arms: dict[str, Any], turn: int) -> dict[str, Any]:
    """The arms, another one first each turn: what stands after another would else always do so."""
    names = [*arms]
    return {name: arms[name] for name in (*names[turn % len(names) :], *names[: turn % len(names)])}


def compare(row: Row, repeats: int, after: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """The record of a row; after is called after each round. Where parity is red, rounds end and no time is kept.

    ms, and ratio (arm / native, of neighbouring calls), are summaries as bench/measure/stats.py makes them; parity and
    mb are the worst of all calls; same_bits says whether the NumPy form gave what the native one gave; engines are all
    that any launch of an arm ran on, others those of them that the arm is not for.
    """
    rounds, parity, green = [], {}, True
    while green and len(rounds) < min(repeats, row.repeats) + row.warm:
        asked = {arm: ask for arm, ask in row.ask.items() if arm not in row.once or len(rounds) == row.warm}
        rounds.append({arm: ask() for arm, ask in in_turns(asked, len(rounds)).items()})
        for arm, answer in rounds[-1].items():
            found = row.judge(answer["out"])
            parity[arm] = Parity(*map(max, found, parity.get(arm, found)))
        green = all(one.gates <= 1 for one in parity.values())
        after()
    facts = {"parity": {arm: one._asdict() for arm, one in parity.items()}, "green": green}
    facts["same_bits"] = (
        all(one["numpy"]["out"] == one["native"]["out"] for one in rounds) if "numpy" in parity else None
    )
    timed = rounds[row.warm :] if green else []
    return {"row": row.name, "title": row.title, **facts, **figures(row.bars, timed, rounds, row.forms)}


def figures(
    bars: tuple[Bar, ...], timed: list[dict[str, dict]], rounds: list[dict[str, dict]], forms: bool = True
) -> dict[str, Any]:
    """What rounds say: times of `timed`, the first call of all, the largest growth of memory, and the claims."""
    each = {arm: [one[arm] for one in rounds if arm in one] for one in rounds for arm in one}
    ms: dict[str, Any] = {arm: summarize([[one[arm]["ms"]] for one in timed if arm in one]) for arm in each if timed}
    ratio = {arm: summarize([[one[arm]["ms"] / one["native"]["ms"]] for one in timed if arm in one]) for arm in ms}
    mb = {arm: [one["mb"] for one in of if one.get("mb") is not None] for arm, of in each.items()}
    engines = {arm: sorted({name for one in of for name in one["engines"]}) for arm, of in each.items()}
    record = {
        "ms": ms,
        "ratio": ratio,
        "mb": {arm: max(of, default=None) for arm, of in mb.items()},
        "first": {arm: of[0]["ms"] for arm, of in each.items()},
        "engines": engines,
        "others": {
            arm: wrong
            for arm in FORMS
            if forms and (wrong := [name for name in engines.get(arm, ()) if name.split()[0] != arm])
        },
    }
    if "second" in rounds[0]["native"]:
        record["second"] = {arm: float(np.median([one["second"] for one in of])) for arm, of in each.items()}
    record["claims"] = [found for bar in bars if (found := bar.check(record))]
    return record


def texts(record: dict[str, Any], titles: dict[str, str]) -> list[str]:
    lines = [record["title"]]
    for arm, one in record["parity"].items():
        word = "ok " if one["gates"] <= 1 else "RED"
        lines.append(f"  {titles[arm]:<12} {word} {one['gates']:.2g} of what rounding explains")
    if not record["green"]:
        return [*lines, "  Parity is red, so there are no times: a wrong computation has no speed."]
    if record["same_bits"] is not None:
        lines.append(f"  native and NumPy form: {'the same bits' if record['same_bits'] else 'OTHER BITS'}")
    tokens = record["row"] == "tiny"
    lines.append(
        f"  {'ms':<12} {'median':>9}      p20 - p80          x native  {'per s' if tokens else '   MB'}  engine"
    )
    for arm, ms in record["ms"].items():
        spread, mb = f"{ms['p20']:9.2f} - {ms['p80']:.2f}", record["mb"][arm]
        ratio, engine = record["ratio"][arm]["median"], ", ".join(record["engines"][arm])
        shown = f"{1e3 / ms['median']:.1f}" if tokens else "" if mb is None else f"{mb:.0f}"
        lines.append(f"  {titles[arm]:<12} {ms['median']:9.2f}  {spread:<22} {ratio:8.2f}  {shown:>6}  {engine}")
    return [*lines, *verdicts(record, titles)]


def verdicts(record: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """What may be claimed of a row, and why not what may not."""
    lines = [f"  FAILS: {titles[arm]} ran on {', '.join(names)}" for arm, names in record["others"].items()]
    for claim in record["claims"]:
        of = "MB of a native launch" if claim["of"] == "mb" else f"{titles[claim['of']]} / {titles[claim['over']]}"
        wanted = f"at most {claim['most']:g}" if claim["most"] is not None else f"at least {claim['least']:.3g}"
        lines.append(f"  {'holds' if claim['holds'] else 'FAILS'}: {of} is {claim['found']:.3g}, {wanted}")
    if "other" in record["ms"]:
        lines.append(f"  no claim: {titles['other']} is not the build that the bars are against, unchanged")
    return lines


def holds(record: dict[str, Any]) -> bool:
    """Whether parity was green, all arms ran what they say, and every claim that could be checked holds."""
    right = record["green"] and record["same_bits"] is not False and not record["others"]
    return right and all(claim["holds"] for claim in record["claims"])
