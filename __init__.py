"""kvproof: GPT-2's KV-cached decode step in NumPy, PyTorch and Triton, proved equal and measured.

The folders beside this file are the parts: `kvproof.reference`, `kvproof.kernels`, `kvproof.gpt2`, `kvproof.bench`.
"""

from importlib.metadata import version

__version__ = version("kvproof")
