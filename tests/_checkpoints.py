"""Checkpoints for the tests: small ones in every spelling, and ways to spoil them."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from kvproof.reference.config import Config
from kvproof.reference.synthetic import random_tensors

VARIANTS = Path(__file__).parent / "data" / "variants"
LINEARS = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def tensors_of(config: Config) -> dict[str, torch.Tensor]:
    """Canonical name -> float32 tensor, by the recipe of random:NAME."""
    return {name: torch.from_numpy(array) for name, array in random_tensors(config)}


def as_json(config: Config) -> dict:
    """The config.json that Hugging Face would write."""
    names = ("n_embd", "n_head", "n_layer", "n_inner", "layer_norm_epsilon", "tie_word_embeddings", "eos_token_id")
    return {name: getattr(config, name) for name in names} | {
        "model_type": "gpt2",
        "vocab_size": config.n_vocab,
        "n_positions": config.n_ctx,
        "activation_function": "gelu_new" if config.gelu == "tanh" else "gelu",
    }


def edit_config(folder: Path, **changes) -> Path:
    """Change fields of a folder's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def save_pretrained(folder: Path, config: Config, tensors: dict[str, torch.Tensor]) -> Path:
    """Write config.json and model.safetensors as Hugging Face does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(as_json(config)))
    save_file({f"transformer.{name}": t for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_nanogpt(
    folder: Path, config: Config, tensors: dict[str, torch.Tensor], pad: int = 0, bias: bool = True, **args
) -> Path:
    """Write ckpt.pt as nanoGPT does: (out, in) weights, the head tied, torch.compile's prefix, its model_args.

    pad   rows added to the vocabulary, of ten times the largest weight, so that a padding id wins where it may
    args  model_args to change
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: t.T.contiguous() if name.endswith(LINEARS) else t for name, t in tensors.items()}
    state = {name: t for name, t in state.items() if bias or not name.endswith(".bias")}
    wte = state["wte.weight"]
    state["wte.weight"] = torch.cat([wte, 10 * wte[:1].expand(pad - pad // 2, -1), -10 * wte[:1].expand(pad // 2, -1)])
    model = {f"_orig_mod.transformer.{name}": t for name, t in state.items()}
    model["_orig_mod.lm_head.weight"] = state["wte.weight"]
    sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd, "block_size": config.n_ctx}
    sizes |= {"bias": bias, "vocab_size": config.n_vocab + pad, "dropout": 0.0} | args
    torch.save(
        {"model": model, "model_args": sizes, "iter_num": 1, "best_val_loss": torch.tensor(1.0)}, folder / "ckpt.pt"
    )
    return folder


def read_safetensors(path: Path) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + n]), raw[8 + n :]


def write_safetensors(path: Path, header, data: bytes):
    """Write a header, an object or bytes as they are, and data; nothing is checked."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def rewrite_archive(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED):
    """Write torch.save's archive anew, each entry as change(name, bytes) gives it."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, change(name, data))


def hostile_pickles(canary: Path) -> dict[str, bytes]:
    """Name -> a pickle that runs code, or takes memory or time, if it is let; code would create the file `canary`."""
    command = f"touch {canary}".encode()
    short = b"X" + struct.pack("<I", len(command)) + command
    huge = b"\x8a\x06" + (10**12).to_bytes(6, "little")  # LONG1
    return {
        "os.system": b"\x80\x02cos\nsystem\n" + short + b"\x85R.",
        "os.system, protocol 0": b"cos\nsystem\n(V" + command + b"\ntR.",
        "os.system, by stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short + b"\x85R.",
        "os.system, INST": b"(V" + command + b"\nios\nsystem\n.",
        "eval": b"\x80\x02cbuiltins\neval\n" + short + b"\x85R.",
        "torch's own import": b"\x80\x02ctorch.hub\nload\n" + short + b"\x85R.",
        "os.system in a dict": b"\x80\x02}X\x01\x00\x00\x00acos\nsystem\n" + short + b"\x85Rs.",
        "bytearray of a terabyte": b"\x80\x02cbuiltins\nbytearray\n" + huge + b"\x85R.",
        "storage of a terabyte": b"\x80\x02ctorch\nFloatStorage\n" + huge + b"\x85R.",
        "extension code": b"\x80\x02\x82\x01.",
        "nested": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        "nested tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
        "endless": b"\x80\x02" + b"N0" * 600_000 + b"}.",
        "long string that is not there": b"\x80\x02X\xff\xff\xff\x7fabc",
        "huge memo index": b"\x80\x02}r\xff\xff\xff\x7f.",
        "no stop": b"\x80\x02}",
        "pops of nothing": b"\x80\x020000.",
        "a list": b"\x80\x02].",
        "empty dictionary": b"\x80\x02}.",
        "nothing": b"",
    }


