"""The page of bench/gpu: what the GPU showed, in words first, from gpu.json's state alone."""

import json
import statistics
from collections.abc import Iterator
from typing import Any

from ..report.cells import left_out
from ..report.page import bullets, code, details, page, prose, section, table
from ..roofline.compare import compare, in_words, measured_on_gpu

QUANTILES = ("median_us", "p20_us", "p80_us")
REHEARSED = "A REHEARSAL on a CPU with tiny sizes: it shows that bench/gpu runs, and no figure here is a GPU's."


def render(state: dict) -> str:
    title = "kvproof on " + state["environment"]["device"] + (", rehearsed" if state["rehearsed"] else "")
    parts = state["parts"]
    attention = parts.get("attention kernels", {}).get("records", [])
    whole = [record for entry in parts.values() for record in entry.get("records", []) if "cell" in record]
    words = [*trouble(parts), *test_words(parts), *accuracy(attention)]
    if not state["rehearsed"]:  # an emulated kernel has no speed to compare
        gpu = state["environment"].get("gpu")
        name = gpu["name"] if isinstance(gpu, dict) else state["environment"]["device"]
        predicted = in_words(compare(measured_on_gpu(attention, name)))
        words += [*attention_words(attention), *decode_words(whole), *predicted]
    return page(
        title,
        *([prose(REHEARSED, class_="lead")] if state["rehearsed"] else []),
        bullets(words),
        section("What ran", part_table(parts), *failures(parts)),
        section("Decode attention of one layer", *attention_parts(attention)),
        section("Whole models", decode_table(whole)),
        section(
            "Where",
            table(("", "value"), flat(state["environment"]), "The machine and the code."),
            *collected(state["environment"]),
        ),
        section("Again", code("python -m kvproof.bench.gpu" + (" --rehearse" if state["rehearsed"] else ""))),
    )


def trouble(parts: dict) -> Iterator[str]:
    for name, entry in parts.items():
        if entry["status"] in ("failed", "cut short"):
            yield f"{name} {'FAILED' if entry['status'] == 'failed' else 'was cut short'}: {entry['reason']}"


def test_words(parts: dict) -> Iterator[str]:
    for name, entry in parts.items():
        if "counts" in entry:
            counts = ", ".join(f"{n} {end}" for end, n in entry["counts"].items() if n) or "none ran"
            yield f"{name}: {counts}" + (", then the time was over." if entry["status"] == "cut short" else ".")


def believed(records: list[dict]) -> Iterator[tuple[dict, dict]]:
    """(record, {peer: row}) of each shape, with the rows whose figures stand."""
    for record in records:
        rows = {name: row for name, row in record["peers"].items() if "median_us" in row and not row["refused"]}
        if rows:
            yield record, rows


def accuracy(records: list[dict]) -> Iterator[str]:
    worst: dict[str, float] = {}
    for record in records:
        for name, row in record["peers"].items():
            errors = [row[key] for key in ("error_before", "error_after") if row.get(key) is not None]
            worst[name] = max([worst.get(name, 0.0), *errors])
    said = ", ".join(f"{name} {error:.2g}" for name, error in worst.items() if error)
    if said:
        yield f"Largest errors against float64, where rounding explains up to 1: {said}."


def attention_words(records: list[dict]) -> Iterator[str]:
    rivals: dict[str, list[float]] = {}
    shares = []
    for _, rows in believed(records):
        if "kernel" not in rows:
            continue
        shares.append((rows["kernel"]["share_measured"], rows["kernel"]["median_us"]))
        for name, row in rows.items():
            if name != "kernel":
                rivals.setdefault(name, []).append(row["median_us"] / rows["kernel"]["median_us"])
    for name, ratios in rivals.items():
        wins = sum(ratio > 1 for ratio in ratios)
        yield (
            f"Our decode attention is faster than {name} in {wins} of {len(ratios)} shapes: {name} takes "
            f"{statistics.geometric_mean(ratios):.2f} times our time in the geometric mean, from {min(ratios):.2f} "
            f"to {max(ratios):.2f}."
        )
    if shares:
        yield f"At best it reads at {max(shares)[0]:.0%} of the bandwidth measured at the same size, flushed too."
    wrong = [f"{name} at {record['key']}: {row['refused']}" for record in records
             for name, row in record["peers"].items() if row["refused"]]  # fmt: skip
    if wrong:
        yield f"{len(wrong)} figures are refused: " + "; ".join(wrong) + "."


