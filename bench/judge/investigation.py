"""All that can be said of two paths: the verdict, where they part, what that usually means, and what it can cost."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...reference.difference import finite
from ...reference.parity import BUG, Verdict, judge
from ..measure.gate import replayed_attention
from .divergence import Divergence, TokenMargins, error_in_ulps, first_divergence, measured_gates, token_margins
from .patterns import Pattern, pattern
from .slots import Slots, slots_read
from .subjects import OurSubject


@dataclass(frozen=True)
class Investigation:
    """What was found about a subject's paths in a dtype.

    divergence, pattern  where they part in float64 and what that usually means; None where they agree or do not tell
    ulps                 (layers, n) the largest difference of each layer at each position, in ulps of the dtype
    margins              per position: by how much the token was decided, and how far the logits moved
    slots                which slots of the cache the decode step reads, of our own impls
    """

    name_a: str
    name_b: str
    dtype: str
    verdict: Verdict
    divergence: Divergence | None
    pattern: Pattern | None
    ulps: np.ndarray | None
    margins: TokenMargins | None
    slots: Slots | None

    def record(self) -> dict[str, Any]:
        """The same for JSON."""
        slots = self.slots and {"unread": self.slots.unread, "read though dead": self.slots.trespassed}
        return finite(
            {
                "a": self.name_a,
                "b": self.name_b,
                "dtype": self.dtype,
                **self.verdict.record(),
                "starts": self.divergence and self.divergence.record(),
                "usually": self.pattern and {"name": self.pattern.name, "sentence": self.pattern.sentence},
                "ulps": None if self.ulps is None else self.ulps.tolist(),
                "tokens_at_risk": None if self.margins is None else int(self.margins.at_risk.sum()),
                "slots": slots,
            }
        )


def investigate(subject: Any, dtype: str) -> Investigation:
    """Judge a subject's paths in a dtype and, where it can be traced, say where they part.  Raises what they raise."""
    verdict = judge(subject.paths, dtype, question=subject.question, op=attention_of(subject))
    divergence = usual = ulps = None
    if hasattr(subject, "trace"):
        ulps = in_ulps(subject, dtype)
        if verdict.verdict == BUG and not any(rung.aside and rung.dtype == "float64" for rung in verdict.rungs):
            divergence, usual = starts(subject)  # which looks in float64
    return Investigation(
        subject.name_a, subject.name_b, dtype, verdict, divergence, usual, ulps,
        margins_of(subject, dtype), slots_of(subject),
    )  # fmt: skip


def starts(subject: Any) -> tuple[Divergence | None, Pattern | None]:
    """Where the paths part in float64, and what that usually means; None where they agree there or do not run in it."""
    try:
        gates = measured_gates(subject)
        a, b = subject.trace("float64")
    except NotImplementedError:
        return None, None
    found = first_divergence(a, b, gates, subject.positions)
    if found is None:
        return None, None
    return found, pattern(found, a, b, gates, subject.positions, subject.prefilled)


def in_ulps(subject: Any, dtype: str) -> np.ndarray | None:
    """The error of every layer at every position; None where the paths do not run in the dtype."""
    try:
        a, b = subject.trace(dtype)
        return error_in_ulps(a, b, dtype)
    except NotImplementedError:
        return None


def margins_of(subject: Any, dtype: str) -> TokenMargins | None:
    """Each position's margin beside its error; None where there is nothing to compare."""
    try:
        a, b = subject.paths(dtype)
        return token_margins(a, b)
    except NotImplementedError:
        return None


def our_model(subject: Any, dtype: str):
    """The torch model whose decode step is under test; None where there is none of ours."""
    if not isinstance(subject, OurSubject) or subject.name_a in ("numpy", "naive"):
        return None
    return subject.models.torch(dtype).with_impl(subject.name_a)


def spoilt(subject: OurSubject, model) -> AbstractContextManager:
    """The fault that the subject plants in the model under test, if it plants one."""
    return subject.inject(model) if subject.inject else nullcontext()


def attention_of(subject: Any):
    """op for the judge: the attention of our impl under test, replayed alone; None where it is not ours to replay."""
    if our_model(subject, "float32") is None:
        return None

    def op(dtype: str) -> float:
        model, batch = our_model(subject, dtype), len(subject.prompts)
        assert model is not None, "there is one in every dtype, or in none"
        with spoilt(subject, model):
            return replayed_attention(model, batch, max(2, int(subject.lengths.max())))

    return op


def slots_of(subject: Any) -> Slots | None:
    """Which slots our impl under test reads, with a few dead ones behind the longest sequence."""
    model = our_model(subject, "float32")
    if model is None:
        return None
    lengths = [int(n) for n in subject.lengths]
    with spoilt(subject, model):
        return slots_read(model, lengths, min(max(lengths) + 4, model.config.n_ctx))
