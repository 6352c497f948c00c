"""Speed of the PTX machine, by its native and its NumPy form, beside Triton's interpreter and an older build.

    python bench/emulators.py
    git worktree add ../older 364e8ed && python bench/emulators.py --against ../older --results emulators.json
    python bench/emulators.py --against ../older --rows suite

Each arm has its own process, with every check on. Outputs are checked against the float64 formula, tokens against the
model without a cache; then calls are interleaved. The rows:

    decode  decode attention of 2 sequences
    batch   the same of 32, with the memory that a launch takes; not by the interpreter, which takes minutes
    first   the first launch of a process, Triton's cache and that of compiled code being empty
    tiny    a token of the smallest model by --impl triton
    suite   the tests whose launches took longest, by pytest: time in launches; minutes, so only where asked for

Exit codes: 0 every claim holds; 1 one fails, or parity is red and nothing is timed; 2 wrong usage, or this machine
lacks something. What is claimed against an older build is checked only with --against.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kvproof.bench.builds.judge import Parity, of_attention, of_tokens
from kvproof.bench.builds.process import ENGINE, HERE, Build, Worker, fresh, workers
from kvproof.bench.builds.slowest import launch_seconds, shared
from kvproof.bench.measure.stats import summarize
from kvproof.bench.program import ends, parser_for, refuses, words
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.progress import Progress

SHAPE, BATCH = (2, 12, 1024, 64), (32, 12, 1024, 64)  # B, H, T, D; every slot is filled
DTYPES = ("float32", "float16")
PROMPT, NEW = list(range(1, 33)), 32
SLOWEST, WARM_SUITES = 60, 2
ROWS = ("decode", "batch", "first", "tiny", "suite")


class Bar(NamedTuple):
    """A claim of a row: of the median time of an arm, in multiples of the native one's, or of the native arm's MB."""

    of: str
    least: float | None = None
    most: float | None = None

    def check(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """The claim, with what was found and whether it holds; None where that was not measured."""
        if self.of == "mb":
            found = record["mb"]["native"]
        else:
            found = record["ratio"][self.of]["median"] if self.of in record["ratio"] else None
        if found is None:
            return None
        holds = (self.least is None or found >= self.least) and (self.most is None or found <= self.most)
        return {**self._asdict(), "found": found, "holds": holds}


BARS = {
    "decode": (Bar("old", least=20), Bar("interpret", least=300)),
    "batch": (Bar("old", least=40), Bar("mb", most=300)),
    "first": (Bar("old", least=1 / 1.5),),
    "tiny": (Bar("old", least=10),),
    "suite": (Bar("old", least=8),),
}


class Row(NamedTuple):
    """One comparison.

    ask    by arm, a call: {"ms", "out"} and what else is known of it
    judge  how right an "out" is
    warm   whether a first round only warms up
    """

    name: str
    title: str
    ask: dict[str, Callable[[], dict[str, Any]]]
    judge: Callable[[str], Parity]
    warm: bool = True


def builds(against: Path | None) -> dict[str, Build]:
    """The arms, by name; raises ValueError where `against` is no checkout."""
    arms = {
        "native": Build("native", HERE, {}),
        "numpy": Build("NumPy form", HERE, {ENGINE: "numpy"}),
        "interpret": Build("interpreter", HERE, {"TRITON_INTERPRET": "1"}),
    }
    if against:
        if not (against / "kernels" / "ptx" / "launch.py").exists():
            raise ValueError(f"--against {against}: no checkout of kvproof with a PTX machine")
        about = Build("", against, {}).about()
        arms["old"] = Build((about["commit"] or against.name)[:7], against, {})
    return arms


def attention_rows(name: str, shape: tuple[int, int, int, int], at: dict[str, Worker]) -> Iterator[Row]:
    for dtype in DTYPES:
        title = "decode attention, B={}, H={}, T={}, D={}, ".format(*shape) + dtype
        ask = {arm: partial(worker.ask, "decode", shape=shape, dtype=dtype) for arm, worker in at.items()}
        yield Row(name, title, ask, partial(of_attention, shape, dtype))


def first_rows(arms: dict[str, Build]) -> Iterator[Row]:
    def first(build: Build, dtype: str) -> dict[str, Any]:
        with fresh(build) as worker:
            answer = worker.ask("decode", shape=SHAPE, dtype=dtype)
            return {**answer, "second": worker.ask("decode", shape=SHAPE, dtype=dtype)["ms"]}

    for dtype in DTYPES:
        ask = {arm: partial(first, build, dtype) for arm, build in arms.items()}
        title = f"the first launch from empty caches, {dtype}"
        yield Row("first", title, ask, partial(of_attention, SHAPE, dtype), warm=False)


def rows(names: Iterable[str], arms: dict[str, Build], at: dict[str, Worker]) -> Iterator[Row]:
    compiled = [arm for arm in arms if arm != "interpret"]
    if "decode" in names:
        yield from attention_rows("decode", SHAPE, at)
    if "batch" in names:
        yield from attention_rows("batch", BATCH, {arm: at[arm] for arm in compiled})
    if "first" in names:
        yield from first_rows({arm: arms[arm] for arm in compiled})
    if "tiny" in names:
        ask = {arm: partial(at[arm].ask, "tokens", prompt=PROMPT, new=NEW) for arm in compiled}
        yield Row("tiny", "a token of tiny by --impl triton", ask, partial(of_tokens, PROMPT, NEW))


def compare(row: Row, repeats: int, after: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """The record of a row; after is called after each round. Where parity is red, rounds end and no time is kept.

    ms, and ratio (arm / native, of neighbouring calls), are summaries as bench/measure/stats.py makes them; parity and
    mb are the worst of all calls; same_bits says whether the NumPy form gave what the native one gave.
    """
    rounds, parity, green = [], {}, True
    while green and len(rounds) < repeats + row.warm:
        rounds.append({arm: ask() for arm, ask in row.ask.items()})
        for arm, answer in rounds[-1].items():
            found = row.judge(answer["out"])
            parity[arm] = Parity(*map(max, found, parity.get(arm, found)))
        green = all(one.gates <= 1 for one in parity.values())
        after()
    facts = {"parity": {arm: one._asdict() for arm, one in parity.items()}, "green": green}
    facts["same_bits"] = (
        all(one["numpy"]["out"] == one["native"]["out"] for one in rounds) if "numpy" in parity else None
    )
    return {
        "row": row.name,
        "title": row.title,
        **facts,
        **figures(row.name, rounds[row.warm :] if green else [], rounds),
    }


def figures(name: str, timed: list[dict[str, dict]], rounds: list[dict[str, dict]]) -> dict[str, Any]:
    """What rounds say: times of `timed`, the first call of all and the largest growth of memory."""
    each = {arm: [one[arm] for one in rounds] for arm in rounds[0]}
    ms: dict[str, Any] = {arm: np.array([[one[arm]["ms"]] for one in timed]) for arm in each} if timed else {}
    mb = {arm: [one["mb"] for one in of if one.get("mb") is not None] for arm, of in each.items()}
    record = {
        "ms": {arm: summarize(of) for arm, of in ms.items()},
        "ratio": {arm: summarize(of / ms["native"]) for arm, of in ms.items()},
        "mb": {arm: max(of, default=None) for arm, of in mb.items()},
        "first": {arm: of[0]["ms"] for arm, of in each.items()},
        "engines": {arm: sorted({one[arm].get("engine", "?") for one in timed}) for arm in each},
    }
    if "second" in rounds[0]["native"]:
        record["second"] = {arm: float(np.median([one["second"] for one in of])) for arm, of in each.items()}
    record["claims"] = [found for bar in BARS[name] if (found := bar.check(record))]
    return record


def suite(arms: dict[str, Build], after: Callable[[], object]) -> list[dict[str, Any]]:
    """Records of the slowest tests that all arms have: their launches from empty caches, then with these kept.

    The arms are native and the older build, or the NumPy form where there is none.
    """
    arms = {arm: build for arm, build in arms.items() if arm in ("native", "old" if "old" in arms else "numpy")}
    tests, rounds = shared([build.root for build in arms.values()], SLOWEST), []
    with tempfile.TemporaryDirectory() as caches:
        for _ in range(1 + WARM_SUITES):
            rounds.append({arm: launch_seconds(build, tests, Path(caches) / arm) for arm, build in arms.items()})
            after()
    alike = [t.now for t in tests if len({one[t.now]["launches"] for one in rounds[0].values()}) == 1]
    sums = [{arm: {"ms": 1e3 * sum(of[t]["seconds"] for t in alike)} for arm, of in one.items()} for one in rounds]
    count, launches = len(alike), sum(rounds[0]["native"][t]["launches"] for t in alike)
    records = []
    for title, some in (("from empty caches", sums[:1]), ("with these caches kept", sums[1:])):
        title = f"{count} of the {len(tests)} slowest tests, {launches} launches each time, {title}"
        facts = {"parity": {}, "green": True, "same_bits": None, "tests": alike}
        records.append({"row": "suite", "title": title, **facts, **figures("suite", some, some)})
    return records


def texts(record: dict[str, Any], titles: dict[str, str]) -> list[str]:
    lines = [record["title"]]
    for arm, one in record["parity"].items():
        word = "ok " if one["gates"] <= 1 else "RED"
        lines.append(f"  {titles[arm]:<12} {word} {one['gates']:.2g} of what rounding explains")
    if not record["green"]:
        return [*lines, "  Parity is red, so there are no times: a wrong computation has no speed."]
    if record["same_bits"] is not None:
        lines.append(f"  native and NumPy form: {'the same bits' if record['same_bits'] else 'OTHER BITS'}")
    lines.append(f"  {'ms':<12} {'median':>9}      p20 - p80          x native      MB  engine")
    for arm, ms in record["ms"].items():
        spread, mb = f"{ms['p20']:9.2f} - {ms['p80']:.2f}", record["mb"][arm]
        ratio, engine = record["ratio"][arm]["median"], ", ".join(record["engines"][arm])
        shown = "" if mb is None else f"{mb:.0f}"
        lines.append(f"  {titles[arm]:<12} {ms['median']:9.2f}  {spread:<22} {ratio:8.2f}  {shown:>6}  {engine}")
    for claim in record["claims"]:
        of = "MB of a native launch" if claim["of"] == "mb" else f"{titles[claim['of']]} / native"
        wanted = f"at most {claim['most']:g}" if claim["most"] is not None else f"at least {claim['least']:.3g}"
        lines.append(f"  {'holds' if claim['holds'] else 'FAILS'}: {of} is {claim['found']:.3g}, {wanted}")
    return lines


def holds(record: dict[str, Any]) -> bool:
    """Whether parity was green, the two forms had one result, and every claim that could be checked holds."""
    return record["green"] and record["same_bits"] is not False and all(claim["holds"] for claim in record["claims"])


def measure(arms: dict[str, Build], names: list[str], repeats: int) -> list[dict[str, Any]]:
    """Records of all rows asked for, each printed when it is there."""
    found, titles = [], {arm: build.title for arm, build in arms.items()}
    total = sum(len(DTYPES) * (repeats + 1) for name in names if name in ("decode", "batch", "first"))
    total += (repeats + 1) * ("tiny" in names) + (1 + WARM_SUITES) * ("suite" in names)
    with Progress("rounds", total) as line:
        with workers(arms if {*names} - {"suite", "first"} else {}) as at:
            for row in rows(names, arms, at):
                found.append(compare(row, repeats, line.update))
                line.print("\n".join(texts(found[-1], titles)))
        for record in suite(arms, line.update) if "suite" in names else ():
            found.append(record)
            line.print("\n".join(texts(record, titles)))
    return found


@refuses("bench/emulators.py")
def main(argv: list[str] | None = None) -> int:
    from kvproof.bench.measure.environment import environment, heading

    parser = parser_for("bench/emulators.py", __doc__)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of another commit")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS[:-1]], help="default: all but suite")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls per arm (default %(default)s)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON file for the figures")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; it must be 1 or more")
    try:
        arms = builds(args.against and args.against.resolve())
        if args.results:
            output_file.check_writable(args.results)
    except OSError as error:
        parser.error(f"--results {words(error)}")
    about = environment(torch.device("cpu"), bool(args.results))
    print("\n".join([*heading(about), f"\nevery check on; {args.repeats} calls of each arm, interleaved\n"]))
    found = measure(arms, args.rows, args.repeats)
    if args.results:
        facts = {"bench": "emulators", "rows": args.rows, "repeats": args.repeats, "against": bool(args.against)}
        facts["arms"] = {arm: build.about() for arm, build in arms.items()}
        output_file.write(args.results, json.dumps({**facts, "found": found, "environment": about}, indent=1) + "\n")
    return 0 if all(map(holds, found)) else 1


if __name__ == "__main__":
    ends(main)
