"""Speed of the PTX machine, by its native and its NumPy form, beside Triton's interpreter and an older build.

    python bench/emulators.py
    git worktree add ../older 364e8ed && python bench/emulators.py --against ../older --results emulators.json
    python bench/emulators.py --against ../older --rows suite

Each arm has its own process, with every check on. Outputs are checked against the float64 formula, tokens against the
model without a cache; then calls are interleaved. The rows:

    decode  decode attention of 2 sequences; once by the interpreter, since it takes many seconds
    batch   the same of 32, with the memory that a launch takes; not by the interpreter, which takes minutes
    shadow  the first with shadow="float64", natively, beside both forms without
    first   the first launch of a process, Triton's cache and that of compiled code being empty
    tiny    a token of the smallest model by --impl triton
    suite   the tests whose launches took longest, by pytest: time in launches; minutes, so only where asked for

The arm `native` refuses a launch without machine code, but in `first` and `suite`, where the engine is left to choose.
The time of a whole `pytest` is not measured here: it takes minutes more, and CI shows it.

Exit codes: 0 every claim holds; 1 one fails, an arm ran on another engine, or parity is red and nothing is timed; 2
wrong usage, or this machine lacks something. What is claimed against the older build, 364e8ed, is checked only where
--against is that commit, unchanged.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kvproof.bench.builds.comparison import FORMS, Bar, Row, compare, figures, holds, in_turns, texts
from kvproof.bench.builds.judge import of_attention, of_tokens
from kvproof.bench.builds.process import ENGINE, HERE, Build, BuildFailed, Worker, fresh, workers
from kvproof.bench.builds.slowest import launch_seconds, shared
from kvproof.bench.program import ends, parser_for, refuses, words
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.progress import Progress

SHAPE, BATCH = (2, 12, 1024, 64), (32, 12, 1024, 64)  # B, H, T, D; every slot is filled
DTYPES = ("float32", "float16")
PROMPT, NEW = list(range(1, 33)), 32
SLOWEST, LEAST_TESTS, WARM_SUITES = 60, 50, 2
BASELINE = "364e8ed"  # that the bars are against
SLOW = 3  # rounds where one takes many seconds
ARMS = {  # of each row
    "decode": (*FORMS, "interpret", "old"),
    "batch": (*FORMS, "old"),
    "shadow": (*FORMS, "shadow"),
    "first": ("native", "old"),
    "tiny": (*FORMS, "old"),
    "suite": ("native", "old"),
}


BARS = {
    "decode": (Bar("old", least=20), Bar("interpret", least=300)),
    "batch": (Bar("old", least=40), Bar("mb", most=300)),
    "shadow": (Bar("shadow", most=3, over="numpy"), Bar("shadow", most=3)),
    "first": (Bar("old", least=1 / 1.5),),
    "tiny": (Bar("old", least=10),),
    "suite": (Bar("old", least=8),),
}


def builds(against: Path | None) -> dict[str, Build]:
    """The arms, by name; the one of `against` is "old" at BASELINE, else "other".

    Raises ValueError where `against` is no checkout.
    """
    arms = {
        "native": Build("native", HERE, {ENGINE: "native"}),
        "numpy": Build("NumPy form", HERE, {ENGINE: "numpy"}),
        "interpret": Build("interpreter", HERE, {"TRITON_INTERPRET": "1"}),
        "shadow": Build("shadow", HERE, {ENGINE: "native"}),
    }
    if against:
        if not (against / "kernels" / "ptx" / "launch.py").exists():
            raise ValueError(f"--against {against}: no checkout of kvproof with a PTX machine")
        about = Build("", against, {}).about()
        title = (about["commit"] or against.name)[:7] + "+" * bool(about["dirty"])
        arms["old" if title == BASELINE else "other"] = Build(title, against, {})
    return arms


def of(row: str, arms: dict[str, Any]) -> dict[str, Any]:
    """Those of a row; a build that is not the old one stands in its place."""
    return {arm: one for arm, one in arms.items() if ("old" if arm == "other" else arm) in ARMS[row]}


def attention_row(name: str, shape: tuple[int, int, int, int], dtype: str, at: dict[str, Worker]) -> Row:
    title = "decode attention, B={}, H={}, T={}, D={}, ".format(*shape) + dtype
    if name == "shadow":
        title += ', with shadow="float64" and without'
    ask = {
        arm: partial(worker.ask, "decode", shape=shape, dtype=dtype, shadow=arm == "shadow")
        for arm, worker in of(name, at).items()
    }
    return Row(name, title, ask, partial(of_attention, shape, dtype), BARS[name], SLOW, once=("interpret",))


def first_row(dtype: str, arms: dict[str, Build]) -> Row:
    def first(build: Build) -> dict[str, Any]:
        with fresh(build._replace(env={})) as worker:
            answer = worker.ask("decode", shape=SHAPE, dtype=dtype)
            return {**answer, "second": worker.ask("decode", shape=SHAPE, dtype=dtype)["ms"]}

    title = f"the first launch from empty caches, {dtype}, the engine left to choose"
    ask = {arm: partial(first, build) for arm, build in of("first", arms).items()}
    judge = partial(of_attention, SHAPE, dtype)
    return Row("first", title, ask, judge, BARS["first"], warm=False, forms=False)


def rows(names: Iterable[str], arms: dict[str, Build], at: dict[str, Worker]) -> Iterator[Row]:
    for name, dtype in ((name, dtype) for name in names for dtype in DTYPES):
        if name == "first":
            yield first_row(dtype, arms)
        elif name in ("decode", "batch", "shadow"):
            yield attention_row(name, BATCH if name == "batch" else SHAPE, dtype, at)
        elif name == "tiny" and dtype == DTYPES[0]:
            ask = {arm: partial(one.ask, "tokens", prompt=PROMPT, new=NEW) for arm, one in of(name, at).items()}
            yield Row(name, "a token of tiny by --impl triton", ask, partial(of_tokens, PROMPT, NEW), BARS[name], SLOW)


def suite(arms: dict[str, Build], after: Callable[[], object]) -> list[dict[str, Any]]:
    """Records of the slowest tests that all arms have: their launches from empty caches, then with these kept.

    The arms are native, its engine left to choose, and the older build, or the NumPy form where there is none. Tests
    that launch more or less often in one of them are dropped; raises BuildFailed where too few are left.
    """
    arms = of("suite", arms) if {"old", "other"} & {*arms} else {arm: arms[arm] for arm in FORMS}
    arms["native"] = arms["native"]._replace(env={})
    tests, rounds = shared([build.root for build in arms.values()], SLOWEST), []
    with tempfile.TemporaryDirectory() as caches:
        for n in range(1 + WARM_SUITES):
            turn = in_turns(arms, n).items()
            rounds.append({arm: launch_seconds(build, tests, Path(caches) / arm) for arm, build in turn})
            after()
    alike = [t.now for t in tests if len({one[t.now]["launches"] for one in rounds[0].values()}) == 1]
    if len(alike) < LEAST_TESTS:
        raise BuildFailed(f"of {len(tests)} tests {len(alike)} launch alike in all builds, under {LEAST_TESTS}")
    dropped, launches = (
        [t.now for t in tests if t.now not in alike],
        sum(rounds[0]["native"][t]["launches"] for t in alike),
    )
    records = []
    for title, some in (("from empty caches", rounds[:1]), ("with these caches kept", rounds[1:])):
        sums = [{arm: summed([of[t] for t in alike]) for arm, of in one.items()} for one in some]
        title = (
            f"{len(tests)} slowest tests that both builds have; {len(alike)} launch alike, {launches} times, {title}"
        )
        facts = {"parity": {}, "green": True, "same_bits": None, "tests": alike, "dropped": dropped}
        facts |= figures(BARS["suite"], sums, sums, forms=False)
        records.append({"row": "suite", "title": title, **facts})
    return records


def summed(tests: list[dict[str, Any]]) -> dict[str, Any]:
    natively = sum(one["native"] for one in tests)
    return {"ms": 1e3 * sum(one["seconds"] for one in tests), "engines": [f"native {natively} times"]}


def measure(arms: dict[str, Build], names: list[str], repeats: int) -> list[dict[str, Any]]:
    """Records of all rows asked for, each printed when it is there."""
    found, titles = [], {arm: build.title for arm, build in arms.items()}
    slow = min(repeats, SLOW) + 1
    total = {**dict.fromkeys(ARMS, len(DTYPES) * slow), "first": len(DTYPES) * repeats, "tiny": slow}
    total |= {"suite": 1 + WARM_SUITES}
    asked = {
        arm: build for arm, build in arms.items() if any(of(name, {arm: 0}) for name in {*names} - {"suite", "first"})
    }
    with Progress("rounds", sum(total[name] for name in names)) as line:
        with workers(asked) as at:
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
    parser.add_argument("--rows", nargs="+", choices=ARMS, default=[*ARMS][:-1], help="default: all but suite")
    parser.add_argument("--repeats", type=int, default=5, help="most timed calls per arm (default %(default)s)")
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
    print("\n".join([*heading(about), "\nevery check on; the arms in turns, another one first each round\n"]))
    found = measure(arms, args.rows, args.repeats)
    if args.results:
        facts = {"bench": "emulators", "rows": args.rows, "repeats": args.repeats, "against": bool(args.against)}
        facts["arms"] = {arm: build.about() for arm, build in arms.items()}
        output_file.write(args.results, json.dumps({**facts, "found": found, "environment": about}, indent=1) + "\n")
    return 0 if all(map(holds, found)) else 1


if __name__ == "__main__":
    ends(main)
