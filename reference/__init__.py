"""GPT-2 in NumPy alone: the oracle (model, cache, sampling, weights) and the judge (parity, faults)."""

from .model import forward, generate
from .weights import load

__all__ = ["forward", "generate", "load"]
