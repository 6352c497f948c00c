"""The decode kernels as an attention implementation of transformers: attn_implementation="kvproof"; see README.md."""

from .registration import IMPLS, load, register_with_transformers

__all__ = ["IMPLS", "load", "register_with_transformers"]
