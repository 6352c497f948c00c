"""Pictures of a results file of bench/decode.py or bench/requests, or of a training's loss.jsonl.

    python bench/decode.py --impl all --new-tokens 10,20,50,100 --results run.jsonl && python bench/plots.py run.jsonl
    python bench/plots.py gpt2/checkpoints/tiny/loss.jsonl --out gpt2/checkpoints/tiny

Needs matplotlib: python -m pip install -e '.[plots]'.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from kvproof.bench.program import ends, parser_for, refuses, write_figure


def losses(rows: list[dict]):
    """A figure of training and held-out loss against the tokens trained on.

    rows  of a loss.jsonl: "tokens", "train", "held_out", and by its name the loss of each corpus
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    tokens = [row["tokens"] / 1e6 for row in rows]
    corpora = [name for name in rows[0] if name not in ("step", "tokens", "train", "held_out", "seconds")]
    styles = {"train": "--", "held_out": "-"} | dict(zip(corpora, cycle((":", "-.")), strict=False))
    for name, style in styles.items():
        axes.plot(tokens, [row[name] for row in rows], style, label=name.replace("_", " "))
    best = min(rows, key=lambda row: row["held_out"])
    axes.plot(best["tokens"] / 1e6, best["held_out"], "k*", label=f"kept: {best['held_out']:.2f} nats")
    axes.set_xlabel("million tokens trained on")
    axes.set_ylabel("loss, nats per token")
    axes.set_title("Training of tiny (train: with dropout)")
    axes.legend()
    return figure


def pictures(records: list[dict]) -> Iterator[tuple]:
    """(name, figure or the reason why there is none) of every picture of bench/decode.py's records."""
    from kvproof.bench.report.pictures import pictures as draw  # needs matplotlib, which --help does not

    return draw(records)


def figures(path: Path) -> Iterator[tuple]:
    """(name, figure or the reason why there is none) of every picture of a file.  Raises ValueError for a bad line."""
    text = path.read_text(encoding="utf-8")
    head = text.partition("\n")[0]
    if '"schema"' not in head and '"tokens"' in head:
        yield "loss", losses([json.loads(line) for line in text.splitlines()])
        return
    from kvproof.bench.measure.records import REQUESTS, kind_of, read

    if kind_of(path) == REQUESTS:
        from kvproof.bench.requests.picture import pictures as of_requests

        yield from of_requests(read(path, REQUESTS))
        return
    records = read(path)
    if not records:
        raise ValueError("it holds no record; bench/decode.py --results appends one per cell")
    yield from pictures(records)


def draw(results: Path, folder: Path):
    """Every picture of a file into a folder, which is made if it is not there."""
    from kvproof.gpt2.cli import output_file
    from kvproof.gpt2.cli.progress import Progress

    output_file.check_folder(folder)
    with Progress("drawing") as line:
        for name, figure in line.each(figures(results)):
            if isinstance(figure, str):
                line.print(f"{name} is left out: {figure}")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_figure(folder / f"{name}.png", figure)
            line.print(str(folder / f"{name}.png"))


@refuses("bench/plots.py")
def main(argv: list[str] | None = None) -> int:
    parser = parser_for("bench/plots.py", __doc__)
    parser.add_argument(
        "results", type=Path, help="file of bench/decode.py or bench/requests --results, or a loss.jsonl"
    )
    parser.add_argument("--out", type=Path, help="folder of the pictures (default: RESULTS without its suffix)")
    args = parser.parse_args(argv)
    try:
        draw(args.results, args.out or args.results.with_suffix(""))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{args.results} cannot be drawn: {error}") from None
    return 0


if __name__ == "__main__":
    ends(main)
