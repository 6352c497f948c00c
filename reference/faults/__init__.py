"""The corpus of KV-cache bugs: a test, a gate or a judge that lets one of these pass is itself broken.

Each is what somebody has really shipped, so it looks right at a glance and runs without complaint; most carry the
thread that tells of it. `FAULTS` lists them all, in NumPy; gpt2/faults.py has more in torch.
"""

from . import attention, history, model, pages, positions, slots, softmax
from .base import CACHED, ORACLE, Fault, cached_logits, decode, describe, forward_with, int8_logits

FAULTS: tuple[Fault, ...] = tuple(
    fault
    for part in (attention, softmax, positions, slots, history, pages, model)
    for fault in vars(part).values()
    if isinstance(fault, Fault)
)

__all__ = [
    "CACHED",
    "FAULTS",
    "ORACLE",
    "Fault",
    "cached_logits",
    "decode",
    "describe",
    "forward_with",
    "int8_logits",
]