def mutate_bytes(raw: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, change, insert, repeat or drop a few bytes somewhere, mostly near the ends, where formats keep order."""
    data = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        n = max(len(data), 1)
        at = int([rng.integers(n), min(rng.integers(1200), n - 1), max(n - 1 - rng.integers(1200), 0)][rng.integers(3)])
        size = int(rng.integers(1, 9))
        match rng.integers(6):
            case 0:
                del data[at:]
            case 1:
                data[at : at + size] = rng.bytes(size)
            case 2:
                data[at:at] = rng.bytes(size)
            case 3:
                data[at:at] = data[at : at + 64 * size]
            case 4:
                del data[at : at + size]
            case 5:
                data[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(8))]) if at < len(data) else b""
    return bytes(data)


ODD_VALUES = (
    None, True, -1, 0, 1, 2, 7, 8, 9, 16, 1.5, 10**9, 2**31, 2**63, 10**30, float("nan"), float("inf"), "8", "",
    "F8_E5M2", "F64", "I64", "BF16", [], [8], [8, 8], [8, 24], [24, 8], [-8, -24], [1] * 50, [2**40, 2**40], {},
    {"a": [1]}, [0, 10**12],
)  # fmt: skip


def odd_value(rng: np.random.Generator):
    return ODD_VALUES[rng.integers(len(ODD_VALUES))]


def mutate_json(raw, rng: np.random.Generator):
    """Change, drop, rename or double a few entries of a JSON object, somewhere within its first two levels."""
    raw = json.loads(json.dumps(raw))
    for _ in range(rng.integers(1, 3)):
        inner = [v for v in raw.values() if isinstance(v, dict) and v]
        node = inner[rng.integers(len(inner))] if inner and rng.random() < 0.6 else raw
        if not node:
            continue
        keys = list(node)
        key = keys[rng.integers(len(keys))]
        match rng.integers(5):
            case 0 | 1:
                node[key] = odd_value(rng)
            case 2:
                del node[key]
            case 3:
                node["transformer." + key] = node[key]
            case 4:
                other = keys[rng.integers(len(keys))]
                node[key], node[other] = node[other], node[key]
    return raw


def mutate_state(state: dict, rng: np.random.Generator) -> dict:
    """A state dict with an entry of another shape, dtype or kind, missing, doubled, or a view that claims too much."""
    state = dict(state)
    names = list(state)
    name = names[rng.integers(len(names))]
    tensor = state[name]
    match rng.integers(8):
        case 0:
            del state[name]
        case 1:
            state["module." + name] = tensor
        case 2:
            state[name] = tensor.to([torch.int64, torch.bool, torch.float16, torch.complex64][rng.integers(4)])
        case 3:
            state[name] = tensor.reshape(-1)[:1].expand(tensor.shape)
        case 4:
            state[name] = torch.zeros([int(n) for n in rng.integers(0, 9, rng.integers(0, 4))])
        case 5:
            state[name] = odd_value(rng)
        case 6:
            state[name] = tensor.reshape(tensor.shape[::-1])
        case 7:
            state[int(rng.integers(9))] = state.pop(name)
    return state
