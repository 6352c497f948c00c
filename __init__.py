"""kvproof: GPT-2's KV-cached decode step in NumPy, PyTorch and Triton, proved equal and measured.

The folders beside this file are the parts: `kvproof.reference`, `kvproof.kernels`, `kvproof.gpt2`, `kvproof.bench`.
`kvproof.register_with_transformers()` gives the kernels to models of transformers; it is loaded when first asked for.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kernels.huggingface import register_with_transformers

__all__ = ["__version__", "register_with_transformers"]
__version__ = version("kvproof")


def __getattr__(name: str) -> Any:
    if name != "register_with_transformers":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    from .kernels.huggingface import register_with_transformers

    return register_with_transformers
