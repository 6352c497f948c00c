"""Report of a results file of bench/decode.py: one HTML page that loads nothing, or tables in Markdown.

    python -m kvproof.bench.report RESULTS [--out FILE.html]
    python -m kvproof.bench.report RESULTS --markdown         tables for a README, on standard output

Exit codes: 0 written, 2 the file cannot be read or drawn, or matplotlib is missing.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kvproof.bench.measure.explain import close
from kvproof.bench.measure.records import read
from kvproof.bench.program import ends, parser_for, refuses
from kvproof.bench.report import page, summary
from kvproof.bench.report.markdown import markdown
from kvproof.bench.report.page import Html, tag
from kvproof.bench.report.summary import NONE, TIMES, cell_name, interval, number
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.progress import Progress

RESULTS = (
    "impl", "prefill, ms", "step, ms", "step p20 … p80, ms", "step p95, ms", "total, ms", "tokens/s",
    f"{TIMES} naive", "GB/s", "of bandwidth", "parity error",
)  # fmt: skip
MODEL = (
    "impl", "launches", "overhead, ms", "+ bytes, ms", "+ flops, ms", "= step, ms", "measured", "ratio",
    "total, ms", "measured", "ratio", "",
)  # fmt: skip
HOW_TO_READ = "Point at a mark or touch it for its exact values, or walk along a line with Tab and the arrow keys."
PICTURES_BYTES = 1_400_000  # of the 2 MB that a page may have


def report(records: Sequence[dict]) -> str:
    models = ", ".join(dict.fromkeys(record["cell"]["model"] for record in records))
    devices = ", ".join(dict.fromkeys(record["environment"]["device"] for record in records))
    return page.page(
        f"GPT-2 decoding with and without a KV cache: {models}",
        page.prose(f"{len(records)} cells on {devices}; the last finished {max(r['written'] for r in records)}."),
        *in_words(records),
        page.section("Every time", results(records)),
        page.section("Pictures", page.prose(HOW_TO_READ), *pictures(records)),
        page.section("Why: the cost model", *cost_model(records)),
        page.section("Memory bandwidth", bandwidth(records)),
        page.section("What was written", *texts(records)),
        page.section("Where and how", *environments(records)),
        page.section("Repeat it", *(page.code(text) for text in unique(record["command"] for record in records))),
    )


def in_words(records: Sequence[dict]) -> Iterable[Html]:
    yield page.section(
        "Verdict",
        *(page.prose(tag("strong", where), text, class_="lead") for where, text in summary.headlines(records)),
        page.bullets([*summary.parity(records), *summary.losses(records), *summary.caveats(records)]),
    )


def results(records: Sequence[dict]) -> Html:
    """Every impl of every cell, in the order they ran; those we lose to, refused and emulated ones included."""
    rows = []
    for record in records:
        cell = record["cell"]
        how = [f"{cell['repeats']} runs", cell["clock"]] + ["L2 flushed"] * cell["flushed"]
        rows.append(f"{cell_name(record)} ({', '.join(how)})")
        best = summary.quickest(record["impls"])
        rows += [row(impl, impl is best) for impl in record["impls"]]
    caption = (
        "Medians; small print: 95 % confidence interval by bootstrap. Prefill is the time to the first new token, "
        f"a step each further one. {TIMES} naive: total time of recomputing everything over this "
        "one's. In bold the quickest of a cell."
    )
    return page.table(RESULTS, rows, caption)


def row(impl: dict, best: bool) -> list[object]:
    """An impl's row of the table; where there is no figure to believe, the reason."""
    name = tag("strong" if best else "span", impl["impl"])
    name += tag("small", f" {impl['emulated']}" if impl["emulated"] else "")
    red, timed = summary.faults(impl), summary.red_but_timed(impl)
    name += tag("small", " RED" if timed else "")
    if red and not timed:
        return [name, f"parity is red {'; '.join(red)}"]
    if impl["refused"]:
        return [name, f"refused: {impl['refused']}"]
    step = impl["step_ms"]
    if step is None:
        return [name, "not timed"]
    share = impl["bandwidth_share"]
    judged = [found for when in ("before", "after") if (found := impl[f"parity_{when}"])]
    return [
        name, figures(impl["prefill_ms"]), figures(step), f"{number(step['p20'])} … {number(step['p80'])}",
        number(step["p95"]), figures(impl["total_ms"]), figures(impl["tokens_per_s"]), figures(impl["speedup"]),
        number(impl["gb_per_s"]), NONE if share is None else f"{number(share * 100)} %",
        number(max((found["error"] for found in judged if found["error"] is not None), default=None)),
    ]  # fmt: skip


def figures(summary: dict | None) -> object:
    if summary is None:
        return NONE
    return tag("span", number(summary["median"]), " ", tag("small", interval(summary)))


def pictures(records: Sequence[dict]) -> Iterable[Html]:
    from kvproof.bench.report.pictures import pictures as draw
    from kvproof.bench.report.svg import svg

    missing, room = [], PICTURES_BYTES
    for name, drawn in draw(records):
        if isinstance(drawn, str):
            missing.append(f"{name}: {drawn}")
        else:
            title, caption = drawn.get_suptitle() or name, drawn.get_supxlabel()
            drawn.suptitle("")  # both are said by the page, in letters that grow with its reader's
            drawn.supxlabel("")
            picture = svg(drawn, title, f"Picture {name}. The tables have its numbers.")
            if len(picture) > room:
                missing.append(f"{name}: the page would grow too big to send; python bench/plots.py draws it")
                continue
            room -= len(picture)
            yield page.figure(picture, page.join([tag("strong", title), Html("<br>"), caption]))
    if missing:
        yield page.details(f"{len(missing)} pictures are not here", page.bullets(missing))


