"""Checkpoints that are pickles: pytorch_model.bin, whole or sharded, and nanoGPT's ckpt.pt.

A pickle is a program. Here it may only build tensors: torch.load(weights_only=True) runs it after a check that its
opcodes call nothing else; torch alone lets a few bytes allocate any memory (bytearray(10**12), a deflated archive).
"""

import mmap
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...reference.config import Config, ConfigError
from ...reference.files import CheckpointError, check_file, other_kind, read_json
from ...reference.weights import check_shard, check_tensors, drop_tied_head, expected_shapes, read_config, weight_map

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "ckpt.pt")  # as a folder names them
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
# Where training code keeps the model's tensors, beside its optimizer's.
NESTS = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "weights")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# All that a saved state dict calls: containers, the rebuilding of tensors, and the kinds of their storages.
STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
CALLS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in STORAGES),
}
OTHER_CALLS = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}  # other ways to name a function; torch.save uses none
LONGEST = 1_000_000  # opcodes; GPT-2 XL with its optimizer takes a twentieth
PROGRAMS = 5  # before torch 1.6 a file was five pickles in a row, then the bytes of all storages


def is_pickle(weights: Path) -> bool:
    """Whether a file of weights, or an index of shards, is of the pickle family, by its name."""
    if weights.suffix == ".json":
        return any(name.endswith(SUFFIXES) for name in weight_map(weights).values())
    return weights.suffix in SUFFIXES


def read_pickles(weights: Path) -> tuple[Config, Iterator[tuple[str, torch.Tensor]]]:
    """Config and tensors of a pickle or an index of pickles.

    weights  a state dict beside its config.json, alone or inside what a training run saves, or nanoGPT's ckpt.pt,
             which has its own sizes
    returns  the config, and (canonical name, tensor in GPT-2's (in, out) layout) of every tensor it needs. Files of
             torch 1.6 and later stay memory-mapped; older ones are read into memory.

    Raises CheckpointError or ConfigError, before the first tensor, for any other file.
    """
    config, state, source, transposed = open_pickles(weights)
    drop_tied_head(source, config, state.__getitem__)
    return config, in_place(config, source, state, transposed)


def open_pickles(weights: Path) -> tuple[Config, dict[str, torch.Tensor], dict[str, str], bool]:
    """Config, tensors by name, canonical name -> name as check_tensors has it, and whether linears are (out, in)."""
    state = read_index(weights) if weights.suffix == ".json" else unpickle(weights)
    transposed = bias = True
    if "model_args" in state:
        config, bias = nanogpt_config(state["model_args"], weights)
        state = state.get("model")
    else:
        config, transposed = read_config(weights.parent / "config.json"), False
        state = unnest(state, weights)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{weights} holds no dictionary of tensors by name")
    for name, tensor in state.items():
        check_tensor(name, tensor, weights)
    source = check_tensors([(name, tuple(tensor.shape)) for name, tensor in state.items()], config, transposed, bias)
    if stray := next((name for name in source.values() if state[name].dtype not in DTYPES), None):
        raise CheckpointError(f"tensor {stray} in {weights} has dtype {state[stray].dtype}; weights are floats")
    return config, state, source, transposed


def unnest(saved: dict, file: Path) -> dict:
    """The state dict inside what a training run saved: itself, or under one of NESTS, once or twice.

    Raises CheckpointError if there are two, or no tensor.
    """
    for _ in range(3):
        nests = [name for name in NESTS if isinstance(saved.get(name), dict)]
        if len(nests) > 1:
            raise CheckpointError(f"{file} holds {' and '.join(map(repr, nests))}; save the model's alone")
        if not nests:
            break
        saved = saved[nests[0]]
    if saved and not any(isinstance(value, torch.Tensor) for value in saved.values()):
        names = ", ".join(repr(name)[:30] for name in list(saved)[:4])
        raise CheckpointError(
            f"{file} holds {names} and no dictionary of tensors by name, nor one under {', '.join(NESTS)}; save the "
            "model's state dict alone"
        )
    return saved


