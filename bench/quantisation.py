"""What 8 bits cost: int8 weights, the int8 cache and both, beside the same model unquantised, on the same text.

    python -m kvproof.bench.quantisation
    python -m kvproof.bench.quantisation --model random:gpt2 --windows 2 --context 64 --results run.json

Every path decodes the same windows of text token by token over a cache, in step. Of each next-token distribution, p
unquantised and q in 8 bits: the difference of logits, KL(p || q) in nats, the perplexity of the text under both, and
whether the most probable token is the same. This is quantisation, not rounding or a bug: each quantised path is held to
an oracle on its own values elsewhere, as strictly as in floats.

The text is what `tiny` was not trained on: the end of each corpus in a clone, or --text.

Exit codes: 0 done; 2 wrong usage, or a model or a text that does not fit.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kvproof.bench.measure.environment import environment, heading
from kvproof.bench.program import ends, parser_for, refuses
from kvproof.gpt2 import GPT2, load
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.progress import Progress
from kvproof.gpt2.generate import Cached, Source
from kvproof.gpt2.train import CORPUS, read_corpora
from kvproof.gpt2.weights import DTYPES, as_device

PLAIN = "unquantised"
# What is in 8 bits: `weights` of load, `kv_dtype` of new_cache.
VARIANTS = {"int8 weights": ("int8", None), "int8 cache": (None, "int8"), "both": ("int8", "int8")}


class Tally:
    """Sums over next-token distributions, two by two: p of the unquantised model, q of one in 8 bits."""

    def __init__(self):
        self.tokens = self.numbers = self.agree = 0
        self.largest = self.kl_max = 0.0
        self.squares = self.scale = self.kl = self.nll = self.nll_plain = 0.0

    def add(self, plain: torch.Tensor, got: torch.Tensor, target: torch.Tensor):
        """Logits (B, V) of both and the tokens (B,) that follow.  Raises ValueError for logits that are not finite."""
        plain, got = plain.double(), got.double()
        if not (plain.isfinite().all() and got.isfinite().all()):
            raise ValueError("the logits hold NaN or inf; try a wider --dtype, or look at the weights")
        difference, p, q = got - plain, plain.log_softmax(-1), got.log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(-1).clamp(min=0)  # rounding may take it a hair below
        self.tokens += len(target)
        self.numbers += difference.numel()
        self.agree += int((plain.argmax(-1) == got.argmax(-1)).sum())
        self.largest = max(self.largest, float(difference.abs().max()))
        self.kl_max = max(self.kl_max, float(kl.max()))
        self.squares += float(difference.square().sum())
        self.scale += float(plain.square().sum())
        self.kl += float(kl.sum())
        self.nll -= float(q.gather(-1, target[:, None]).sum())
        self.nll_plain -= float(p.gather(-1, target[:, None]).sum())

    def record(self) -> dict[str, Any]:
        """Logits in their own units, KL in nats, agreement of `tokens`."""
        return {
            "logit_difference_max": self.largest,
            "logit_difference_rms": math.sqrt(self.squares / self.numbers),
            "logits_rms": math.sqrt(self.scale / self.numbers),
            "kl_mean": self.kl / self.tokens,
            "kl_max": self.kl_max,
            "perplexity": math.exp(self.nll / self.tokens),
            "perplexity_unquantised": math.exp(self.nll_plain / self.tokens),
            "top1_agree": self.agree,
            "tokens": self.tokens,
        }


def compare(
    sources: Mapping[str, Source], windows: torch.Tensor, after: Callable[[], object] = lambda: None
) -> dict[str, Tally]:
    """Decode the windows by all sources in step.

    sources  PLAIN among them, each with room for windows
    windows  (B, T + 1) token ids on the device; T of each are predicted, from one token of context on
    after    called after each step
    returns  a tally of every source but PLAIN
    """
    tallies = {name: Tally() for name in sources if name != PLAIN}
    for t in range(windows.shape[1] - 1):
        ids = windows[:, t]
        logits = {name: x.step(ids) if t else x.prefill(ids[:, None].tolist()) for name, x in sources.items()}
        for name, tally in tallies.items():
            tally.add(logits[PLAIN], logits[name], windows[:, t + 1])
        after()
    return tallies


def paths(plain: GPT2, quantised: GPT2, batch: int, context: int) -> dict[str, Source]:
    """PLAIN and the VARIANTS for `batch` windows of `context` tokens."""

    def path(weights: str | None, kv_dtype: str | None) -> Source:
        model = quantised if weights else plain
        cache = model.new_cache(batch, context, kv_dtype=kv_dtype)
        return Cached(model, cache, step=partial(model.decode, cache=cache))

    return {PLAIN: path(None, None)} | {name: path(*how) for name, how in VARIANTS.items()}


def cut(ids: Mapping[str, torch.Tensor], windows: int, context: int) -> torch.Tensor:
    """Windows (windows, context + 1) from the beginnings of texts (N,), taken from each in turn.

    Raises ValueError if the texts are too short.
    """
    found: list[torch.Tensor] = []
    parts = [text.unfold(0, context + 1, context + 1) if len(text) > context else text[:0] for text in ids.values()]
    for n in range(max(map(len, parts))):
        found += [part[n] for part in parts if n < len(part)]
    if len(found) < windows:
        raise ValueError(
            f"the text holds {len(found)} windows of {context + 1} tokens and {windows} were asked for; give fewer "
            "--windows, a shorter --context or a longer --text"
        )
    return torch.stack(found[:windows])


def read_text(model: GPT2, path: Path | None) -> dict[str, torch.Tensor]:
    """Token ids of the text, by name.  Raises ValueError for a model without a tokenizer, or if there is no text."""
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer; put its merges.txt beside its weights")
    if path:
        return {path.name: torch.tensor(model.tokenizer.encode(path.read_bytes()))}
    if not CORPUS.is_dir():
        raise ValueError("the corpora are in a clone alone, not in an installed package; name a text with --text")
    return read_corpora(model.tokenizer)[1]


def table(found: Mapping[str, dict[str, Any]]) -> list[str]:
    plain = next(iter(found.values()))
    lines = [f"{'':13}{'logits differ by':>20}{'KL(p || q), nats':>24}{'perplexity':>14}{'same top token':>18}"]
    lines.append(f"{'':13}{'max':>10}{'rms':>10}{'mean':>14}{'max':>10}")
    lines.append(f"{PLAIN:13}{'':44}{plain['perplexity_unquantised']:14.4f}")
    for name, row in found.items():
        differ = f"{row['logit_difference_max']:10.3g}{row['logit_difference_rms']:10.3g}"
        kl = f"{row['kl_mean']:14.2e}{row['kl_max']:10.2e}"
        agree = f"{row['top1_agree']}/{row['tokens']}, {row['top1_agree'] / row['tokens']:.2%}"
        lines.append(f"{name:13}{differ}{kl}{row['perplexity']:14.4f}{agree:>18}")
    return [*lines, "", f"rms of the unquantised logits: {plain['logits_rms']:.3g}"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_for("python -m kvproof.bench.quantisation", __doc__)
    add = parser.add_argument
    add("--model", default="tiny", help="named as for kvproof generate (default %(default)s)")
    add("--dtype", choices=DTYPES, default="float32", help="of all that is not in 8 bits (default %(default)s)")
    add("--impl", choices=("eager", "sdpa"), default="sdpa", help="the decode step (default %(default)s)")
    add("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    add("--text", type=Path, metavar="FILE", help="a text in UTF-8 (default: what tiny was not trained on)")
    add("--windows", type=int, default=16, help="windows of text, decoded as one batch (default %(default)s)")
    add("--context", type=int, default=256, help="tokens predicted in each (default %(default)s)")
    add("--results", type=Path, metavar="FILE", help="JSON file for the figures")
    add("--json", action="store_true", help="print the record instead of the table")
    args = parser.parse_args(argv)
    for name in ("windows", "context"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; it must be 1 or more")
    given = [word if before != "--results" else Path(word).name for before, word in pairs(argv)]
    args.command = shlex.join(["python", "-m", "kvproof.bench.quantisation", *given])
    return args


def pairs(argv: list[str] | None) -> list[tuple[str, str]]:
    words = sys.argv[1:] if argv is None else argv
    return list(zip(["", *words], words, strict=False))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The record of what args ask for.  Raises what `load` raises, ValueError for a text that does not fit."""
    with Progress(f"loading {args.model} twice"):
        plain, quantised = (
            load(args.model, dtype=args.dtype, device=args.device, impl=args.impl, weights=weights)
            for weights in (None, "int8")
        )
    if args.context > plain.config.n_ctx:
        raise ValueError(f"--context is {args.context}; the model has {plain.config.n_ctx} positions")
    texts = read_text(plain, args.text)
    windows = cut(texts, args.windows, args.context).to(plain.device)
    with Progress("tokens of context", args.context) as line:
        found = compare(paths(plain, quantised, args.windows, args.context), windows, line.update)
    return {
        "schema": "kvproof/quantisation/1",
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": args.command,
        "environment": environment(plain.device, bool(args.results or args.json)),
        "model": args.model,
        "dtype": args.dtype,
        "impl": args.impl,
        "text": {"from": list(texts), "windows": args.windows, "context": args.context},
        "found": {name: tally.record() for name, tally in found.items()},
    }


@refuses("bench/quantisation")
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    as_device(args.device)
    if args.results:
        output_file.check_writable(args.results)
    record = measure(args)
    if args.json:
        print(json.dumps(record))
    else:
        text = record["text"]
        print("\n".join(heading(record["environment"])))
        print(f"\n{args.model}, {args.dtype}, {args.impl}: {text['windows']} windows of {text['context']} tokens from "
              f"{', '.join(text['from'])}\n")  # fmt: skip
        print("\n".join(table(record["found"])))
    if args.results:
        output_file.write(args.results, json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    ends(main)