def cost_model(records: Sequence[dict]) -> Iterable[Html]:
    """Its constants, what it predicted beside what was measured, and where it was wrong."""
    yield page.prose(
        f"Time of a step = launches {TIMES} overhead + bytes / bandwidth + flops / rate, from constants alone:"
    )
    for constants in unique(record["constants"] for record in records):
        known = "; ".join(f"{size(b['bytes'])}: {number(b['gb_per_s'])} GB/s" for b in constants["bandwidth"])
        yield page.definitions(
            {
                "Overhead of a launched operation": f"{number(constants['overhead_us'])} µs",
                "Rate of matrix products": f"{number(constants['gflops'])} GFLOP/s",
                "Bandwidth of reading, by working set": known,
                "Measured in": f"{number(constants['measured_in_s'])} s",
            }
        )
    first, *wrong = summary.misses(records)
    yield page.prose(first, "Where it was wrong:" if wrong else "")
    yield page.bullets(wrong) if wrong else Html("")
    rows = []
    for record in records:
        found = summary.predictions(record)
        rows += [cell_name(record)] * bool(found)
        rows += [predicted_row(impl, ratios) for impl, ratios in found]
    yield page.table(
        MODEL, rows, "Predicted and measured. A ratio is predicted over measured; below 1 the model is too fast."
    )
    why = (tag("p", tag("strong", cell_name(record)), Html("<br>"), record["explanation"]) for record in records)
    yield page.details("Each cell, explained in words", *why)


def predicted_row(impl: dict, ratios: dict[str, float]) -> list[object]:
    predicted = impl["predicted"]
    parts = [number(predicted[f"{part}_ms"]) for part in ("overhead", "bytes", "flops", "step")]
    return [
        impl["impl"], NONE if impl["launches"] is None else str(impl["launches"]), *parts,
        number(impl["step_ms"]["median"]), number(ratios["step"]),
        number(predicted["total_ms"]), number(impl["total_ms"]["median"]), number(ratios["total"]),
        "" if close(ratios["total"]) else "wrong",
    ]  # fmt: skip


def bandwidth(records: Sequence[dict]) -> Html:
    """What reading memory was measured to do at each cell's working set."""
    rows = []
    for record in records:
        b = record["bandwidth"]
        speeds = [number(b[name]) for name in ("gb_per_s", "limit_gb_per_s")]
        rows.append([cell_name(record), size(b["working_set_bytes"]), *speeds, b["limit_is"]])
    header = ("cell", "working set", "GB/s, median", "limit, GB/s", "limit is")
    return page.table(
        header, rows, f"A figure above 1.1 {TIMES} the limit is refused. The working set: weights and the full cache."
    )


def size(count: int) -> str:
    """Bytes in the largest decimal unit that leaves a figure of 1 or more."""
    unit = min(3, (len(str(count)) - 1) // 3)
    return f"{number(count / 1000**unit)} {('B', 'kB', 'MB', 'GB')[unit]}"


def texts(records: Sequence[dict]) -> Iterable[Html]:
    """What the first sequence of each model's longest cell became; equal texts are shown once."""
    for model in dict.fromkeys(record["cell"]["model"] for record in records):
        longest = max((r for r in records if r["cell"]["model"] == model), key=lambda r: r["cell"]["new_tokens"])
        found: dict[str, list[str]] = {}
        for impl in longest["impls"]:
            if impl["text"] is not None:
                found.setdefault(impl["text"], []).append(impl["impl"])
        for text, writers in found.items():
            yield page.prose(f"{model}, by {', '.join(writers)}:") + page.code(text)


def environments(records: Sequence[dict]) -> Iterable[Html]:
    for place in unique(record["environment"] for record in records):
        versions = ", ".join(f"{name} {number or 'absent'}" for name, number in place["versions"].items())
        commit = f"{place['commit'] or 'unknown'}{' with changes' if place['dirty'] else ''}"
        facts = {"Device": place["device"], "Commit": commit, "Python": place["python"], "Packages": versions}
        for name in ("cpu", "gpu"):
            known = {key: value for key, value in (place[name] or {}).items() if value is not None}
            if known:
                facts[name.upper()] = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in known.items())
        yield page.join(
            [page.definitions(facts), page.details("torch's collect_env", page.code(place["collect_env"] or "unknown"))]
        )


def unique(items: Iterable) -> list:
    return list({json.dumps(item, sort_keys=True): item for item in items}.values())


@refuses("bench/report")
def main(argv: list[str] | None = None) -> int:
    parser = parser_for("python -m kvproof.bench.report", __doc__)
    parser.add_argument("results", type=Path, help="file of bench/decode.py --results")
    parser.add_argument("--out", type=Path, help="the page (default: RESULTS with the suffix .html)")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown instead of the page")
    args = parser.parse_args(argv)
    out = args.out or args.results.with_suffix(".html")
    records = read(args.results)
    if not records:
        raise ValueError(f"{args.results} holds no record; write some with bench/decode.py --results")
    if args.markdown:
        print("\n".join(markdown(records)))
        return 0
    output_file.check_writable(out)
    with Progress("drawing the page"):
        text = report(records)
    output_file.write(out, text)
    print(out)
    return 0


if __name__ == "__main__":
    ends(main)
