"""A picture of what a KV cache takes by length, from arithmetic alone."""

from matplotlib.figure import Figure

from .sizes import Shape

# Okabe and Ito's colours, which the colour-blind can distinguish; dashes and markers differ in grey.
LOOKS = {
    "float64": ("#000000", (0, (5, 1, 1, 1, 1, 1)), "D"),
    "float32": ("#D55E00", "-", "o"),
    "bfloat16": ("#0072B2", "--", "s"),
    "float16": ("#56B4E9", "-.", "v"),
    "int8": ("#009E73", ":", "^"),
}
UNITS = {"MB": 1e6, "GB": 1e9}


def draw(shapes: list[Shape], contexts: list[list[int]], dtypes: list[str], batch: int) -> Figure:
    """One panel per shape: bytes of K, V and scales against tokens, both axes logarithmic, a line per dtype.

    contexts  the lengths of each shape, ascending
    """
    figure = Figure(figsize=(6 * len(shapes), 4.4), layout="constrained")
    grid = figure.subplots(1, len(shapes), squeeze=False)
    for axes, shape, lengths in zip(grid[0], shapes, contexts, strict=True):
        panel(axes, shape, lengths, dtypes, batch)
    formula = "K + V = 2·layers·KV heads·head_dim·bytes per number·tokens·batch; int8 with float32 scales"
    figure.supxlabel(f"{formula}. MB = 10⁶, GB = 10⁹ bytes. Arithmetic, no measurement.", fontsize=7, color="0.3")
    return figure


def panel(axes, shape: Shape, lengths: list[int], dtypes: list[str], batch: int):
    """One shape's lines, its weights as a level where they are known, and the end of its positions."""
    most = batch * lengths[-1] * max(shape.token_bytes(dtype) for dtype in dtypes)
    unit = "GB" if most >= 1e10 else "MB"
    for dtype in dtypes:
        color, dashes, marker = LOOKS[dtype]
        sizes = [batch * n * shape.token_bytes(dtype) / UNITS[unit] for n in lengths]
        axes.plot(lengths, sizes, color=color, linestyle=dashes, marker=marker, markersize=5, label=dtype)
        label = f"{sizes[-1]:,.4g}"
        axes.annotate(label, (lengths[-1], sizes[-1]), (6, 0), textcoords="offset points", va="center", fontsize=8)
    if lengths[0] <= shape.n_ctx < lengths[-1]:
        axes.axvline(shape.n_ctx, color="0.35", linewidth=1)
        axes.axvspan(shape.n_ctx, lengths[-1] * 2, color="0.93", zorder=0)
        end = f" the model stops at {shape.n_ctx:,}"
        axes.text(shape.n_ctx, 0.02, end, transform=axes.get_xaxis_transform(), fontsize=8, color="0.25")
    if shape.parameters is not None and "bfloat16" in dtypes:
        weights = shape.weight_bytes("bfloat16") / UNITS[unit]
        axes.axhline(weights, color="0.35", linewidth=1, linestyle=(0, (1, 2)))
        axes.text(lengths[0], weights, f"weights in bfloat16, {weights:,.4g}", fontsize=8, color="0.25", va="bottom")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths], fontsize=8)
    axes.set_xlim(lengths[0] / 1.2, lengths[-1] * 1.5)
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.grid(alpha=0.3)
    axes.set_xlabel("tokens per sequence (log)")
    axes.set_ylabel(f"K and V of the cache, {unit} (log)")
    axes.set_title(f"{shape.name}, batch {batch}: {shape.heads()}")
    axes.legend(title="cache in", loc="lower right")