def decode_words(records: list[dict]) -> Iterator[str]:
    for record in records:
        rows = [row for row in record["impls"] if row["step_ms"] and left_out(row) is None]
        if rows:
            best, cell = min(rows, key=lambda row: row["step_ms"]["median"]), record["cell"]
            others = [f"{row['impl']} {row['step_ms']['median']:.3g}" for row in rows if row is not best]
            yield (
                f"{cell['model']}, batch {cell['batch']}{', as a CUDA graph' if cell['graph'] else ''}: {best['impl']} "
                f"takes the least time per step, {best['step_ms']['median']:.3g} ms"
                + (f" ({', '.join(others)})." if others else ".")
            )


def part_table(parts: dict) -> str:
    rows = [
        (name, entry["status"], f"{entry['seconds']:.0f}", f"{entry['given_s']:.0f}",
         "; ".join([entry["reason"] or entry["closing"], *entry.get("left_out", [])]))
        for name, entry in parts.items()
    ]  # fmt: skip
    return table(("part", "ended", "took, s", "given, s", "its last words, or why"), rows, "In the order of the run.")


def failures(parts: dict) -> Iterator[str]:
    failed = [line for entry in parts.values() for line in entry.get("failures", [])]
    if failed:
        yield code("\n".join(failed))
    yield details("Commands", code("\n".join(entry["command"] for entry in parts.values())))


def attention_parts(records: list[dict]) -> Iterator[str]:
    names = list(dict.fromkeys(name for record in records for name in record["peers"]))
    rows: list[Any] = []
    for record in records:
        s = record["shape"]
        shape = f"{s['dtype']} B {s['B']}, T {s['T']}, H {s['H']}, D {s['D']}"
        if record.get("skipped"):
            rows.append((shape, f"skipped: {record['skipped']}"))
            continue
        ours = record["peers"]["kernel"]
        cells = [attention_cell(record["peers"][name]) for name in names]
        share = [f"{ours[key]:.0%}" if ours.get(key) is not None else "-" for key in
                 ("share_measured", "share_datasheet")]  # fmt: skip
        rows.append((shape, *cells, f"{ours['gb_per_s']:.3g}" if "gb_per_s" in ours else "-", *share))
    header = ("shape", *(f"{name}, µs" for name in names), "kernel, GB/s", "of measured", "of datasheet")
    yield table(header, rows, "Median (p20 - p80) of one call; L2 flushed before each; all T slots live.")
    why = {f"{name}: {row['skipped']}" for record in records for name, row in record["peers"].items() if row["skipped"]}
    yield bullets(sorted(why))
    yield prose(
        "Every attention timed was held to the float64 formula before and after, on up to 16 heads of each shape, the "
        "first and the last among them, and all its outputs were finite. Each peer has the cache in the layout it is "
        "written for; laying it out, compiling and planning are not timed, and on a GPU the host enqueues ahead, "
        "so that these are the GPU's times. GB/s counts K and V once."
    )


def attention_cell(row: dict) -> str:
    if row["refused"]:
        return "refused"
    if "median_us" not in row:
        return "-"
    median, p20, p80 = (f"{x:,.0f}" if x >= 1000 else f"{x:.3g}" for x in (row[key] for key in QUANTILES))
    return f"{median} ({p20} - {p80})"


def decode_table(records: list[dict]) -> str:
    rows: list[Any] = []
    for record in records:
        cell = record["cell"]
        steps = "CUDA graph of triton's steps" if cell["graph"] else "launched one by one"
        rows.append(f"{cell['model']}, {cell['dtype']}, batch {cell['batch']}, context {cell['context']}, {steps}")
        rows += [decode_row(row) for row in record["impls"]]
    return table(
        ("impl", "parity", "prefill, ms", "step, ms", "p20 - p80", "tokens/s", "GB/s", "of measured"), rows,
        "Medians. Parity with the float64 oracle before and after timing.",
    )  # fmt: skip


def decode_row(row: dict) -> tuple:
    green = [word["green"] for word in (row["parity_before"], row["parity_after"]) if word]
    parity = "green" if green and all(green) else "RED" if green else "-"
    name = row["impl"] + (f" ({row['emulated']})" if row["emulated"] else "")
    if row["refused"] or not row["step_ms"]:
        return (name, parity, f"refused: {row['refused']}" if row["refused"] else "not timed")
    step = row["step_ms"]
    return (
        name, parity, f"{row['prefill_ms']['median']:.3g}", f"{step['median']:.3g}",
        f"{step['p20']:.3g} - {step['p80']:.3g}", f"{row['tokens_per_s']['median']:.4g}",
        "-" if row["gb_per_s"] is None else f"{row['gb_per_s']:.3g}",
        "-" if row["bandwidth_share"] is None else f"{row['bandwidth_share']:.0%}",
    )  # fmt: skip


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested objects, joined by dots; long texts are left to `collected`."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key != "collect_env" and value is not None:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def collected(environment: dict) -> Iterator[str]:
    if environment.get("collect_env"):
        yield details("torch.utils.collect_env", code(environment["collect_env"]))
