"""Exact probes: is a closed decode attention right? Decided from its inputs and outputs alone, 16 bits wide.

A kernel that takes 16 bits and gives 16 bits cannot be climbed down to from float64. But there are questions with
one right answer for every correct kernel; see questions.py. Where they do not decide, the verdict is INCONCLUSIVE.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from .cases import Case
from .difference import as_array, finite
from .questions import GROUPED, SHAPES, Question, questions
from .verdict import BUG, INCONCLUSIVE, ROUNDING

# The gate of the probes that round: see `attention_gate`. Between it and so many times it nothing is certain.
DOUBT = 2.0


@dataclass(frozen=True)
class Failure:
    """A wrong answer: the probe, a sentence on what came instead, and the error in multiples of the gate."""

    probe: str
    sentence: str
    error: float


@dataclass(frozen=True)
class ProbeReport:
    """What the probes found.

    verdict   BUG where an answer is wrong; INCONCLUSIVE where the callable took no shape, or the worst answer lies
              between its gate and DOUBT times it; else ROUNDING
    reason    the sentence for it
    failures  the first wrong answers
    asked     questions answered
    worst     the largest error, in multiples of its gate, of the probes that round
    refused   what the callable said to the shapes that it would not take
    """

    verdict: str
    reason: str
    failures: Sequence[Failure]
    asked: int
    worst: float
    refused: Sequence[str]

    def record(self) -> dict:
        """The same for JSON; what is not finite is null."""
        return finite(asdict(self))


def error_of(o, question: Question) -> tuple[float, str]:
    """The error of an answer o (B, H, D), in multiples of the gate, and a sentence on where it is largest."""
    if o.shape != question.answer.shape:
        return np.inf, f"{question.name}: the answer has shape {o.shape}; it must be {question.answer.shape}."
    error = np.abs(o - question.answer)
    error[np.isnan(error)] = np.inf
    ratio = np.divide(error, question.gate, out=np.where(error == 0, 0.0, np.inf), where=question.gate > 0)
    b, h, d = (int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
    came, n = recognise(o[b, h], question), int(question.lengths[b])
    H, H_kv = o.shape[1], question.k.shape[1]
    head = f"head {h}" if H == H_kv else f"head {h} of {H} on {H_kv} KV heads"
    where = f"{question.name}: sequence {b} (length {n}), {head}, column {d}"
    wanted = f"{o[b, h, d]:.6g} came for {question.answer[b, h, d]:.6g}"
    return float(ratio[b, h, d]), f"{where}: {wanted}{came}."


def recognise(row, question: Question) -> str:
    """What row (D,) came instead, in words: NaN, or the value or key of some slot."""
    if np.isnan(row).any():
        return ", a NaN: a dead slot was read, a sum overflowed, or 0 was divided by 0"
    for name, cache in (("value", question.v), ("key", question.k)):
        found = np.argwhere((cache.astype(np.float64) == row).all(-1))
        if len(found):
            b, h, t = found[0].tolist()
            return f"; what came is the {name} of sequence {b}, head {h}, slot {t}"
    return ""


def probe(
    fn: Callable, dtype="bfloat16", shapes: Sequence[Case] = (*SHAPES, *GROUPED), scale=None, patience=3
) -> ProbeReport:
    """Ask a decode attention questions with known answers: does rounding explain the differences?

    fn        fn(q, k, v, lengths) -> o: NumPy q (B, H, D), k and v (B, H_kv, T, D) in dtype, bfloat16 by ml_dtypes, and
              lengths (B,) int32 -> o (B, H, D), an array or a torch tensor on the CPU. Dead slots may hold anything;
              length 0 gives zeros. A ValueError or NotImplementedError of its says that it takes no such shape; where
              heads are grouped, H_kv below H, any exception does
    dtype     "bfloat16", "float16", "float32" or "float64"
    shapes    SHAPES alone for an attention that takes no groups and does not say so
    scale     of the scores, 1 / sqrt(D) if not given
    patience  wrong answers after which nothing more is asked
    """
    failures, refused, worst, asked = [], [], 0.0, 0
    for shape in shapes:
        H = shape.H_kv * shape.group
        for question in questions(replace(shape, dtype=dtype, scale=scale)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)  # a wrong op may overflow; its answer counts
                    o = as_array(fn(question.q, question.k, question.v, question.lengths), "the answer")
            except Exception as error:
                if shape.group == 1 and not isinstance(error, ValueError | NotImplementedError):
                    raise
                groups = "" if shape.group == 1 else f", H_kv={shape.H_kv}"
                refused.append(f"H={H}{groups}, D={shape.D}, T={shape.T}: {error}")
                break
            asked += 1
            error, sentence = error_of(o, question)
            if error > DOUBT:
                failures.append(Failure(question.name, sentence, error))
                if len(failures) >= patience:
                    return report(failures, asked, worst, refused)
            else:
                worst = max(worst, error)
    return report(failures, asked, worst, refused)


def report(failures, asked, worst, refused) -> ProbeReport:
    """Draw the conclusion."""
    if failures:
        verdict, reason = BUG, failures[0].sentence
    elif not asked:
        verdict, reason = INCONCLUSIVE, f"It took none of the shapes: {'; '.join(refused)}."
    elif worst > 1:
        verdict, reason = (
            INCONCLUSIVE,
            f"An answer errs by {worst:.2g} times what rounding explains: too near to say.",
        )
    else:
        verdict, reason = (
            ROUNDING,
            f"All {asked} answers are right, to {worst:.2g} of what rounding explains.",
        )
    return ProbeReport(verdict, reason, tuple(failures), asked, worst, tuple(refused))
