"""A run as lines for a terminal."""

from collections.abc import Iterator, Sequence

from ..report.table import figure, span
from .summary import GROWTH, bars, names, rate, ratio, row_of

MB = 1e6


def about(record: dict) -> str:
    """What a run measured, in a line."""
    cell, asked = record["cell"], record["cell"]["requests"]
    words = [cell["job"], cell["model"], cell["dtype"], f"{cell['threads']} threads"]
    words += [cell["text"]] if cell["text"] else []
    for name in ("prompt_tokens", "new_tokens"):
        if n := asked[name]:
            words.append(
                f"{name.replace('_', ' ')} {min(n)}{f' to {max(n)}' if max(n) > min(n) else ''}, {sum(n):,} in all"
            )
    return "; ".join(words) + ("; LOADED: others might use the machine" if cell["loaded"] else "")


def table(rounds: Sequence[dict]) -> Iterator[str]:
    """The lines of a run, from its rounds."""
    yield about(rounds[0])
    if rounds[0]["memory"]:
        yield from memory(rounds[0]["memory"])
        return
    arms = names(rounds)
    first = arms[0] if rounds[0]["cell"]["job"] == "speculation" else "generate-8" if "generate-8" in arms else arms[0]
    steps = any(row["tokens_per_step"] is not None for row in rounds[0]["arms"])
    yield (
        f"{'arm':20}{'tokens/s':>10}{'p20 - p80':>17}{'95 % of median':>19}{f'vs {first}':>17}{'95 %':>15}"
        + (f"{'could':>8}{'tried':>8}{'right':>7}" if steps else "")
    )
    for arm in arms:
        yield row(rounds, arm, first)
    used = [found["others"] for one in rounds for found in one["arms"] if found["others"] is not None]
    others = f"; others used {sum(used) / len(used):.2f} CPUs on average, {max(used):.2f} at most" if used else ""
    yield f"{len(rounds)} interleaved rounds; new tokens that were asked for, by the wall clock, prompts too{others}"
    if steps:
        yield "could: tokens a step brings to a request if all drafts are tried; tried, right: of the latest round"
    for bar in bars(rounds):
        yield f"  {bar}"


def row(rounds: Sequence[dict], arm: str, first: str) -> str:
    """An arm's figures. `could`: tokens that a step brings to a request where every draft is tried; then the drafts
    that it tried in the latest round, and how many of them were right.
    """
    found, latest = rate(rounds, arm), row_of(rounds, arm)
    if found is None:
        why = latest["parity"]["refused"]
        return f"{arm:20} REFUSED: {why}" if why else f"{arm:20} WRONG, not timed"
    line = f"{arm:20}{figure(found['median'] or 0.0, 10)}{span(found['p20'], found['p80'], 17)}"
    line += span(found["low"], found["high"], 19)
    if against := ratio(rounds, arm, first):
        interval = "" if against["low"] is None else f"{against['low']:.2f} - {against['high']:.2f}"
        line += f"{against['median']:>16.2f}x{interval:>15}"
    if latest["tokens_per_step"] is not None:
        tried, right = latest["drafts"] or (0, 0)
        line += f"{latest['tokens_per_step']:>8.2f}{tried:>8}{f'{right / tried:.0%}' if tried else '':>7}"
    red = latest["parity"]
    return line if red["green"] else f"{line}  RED: {red['differ']} of {red['of']} requests differ"


def memory(found: dict) -> Iterator[str]:
    """The lines of the job memory."""
    (_, start), (_, warm), *_, (_, end) = found["resident"]
    peak = max(size for _, size in found["resident"][1:])
    yield f"  {found['requests']:,} requests after {found['warm_up']:,} that warm up; {found['tokens']:,} new tokens"
    yield f"  resident    {start / MB:.1f} MB before, {warm / MB:.1f} after the warm-up, {peak / MB:.1f} at most since"
    verdict = "met   " if found["growth"] < GROWTH else "MISSED"
    yield f"  {verdict} resident memory grew by {found['growth']:.2%}, to {end / MB:.1f} MB; bar {GROWTH:.0%}"
    most = found["most_blocks"] <= found["blocks"]
    yield f"  {'met   ' if most else 'MISSED'} {found['most_blocks']} blocks in use at most, of {found['blocks']}"
    yield f"  {'MISSED' if found['leaked'] else 'met   '} {found['leaked']} blocks leaked"
    wrong = f"{found['differ']} of {found['checked']} requests that were held to their lone runs differ"
    yield f"  {'MISSED' if found['differ'] else 'met   '} {wrong}; {found['preemptions']} preemptions"


def fine(memory: dict) -> bool:
    """Whether the job memory found what it must."""
    grown = memory["growth"] < GROWTH
    return grown and memory["most_blocks"] <= memory["blocks"] and not memory["leaked"] and not memory["differ"]
