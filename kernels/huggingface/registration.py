"""The name "kvproof" among transformers' attention implementations, with its mask; and a model loaded for it."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from .attention import attention
from .decode import IMPLS, check_impl
from .masks import mask

NAME = "kvproof"


def register_with_transformers(impl: str = "auto") -> None:
    """Let models of transformers attend with kvproof's kernels: from_pretrained(..., attn_implementation="kvproof").

    impl  what a decode step runs on: "numba", compiled for this CPU; "triton", the kernel for a GPU, which tensors of a
          CPU run through the PTX machine, slowly; "auto", triton for CUDA tensors and numba for those of a CPU

    Prefill and training go through torch, see README.md. A second call changes impl, for models that exist too.

    Raises ImportError without transformers 5.24, or where impl "numba" was asked for and cannot run; ValueError for an
    unknown impl.
    """
    check_impl(impl)
    attentions, masks = interfaces()
    attentions.register(NAME, torch.compiler.disable(partial(attention, impl)))
    masks.register(NAME, mask)


def interfaces() -> tuple[Any, Any]:
    """transformers' tables of attention implementations and of their masks.  Raises ImportError without them."""
    try:
        from transformers import AttentionInterface, AttentionMaskInterface, __version__
    except ImportError as error:
        raise ImportError(
            f'attn_implementation="{NAME}" needs transformers 5.24, which does not import here ({error}); '
            "pip install 'transformers>=5.24,<6'"
        ) from error
    if tuple(int(number) for number in __version__.split(".")[:2]) < (5, 24):
        raise ImportError(
            f'transformers {__version__} came; attn_implementation="{NAME}" needs 5.24 or later, whose masks it reads: '
            "pip install 'transformers>=5.24,<6'"
        )
    return AttentionInterface, AttentionMaskInterface


def load(source: str | Path, *, impl: str = "auto", **keywords: Any) -> Any:
    """A causal LM of transformers that decodes with kvproof's kernels.

    source    a folder, or a name on the Hub, as `AutoModelForCausalLM.from_pretrained` takes it
    impl      see `register_with_transformers`
    keywords  its other arguments: dtype, gguf_file, revision, device_map ...
    returns   the model, ready for `generate`

    Raises ImportError as `register_with_transformers` does, ValueError for another attn_implementation; what
    transformers raises besides.
    """
    asked = keywords.pop("attn_implementation", NAME)
    if asked != NAME:
        raise ValueError(
            f'attn_implementation is {asked!r}; this loads for "{NAME}": call AutoModelForCausalLM.from_pretrained'
        )
    register_with_transformers(impl)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, attn_implementation=NAME, **keywords)


__all__ = ["IMPLS", "NAME", "load", "register_with_transformers"]
