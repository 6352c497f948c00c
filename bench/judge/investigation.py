"""The full report on two paths: the verdict, where they part, what explains it, and which tokens are at risk."""

import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ...reference.judge.difference import finite
from ...reference.judge.parity import judge
from ...reference.judge.verdict import BUG, Verdict
from ..measure.gate import replayed_attention
from .contract.functions import DtypeRefusals
from .contract.user_errors import said
from .explain.divergence import TokenMargins, error_in_ulps, token_margins
from .explain.origin import Origin, logit_origin, origin
from .subjects.callables import CallableSubject
from .subjects.ours import OurSubject
from .subjects.slots import Slots, slots_read

T = TypeVar("T")
PLACE = "where the paths part"


@dataclass(frozen=True)
class Investigation:
    """What was found about a subject's paths in a dtype.

    origin   where they part, what is seen there and what explains it; None without a bug that the logits show
    ulps     (layers, n) the largest difference of each layer at each position, in ulps of the dtype
    margins  per position: by how much the token was decided, and how far the logits moved
    slots    which slots of the cache the decode step reads, of our own impls
    unknown  what could not be found out beside the verdict, and why, a sentence each
    notes    what the subject says of its paths, a sentence each
    """

    name_a: str
    name_b: str
    dtype: str
    verdict: Verdict
    origin: Origin | None
    ulps: np.ndarray | None
    margins: TokenMargins | None
    slots: Slots | None
    unknown: Sequence[str] = ()
    weights: str | None = None
    notes: Sequence[str] = ()

    @property
    def numbers(self) -> str:
        """What the paths compute in, in words."""
        return self.dtype + (f", {self.weights} weights" if self.weights else "")

    @property
    def start(self) -> str | None:
        if self.verdict.verdict != BUG:
            return None
        if self.origin:
            return str(self.origin.divergence)
        return f"the decode step's attention, replayed alone on inputs of its own in {self.dtype}: the logits are clean"

    def record(self) -> dict[str, Any]:
        at = self.origin
        slots = self.slots and {"unread": self.slots.unread, "read though dead": self.slots.trespassed}
        return finite(
            {
                "a": self.name_a,
                "b": self.name_b,
                "dtype": self.dtype,
                **({"weights": self.weights} if self.weights else {}),
                **self.verdict.record(),
                "starts": at and at.divergence.record(),
                "seen": at and at.seen,
                "explained": at and at.explanation and at.explanation.record(),
                "ulps": None if self.ulps is None else self.ulps.tolist(),
                "tokens_at_risk": None if self.margins is None else int(self.margins.at_risk.sum()),
                "slots": slots,
                "unknown": list(self.unknown),
                **({"notes": list(self.notes)} if self.notes else {}),
            }
        )


def investigate(subject: Any, dtype: str, pictures: bool = True) -> Investigation:
    """Judge a subject's paths in a dtype and, where it can be traced, say where they part.

    pictures  also find what only a page shows: the error of each layer, the margins of tokens, the slots that are read

    Raises what the paths raise before there is a verdict. What fails after that is listed in `unknown`.
    """
    rungs = DtypeRefusals(subject.paths, dtype)
    how = {"question": subject.question, "throughout": lambda: getattr(subject, "wide", False)}
    how["float64_gate"] = getattr(subject, "float64_gate", None)
    verdict = rungs.with_refusals(judge(rungs, dtype, op=attention_of(subject), **how))
    verdict = without_ties(subject, dtype, verdict)
    if hasattr(subject, "qualify"):  # it knows more of its paths than the judge does
        verdict = subject.qualify(verdict)
    unknown: list[str] = []
    found = origin_of(subject, verdict, unknown)
    names = subject.name_a, subject.name_b
    weights, notes = getattr(subject, "weights", None), getattr(subject, "notes", ())
    if not pictures:
        return Investigation(*names, dtype, verdict, found, None, None, None, unknown, weights, notes)
    ulps = attempt(unknown, "the error of each layer", lambda: in_ulps(subject, dtype))
    margins = attempt(unknown, "how narrowly tokens are decided", lambda: margins_of(subject, dtype))
    slots = attempt(unknown, "which slots are read", lambda: slots_of(subject))
    return Investigation(*names, dtype, verdict, found, ulps, margins, slots, unknown, weights, notes)


