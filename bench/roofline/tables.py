"""The model in words: a table per GPU, one row taken apart, the constants; all Markdown, and as records."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from .gpus import GPU, ISSUE_SLOTS, SOURCES
from .kernel import limits
from .model import L2_RATE, L2_TRIP, NOT_RUN, SPREAD, TRIPS, Prediction

HEADER = (
    "batch", "context", "heads", "K and V, MB", "q + out, MB", "partials, MB w + r", "ideal, µs", "programs",
    "per SM", "waves", f"modelled, µs ({SPREAD})", "bound by", "latency-bound below, MB", "status",
)  # fmt: skip
LEGEND = (
    "Ideal: K, V, scales, q, out, lengths and rows appended over the datasheet's bandwidth. Partials: what splits "
    "write and read; L2 may keep them. Waves: programs over the seats of all SMs. Latency-bound: below so "
    f"much K and V, launch and trips to memory take longer than moving it. Every modelled time is {NOT_RUN} on a GPU "
    f"and holds to {SPREAD} at best. MB are 10^6 bytes; L2 is cold."
)


def short(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def pipes(header: Sequence[str], rows: Sequence[Sequence[str]], first: str = ">", last: str = ">") -> Iterator[str]:
    """A Markdown table whose columns also line up in a terminal; `first` and `last` align the outer columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    sides = [first, *">" * (len(widths) - 2), last]
    rule = ["-" * (width + 1) + ("-:"[side == ">"]) for width, side in zip(widths, sides, strict=True)]
    for cells in (header, *rows):
        padded = (f" {cell:{side}{width}} " for cell, side, width in zip(cells, sides, widths, strict=True))
        yield "|" + "|".join(padded) + "|"
        if cells is header:
            yield "|" + "|".join(rule) + "|"


def row(p: Prediction) -> tuple[str, ...]:
    s, parts = p.shape, p.parts
    heads = str(s.heads) if s.heads == s.n_kv else f"{s.heads}/{s.n_kv}"
    low, middle, high = (short(seconds * 1e6) for seconds in (p.low, p.seconds, p.high))
    return (
        str(len(s.lengths)), str(max(s.lengths)), heads, short((parts["kv"] + parts["scales"]) / 1e6),
        short((parts["q"] + parts["out"]) / 1e6), short((parts["partials_written"] + parts["partials_read"]) / 1e6),
        short(p.ideal * 1e6), str(p.programs), str(p.program.resident), f"{p.waves:.2f}", f"{middle} ({low} - {high})",
        p.bound, short(p.latency_until / 1e6), NOT_RUN,
    )  # fmt: skip


def taken_apart(p: Prediction) -> str:
    us = lambda size: short(size / p.gpu.achievable * 1e6)  # noqa: E731
    kv, again, others = p.parts["kv"] + p.parts["scales"], p.parts["kv_again"], sum(p.parts.values())
    partials = p.parts["partials_written"] + p.parts["partials_read"]
    more = f"again from L2 {us(again / L2_RATE)}, " if again else ""
    dead = f", {p.dead_programs} dead programs {short(p.dead * 1e6)}" if p.dead_programs else ""
    return (
        f"Batch {len(p.shape.lengths)}, context {max(p.shape.lengths)}, {p.program.engine} engine, taken apart "
        f"({NOT_RUN}): bytes {short(p.bytes * 1e6)} µs at {p.gpu.share:.0%} of {p.gpu.bandwidth:g} GB/s (K and V "
        f"{us(kv)}, {more}partials {us(partials)}, the rest {us(others - kv - again - partials)}), instructions "
        f"{short(p.issue * 1e6)}, waves {short(p.wave * 1e6)}; the largest of the three, and launch and trips to "
        f"memory {short(p.floor * 1e6)}{dead}: {short(p.seconds * 1e6)} µs, ideal {short(p.ideal * 1e6)}."
    )


def describe(gpu: GPU, predictions: Sequence[Prediction]) -> Iterator[str]:
    """One GPU's table, the shapes that its L2 would hold, and its last row taken apart."""
    first = predictions[0].shape
    yield from (f"## {gpu.name}: modelled, {NOT_RUN}", "")
    more = f", {first.new_tokens} new tokens" if first.new_tokens > 1 else ""
    appended = ", appended by the same launch" if first.append else ""
    yield f"{first.dtype}, head_dim {first.head_dim}{more}{appended}."
    yield from dict.fromkeys(compiled(gpu, p) for p in predictions)
    yield from ("", *pipes(HEADER, [row(p) for p in predictions]), "")
    held = [p for p in predictions if p.minimal <= gpu.l2 * 1e6]
    if held:
        warm = f"{len(held)} of {len(predictions)} shapes fit L2 ({gpu.l2:g} MB): warm, they may beat the ideal time."
        yield from (warm, "")
    yield taken_apart(predictions[-1])


def compiled(gpu: GPU, p: Prediction) -> str:
    """The machine code that the model takes a prediction's programs to be."""
    x = p.program
    like = "" if x.exact else ", the row of the table that is most like this call, by head_dim"
    return (
        f"{x.engine} engine, {x.variant} on sm_{gpu.arch}{like}: {x.registers} registers a thread, {x.warps} warp"
        f"{'s' * (x.warps > 1)} a program, {x.resident} programs per SM, {x.in_flight:,.0f} bytes of K and V in flight "
        f"per program; {short(x.loop)} warp instructions per slot, {short(x.beside)} beside them per split of 128."
    )


def constants(gpus: Sequence[GPU]) -> Iterator[str]:
    """Every constant of the model in one table, each with its source in words."""
    rows = [
        (what, *(f"{getattr(gpu, name):g}" for gpu in gpus), "", source) for name, (what, source) in SOURCES.items()
    ]
    rows += [(what, *("" for _ in gpus), text, source) for what, text, source in shared()]
    yield from ("## Constants", "")
    yield from pipes(("constant", *(gpu.name for gpu in gpus), "all", "source"), rows, "<", "<")


def shared() -> Iterator[tuple[str, str, str]]:
    """(constant, value, source) of what the model takes to be the same on every GPU."""
    yield "issue slots of an SM", str(ISSUE_SLOTS), "CUDA programming guide; that all are busy, an assumption: at best"
    yield "trips to L2 of a program beside its loop", str(TRIPS), "assumption: lengths, q, partial, counter"
    yield "a trip to L2, of one to memory", f"{L2_TRIP:g}", "assumption"
    source = "assumption, for programs that read K and V again"
    yield "what L2 gives, of the achievable bandwidth", f"{L2_RATE:g}", source
    yield "splits combined per trip", str(limits()["chunk"]), "the kernel's"
    yield "uncertainty of a modelled time", SPREAD, "assumption"


def record(p: Prediction) -> dict:
    """A prediction as a JSON object: bytes, seconds, and the words that nothing was run."""
    lengths = p.shape.lengths
    shape = asdict(p.shape) | {"lengths": list(lengths), "kv_heads": p.shape.n_kv, "capacity": p.shape.slots}
    return {
        "gpu": p.gpu.name,
        "shape": shape,
        "program": p.program._asdict(),
        "bytes": p.parts | {"minimal": p.minimal},
        "programs": p.programs,
        "dead_programs": p.dead_programs,
        "waves": p.waves,
        "ideal_s": p.ideal,
        "modelled_s": {"low": p.low, "middle": p.seconds, "high": p.high},
        "causes_s": {"latency": p.floor, "dead": p.dead, "bytes": p.bytes, "issue": p.issue, "waves": p.wave},
        "bound_by": p.bound,
        "latency_bound_below_bytes": p.latency_until,
        "status": NOT_RUN,
    }
