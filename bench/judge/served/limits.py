"""What a difference of a server's log-probabilities can show, and what would show more.

Embeddings cannot be shifted over HTTP, so a server's rounding is assumed and not measured, as of all paths without a
shift (reference/judge/ladder.py). Its dtype is what the user says, and a server that says float32 may round more
coarsely inside: products in TF32, a cache in float16 or 8 bits, tables. So three answers are kept apart:

    up to the judge's gate for the dtype     ROUNDING in float32, where the gate is fine enough; else INCONCLUSIVE
    from there to COARSE of the logprobs     INCONCLUSIVE: float32 does not explain it, coarser rounding inside may
    above both                               BUG
"""

from dataclasses import replace

from ....reference.judge.rounding import roundoff
from ....reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING, Rung, Verdict

# The largest difference that rounding to float16 or TF32 inside may show, in roundings to float16 of the logprobs' root
# mean square: measured, see tests/bench/judge/served/test_clean.py. A float32 server is not accused below it.
COARSE_ROUNDINGS = 190.0
LEAST_SIZE = 1.0  # nats: below it a root mean square of log-probabilities says little of the logits' size


def coarse(size: float) -> float:
    """Up to where coarser rounding inside explains a difference, in nats; size is the logprobs' root mean square."""
    return COARSE_ROUNDINGS * roundoff("float16") * max(size, LEAST_SIZE)


def qualified(verdict: Verdict, settle: str) -> Verdict:
    """The judge's verdict on log-probabilities, weighed by what is known of a server.

    settle  what would settle an inconclusive one
    """
    rung = verdict.rungs[-1]
    limit = max(rung.gate, coarse(rung.size))
    if verdict.verdict == BUG and rung.error <= limit:
        reason = (
            f"They differ by {rung.error:.2g} nats. {rung.dtype} explains {rung.gate:.1e} of it; products in TF32 or a "
            f"cache in half precision inside would explain up to {limit:.2g}. To settle it {settle}."
        )
        return replace(verdict, verdict=INCONCLUSIVE, reason=with_question(reason, verdict))
    if verdict.verdict == INCONCLUSIVE and rung.error <= rung.gate and not rung.undefined:
        reason = (
            f"They differ by {rung.error:.2g} nats; {rung.dtype} explains up to {rung.gate:.2g}, and bugs hide below it. "
            f"To settle it {settle}."
        )
        return replace(verdict, reason=with_question(reason, verdict))
    if verdict.verdict == ROUNDING and rung.error:
        reason = f"They differ by {rung.error:.2g} nats; {rung.dtype} explains up to {rung.gate:.1e}."
        return replace(verdict, reason=with_question(reason, verdict))
    return verdict


def bug_reason(verdict: Verdict, place: str, flips: str) -> Verdict:
    """A BUG's reason in the terms of a server: where, by how much, and which tokens it changes."""
    rung: Rung = verdict.rungs[-1]
    if not rung.error < float("inf"):
        reason = f"{place}: {rung.note}."
    else:
        times = rung.error / max(rung.gate, coarse(rung.size))
        reason = (
            f"They differ by {rung.error:.2g} nats at {place}, {times:.2g} times what rounding explains even with float16 "
            f"inside; {flips}."
        )
    return replace(verdict, reason=with_question(reason, verdict))


def with_question(reason: str, verdict: Verdict) -> str:
    return f"{reason} Asked: {verdict.question}."
