"""Checkpoints -> models: from a folder, a file, the embedded checkpoint, or a recipe."""

import difflib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from ..reference.config import Config
from ..reference.files import SAFETENSORS, find_weights
from ..reference.synthetic import SIZES, random_config, random_tensors
from ..reference.weights import read_config, read_tensors
from .arguments import check_weights, flag, refuse
from .checkpoint.generation_config import with_end_tokens
from .checkpoint.hub_cache import HubError
from .checkpoint.pickles import PICKLES, is_pickle, read_pickles
from .hub import KNOWN, fetch, is_hub_name
from .huge_pages import advise
from .impls import resolve_impl
from .int8_weights import Int8Matrix, OutOfMemory, is_out_of_memory
from .linear import Conv1D
from .model import GPT2
from .tokenizer import Tokenizer, find_tokenizer, gpt2_tokenizer

EMBEDDED = {"tiny": Path(__file__).parent / "checkpoints" / "tiny"}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load(
    name: str | Path = "tiny",
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    impl: str = "auto",
    invariant: bool = False,
    weights: str | None = None,
) -> GPT2:
    """A GPT-2 ready to decode, with its tokenizer where it has one.

    name    "tiny", the trained checkpoint in the package; "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"
            at pinned commits, or "owner/name" from the hub, each also with "@revision"; "random:gpt2" and so on, that
            size with deterministic weights; else a folder or a file. Names win over folders: write ./gpt2 for a folder
            of that name. Safetensors win over pickles in the same folder, whose other files give the tokenizer and the
            end tokens.
    dtype   float64, float32, float16 or bfloat16, as a string or torch.dtype; weights are converted to it
    device  "cpu", "cuda", ...
    impl    how it decodes: naive, eager, sdpa, triton or numba, see GPT2. "auto" is numba on a CPU and sdpa on a GPU;
            on a CPU where numba cannot run, sdpa, and one line on standard error says why. model.impl says which
    invariant  the same bits in any batch, order, page and chunk: on a CPU another name for numba; for impl "triton"
            slower, see GPT2
    weights  "int8" quantises the matrices as they come, from the checkpoint's own numbers whatever the dtype; see GPT2

    Raises CheckpointError or ConfigError for a checkpoint that is no GPT-2 or holds what int8 cannot, HubError if the
    hub lacks it or fails, ValueError for an unknown name, dtype, device, impl or weights, ImportError if the impl that
    was asked for cannot run here, OutOfMemory if int8 weights find no room.
    """
    if not isinstance(name, (str, Path)):
        raise refuse("name", name, "a model's name, a folder or a file")
    dtype = as_dtype(dtype)
    device = as_device(device)
    invariant, weights = flag("invariant", invariant), check_weights(weights)
    impl = resolve_impl(impl, device, dtype, weights, invariant)
    if impl == "triton":
        from ..kernels.attention import check_device  # without triton this import raises, with advice

        check_device(device)
    path = checkpoint(name)
    if isinstance(path, str):
        config = random_config(path)
        tensors = ((key, torch.from_numpy(array)) for key, array in random_tensors(config))
        return build(config, tensors, gpt2_tokenizer(), dtype, device, impl, invariant, weights)
    config, tensors, tokenizer = open_checkpoint(path)
    return build(config, tensors, tokenizer, dtype, device, impl, invariant, weights)


def open_checkpoint(path: Path) -> tuple[Config, Iterator[tuple[str, torch.Tensor]], Tokenizer | None]:
    """Config, tensors by canonical name, and tokenizer of a folder or a file in any format.

    The config's end tokens are those of the whole folder, generation_config.json before config.json.

    Raises CheckpointError or ConfigError; errors of tensors come at the latest with the first tensor.
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
    """The folder or file of a model's weights, or its recipe "random:..."; reference.load takes all three.

    Names win over folders, as in `load`; a Path is never a name. A model of the hub is downloaded first.
    Raises ValueError for an unknown name, with the closest known one; HubError, a subclass, for the hub.
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
    config: Config,
    tensors,
    tokenizer: Tokenizer | None,
    dtype,
    device,
    impl: str,
    invariant: bool = False,
    weights: str | None = None,
) -> GPT2:
    """A model of this config filled with (name, tensor) pairs, each converted or quantised as it is copied.

    Raises OutOfMemory if there is no room for int8 weights.
    """
    try:
        model = filled(config, tensors, dtype, device, impl, invariant, weights)
        model.tokenizer = tokenizer
        return model
    except (MemoryError, RuntimeError) as error:
        if not weights or not is_out_of_memory(error):
            raise
    # Raised out here the error does not hold the frames above, and so nothing of a half-built model.
    raise OutOfMemory(config, dtype.itemsize)


def filled(config: Config, tensors, dtype, device, impl: str, invariant: bool, weights: str | None) -> GPT2:
    """The first tensor is read before the model is allocated: by then the checkpoint has been checked against its
    config, so a config with wrong sizes costs no more memory than its file.
    """
    tensors = iter(tensors)
    pending = [next(tensors)]
    with torch.device("meta"):
        model = GPT2(config, impl, invariant, weights)
    if impl == "numba":
        for module in model.modules():
            if isinstance(module, Conv1D):
                module.lay_by_output()
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    if impl == "numba":
        advise([*model.parameters(), *model.buffers()])
    while pending:
        put(model, *pending.pop())  # nothing else holds the tensor, so it is gone before the next is read
        pending += islice(tensors, 1)
    return model


def put(model: GPT2, name: str, tensor: torch.Tensor):
    """Fill the model's tensor of this canonical name."""
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, Int8Matrix) and name.endswith(".weight"):
        module.fill(name, tensor)
    else:
        model.get_parameter(name).copy_(tensor)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch.dtype, or the one of this name."""
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype is {' '.join(str(dtype).split())[:60]}; it must be one of {', '.join(DTYPES)}")
    return found


def as_device(device: str | torch.device) -> torch.device:
    """The CPU or a CUDA GPU of this machine as a torch.device.  Raises ValueError for any other."""
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
