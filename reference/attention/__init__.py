"""The twin of the general decode attention, kernels/attention: the same splits, blocks and numbered steps in NumPy."""

from .op import decode_attention

__all__ = ["decode_attention"]
