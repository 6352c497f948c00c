"""The model in words: a table per GPU, one row taken apart, the constants; all Markdown, and as records."""

from collections.abc import Iterator, Sequence

from .gpus import GPU, ISSUE_SLOTS, REGISTERS, SOURCES
from .model import CHUNK, L2_TRIP, NOT_RUN, SPREAD, TRIPS, Prediction
from .work import EPILOGUE, ITEMSIZE, TENSOR, VECTOR

HEADER = (
    "batch", "context", "heads", "K and V, MB", "q + out, MB", "partials, MB w + r", "ideal, µs", "programs",
    "per SM", "waves", f"modelled, µs ({SPREAD})", "bound by", "latency-bound below, MB", "status",
)  # fmt: skip
LEGEND = (
    "Ideal: K, V, scales, q, out, lengths and rows appended over the datasheet's bandwidth. Partials: what splits "
    "write and read, told apart; L2 may keep them. Waves: programs over the seats of all SMs. Latency-bound: below so "
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
    yield (
        "|" + "|".join(f" {cell:{side}{width}} " for cell, side, width in zip(header, sides, widths, strict=True)) + "|"
    )
    yield (
        "|"
        + "|".join("-" * (w + 1) + (":" if side == ">" else "-") for w, side in zip(widths, sides, strict=True))
        + "|"
    )
    for row in rows:
        yield (
            "|"
            + "|".join(f" {cell:{side}{width}} " for cell, side, width in zip(row, sides, widths, strict=True))
            + "|"
        )


def row(p: Prediction) -> tuple[str, ...]:
    """One shape's figures, which end with the words that nothing was run."""
    s, parts = p.shape, p.parts
    heads = str(s.heads) if s.heads == s.n_kv else f"{s.heads}/{s.n_kv}"
    low, middle, high = (short(seconds * 1e6) for seconds in (p.low, p.seconds, p.high))
    return (
        str(len(s.lengths)), str(max(s.lengths)), heads, short((parts["kv"] + parts["scales"]) / 1e6),
        short((parts["q"] + parts["out"]) / 1e6), short((parts["partials_written"] + parts["partials_read"]) / 1e6),
        short(p.ideal * 1e6), str(p.programs), str(p.resident), f"{p.waves:.2f}", f"{middle} ({low} - {high})",
        p.bound, short(p.latency_until / 1e6), NOT_RUN,
    )  # fmt: skip


def taken_apart(p: Prediction) -> str:
    """One shape's modelled time, summand by summand."""
    us = lambda size: short(size / p.gpu.achievable * 1e6)  # noqa: E731
    kv, others = p.parts["kv"] + p.parts["scales"], sum(p.parts.values())
    partials = p.parts["partials_written"] + p.parts["partials_read"]
    dead = f", {p.dead_programs} dead programs {short(p.dead * 1e6)}" if p.dead_programs else ""
    return (
        f"Batch {len(p.shape.lengths)}, context {max(p.shape.lengths)}, {p.shape.engine.name} engine, taken apart "
        f"({NOT_RUN}): bytes {short(p.bytes * 1e6)} µs at {p.gpu.share:.0%} of {p.gpu.bandwidth:g} GB/s (K and V "
        f"{us(kv)}, partials {us(partials)}, the rest {us(others - kv - partials)}), instructions "
        f"{short(p.issue * 1e6)}, waves {short(p.wave * 1e6)}; the largest of the three, and launch and trips to "
        f"memory {short(p.floor * 1e6)}{dead}: {short(p.seconds * 1e6)} µs, ideal {short(p.ideal * 1e6)}."
    )


def describe(gpu: GPU, predictions: Sequence[Prediction]) -> Iterator[str]:
    """One GPU's table, the shapes that its L2 would hold, and its last row taken apart."""
    first = predictions[0].shape
    yield f"## {gpu.name}: modelled, {NOT_RUN}"
    yield ""
    more = f", {first.new_tokens} new tokens" if first.new_tokens > 1 else ""
    appended = ", appended by the same launch" if first.append else ""
    engines = " or ".join(dict.fromkeys(p.shape.engine.name for p in predictions))
    yield f"{first.dtype}, head_dim {first.head_dim}{more}{appended}; {engines} engine."
    yield ""
    yield from pipes(HEADER, [row(p) for p in predictions])
    yield ""
    held = [p for p in predictions if p.minimal <= gpu.l2 * 1e6]
    if held:
        yield f"{len(held)} of {len(predictions)} shapes fit L2 ({gpu.l2:g} MB): warm, they may beat the ideal time."
        yield ""
    yield taken_apart(predictions[-1])


def constants(gpus: Sequence[GPU]) -> Iterator[str]:
    """Every constant of the model in one table, each with its source in words."""
    rows = [
        (what, *(f"{getattr(gpu, name):g}" for gpu in gpus), "", source) for name, (what, source) in SOURCES.items()
    ]
    rows += [(what, *("" for _ in gpus), text, source) for what, text, source in shared()]
    yield "## Constants"
    yield ""
    yield from pipes(("constant", *(gpu.name for gpu in gpus), "all", "source"), rows, "<", "<")


def shared() -> Iterator[tuple[str, str, str]]:
    """(constant, value, source) of what the model takes to be the same on every GPU."""
    yield "registers of an SM", str(REGISTERS), "CUDA programming guide"
    yield "issue slots of an SM", str(ISSUE_SLOTS), "CUDA programming guide; that all are busy, an assumption: at best"
    gate = "the gate of the compiled code, sm_90"
    tile, third = "the launch: 4 loads of 16 bytes of 128 threads", "a third of half the gate, 96 KB per SM"
    for engine, flight in ((VECTOR, tile), (TENSOR, third)):
        yield f"{engine.name}: registers of a thread", str(engine.registers), gate
        yield f"{engine.name}: warps of a program", str(engine.warps), "the launch"
        yield f"{engine.name}: bytes of K in flight per program", str(engine.in_flight), flight
        for dtype, count in engine.instructions.items():
            source = gate if ITEMSIZE[dtype] == 2 else "assumption: as in 16 bits"
            yield f"{engine.name}, {dtype}: instructions per token, KV head and tile, D=64", f"{count:g}", source
    yield "instructions of a program beside its loop", str(EPILOGUE), "assumption: 13 per token of a split of 128"
    yield "trips to L2 of a program beside its loop", str(TRIPS), "assumption: lengths, q, partial, counter"
    yield "a trip to L2, of one to memory", f"{L2_TRIP:g}", "assumption"
    yield "splits combined per trip", str(CHUNK), "the kernel's"
    yield "uncertainty of a modelled time", SPREAD, "assumption"


def record(p: Prediction) -> dict:
    """A prediction as a JSON object: bytes, seconds, and the words that nothing was run."""
    lengths = p.shape.lengths
    shape = vars(p.shape) | {"lengths": list(lengths), "kv_heads": p.shape.n_kv, "capacity": p.shape.slots}
    return {
        "gpu": p.gpu.name,
        "shape": shape,
        "engine": p.shape.engine.name,
        "bytes": p.parts | {"minimal": p.minimal},
        "programs": p.programs,
        "dead_programs": p.dead_programs,
        "programs_per_sm": p.resident,
        "waves": p.waves,
        "ideal_s": p.ideal,
        "modelled_s": {"low": p.low, "middle": p.seconds, "high": p.high},
        "causes_s": {"latency": p.floor, "dead": p.dead, "bytes": p.bytes, "issue": p.issue, "waves": p.wave},
        "bound_by": p.bound,
        "latency_bound_below_bytes": p.latency_until,
        "status": NOT_RUN,
    }
