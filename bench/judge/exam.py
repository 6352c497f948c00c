"""The judge's exam: every bug of the corpus and runs without one, before the judge and two usual tolerances."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...gpt2.cli import output_file
from ...reference.judge.faults import FAULTS
from ...reference.judge.parity import judge
from ...reference.judge.probes import probe
from ...reference.judge.verdict import BUG, ORACLE
from ..measure.interleaved import Models
from .contract.adapters import small_model
from .explain.origin import place_of
from .faults.catalogue import TORCH_FAULTS, in_torch
from .investigation import attention_of
from .subjects.oracle import NumpySubject
from .subjects.ours import OurSubject

DTYPE = "bfloat16"  # what people decode in, and where bugs hide
STEPS = 6


@dataclass(frozen=True)
class Sitting:
    """One run before the judge.

    kind          "attention", "cache", "model" or "torch", as the corpus has it; "clean" where nothing is wrong
    ladder        the judge's word on the logits
    probes        the exact probes' word on the attention by itself, from 16-bit numbers alone; None where not asked
    assert_close  torch.testing.assert_close, at its defaults, calls the bfloat16 logits different
    allclose      so does torch.allclose(atol=1e-2)
    place, found  (layer, operation) where the bug is, and where the report places it
    """

    name: str
    kind: str
    ladder: str
    probes: str | None
    assert_close: bool
    allclose: bool
    place: list | None
    found: list | None

    @property
    def called(self) -> bool:
        return BUG in (self.ladder, self.probes)


def tolerances(a: np.ndarray, b: np.ndarray) -> tuple[bool, bool]:
    """Whether (assert_close, allclose) call logits different in bfloat16."""
    x, y = (torch.from_numpy(np.asarray(z, np.float64)).bfloat16() for z in (a, b))
    try:
        torch.testing.assert_close(x, y)
    except AssertionError:
        return True, not torch.allclose(x, y, atol=1e-2)
    return False, not torch.allclose(x, y, atol=1e-2)


def sit(name: str, kind: str, subject: Any, place: Sequence | None, dtype: str = DTYPE, op=None, alone=None) -> Sitting:
    """Judge a subject and compare with the tolerances.  alone: the attention by itself, for the probes."""
    word = judge(subject.paths, dtype, question=subject.question, op=op).verdict
    parted = place_of(subject) if word == BUG and kind != "clean" else None
    found = [parted.layer, parted.operation] if parted else None
    probed = probe(alone, DTYPE).verdict if alone else None
    return Sitting(name, kind, word, probed, *tolerances(*subject.paths(dtype)), list(place) if place else None, found)


def prompts(seed: int, n_vocab: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(n_vocab, size=n).tolist() for n in rng.permutation([5 + seed % 7, 19])]


def ours(models: Models, impl: str, seed: int, fault: Any = None) -> OurSubject:
    """tiny by an impl, with a fault planted or none, against recomputing or, where only it can see, the oracle."""
    against = "numpy" if fault and fault.seen_by == ORACLE else "naive"
    ids = prompts(seed, models.torch("float32").config.n_vocab)
    return OurSubject(models, impl, against, prompts=ids, steps=STEPS, inject=fault and fault.inject)


def in_numpy(fault: Any) -> NumpySubject:
    """A wrong path of the corpus in NumPy, on a small random model, against what it should have given."""
    _, config = small_model()
    ids = np.arange(48).reshape(2, 24)  # among them tokens after which the last logit is negative: a padded one may win
    return NumpySubject(fault.name, fault.apply, lambda dtype: small_model(dtype)[0], config, ids, fault.correct)


def exam(clean: int = 50, most: int | None = None) -> Iterator[Sitting]:
    """Everything: `clean` runs without a bug, then the corpus, of each kind `most` at most."""
    models = Models("tiny", torch.device("cpu"))
    for seed in range(clean):
        subject = ours(models, ("eager", "sdpa")[seed % 2], seed)
        yield sit(f"{subject.name_a}, prompts {seed}", "clean", subject, None, op=attention_of(subject))
    for kind in ("cache", "model"):
        for fault in [fault for fault in FAULTS if fault.kind == kind][:most]:
            yield sit(fault.name, kind, in_numpy(fault), fault.place, "float32")
    for fault in [fault for fault in FAULTS if fault.kind == "attention"][:most]:
        yield sit(fault.name, "attention", ours(models, "eager", 0, in_torch(fault)), fault.place, alone=fault.apply)
    for fault in TORCH_FAULTS[:most]:
        yield sit(fault.name, "torch", ours(models, "eager", 0, fault), fault.place)


def write(path: Path, sittings: Iterable[Sitting]):
    """One JSON line each.  Raises OSError if the file cannot be written."""
    output_file.write(path, "".join(json.dumps(asdict(sitting)) + "\n" for sitting in sittings))


def read(path: Path) -> list[Sitting]:
    return [Sitting(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def table(sittings: Sequence[Sitting]) -> Iterator[str]:
    """The lines of a Markdown table: per kind, how many each caught; of clean runs, how many were accused."""
    yield "| runs | | the judge | `assert_close` | `allclose(atol=1e-2)` | place named |"
    yield "|---|---:|---:|---:|---:|---:|"
    names = {"attention": "attention", "cache": "cache", "model": "model", "torch": "planted in torch"}
    for kind, words in names.items():
        yield row(f"bugs: {words}", [s for s in sittings if s.kind == kind])
    yield row("bugs: all", [s for s in sittings if s.kind in names])
    yield row("clean, accused", [s for s in sittings if s.kind == "clean"])


def row(words: str, of: Sequence[Sitting]) -> str:
    placed = [s for s in of if s.place and s.ladder == BUG]
    right = f"{sum(s.place == s.found for s in placed)} of {len(placed)}" if placed else ""
    counts = (sum(s.called for s in of), sum(s.assert_close for s in of), sum(s.allclose for s in of))
    return f"| {words} | {len(of)} | {' | '.join(map(str, counts))} | {right} |"
