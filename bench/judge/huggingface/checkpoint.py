"""A Hugging Face causal LM as it is found: in a folder or in memory, in any dtype, under any attention."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..contract.user_errors import user_code
from ..subjects.callables import find_function
from .caches import DoesNotApply

ABSENT = "transformers is not here; python -m pip install -e '.[hf]'"


def read_model(source: str | Path | Any, dtype: torch.dtype, device: str | torch.device = "cpu") -> Any:
    """A causal LM in `dtype` from a local folder, nothing downloaded, or a copy of one in memory.

    Raises ValueError for a folder that is none, that transformers cannot read, or that lacks some of the weights;
    ImportError without transformers.
    """
    if isinstance(source, torch.nn.Module):
        with user_code(f"copying the {type(source).__name__}", refusals=False):
            twin = copy.deepcopy(source).eval().requires_grad_(False)
        for parameter in twin.parameters():  # buffers stay: rotary frequencies are float32 in every checkpoint's dtype
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        return widened(twin, dtype)
    if not (Path(source) / "config.json").is_file():
        raise ValueError(f"{source} has no config.json; pass the local folder of a Hugging Face causal LM")
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ImportError(ABSENT) from error

    with (
        without_progress_bars(),
        user_code(
            f"transformers, reading {source},", "it must be a folder that AutoModelForCausalLM loads", refusals=False
        ),
    ):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    model, report = loaded
    lacking = sorted(report["missing_keys"])
    if lacking:
        more = f" and {len(lacking) - 3} more" if lacking[3:] else ""
        raise ValueError(
            f"{source} has no {', '.join(lacking[:3])}{more}; transformers would draw these weights at random, so save "
            f"it from a {type(model).__name__}"
        )
    with user_code(f"moving the {type(model).__name__} to {device}", refusals=False):
        return widened(model.eval().requires_grad_(False).to(device), dtype)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """transformers draws none while this is open: the command has a progress line of its own."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def widened(model: Any, dtype: torch.dtype) -> Any:
    """The model, whose experts are plain products in float64: torch's grouped product has no float64."""
    if dtype == torch.float64 and getattr(model.config, "_experts_implementation", None) == "grouped_mm":
        model.set_experts_implementation("eager")
    return model


def read_prompts(folder: str | Path, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, by the folder's own tokenizer.  Raises ValueError where there is none."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(ABSENT) from error
    with user_code(f"the tokenizer of {folder}", "leave --prompt out, or give --context N instead", refusals=False):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        prompts = [list(tokenizer(text)["input_ids"]) for text in texts]
    for text, ids in zip(texts, prompts, strict=True):
        if not ids:
            raise ValueError(f"the prompt {text!r} has no tokens in {folder}'s tokenizer; write a longer one")
    return prompts


def attention_named(name: str | None) -> str | None:
    """A name that transformers knows: "kvproof", or a function of the user's, once it has been registered.

    A function is given the mask of "sdpa": bool (B, 1, M, T), True where seen, or None. One that wants another names it
    by its attribute `mask_function`, such as transformers.masking_utils.eager_mask, whose floats are added.
    """
    if name == "kvproof":
        from ....kernels.huggingface import register_with_transformers

        register_with_transformers()
    if name is None or ":" not in name:
        return name
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise ImportError(ABSENT) from error
    function = find_function(name)
    known = name.replace(":", ".")  # as the report calls it
    AttentionInterface.register(known, function)
    AttentionMaskInterface.register(known, getattr(function, "mask_function", sdpa_mask))
    return known


@contextmanager
def attending(model: Any, name: str | None) -> Iterator[None]:
    """The model attends by `name` while the context is open; None leaves it as it is."""
    if name is None:
        yield
        return
    before = model.config._attn_implementation
    with user_code(f"{type(model).__name__}, asked to attend by {name!r},", refusals=False):
        model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise DoesNotApply(
            f"{type(model).__name__} does not attend through AttentionInterface, so {name} would not be called; leave "
            "--attn-implementation out"
        )
    try:
        yield
    finally:
        model.set_attn_implementation(before)
