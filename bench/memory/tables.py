"""The tables of bench/memory: sizes by length, waste by page, what fits a GPU; as lines of text and as records."""

import argparse

from .sizes import Shape, cache_bytes, largest_batch, longest_context, read_shape, waste

OVERVIEW = ("distilgpt2", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "gpt3")
MB, MIB = 1e6, 2**20


def default_contexts(shape: Shape) -> list[int]:
    """128 ... 8192 for contexts below 2048, else 1024 ... 32768 or n_ctx."""
    low, high = (128, 8192) if shape.n_ctx < 2048 else (1024, max(32768, shape.n_ctx))
    return [low << i for i in range((high // low).bit_length())]


def size(count: float, unit: str) -> str:
    scale = 1 if unit == "M" else 1000
    return f"{count / MB / scale:,.2f} ({count / MIB / (1 if unit == 'M' else 1024):,.2f})"


def describe(shape: Shape, contexts: list[int], args: argparse.Namespace) -> list[str]:
    weights = "not known" if shape.parameters is None else f"{shape.parameters:,} parameters"
    lines = [
        f"{shape.name}: {shape.heads()}, n_ctx {shape.n_ctx:,}; weights {weights}",
        *(f"note: {note}" for note in shape.notes),
        "one token, K and V of all layers: " + ", ".join(f"{shape.token_bytes(d):,} bytes {d}" for d in args.dtype),
    ]
    unit = "G" if args.batch[-1] * contexts[-1] * shape.token_bytes(args.dtype[0]) >= 1e10 else "M"
    lines += ["", f"K and V{', scales' if 'int8' in args.dtype else ''} of a contiguous cache, {unit}B ({unit}iB)"]
    lines.append(f"{'batch':>6} {'tokens':>8}" + "".join(f"{dtype:>24}" for dtype in args.dtype))
    for batch in args.batch:
        for n in contexts:
            cells = (f"{size(batch * n * shape.token_bytes(dtype), unit):>24}" for dtype in args.dtype)
            lines.append(f"{batch:>6} {n:>8,}" + "".join(cells) + (" *" if n > shape.n_ctx else ""))
    if contexts[-1] > shape.n_ctx:
        lines.append(f"* arithmetic only: the model itself stops at n_ctx {shape.n_ctx:,}")
    lines += ["", *paging(shape, min(contexts[-1], shape.n_ctx), args)]
    for gb in args.gpu:
        lines += ["", *fit(shape, gb, contexts, args)]
    return lines


def paging(shape: Shape, capacity: int, args: argparse.Namespace) -> list[str]:
    batch, dtype = args.batch[-1], args.dtype[0]
    lines = [
        f"held but not filled, batch {batch}, {dtype}, lengths 1 … {capacity:,} each as likely",
        f"{'layout':>12} {'mean slots':>11} {'worst':>7} {'mean MB':>12} {'of what is held':>16} {'table, list':>12}",
    ]
    for page in (None, *args.page):
        mean, worst = waste(capacity, page)
        live = (capacity + 1) / 2
        extra = "-"
        if page:
            parts = cache_bytes(shape, "paged", batch, capacity, dtype, page)
            extra = f"{parts['block_table'] + parts['free_list']:,} B"
        lost = batch * mean * shape.token_bytes(dtype) / MB
        layout = f"page {page}" if page else "contiguous"
        share = mean / (mean + live)
        lines.append(f"{layout:>12} {mean:>11,.2f} {worst:>7,} {lost:>12,.3f} {share:>16.2%} {extra:>12}")
    return lines


def fit(shape: Shape, gb: int, contexts: list[int], args: argparse.Namespace) -> list[str]:
    """Longest context by batch and largest batch by context on a GPU of gb * 10^9 bytes, after the weights."""
    lines = [
        f"fits a GPU of {gb} GB (10^9 bytes, {gb * 1e9 / 2**30:.2f} GiB) beside the weights; activations, the CUDA "
        "context and fragmentation are not counted"
    ]
    layouts = [None, *args.page]
    heads = ["contiguous" if page is None else f"page {page}" for page in layouts]
    for dtype in args.dtype:
        room = gb * 10**9 - shape.weight_bytes(dtype)
        beside = "bfloat16" if dtype == "int8" else dtype
        if room <= 0:
            lines.append(f"  {dtype}: nothing; the weights in {beside} take {shape.weight_bytes(dtype) / 1e9:,.2f} GB")
            continue
        lines.append(f"  {dtype}, {room / 1e9:.2f} GB ({room / 2**30:.2f} GiB) left by the weights in {beside}")
        lines.append(f"  {'':20}" + "".join(f"{head:>16}" for head in heads))
        for batch in args.gpu_batch:
            longest = [longest_context(shape, room, batch, dtype, page) for page in layouts]
            stars = "".join(f"{n:>15,}{'*' if n > shape.n_ctx else ' '}" for n in longest)
            lines.append(f"  {f'batch {batch}: tokens':20}{stars}")
        for n in contexts:
            most = "".join(f"{largest_batch(shape, room, n, dtype, page):>15,} " for page in layouts)
            lines.append(f"  {f'{n:,} tokens: batch':20}{most}")
    return [*lines, f"  * the model itself stops at n_ctx {shape.n_ctx:,}"]


def overview() -> list[str]:
    """All known sizes in one table: what a token costs, and when the cache outgrows the weights."""
    lines = [
        "every size in bfloat16; last, how many sequences of n_ctx weigh as much as the weights",
        f"{'model':>12} {'weights MB':>12} {'KB per token':>13} {'MB at n_ctx':>12} {'sequences = weights':>20}",
    ]
    for name in OVERVIEW:
        shape = read_shape(name)
        token, weights = shape.token_bytes("bfloat16"), shape.weight_bytes("bfloat16")
        full = token * shape.n_ctx
        lines.append(
            f"{name:>12} {weights / MB:>12,.1f} {token / 1e3:>13,.3f} {full / MB:>12,.1f} {weights / full:>20.1f}"
        )
    return [*lines, "", "more: --gpu 16,24,80 (what fits), --page 16,64, --plot FILE.png, --measure, --help"]


def record(shape: Shape, contexts: list[int], args: argparse.Namespace) -> dict:
    cells = [
        {"dtype": dtype, "batch": batch, "context": n, "page": page, "beyond_n_ctx": n > shape.n_ctx}
        | cache_bytes(shape, "paged" if page else "contiguous", batch, n, dtype, page)
        | {"waste_mean_slots": waste(n, page)[0], "waste_worst_slots": waste(n, page)[1]}
        for dtype in args.dtype
        for batch in args.batch
        for n in contexts
        for page in (None, *args.page)
    ]
    fits = [
        gpu_record(shape, gb, dtype, page, contexts, args)
        for gb in args.gpu
        for dtype in args.dtype
        for page in (None, *args.page)
    ]
    model = vars(shape) | {"layers": [rows and rows._asdict() for rows in shape.layers]}
    return {"model": model, "caches": cells, "fits": fits}


def gpu_record(shape: Shape, gb: int, dtype: str, page: int | None, contexts: list[int], args) -> dict:
    """What fits one GPU in one dtype and layout, in bytes and tokens."""
    weights = shape.weight_bytes(dtype)
    room = gb * 10**9 - weights
    return {
        "gpu_bytes": gb * 10**9,
        "weight_bytes": weights,
        "dtype": dtype,
        "page": page,
        "longest_context": {b: longest_context(shape, room, b, dtype, page) for b in args.gpu_batch},
        "largest_batch": {n: largest_batch(shape, room, n, dtype, page) for n in contexts},
    }
