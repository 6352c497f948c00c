"""Pictures of what was measured, from the files alone.

    python bench/decode.py --impl all --json > run.json && python bench/plots.py run.json time-per-token.png
    python bench/plots.py gpt2/checkpoints/tiny/loss.jsonl loss.png

Needs matplotlib: python -m pip install -e '.[plots]'.
"""

import argparse
import json
import sys
from pathlib import Path

# Okabe and Ito's colours, told apart by the colour-blind; markers and dashes tell them apart in grey.
LOOKS = {
    "numpy": {"color": "#999999", "linestyle": ":", "marker": "."},
    "naive": {"color": "#D55E00", "linestyle": "--", "marker": "x"},
    "eager": {"color": "#E69F00", "linestyle": "-.", "marker": "s"},
    "sdpa": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "triton": {"color": "#009E73", "linestyle": "-", "marker": "^"},
}


def time_per_token(axes, record: dict):
    """Milliseconds of every decode step of every impl, against the tokens that are then in the context."""
    prompt = min(record["prompt_tokens"])
    for impl, timing in record["timing"].items():
        if timing["interpreted"]:
            continue  # a thousand times slower than all others, and no GPU's time
        steps = timing["steps_ms"]
        axes.plot(range(prompt + 1, prompt + 1 + len(steps)), steps, label=impl, markersize=3, **LOOKS[impl])
    arguments = record["arguments"]
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("tokens in the context")
    axes.set_ylabel("time of the decode step, ms (log)")
    axes.set_title(f"GPT-2 {arguments['model']}, batch {arguments['batch']}, {arguments['dtype']}")
    axes.legend(title="impl")


def losses(axes, rows: list[dict]):
    """Training and held-out loss against the tokens trained on."""
    tokens = [row["tokens"] / 1e6 for row in rows]
    styles = {"train": "--", "held_out": "-", "tinyshakespeare": ":", "grimms_fairy_tales": "-."}
    for name, style in styles.items():
        axes.plot(tokens, [row[name] for row in rows], style, label=name.replace("_", " "))
    best = min(rows, key=lambda row: row["held_out"])
    axes.plot(best["tokens"] / 1e6, best["held_out"], "k*", label=f"kept: {best['held_out']:.2f} nats")
    axes.set_xlabel("million tokens trained on")
    axes.set_ylabel("loss, nats per token")
    axes.set_title("Training of tiny (train: with dropout)")
    axes.legend()


def main(argv: list[str] | None = None) -> int:
    """Draw a file's picture.  Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench/plots.py", description="Draw what bench/decode.py or training wrote.")
    parser.add_argument("results", type=Path, help="a record of bench/decode.py --json, or a loss.jsonl")
    parser.add_argument("picture", type=Path, help="the .png or .svg to write")
    args = parser.parse_args(argv)
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        text = args.results.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()] if args.results.suffix == ".jsonl" else json.loads(text)
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        axes.grid(alpha=0.3)
        if isinstance(rows, list):
            losses(axes, rows)
        else:
            time_per_token(axes, rows)
            e = rows["environment"]
            figure.supxlabel(f"{e['device']}; torch {e['torch']}; commit {e['commit']}", fontsize=7, color="0.4")
        figure.savefig(args.picture, dpi=150)
    except ImportError:
        print("bench/plots.py: matplotlib is not here; python -m pip install -e '.[plots]'", file=sys.stderr)
        return 2
    except (OSError, ValueError, KeyError) as error:
        print(f"bench/plots.py: {args.results} cannot be drawn: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
