"""Which cells may share a picture, and which of their rows may stand in it."""

from collections.abc import Iterable, Sequence

NAMES = {"batch": "sequences in the batch", "context": "tokens in the prompt", "new_tokens": "new tokens"}


NOTHING = "no record has a figure that is believed: every row is emulated, refused or red"


class CannotDraw(ValueError):
    """The records hold nothing that this picture shows; the message says what is missing and what would fill it."""


def left_out(row: dict) -> str | None:
    """Why an impl's row is not drawn; None where it is."""
    after = row["parity_after"]
    if row["emulated"]:
        return f"run by the {row['emulated']}, no GPU's time"
    if not row["runs"]:
        return "parity red, not timed"
    if not row["parity_before"]["green"]:
        return "parity red: its rounding exceeds the bar"
    if after is not None and not after["green"]:
        return "parity red after timing"
    return f"refused: {row['refused']}" if row["refused"] else None


def drawn(record: dict) -> dict[str, dict]:
    """The rows of a record that may stand in a picture, by impl, in the record's order."""
    return {row["impl"]: row for row in record["impls"] if left_out(row) is None}


def impls(records: Iterable[dict]) -> list[str]:
    """Every impl that is drawn of these records, each once, in the order they first appear."""
    return list(dict.fromkeys(impl for record in records for impl in drawn(record)))


def setting(record: dict) -> tuple:
    """What must be equal for two records to share a panel."""
    cell = record["cell"]
    return record["environment"]["device"], *(
        cell.get(k) for k in ("model", "dtype", "weights", "clock", "graph", "flushed")
    )


def numbers(cell: dict) -> str:
    """What a cell computes in, in words."""
    return cell["dtype"] + (f", {cell['weights']} weights" if cell.get("weights") else "")


def title(record: dict, records: Sequence[dict], over: str = "") -> str:
    """What a panel's cells have in common: all but `over`; the device too, where `records` come from several."""
    cell = record["cell"]
    several = len({r["environment"]["device"] for r in records}) > 1
    lines = [record["environment"]["device"]] if several else []
    ways = ["CUDA graph"] * cell["graph"] + ["L2 flushed"] * cell["flushed"]
    lines += [", ".join([cell["model"], numbers(cell), *ways])]
    fixed = {
        "batch": f"batch {cell['batch']:,}",
        "context": f"prompt of {cell['context']:,}",
        "new_tokens": f"{cell['new_tokens']:,} new tokens",
    }
    if over != "all":
        lines += [", ".join(text for name, text in fixed.items() if name != over)]
    return "\n".join(lines)


def representatives(records: Sequence[dict]) -> list[dict]:
    """Of each setting one cell: with and without a cache if any has both, then the most new tokens, smallest batch."""
    best: dict[tuple, dict] = {}
    for record in records:
        if drawn(record):
            key = setting(record)
            best[key] = max(best.get(key, record), record, key=rank)
    if not best:
        raise CannotDraw(NOTHING)
    return list(best.values())


def rank(record: dict) -> tuple:
    return len({row["cached"] for row in drawn(record).values()}), *preference(record)


def preference(record: dict, but: str = "") -> list[int]:
    """Of equally long series the one with more new tokens, a smaller batch, a shorter prompt; `but` varies in it."""
    cell = record["cell"]
    return [cell[name] * sign for name, sign in (("new_tokens", 1), ("batch", -1), ("context", -1)) if name != but]


def sweeps(records: Sequence[dict], over: str, least: int = 2) -> list[dict[int, dict]]:
    """Of each setting the longest series of cells that differ in `over` alone: {its value: record}, ascending."""
    fixed = [name for name in NAMES if name != over]
    groups: dict[tuple, dict[tuple, dict[int, dict]]] = {}
    for record in records:
        if drawn(record):
            series = groups.setdefault(setting(record), {})
            series.setdefault(tuple(record["cell"][k] for k in fixed), {})[record["cell"][over]] = record
    if not groups:
        raise CannotDraw(NOTHING)
    best = []
    for series in groups.values():
        longest = max(series.values(), key=lambda cells: (len(cells), *preference(next(iter(cells.values())), over)))
        if len(longest) >= least:
            best.append(dict(sorted(longest.items())))
    if not best:
        option = "--" + over.replace("_", "-")
        raise CannotDraw(f"no {least} cells differ in {NAMES[over]} alone; sweep {option} to fill it")
    return best


def absences(records: Iterable[dict]) -> str:
    """What the records hold and the picture does not, with the reason; impls in another dtype than the cell's."""
    why: dict[tuple[str, str], list[str]] = {}
    other = set()
    for record in records:
        for row in record["impls"]:
            reason = left_out(row)
            if reason is not None:
                why.setdefault((row["impl"], reason.split(":")[0]), []).append(reason)
            elif row["dtype"] != record["cell"]["dtype"]:
                other.add(f"{row['impl']} computes in {row['dtype']}.")
    gaps = [
        f"{impl} ({many[0]})" if len(many) == 1 else f"{impl} in {len(many)} cells ({short})"
        for (impl, short), many in why.items()
    ]
    return " ".join([*(["Left out: " + ", ".join(gaps) + "."] if gaps else []), *sorted(other)])
