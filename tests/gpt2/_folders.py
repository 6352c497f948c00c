"""Checkpoint folders for the tests: a tokenizer of a few merges in every form, models that write given ids."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from kvproof.gpt2 import load
from kvproof.gpt2.checkpoint.merges import byte_alphabet
from kvproof.reference.config import Config

from .._checkpoints import as_json, tensors_of

SMALL = Config(n_vocab=40, n_ctx=16, n_embd=50, n_head=25, n_layer=2, n_inner=200)  # XL's number of heads
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "l d", "Ġw or", "Ġwor ld"]
END = 256 + len(MERGES)  # <|endoftext|>


def logits_of(folder: Path):
    return load(folder, dtype="float64")(IDS)


def sizes(n_vocab: int, end=None) -> Config:
    """A small config with so many ids and these end tokens."""
    return Config(n_vocab=n_vocab, n_ctx=8, n_embd=4, n_head=1, n_layer=1, n_inner=4, eos_token_id=end)


def vocabulary() -> dict[str, int]:
    """The merges' ids as GPT-2 numbers them: bytes, merges, <|endoftext|>."""
    tokens = [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}


def tokenizer_json(added=(), **changes) -> dict:
    """A tokenizer.json as `tokenizers` writes it; added are names of special tokens, numbered on."""
    flags = {"special": True, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": level,
        "added_tokens": [{"id": END + i, "content": c} | flags for i, c in enumerate(["<|endoftext|>", *added])],
        "post_processor": dict(level), "decoder": dict(level),
        "model": model | {"vocab": vocabulary(), "merges": MERGES},
    } | changes  # fmt: skip


def merges_text(merges=MERGES) -> str:
    return "\n".join(["#version: 0.2", *merges, ""])


def write(folder: Path, files: Mapping[str, object]) -> Path:
    """Write files: texts and bytes as they are, all else as JSON. The folder is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def speaker(folder: Path, ids: list[int], n_vocab: int, files: Mapping[str, object] | None = None, **fields) -> Path:
    """A checkpoint that writes ids[p] after position p, whatever came before, with these files beside it."""
    kinds = sorted(set(ids))
    config = Config(n_vocab=n_vocab, n_ctx=max(16, len(ids)), n_embd=2 * len(kinds) + 2, n_head=1, n_layer=1, n_inner=4)
    state = {
        name: torch.ones_like(t) if name.endswith("ln_f.weight") else 0 * t for name, t in tensors_of(config).items()
    }
    for column, token in enumerate(kinds):
        state["wte.weight"][token, column] = 1
    for position, token in enumerate(ids):
        state["wpe.weight"][position, kinds.index(token)] = 50
    write(folder, {"config.json": as_json(config) | fields, **(files or {})})
    save_file(state, folder / "model.safetensors")
    return folder
