"""The corpus of KV-cache bugs: a test, a gate or a judge that lets one of these pass is itself broken.

Each is what somebody has really shipped, so it looks right at a glance and runs without complaint; most carry the
thread that reports it. `FAULTS` lists those of a model's cached decode in NumPy, bench/judge/faults those in torch;
`OP_FAULTS` those of one call of the op, with pages, groups, windows and all else that it takes.
"""

from . import attention, decode_cache, decode_op, history, masks, model, pages, positions, slots, softmax, windows
from .base import CACHED, ORACLE, Fault, cached_logits, decode, describe, forward_with, int8_logits

FAULTS: tuple[Fault, ...] = tuple(
    fault
    for part in (attention, masks, softmax, positions, slots, windows, history, pages, model)
    for fault in vars(part).values()
    if isinstance(fault, Fault)
)
# Whole calls of the op with all its features, which no model here makes: for the op's own tests, not the judge's exam.
OP_FAULTS: tuple[Fault, ...] = tuple(
    fault for part in (decode_op, decode_cache) for fault in vars(part).values() if isinstance(fault, Fault)
)

__all__ = [
    "CACHED",
    "FAULTS",
    "OP_FAULTS",
    "ORACLE",
    "Fault",
    "cached_logits",
    "decode",
    "describe",
    "forward_with",
    "int8_logits",
]
