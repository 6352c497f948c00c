"""The cells that a command measures, and the record of each of their rounds."""

import argparse
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import Any

import torch

from ...gpt2 import GPT2
from ...gpt2.cli.progress import Progress
from ...gpt2.tokenizer import gpt2_tokenizer
from ...gpt2.weights import DTYPES, checkpoint
from ..measure.environment import environment
from ..measure.records import REQUESTS
from .arms import Arm, Ask, EngineArm, StaticArm, load_endless
from .draws import draw
from .memory import live
from .rounds import Cell
from .texts import TEXTS, Text, prompts

RUNNING = (8, 16, 32, 64)
STATIC = ("generate-8", "generate-sorted-8", "generate-sorted-32", "generate-64")
PEERS = ("generate_batch-8", "generate_batch-16", "generate_batch-32", "hf-generate-8")
ARMS = (*(f"engine-{n}" for n in RUNNING), *STATIC, *PEERS)
FOREIGN = ("generate_batch-", "hf-")  # what the names of transformers' arms start with
BATCHES = (1, 8)
LEAST = 2  # requests of a cell of speculation, one after another at batch 1


def make_arm(name: str, model: GPT2, peer: Callable[[], Any]) -> Arm:
    """An arm by its name in ARMS.  peer: gives transformers' model; raises ImportError where it is not installed."""
    kind, _, number = name.rpartition("-")
    if kind == "engine":
        return EngineArm(model, int(number))
    if not name.startswith(FOREIGN):
        return StaticArm(model, int(number), kind.endswith("sorted"))
    from .peers import HfStaticArm, PagedArm

    return PagedArm(peer(), int(number)) if kind == "generate_batch" else HfStaticArm(peer(), int(number))


def about(args: argparse.Namespace, model: str, text: Text | None, requests: dict) -> dict[str, Any]:
    """ "cell" of a record."""
    return {
        "job": args.job,
        "model": model,
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "text": text.name if text else None,
        "temperature": text.temperature if text else 0.0,
        "requests": requests,
        "loaded": args.loaded,
    }


def throughput(args: argparse.Namespace, name: str) -> Iterator[Cell]:
    foreign = [arm for arm in args.arms if arm.startswith(FOREIGN)]
    if foreign and not find_spec("transformers"):
        raise ValueError(
            f"--arms names {', '.join(foreign)}, and transformers is not here; python -m pip install -e '.[hf]',"
            f" or --arms {','.join(arm for arm in args.arms if arm not in foreign)}"
        )
    model = load_endless(name, args.dtype)
    drawn = draw(args.requests, model.config.n_vocab, args.prompt_tokens, args.new_tokens, args.seed)
    asks = [Ask(prompt, n) for prompt, n in zip(drawn.prompts, drawn.new_tokens, strict=True)]

    def peer() -> Any:
        from .peers import endless

        return endless(name, DTYPES[args.dtype])

    yield Cell(about(args, name, None, drawn.record()), model, asks, [make_arm(arm, model, peer) for arm in args.arms])


def speculation(args: argparse.Namespace, name: str) -> Iterator[Cell]:
    tokenizer = tokenizer_of(name)
    for text in TEXTS:
        model, said = load_endless(name, args.dtype), name
        if text.circling and name.startswith("random:"):
            say_it_again(model)
            said = f"{name} that says the last token again"
        for running in args.batch:
            begun = prompts(text, max(LEAST, running), model, tokenizer)
            asks = [Ask(p, args.tokens, text.temperature, args.seed, i) for i, p in enumerate(begun)]
            lengths = {"prompt_tokens": [len(p) for p in begun], "new_tokens": [args.tokens] * len(begun)}
            arms = [EngineArm(model, running, draft) for draft in (0, *args.draft)]
            yield Cell(about(args, said, text, {"seed": args.seed, **lengths}), model, asks, arms)


@torch.no_grad()
def say_it_again(model: GPT2):
    """Make a random model repeat itself, with as much to compute: its layers add nothing to the newest token."""
    model.wpe.weight.zero_()
    for block in model.blocks:
        for linear in (block.attn.c_proj, block.mlp.c_proj):
            linear.weight.zero_()
            linear.bias.zero_()


def tokenizer_of(name: str):
    """The tokenizer of a model by its name; None if it has none."""
    path = checkpoint(name)
    if isinstance(path, str):  # random weights
        return gpt2_tokenizer()
    from ...gpt2.weights import open_checkpoint

    return open_checkpoint(path)[2]


CELLS: dict[str, Callable[[argparse.Namespace, str], Iterator[Cell]]] = {
    "throughput": throughput,
    "speculation": speculation,
}


class Sweep:
    """Measures what is missing, round by round, one model in memory at a time.

    found  records by key, to which those measured are added
    keep   called with each record as it is measured
    """

    def __init__(
        self, args: argparse.Namespace, found: dict[str, dict], keep: Callable[[dict], object], line: Progress
    ):
        self.args, self.found, self.keep, self.line = args, found, keep, line
        self.environment = environment(torch.device("cpu"), kept=False)
        self.runs: list[str] = []  # of this command, in order
        self.red = False

    def run(self, cell: dict, arms: list[str]) -> str:
        """What its rounds are known by: all that their figures depend on but the machine."""
        at = f"{self.environment['commit']}{'+changes' * bool(self.environment['dirty'])}"
        return "; ".join([*(f"{name} {value}" for name, value in cell.items()), f"arms {arms}", f"commit {at}"])

    def record(self, run: str, number: int, cell: dict, arms: list[dict], memory: dict | None):
        """Keep one round."""
        key = f"{run}; round {number}"
        self.found[key] = {
            "schema": REQUESTS,
            "key": key,
            "run": run,
            "round": number,
            "command": self.args.command,
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "environment": self.environment,
            "cell": cell,
            "arms": arms,
            "memory": memory,
        }
        self.keep(self.found[key])

    def measure(self, cell: Cell):
        """The rounds of a cell that are missing, after parity."""
        run = self.run(cell.about, [arm.name for arm in cell.arms])
        self.runs.append(run)
        todo = [n for n in range(self.args.repeats) if f"{run}; round {n}" not in self.found]
        if not todo:
            return
        self.line.what = f"{cell}: parity"
        self.line.print(f"\n{cell}\nparity with the lone runs:")
        cell.prove(self.line.print)
        if not cell.green:
            self.red = True
            self.line.print("Parity is red, so nothing is timed: wrong tokens have no speed.")
            return
        for number in todo:
            self.line.what = f"{cell}: round {number + 1} of {self.args.repeats}"
            with self.line.still():
                arms = cell.round(number, self.line.draw)
            self.red |= any(not arm["parity"]["green"] for arm in arms if not arm["peer"])
            self.record(run, number, cell.about, arms, None)

    def live(self, name: str):
        """The job memory, for one model."""
        args = self.args
        cell = about(args, name, None, {"seed": args.seed, "prompt_tokens": [], "new_tokens": []})
        size = {"requests": args.requests, "warm_up": args.warm_up, "blocks": args.blocks, "running": args.running}
        run = self.run(cell | size, ["engine"])
        self.runs.append(run)
        if f"{run}; round 0" in self.found:
            return
        self.line.what = f"memory, {name}, {args.requests:,} requests"
        model = load_endless(name, args.dtype)
        found = live(model, args.requests, args.warm_up, args.blocks, args.running, args.seed)
        self.record(run, 0, cell, [], found)
