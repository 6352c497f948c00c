"""What a difference of a server's log-probabilities can show.

Embeddings cannot be shifted over HTTP, so a server's rounding is assumed and not measured. Its dtype is what the user
says, and a server that says float32 may round more coarsely inside: products in TF32, a cache in float16 or 8 bits,
tables. So three answers are kept apart, for a largest difference d:

    d up to the judge's gate, in float32     ROUNDING
    d above `limit`                          BUG
    all else, all of half precision too      INCONCLUSIVE
"""

import math
from dataclasses import replace

from ....reference.judge.rounding import roundoff
from ....reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING, Rung, Verdict

# What half precision may do to the log-probabilities of the 20 most probable tokens, in its roundings of their root
# mean square: four times the worst, 19.6, of SmolLM2-135M's (six texts of 48 decode steps, float16 and bfloat16) and
# of 384 clean draws (14.5; 4 head layouts, 1 to 24 layers, eager and sdpa, both dtypes).
ROUNDINGS = 80.0
COLD_START = (
    "let the server say how many tokens were cached (cached_tokens of its usage; vLLM: --enable-prompt-tokens-details) "
    "and start it without prefix caching; or use one that takes cache_prompt or cache_salt, or compare it with another "
    "by --against URL"
)
LEAST_SIZE = 1.0  # nats: below it a root mean square of log-probabilities says little of the logits' size


def limit(dtype: str, size: float) -> float:
    """The largest difference in nats that rounding in a server that says `dtype` may cause, float16 inside included.

    size  the log-probabilities' root mean square
    """
    return ROUNDINGS * max(roundoff(dtype), roundoff("float16")) * max(size, LEAST_SIZE)


def weighed(rung: Rung) -> Rung:
    """The judge's rung; in half precision with the gate that was measured for log-probabilities."""
    if roundoff(rung.dtype) <= roundoff("float32"):
        return replace(rung, note="assumed, since a server takes no shift")
    gate = limit(rung.dtype, rung.size)
    return replace(rung, gate=gate, green=rung.error <= gate, note=f"assumed for {rung.dtype}; it clears nothing")


def decided(verdict: Verdict, settle: str, place: str, cached: bool) -> Verdict:
    """The verdict on log-probabilities, of the judge's one on them as logits.

    settle  what would settle an inconclusive one
    place   where the difference is largest, and what it does to tokens
    cached  whether prefill may have been answered out of a prefix cache, and so be decode itself
    """
    rung = verdict.rungs[-1]
    nonfinite = rung.error == math.inf
    rung = rung if nonfinite else weighed(rung)
    word, reason = by_rung(rung, settle, place, cached)
    return replace(verdict, verdict=word, reason=f"{reason} Asked: {verdict.question}.", rungs=(rung,))


def by_rung(rung: Rung, settle: str, place: str, cached: bool) -> tuple[str, str]:
    bound = limit(rung.dtype, rung.size)
    inside = "" if roundoff(rung.dtype) > roundoff("float32") else " with TF32 or float16 inside"
    if rung.error == math.inf:
        return BUG, f"{rung.note}; first at {place}."
    if rung.undefined:
        return INCONCLUSIVE, "Both paths give NaN or infinity at the same places."
    if rung.error > bound:
        times = rung.error / bound
        explains = f"{times:.2g} times what {rung.dtype}{inside} explains ({bound:.2g})"
        return BUG, f"They differ by {rung.error:.2g} nats, {explains}, most at {place}."
    if not rung.error and cached:
        why = "which two computations seldom do, and prefill may have come from the prefix cache"
        return INCONCLUSIVE, f"They agree bit for bit, {why}. To settle it {COLD_START}."
    if not rung.error:
        return ROUNDING, "They agree bit for bit."
    if roundoff(rung.dtype) > roundoff("float32"):
        hides = (
            f"They differ by {rung.error:.2g} nats; {rung.dtype} explains up to {bound:.2g}, and bugs hide below it."
        )
        return INCONCLUSIVE, f"{hides} To settle it {settle}."
    if rung.error <= rung.gate:
        return ROUNDING, f"They differ by {rung.error:.2g} nats; {rung.dtype} explains up to {rung.gate:.1e}."
    return INCONCLUSIVE, (
        f"They differ by {rung.error:.2g} nats, which {rung.dtype} does not explain ({rung.gate:.1e}), and {rung.dtype}"
        f"{inside} does ({bound:.2g}). To settle it {settle}."
    )
