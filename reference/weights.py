"""Checkpoints -> arrays, in every format of the safetensors family.

First the names and shapes of a GPT-2 checkpoint (gpt2/checkpoint/pickles.py checks the same), then the reading of the
bytes. No file is trusted: whatever is wrong with it ends in a CheckpointError that names it.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (teaches NumPy, and so safetensors, the name bfloat16)
import numpy as np
from numpy.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from .config import Config, ConfigError
from .files import CheckpointError, find_weights, other_kind, read_json, stand_in
from .synthetic import random_config, random_tensors

DTYPES = ("F64", "F32", "F16", "BF16")
# Modules that wrap another and add their name to the path: torch.compile (of the model or of one block), DataParallel,
# FSDP, activation checkpointing, Lightning's Fabric.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Where GPT-2's own path begins. What stands before it holds the model: "transformer.", Lightning's
# "model.transformer.", PEFT's "base_model.model.transformer.".
ROOT = re.compile(r"(?:^|\.)((?:wte|wpe|ln_f|lm_head|h\.\d+)\..*)", re.DOTALL)
MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # a causal mask some versions saved; not c_attn.bias
ADAPTER = re.compile(r"(?:^|\.)(lora_\w+|base_layer|modules_to_save|original_module|prompt_encoder|ia3_\w+)(?:\.|$)")


class Stored(NamedTuple):
    """Where a tensor lies: its file, that file opened by safetensors, its name there."""

    file: Path
    shard: Any
    name: str


def canonical_name(name: str) -> str | None:
    """The tensor's name without its wrappers, e.g. "h.0.attn.c_attn.weight"; None for a mask buffer."""
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    root = ROOT.search(name)
    name = root[1] if root else name
    return None if MASK_BUFFER.fullmatch(name) else name


def is_adapter_s(name: str) -> bool:
    """Whether a tensor belongs to an adapter of PEFT, or to a layer that still carries one."""
    return ADAPTER.search(name) is not None


