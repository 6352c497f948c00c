"""Checkpoints -> models: from a folder, a file, the embedded checkpoint, or a recipe."""

import difflib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

from ..reference.config import Config
from ..reference.files import SAFETENSORS, find_weights
from ..reference.synthetic import SIZES, random_config, random_tensors
from ..reference.weights import read_config, read_tensors
from .arguments import check_impl, flag, refuse
from .checkpoint.generation_config import with_end_tokens
from .checkpoint.hub_cache import HubError
from .checkpoint.pickles import PICKLES, is_pickle, read_pickles
from .hub import KNOWN, fetch, is_hub_name
from .model import GPT2
from .tokenizer import Tokenizer, find_tokenizer, gpt2_tokenizer

EMBEDDED = {"tiny": Path(__file__).parent / "checkpoints" / "tiny"}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load(
    name: str | Path = "tiny",
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    impl: str = "sdpa",
    invariant: bool = False,
) -> GPT2:
    """A GPT-2 ready to decode, with its tokenizer where it has one.

    name    "tiny", the trained checkpoint in the package; "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2",
            at their pinned commits, or "owner/name" from the hub, each also with "@revision"; "random:gpt2" and so on,
            that size with deterministic weights; else a folder or a file, safetensors rather than pickles where a
            folder has both. A folder gpt2 is "./gpt2". Its tokenizer, added tokens and end tokens are read from all
            of its files, as folder.py says.
    dtype   float64, float32, float16 or bfloat16, as a string or torch.dtype; weights are converted to it
    device  "cpu", "cuda", ...
    impl    how the decode step attends: naive, eager, sdpa or triton
    invariant  the same bits in any batch, order, page and chunk, at some cost: see GPT2; for impl "triton"

    Raises CheckpointError or ConfigError for what is no GPT-2, HubError for what the hub does not give, ValueError for
    an unknown name, dtype, device or impl.
    """
    if not isinstance(name, (str, Path)):
        raise refuse("name", name, "a model's name, a folder or a file")
    dtype = as_dtype(dtype)
    device = as_device(device)
    invariant = flag("invariant", invariant)
    if check_impl(impl) == "triton":
        from ..kernels.attention.op import check_device  # its module says what to do where triton is absent

        check_device(device)
    path = checkpoint(name)
    if isinstance(path, str):
        config = random_config(path)
        tensors = ((key, torch.from_numpy(array)) for key, array in random_tensors(config))
        return build(config, tensors, gpt2_tokenizer(), dtype, device, impl, invariant)
    config, tensors, tokenizer = open_checkpoint(path)
    return build(config, tensors, tokenizer, dtype, device, impl, invariant)


def open_checkpoint(path: Path) -> tuple[Config, Iterator[tuple[str, torch.Tensor]], Tokenizer | None]:
    """Config, tensors by canonical name, and tokenizer of a folder or a file of any spelling.

    The config has the end tokens that the whole folder gives, generation_config.json before config.json.

    Raises CheckpointError or ConfigError; those about tensors at the latest when the first of them is asked for.
    """
    weights = find_weights(path, (*SAFETENSORS, *PICKLES))
    if is_pickle(weights):
        config, tensors = read_pickles(weights)
    else:
        config = read_config(weights.parent / "config.json")
        tensors = read_tensors(weights, config, "pt")
    config, _ = with_end_tokens(config, weights.parent)
    return config, tensors, find_tokenizer(weights.parent, config)


def checkpoint(name: str | Path) -> Path | str:
    """Where a model's weights are: a folder, a file, or a recipe, "random:..."; reference.load takes the same.

    Names win over folders, as `load` says; a Path is never taken for a name. A model of the hub is fetched first.
    Raises ValueError for a name that is none of these, with the likeliest meant; HubError, a kind of it, for the hub.
    """
    if isinstance(name, str):
        if name.startswith("random:"):
            return name
        if name in EMBEDDED:
            return EMBEDDED[name]
        if name.partition("@")[0] in KNOWN:
            return fetch(name)
    path = Path(name)
    if path.exists():
        return path
    if isinstance(name, str) and is_hub_name(name):
        try:
            return fetch(name)
        except HubError as error:
            raise HubError(f"there is no folder or file {name} here, and as a model of the hub: {error}") from error
    known = [*EMBEDDED, *KNOWN, *(f"random:{size}" for size in SIZES)]
    close = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"no model {str(name)!r}: it is no folder, no file and none of {', '.join(known)}{hint}")


def build(
    config: Config, tensors, tokenizer: Tokenizer | None, dtype, device, impl: str, invariant: bool = False
) -> GPT2:
    """A model of this config with (name, tensor) pairs put in place, each converted on its way.

    The first tensor is asked for before the model's memory is: a checkpoint has been checked against its config by
    then, so that a config that lies costs no more memory than its file.
    """
    tensors = iter(tensors)
    first = next(tensors)
    with torch.device("meta"):
        model = GPT2(config, impl, invariant)
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    model.tokenizer = tokenizer
    place = dict(model.named_parameters())
    for name, tensor in chain([first], tensors):
        place[name].copy_(tensor)
    return model


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch.dtype from itself or its name."""
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype is {' '.join(str(dtype).split())[:60]}; it must be one of {', '.join(DTYPES)}")
    return found


def as_device(device: str | torch.device) -> torch.device:
    """A torch.device that is there: the CPU, or a CUDA GPU of this machine."""
    try:
        named = isinstance(device, (str, int, torch.device)) and not isinstance(device, bool)
        found = torch.device(device) if named else None
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"device {str(device)!r} is not known here; use 'cpu', 'cuda' or 'cuda:N'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but torch finds no CUDA GPU here; use device='cpu'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {str(device)!r} was asked for; this machine has {torch.cuda.device_count()} CUDA GPUs"
        )
    return found