def in_place(config: Config, source: dict[str, str], state: dict, transposed: bool) -> Iterator:
    """(canonical name, tensor) of every tensor, in (in, out) layout; missing biases are zero."""
    linears = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    for key, shape in expected_shapes(config).items():
        if key not in source:
            yield key, torch.zeros(shape)
        else:
            tensor = state[source[key]]
            yield key, tensor.T if transposed and key.endswith(linears) else tensor


def nanogpt_config(args: Any, file: Path) -> tuple[Config, bool]:
    """A nanoGPT checkpoint's model_args -> config, and whether it has biases.

    nanoGPT has used both GELUs and does not save which. It is GPT-2's tanh form, unless a config.json beside the file
    has an activation_function; its eos_token_id counts too.
    """
    if not isinstance(args, dict) or type(args.get("bias", True)) is not bool:
        raise ConfigError(f"{file} holds model_args, but not nanoGPT's")
    missing = [name for name in ("vocab_size", "block_size", "n_embd", "n_head", "n_layer") if args.get(name) is None]
    if missing:
        raise ConfigError(f"model_args in {file} lacks {', '.join(missing)}; is it nanoGPT's?")
    raw = {name: args[name] for name in ("vocab_size", "n_embd", "n_head", "n_layer")}
    if (file.parent / "config.json").is_file():
        beside = read_json(file.parent / "config.json")
        beside = beside if isinstance(beside, dict) else {}
        raw |= {name: beside[name] for name in ("activation_function", "eos_token_id") if name in beside}
    return Config.from_dict(raw | {"n_positions": args["block_size"]}), args.get("bias", True)


def check_tensor(name: str, tensor: Any, file: Path):
    """Raises CheckpointError unless a state dict's entry is a plain tensor with all its elements in the file."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(f"{name} in {file} is no tensor but {type(tensor).__name__}")
    # A stride of 0 makes any number of elements out of one, and so any model out of a small file.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"tensor {name} in {file} claims {tensor.numel()} elements and stores fewer")


def read_index(index: Path) -> dict[str, Any]:
    """The entries of all shards in pytorch_model.bin.index.json.  Raises CheckpointError if they differ from it."""
    names, state = weight_map(index), {}
    for name in sorted(set(names.values())):
        shard = unpickle(index.parent / name)
        check_shard(index, names, name, shard)
        state |= shard
    return state


def unpickle(file: Path) -> dict[str, Any]:
    """The dictionary in a pickle, by torch.load(weights_only=True), memory-mapped if it is a zip archive.

    Raises CheckpointError for anything but a dictionary of tensors.
    """
    check_file(file)
    try:
        with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            zipped = data[:4] == b"PK\x03\x04"
            if zipped:
                check_archive(file)
            else:
                for _ in range(PROGRAMS):
                    check_program(data, file)
        state = torch.load(str(file), map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # on garbage an unpickler raises nearly anything
        raise CheckpointError(
            f"{file} is cut off or no pickle of tensors alone ({type(error).__name__}){other_kind(file)}; if you trust "
            "it, load it where it was made and save its state dict as model.safetensors"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds {type(state).__name__}, no dictionary of tensors")
    return state


def check_archive(file: Path):
    """Raises CheckpointError unless a zip archive is torch.save's and its pickle only builds tensors."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.lower() for entry in entries}  # torch looks names up in any case
        pickles = [entry for entry in entries if entry.filename.lower().endswith("/data.pkl")]
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if len(names) < len(entries) or len(pickles) != 1 or not stored:
            raise CheckpointError(f"{file} is no archive of torch.save: entries are doubled, compressed or missing")
        with archive.open(pickles[0]) as program:
            check_program(program, file)


def check_program(program: Any, file: Path):
    """Read one pickle to its end.  Raises CheckpointError if it calls anything that is not needed for tensors."""
    for count, (op, argument, _) in enumerate(pickletools.genops(program)):
        if count == LONGEST:
            raise CheckpointError(f"{file} holds a pickle of more than {LONGEST} steps; no GPT-2 takes so many")
        if op.name in OTHER_CALLS or (op.name == "GLOBAL" and argument not in CALLS):
            what = " ".join(str(argument or op.name).split()).replace(" ", ".")
            raise CheckpointError(
                f"{file} calls for {what[:60]}, and is not run: a pickle may only build tensors here; if you trust it, "
                "load it where it was made and save its state dict as model.safetensors"
            )