def without_ties(subject: Any, dtype: str, verdict: Verdict) -> Verdict:
    """The verdict; where equal scores were chosen among, that on the same paths with ties going to the earliest."""
    if verdict.verdict != BUG or not hasattr(subject, "with_ties_to_the_first"):
        return verdict
    settled = subject.with_ties_to_the_first()
    settled.paths(next(rung.dtype for rung in verdict.rungs if rung.word == "RED"))
    if not settled.ties.tied:  # seen in one run of each path, before the judge makes all of them
        return verdict
    how = {"question": subject.question, "throughout": lambda: settled.wide}
    again = judge(DtypeRefusals(settled.paths, dtype), dtype, **how)
    if again.verdict == BUG:
        return verdict
    note = (
        "As the model is, the paths differ more: torch.topk chooses among equal scores, one way for a whole sequence, "
        "another for its last token alone. This is the verdict with ties going to the earliest."
    )
    return replace(again, reason=f"{again.reason} {note}")


def attempt(unknown: list[str], what: str, find: Callable[[], T]) -> T | None:
    """What `find` gives; where it raises, None, and in `unknown` what is not known and why: the verdict stands."""
    try:
        return find()
    except (ValueError, ImportError, OSError, NotImplementedError) as error:
        unknown.append(f"{what}: {said(error)}")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}:{last.lineno}"
        unknown.append(f"{what}: an error of ours, {type(error).__name__}: {said(error)} (at {place})")
    return None


def origin_of(subject: Any, verdict: Verdict, unknown: list[str]) -> Origin | None:
    """Where the paths part that a verdict calls a bug, on the widest rung that shows it; None of another verdict.

    unknown  gets the reason where no operation is named
    """
    red = [rung for rung in verdict.rungs if not rung.green and not rung.excluded]
    red = sorted(red, key=lambda rung: not np.isfinite(rung.error))
    if verdict.verdict != BUG or not red:
        return None
    found = attempt(unknown, PLACE, lambda: origin(subject, red[0].dtype))
    if found is None and hasattr(subject, "trace"):
        fine = attempt(unknown, PLACE, lambda: subject.trace(red[0].dtype)) is not None
        if fine:
            unknown.append(f"{PLACE}: no operation that is traced differs by more than rounding explains")
    return found or attempt(unknown, PLACE, lambda: logit_origin(subject, red[0]))


def in_ulps(subject: Any, dtype: str) -> np.ndarray | None:
    """The error of every layer at every position; None where the paths do not run in the dtype or have no layers."""
    if isinstance(subject, CallableSubject) or not hasattr(subject, "trace"):
        return None
    try:
        a, b = subject.trace(dtype)
    except NotImplementedError:
        return None
    layered = [any(x.layer is not None and x.operation != "cache" for x in trace) for trace in (a, b)]
    return error_in_ulps(a, b, dtype) if all(layered) else None


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
    return subject.models.torch(dtype, subject.name_a)


def spoilt(subject: OurSubject, model) -> AbstractContextManager:
    return subject.inject(model) if subject.inject else nullcontext()


def attention_of(subject: Any):
    """op for the judge: the attention of our impl under test, replayed alone; None where it is not ours to replay."""
    if our_model(subject, "float32") is None:
        return None

    def op(dtype: str) -> float:
        model, batch = our_model(subject, dtype), len(subject.prompts)
        assert model is not None, "there is one in every dtype, or in none"
        with spoilt(subject, model):
            return replayed_attention(model, batch, max(2, int(subject.lengths.max())), subject.page)

    return op


def slots_of(subject: Any) -> Slots | None:
    """Which slots our impl under test reads, with a few dead ones behind the longest sequence."""
    model = our_model(subject, "float32")
    if model is None:
        return None
    lengths = [int(n) for n in subject.lengths]
    with spoilt(subject, model):
        return slots_read(model, lengths, min(max(lengths) + 4, model.config.n_ctx))