def expected_shapes(config: Config, transposed: bool = False, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every tensor the config calls for.

    transposed  linear weights are (out, in), as nanoGPT saves them, not GPT-2's (in, out)
    bias        False: linears and LayerNorms have none, as nanoGPT's bias=False
    """
    E, inner = config.n_embd, config.n_inner
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (config.n_vocab, E), "wpe.weight": (config.n_ctx, E)}
    for i in range(config.n_layer):
        linears = {"attn.c_attn": (E, 3 * E), "attn.c_proj": (E, E), "mlp.c_fc": (E, inner), "mlp.c_proj": (inner, E)}
        for ln in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{ln}.weight": (E,), f"h.{i}.{ln}.bias": (E,)}
        for linear, shape in linears.items():
            shapes[f"h.{i}.{linear}.weight"] = shape[::-1] if transposed else shape
            shapes[f"h.{i}.{linear}.bias"] = shape[1:]
    shapes |= {"ln_f.weight": (E,), "ln_f.bias": (E,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.n_vocab, E)
    return {name: shape for name, shape in shapes.items() if bias or not name.endswith(".bias")}


def check_tensors(
    found: Iterable[tuple[str, tuple[int, ...]]], config: Config, transposed: bool = False, bias: bool = True
) -> dict[str, str]:
    """Match a checkpoint's tensors to the config's: canonical name -> name in the file, mask buffers left out.

    found             (name, shape) of every tensor, in all shards together
    transposed, bias  the layout, as in expected_shapes. A checkpoint has one layout: the square c_proj, whose shape
                      does not show it, has that of c_attn
    returns           every expected tensor; also "lm_head.weight" if a tied model has one beside wte (it must equal
                      wte; alone, as safetensors' save_model may leave it, it is wte)

    Raises CheckpointError for a tensor that is missing, unexpected, doubled or of the wrong shape, or an adapter's.
    """
    expected = expected_shapes(config, transposed, bias)
    shapes, source = expected | {"lm_head.weight": expected["wte.weight"]}, {}
    for name, shape in found:
        key = canonical_name(name)
        if key is None:
            continue
        if is_adapter_s(name):
            raise CheckpointError(
                f"tensor {name} is an adapter's (LoRA), not yet merged; merge it into its base (PEFT's "
                "merge_and_unload) and save the model"
            )
        if key not in shapes:
            raise CheckpointError(f"tensor {name} does not belong to a GPT-2 with {config.n_layer} layers")
        if key in source:
            raise CheckpointError(f"tensor {key} is there twice, as {source[key]} and as {name}")
        if tuple(shape) != shapes[key]:
            hint = ""
            if tuple(shape) == shapes[key][::-1]:
                hint = "; it is transposed: GPT-2 stores (in, out), nanoGPT and torch.nn.Linear store (out, in)"
            raise CheckpointError(f"tensor {name} has shape {tuple(shape)}; the config needs {shapes[key]}{hint}")
        source[key] = name
    if config.tie_word_embeddings and "wte.weight" not in source and "lm_head.weight" in source:
        source["wte.weight"] = source.pop("lm_head.weight")
    missing = [key for key in expected if key not in source]
    if missing:
        names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise CheckpointError(f"{len(missing)} of {len(expected)} tensors are missing: {names}")
    return source


def nest(tensors: dict[str, np.ndarray]) -> dict:
    """Flat names -> the params of model.py: "h.0.attn.c_attn.weight" is params["h"][0]["attn"]["c_attn"]["weight"]."""
    params: dict = {}
    for name, array in tensors.items():
        *path, leaf = name.split(".")
        node = params
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = array
    params["h"] = [params["h"][str(i)] for i in range(len(params["h"]))]
    return params


def load(path: str | Path, dtype: DTypeLike = np.float64) -> tuple[dict, Config]:
    """params and config of a checkpoint.

    path     a folder with config.json and model.safetensors or its index of shards; one of these two files;
             or "random:NAME", a size of synthetic.py
    dtype    float64 or float32; float16 and bfloat16 checkpoints are widened, which is exact

    Raises CheckpointError, or ConfigError if config.json asks for something our equations do not honour.
    """
    if np.dtype(dtype) not in (np.float64, np.float32):
        raise ValueError(f"dtype is {np.dtype(dtype)}; the reference computes in float64 or float32")
    if str(path).startswith("random:"):
        config = random_config(str(path))
        return nest({name: array.astype(dtype) for name, array in random_tensors(config)}), config
    weights = find_weights(Path(path))
    config = read_config(weights.parent / "config.json")
    return nest({name: array.astype(dtype) for name, array in read_tensors(weights, config)}), config


def read_config(path: Path) -> Config:
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} does not hold a JSON object")
    return Config.from_dict(raw)


def read_tensors(weights: Path, config: Config, framework: str = "np") -> Iterator[tuple[str, Any]]:
    """Yield (canonical name, tensor as stored) of every tensor the config calls for, one at a time.

    weights    a safetensors file or an index of shards; memory-mapped, so that nothing is held twice, each tensor by a
               mapping of its own, so that what was read is let go with it
    framework  "np" for NumPy arrays, "pt" for torch tensors

    Raises CheckpointError, before the first tensor, if they are not those of the config.
    """
    with ExitStack() as stack:
        source, shards = match_tensors(weights, config, framework, stack)

        def get(name: str):
            stored = shards[name]
            with open_shard(stored.file, framework) as fresh:
                return fresh.get_tensor(stored.name)

        drop_tied_head(source, config, get)
        for key, name in source.items():
            yield key, get(name)


def match_tensors(
    weights: Path, config: Config, framework: str, stack: ExitStack
) -> tuple[dict[str, str], dict[str, Stored]]:
    """Open the files of weights and match their tensors to the config's.

    returns  canonical name -> name, as check_tensors has it; name -> where it is stored
    """
    files = shard_files(weights) if weights.suffix == ".json" else [weights]
    opened = [(file, stack.enter_context(open_shard(file, framework))) for file in files]
    found = [(name, Stored(file, shard, name)) for file, shard in opened for name in list(shard.keys())]
    shards, known = dict(found), {"lm_head.weight", *expected_shapes(config)}
    for file, shard in opened:  # save_model writes one of two tensors that share memory, and its other name as metadata
        for alias, name in (shard.metadata() or {}).items():
            here = name in shards and shards[name].shard is shard
            if here and alias not in shards and canonical_name(alias) in known:
                found.append((alias, Stored(file, shard, name)))
    shards = dict(found)
    slices = {name: at.shard.get_slice(at.name) for name, at in found}
    source = check_tensors([(name, slices[name].get_shape()) for name, _ in found], config)
    for name in source.values():
        dtype = slices[name].get_dtype()
        if dtype not in DTYPES:
            raise CheckpointError(f"tensor {name} in {weights} has dtype {dtype}; weights are {', '.join(DTYPES)}")
    return source, shards


def drop_tied_head(source: dict[str, str], config: Config, get: Callable[[str], Any]):
    """Remove a tied model's head from source, if it equals wte.

    source  canonical name -> name in the file, from check_tensors
    get     name in the file -> its tensor

    Raises CheckpointError if the head is another matrix.
    """
    if not config.tie_word_embeddings or "lm_head.weight" not in source:
        return
    head, wte = get(source.pop("lm_head.weight")), get(source["wte.weight"])
    rows = range(0, config.n_vocab, 1024)  # block by block: a mask of all of it would be another tenth of a gigabyte
    if head.dtype != wte.dtype or not all((head[i : i + 1024] == wte[i : i + 1024]).all() for i in rows):
        raise CheckpointError("lm_head.weight differs from wte.weight, and tie_word_embeddings is true")


def open_shard(file: Path, framework: str):
    """A safetensors file, opened, its header checked by the library.

    Raises CheckpointError with what is there instead, PermissionError.
    """
    try:
        if file.is_file() and (what := stand_in(file)):
            raise CheckpointError(f"{file} {what}")
        return safe_open(file, framework)
    except FileNotFoundError:
        if file.exists():  # the library has the same error for an unreadable file
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file)) from None
        raise CheckpointError(f"{file} is missing; a checkpoint keeps its files in one folder") from None
    except (SafetensorError, OSError) as error:
        why = shortfall(file) or other_kind(file)
        raise CheckpointError(f"{file} is cut off or no safetensors file: {error}{why}") from error


def shortfall(file: Path) -> str:
    """The end of a message about a safetensors file: its size and the size that its header describes."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(size, file.stat().st_size)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole, there = 8 + size + max(ends), file.stat().st_size
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return ""
    return f"; {there} of its {whole} bytes are there: fetch it again" if there < whole else ""


def shard_files(index: Path) -> list[Path]:
    """The files of model.safetensors.index.json.  Raises CheckpointError unless they hold just its tensors."""
    names = weight_map(index)
    files = [index.parent / name for name in sorted(set(names.values()))]
    shards = [(file, open_shard(file, "np")) for file in files]
    for file, shard in shards:
        with shard:
            check_shard(index, names, file.name, shard.keys())
    return files


def weight_map(index: Path) -> dict[str, str]:
    """An index's tensor name -> file name; every file lies beside the index."""
    raw = read_json(index)
    names = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(names, dict) or not all(isinstance(s, str) and Path(s).name == s for s in names.values()):
        raise CheckpointError(f"{index} has no weight_map from tensor names to file names")
    return names


def check_shard(index: Path, names: dict[str, str], file: str, found: Iterable[str]):
    """Raises CheckpointError unless the shard `file` holds just the index's tensors of it."""
    stray = set(found) ^ {name for name, where in names.items() if where == file}
    if stray:
        raise CheckpointError(f"{index} and {file} disagree about tensor {min(map(str, stray))}")
