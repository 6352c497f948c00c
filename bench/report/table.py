"""A cell's record as lines for a terminal."""

import textwrap
from collections.abc import Iterator

COLUMNS = (
    f"{'impl':12}{'prefill':>9}{'step ms':>10}{'p20 - p80':>17}{'p95':>9}{'95 % of median':>19}"
    f"{'tokens/s':>10}{'vs naive':>9}{'GB/s':>7}{'of read':>8}{'model':>9}"
)


def short(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def figure(value: float, width: int) -> str:
    return f"{short(value):>{width}}"


def span(low: float | None, high: float | None, width: int) -> str:
    return f"{'' if low is None or high is None else f'{short(low)} - {short(high)}':>{width}}"


def row_line(row: dict) -> str:
    """An impl's figures. The model's column is its prediction of the step."""
    if row["refused"]:
        return f"{row['impl']:12} REFUSED: {row['refused']}"
    if not row["runs"]:
        return f"{row['impl']:12} RED, not timed"
    step, predicted = row["step_ms"], row["predicted"]
    line = f"{row['impl']:12}{figure(row['prefill_ms']['median'], 9)}{figure(step['median'], 10)}"
    line += f"{span(step['p20'], step['p80'], 17)}{figure(step['p95'], 9)}{span(step['low'], step['high'], 19)}"
    line += f"{figure(row['tokens_per_s']['median'], 10)}"
    line += f"{row['speedup']['median']:8.2f}x" if row["speedup"] else " " * 9
    line += f"{figure(row['gb_per_s'], 7)}{row['bandwidth_share']:8.0%}"
    line += figure(predicted["step_ms"], 9) if predicted else " " * 9
    line = line.rstrip() + (f"  ({row['emulated']})" if row["emulated"] else "")
    return line if row["parity_before"]["green"] else f"{line}  RED"


def texts(record: dict) -> Iterator[str]:
    """What the impls wrote; they differ only where half precision flips a token."""
    written = {row["impl"]: row["text"] for row in record["impls"] if row["runs"]}
    for text in dict.fromkeys(written.values()):
        yield f"{', '.join(impl for impl in written if written[impl] == text)} wrote:\n{text}\n"


def table(record: dict) -> Iterator[str]:
    """The lines of a timed cell: a row per impl, what must move, why it is so."""
    yield COLUMNS
    for row in record["impls"]:
        yield row_line(row)
    cell, bandwidth = record["cell"], record["bandwidth"]
    megabytes = cell["weight_bytes"] / 1e6, sum(cell["prompt_tokens"]) * cell["kv_bytes_per_token"] / 1e6
    once = "".join(
        f", {row['impl']}'s of {len(row['runs'])}" for row in record["impls"] if 0 < len(row["runs"]) < cell["repeats"]
    )
    note = (
        f"A cached step reads {megabytes[0]:.1f} MB of weights and, at first, {megabytes[1]:.2f} MB of K and V. Memory "
        f"here reads {bandwidth['gb_per_s']:.1f} GB/s at that size. Step: median of all steps of {cell['repeats']} "
        f"interleaved runs{once}, by {cell['clock']}; model: what the cost model predicts."
    )
    yield "\n" + textwrap.fill(note, 118) + "\n"
    yield textwrap.fill(record["explanation"], 118)
