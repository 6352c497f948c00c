"""The corpus of faults and clean runs as servers: the exam's own logits, replayed by the stub."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kvproof.bench.judge.exam import in_numpy, ours
from kvproof.bench.judge.faults.catalogue import TORCH_FAULTS, in_torch
from kvproof.bench.judge.served.client import Client
from kvproof.bench.judge.served.server import Server
from kvproof.bench.judge.served.subject import ServedSubject
from kvproof.bench.measure.interleaved import Models
from kvproof.reference.judge.faults import FAULTS
from kvproof.reference.judge.verdict import ORACLE

from ._stub import Manner, Replay, served, text_of

ALL = (*FAULTS, *TORCH_FAULTS)
MODELS = Models("tiny", torch.device("cpu"))


def subject_of(fault: Any) -> Any:
    """The fault's paths as the exam judges them."""
    if fault.kind in ("cache", "model"):
        return in_numpy(fault)
    return ours(MODELS, "eager", 0, fault if fault in TORCH_FAULTS else in_torch(fault))


def replay(subject: Any, dtype: str) -> Replay:
    """The stub's model of a subject: generation gives path a's logits, a prompt's are path b's."""
    a, b = subject.paths(dtype)
    if hasattr(subject, "forced"):
        whole = [[*prompt, *row.tolist()] for prompt, row in zip(subject.prompts, subject.forced, strict=True)]
        return Replay(whole, [len(prompt) - 1 for prompt in subject.prompts], a, b)
    whole = [[*row.tolist(), 0] for row in subject.ids]
    return Replay(whole, [0] * len(whole), a, b)


def texts_of(model: Replay) -> list[str]:
    return [text_of(ids[: start + 1]) for ids, start in zip(model.sequences, model.starts, strict=True)]


def asked(model: Replay, dtype: str, manner: Manner, trusted: Replay | None = None) -> ServedSubject:
    """The subject of a stub of that model; of two, where a trusted one is given."""
    texts, steps = texts_of(model), len(model.decoded[0])
    models: Sequence[Any] = [model] if trusted is None else [model, trusted]
    with served(models[0], manner) as first, served(models[-1], manner) as second:
        servers = [Server(Client(url, timeout=30), None, texts[0]) for url in (first, second)[: len(models)]]
        return ServedSubject(servers[0], servers[1] if trusted else None, texts, steps, dtype)


def fault_subject(fault: Any, dtype: str, manner: Manner | None = None) -> ServedSubject:
    """The fault in a server. What only the oracle sees both of its paths share, and a right server is beside it."""
    model, manner = replay(subject_of(fault), dtype), manner or Manner(greedy=False)
    if fault.seen_by != ORACLE:
        return asked(model, dtype, manner)
    wrong = Replay(model.sequences, model.starts, model.decoded, model.decoded)
    right = Replay(model.sequences, model.starts, model.prefilled, model.prefilled)
    return asked(wrong, dtype, manner, right)


def relative(subject: ServedSubject) -> float:
    """The largest difference, in root mean squares of the log-probabilities."""
    a, b = subject.made
    with np.errstate(invalid="ignore"):
        return float(
            np.nan_to_num(np.abs(a - b), nan=np.inf).max() / max(1.0, np.sqrt(np.mean(b[np.isfinite(b)] ** 2)))
        )
