"""Records as a Markdown table, for a README or an issue."""

from collections.abc import Iterator, Sequence

from .verdict import TIMES, cell_name, faults, interval, number

HEAD = ("impl", "prefill, ms", "step, ms (p20 … p80)", "tokens/s (95 %)", f"{TIMES} naive (95 %)", "GB/s", "of read")


def markdown(records: Sequence[dict]) -> Iterator[str]:
    """The lines of one table per cell; the rows of the quickest tokens/s first, rows without a figure last."""
    for record in records:
        yield f"**{cell_name(record)}**"
        yield ""
        yield f"| {' | '.join(HEAD)} |"
        yield "|---|" + "---:|" * (len(HEAD) - 1)
        yield from (f"| {' | '.join(cells(row))} |" for row in sorted(record["impls"], key=slowness))
        yield ""
    places = [record["environment"] for record in records]
    commits = {f"{p['commit'] or 'unknown'}{' with changes' * bool(p['dirty'])}" for p in places}
    days = {record["written"][:10] for record in records}
    devices = "; ".join(dict.fromkeys(place["device"] for place in places))
    yield f"{devices}; {', '.join(sorted(days))}; commit {', '.join(sorted(commits))};"
    yield "; ".join(dict.fromkeys(", ".join(f"{k} {v}" for k, v in p["versions"].items() if v) for p in places)) + "."


def slowness(row: dict) -> float:
    """What the rows of a cell are sorted by."""
    rate = row["tokens_per_s"]
    return float("inf") if rate is None or row["refused"] or faults(row) else -rate["median"]


def cells(row: dict) -> list[str]:
    """An impl's row; where there is no figure to believe, the reason."""
    name = f"`{row['impl']}`"
    why = "; ".join(faults(row)) or row["refused"] or ("" if row["step_ms"] else "not timed")
    if why:
        return [name, why.replace("|", "\\|"), *[""] * (len(HEAD) - 2)]
    if row["interpreted"]:
        name += " (interpreter)"
    step, share = row["step_ms"], row["bandwidth_share"]
    return [
        name,
        number(row["prefill_ms"]["median"]),
        f"{number(step['median'])} ({number(step['p20'])} … {number(step['p80'])})",
        f"{number(row['tokens_per_s']['median'])} ({interval(row['tokens_per_s'])})",
        f"{number(row['speedup']['median'])} ({interval(row['speedup'])})",
        number(row["gb_per_s"]),
        f"{share:.0%}",
    ]
