"""Records as a Markdown table, for a README or an issue: a row per cell, a column per impl."""

from collections.abc import Iterator, Sequence

from .summary import TIMES, cell_name, faults, interval, number, quickest, red_but_timed

CAPTION = f"Tokens per second, prefill included: median (95 % interval), {TIMES} naive; in bold the quickest of a cell."


def markdown(records: Sequence[dict]) -> Iterator[str]:
    """The lines of the table, what its figures are, and where they were measured."""
    impls = list(dict.fromkeys(row["impl"] for record in records for row in record["impls"]))
    yield f"| cell | {' | '.join(f'`{impl}`' for impl in impls)} |"
    yield "|---|" + "---:|" * len(impls)
    for record in records:
        rows = {row["impl"]: row for row in record["impls"]}
        best = quickest(record["impls"])
        figures = [entry(rows[impl], rows[impl] is best) if impl in rows else "" for impl in impls]
        yield f"| {cell_name(record)} | {' | '.join(figures)} |"
    yield ""
    red = any(red_but_timed(row) for record in records for row in record["impls"])
    yield CAPTION + " RED: another library whose rounding exceeds the bar." * red
    places = [record["environment"] for record in records]
    commits = {f"{p['commit'] or 'unknown'}{' with changes' * bool(p['dirty'])}" for p in places}
    days = {record["written"][:10] for record in records}
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in p["versions"].items() if v) for p in places)
    devices = "; ".join(dict.fromkeys(place["device"] for place in places))
    yield f"{devices}; {', '.join(sorted(days))}; commit {', '.join(sorted(commits))}; {'; '.join(versions)}."


def entry(row: dict, best: bool) -> str:
    """An impl's figures in a cell; where there is none to believe, the reason."""
    red = red_but_timed(row)
    why = ("" if red else "; ".join(faults(row))) or row["refused"] or ("" if row["tokens_per_s"] else "not timed")
    if why:
        return why.replace("|", "\\|")
    rate, mark = "RED " * red + number(row["tokens_per_s"]["median"]), "**" * best
    spread = f"by the {row['emulated']}" if row["emulated"] else interval(row["tokens_per_s"])
    gain = f", {number(row['speedup']['median'])}{TIMES}" if row["speedup"] else ""
    return f"{mark}{rate}{mark} ({spread}){gain}"
