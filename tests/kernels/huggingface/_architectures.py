"""What the judge says of "kvproof" in every architecture that asks transformers' AttentionInterface for its attention.

architectures.jsonl holds a line for each causal LM that transformers builds small, over a dynamic and a static cache.
python -m kvproof.tests.kernels.huggingface._architectures FILE [NAME ...] writes them, from where it stopped.
"""

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from kvproof.bench.judge.contract.functions import DtypeRefusals
from kvproof.bench.judge.huggingface.subject import HuggingFaceSubject
from kvproof.bench.judge.zoo.build import build, models
from kvproof.kernels.huggingface import attention, register_with_transformers
from kvproof.kernels.huggingface.keywords import EAGER
from kvproof.reference.judge.parity import judge

TABLE = Path(__file__).parent / "architectures.jsonl"
CACHES = ("dynamic", "static")
PROMPTS = [[3, 9, 17, 4, 22, 31, 8, 40, 12, 5, 19, 2], [7, 11, 3, 25, 6], [14, 2, 30, 9, 41, 18, 27, 33]]  # ragged
STEPS = 6
UNCACHED, CACHED = "eager, uncached", "eager, the same cache"
WAITS = "does not use AttentionInterface"


class Calls:
    """Counts what reaches our attention; `with` it, the bridge counts."""

    def __enter__(self):
        self.decode, self._plain = 0, attention.decode
        attention.decode = self._counted
        return self

    def _counted(self, *given):
        self.decode += 1
        return self._plain(*given)

    def __exit__(self, *raised):
        attention.decode = self._plain


class SameCache(HuggingFaceSubject):
    """The cached path under "kvproof" against the cached path under "eager", call by call."""

    name_b = "the same calls under eager"

    def _run(self, which: str, dtype: str, shift: float, traced=False):
        own, self.attn_implementation = self.attn_implementation, "kvproof" if which == "a" else "eager"
        try:
            return super()._run("a", dtype, shift, traced)
        finally:
            self.attn_implementation = own


def eager_model(name: str) -> Any:
    """A tiny model of the zoo that is trusted under its own eager attention, and runs in float64."""
    made: Any = build(name)
    made.set_attn_implementation("eager")
    made._supports_sdpa = False  # what the judge asks before it trusts "sdpa"
    if hasattr(made, "set_experts_implementation"):
        made.set_experts_implementation("eager")
    return made


def verdict(kind: type, name: str, cache: str, implementation: str) -> Any:
    given = {"prompts": PROMPTS, "steps": STEPS, "cache": cache, "attn_implementation": implementation}
    subject = kind(eager_model(name), **given)
    rungs = DtypeRefusals(subject.paths, "float32")
    return rungs.with_refusals(judge(rungs, "float32", question=subject.question)), subject.padded


def judged(name: str, cache: str) -> dict[str, Any]:
    """A line of the table: the verdict, or why there is none.

    A model whose own cached path differs from its uncached one under "eager" is judged against the same calls under
    "eager"; the line says so.
    """
    line: dict[str, Any] = {"model": name, "cache": cache}
    with warnings.catch_warnings(), Calls() as calls:
        warnings.simplefilter("ignore")
        try:
            found, padded = verdict(HuggingFaceSubject, name, cache, "kvproof")
            against = UNCACHED
            if found.verdict == "BUG" and calls.decode:
                own, _ = verdict(HuggingFaceSubject, name, cache, "eager")
                if own.verdict == "BUG":
                    line["own"] = {r.dtype: float(f"{r.error:.1e}") for r in own.rungs}
                    found, padded = verdict(SameCache, name, cache, "kvproof")
                    against = CACHED
        except Exception as error:
            said = re.sub(r" \(at [^)]*\)", "", f"{type(error).__name__}: {error}".split("\n")[0])
            return line | {"verdict": None, "why": said[:300], "reached": calls.decode > 0 or EAGER in said}
    if not calls.decode:
        return line | {"verdict": None, "why": WAITS}
    errors = {r.dtype: [float(f"{r.error:.1e}"), float(f"{r.gate:.1e}")] for r in found.rungs if not r.excluded}
    return line | {"verdict": found.verdict, "against": against, "padded": padded, **errors}


def versions() -> dict[str, str]:
    import transformers

    return {"transformers": transformers.__version__, "torch": torch.__version__}


def main(file: str, *names: str):
    path = Path(file)
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    done = {(line["model"], line["cache"]) for line in lines if "model" in line}
    torch.set_num_threads(1)
    register_with_transformers()
    with open(path, "a") as out:
        if not lines:
            print(json.dumps(versions()), file=out, flush=True)
        for name in names or [name for name, why in models().items() if why is None]:
            for cache in CACHES:
                if (name, cache) not in done:
                    print(json.dumps(judged(name, cache)), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
