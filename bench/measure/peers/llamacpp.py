"""GPT-2 in llama.cpp, from a GGUF file written of our weights, driven through llama_decode as a Source.

A step is one batch of B tokens, each of its own sequence, logits asked for all; a prefill is one batch of every
prompt's tokens, ragged as they are, logits asked for the last of each. The cache is in the cell's dtype, with int8
weights (q8_0: blocks of 32 with a float16 scale) too, and each sequence has its own.

Of its two attentions the quicker one runs: flash attention over a cache in half precision, the other over float32
(124M, batch 8: 32 ms a step against 38 in bfloat16, 69 against 43 in float32). Its packed copies of weights, for AMX,
serve int8 alone: with them a step took 7.9 ms instead of 10.9 at batch 1, and in float16 14.6 instead of 14.0. GCC 12.2
builds a llama.cpp that dies of them, since its `_tile_loadconfig` lets the stores before it be dropped; so a process of
its own tries them first, and where it dies the row says that they are left out.

GELU is looked up in a table of float16 even where all else is float32, so that its logits err by more than float32's
bar. Its OpenMP is the one that torch has loaded, with as many threads: they wait by spinning as torch's do, for no
longer than the pause before a turn.
Source: llama.h; names of tensors and fields as the package gguf has them.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....reference.config import Config
from .weights import float_weights

FORMATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
FLASH = ("ENABLED", "DISABLED")
UNPACKED = "this build dies of packed int8 weights, so it runs without them"
BLOCK = 32  # elements of a row that share a scale in q8_0
PAGE = 256  # slots; a sequence gets a multiple
UBATCH = 512  # tokens that it computes at once, its default

# Ours -> GGUF's, the block's number apart.
NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """ "h.3.attn.c_attn.bias" -> "blk.3.attn_qkv.bias" """
    layer, kind = name.split(".")[1] if name.startswith("h.") else "", name.rpartition(".")[2]
    ours = name.removeprefix(f"h.{layer}.").removesuffix(f".{kind}")
    return f"{f'blk.{layer}.' * bool(layer)}{NAMES[ours]}.{kind}"


def gguf_tensors(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor under GGUF's name; matrices are (n_out, n_in)."""
    for name, array in tensors.items():
        matrix = name.startswith("h.") and array.ndim == 2
        yield gguf_name(name), np.ascontiguousarray(array.T) if matrix else array


def gguf_type(name: str) -> Any:
    """The number by which GGUF and llama.cpp know a type of elements."""
    import gguf

    return gguf.GGMLQuantizationType[name]


def write_gguf(path: Path, config: Config, tensors: dict[str, np.ndarray], kind: str):
    """A GGUF file of the model, without a vocabulary.

    kind  F32 | BF16 | F16 | Q8_0, of the matrices, the head and the token embedding too; all else is float32
    """
    import gguf

    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.n_vocab)
    writer.add_tokenizer_model("no_vocab")
    for name, array in gguf_tensors(tensors):
        made = gguf_type(kind if array.ndim == 2 and name != "position_embd.weight" else "F32")
        writer.add_tensor(name, gguf.quants.quantize(array, made), raw_dtype=made)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@cache
def library() -> Any:
    """llama_cpp, its log silent."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(silent(), ctypes.c_void_p(0))
    return llama_cpp


@cache  # kept for as long as it may be called
def silent() -> Any:
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda level, text, data: None)


class Model:
    """llama.cpp's model, which lives as long as this, and at the end of the process longer than its contexts."""

    def __init__(self, handle: Any, config: Config, note: str | None = None):
        self.handle, self.config, self.note = handle, config, note
        weakref.finalize(self, library().llama_model_free, handle)


@lru_cache(maxsize=2)  # one cell needs two at most: half precision is held to float32 as well
def loaded(name: str | Path, dtype: str, int8: bool, packed: bool) -> Model:
    """The model of `load(name)`, written as GGUF and read by llama.cpp.

    Raises ValueError for what it cannot compute: another GELU, rows not of whole blocks.
    """
    llama = library()
    config, tensors = float_weights(name)
    if config.gelu != "tanh":
        raise ValueError(f"gelu is {config.gelu!r}; llamacpp's GPT-2 has 'tanh' alone: leave it out for this model")
    if int8 and (config.n_embd % BLOCK or config.n_inner % BLOCK):
        sizes = f"n_embd {config.n_embd} and n_inner {config.n_inner}"
        raise ValueError(f"{sizes} came; llamacpp's int8 takes multiples of {BLOCK}: leave it out for this model")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(path, config, tensors, "Q8_0" if int8 else FORMATS[dtype])
        settings = llama.llama_model_default_params()
        settings.use_extra_bufts = packed
        handle = llama.llama_model_load_from_file(str(path).encode(), settings)
    if not handle:
        raise RuntimeError("llama.cpp did not load the GGUF file that was written for it")
    return Model(handle, config, UNPACKED if int8 and not packed else None)


def model(name: str | Path, dtype: str, int8: bool) -> Model:
    """The model of `load(name)`, its weights packed where that is quicker and this build of llama.cpp survives it."""
    return loaded(name, dtype, int8, int8 and survives_packing())


@cache
def survives_packing() -> bool:
    """Whether this build multiplies packed int8 weights: a process of its own tries, since a wrong build dies of it."""
    words = [sys.executable, "-c", f"from {__name__} import try_packing; try_packing()"]
    above = Path(__file__).parents[len(__name__.split(".")) - 1]
    place = os.environ | {"PYTHONPATH": os.pathsep.join([str(above), *filter(None, [os.environ.get("PYTHONPATH")])])}
    return subprocess.run(words, env=place, capture_output=True).returncode == 0


def try_packing():
    prompts = [[1, 2, 3, 4], [5, 6, 7, 8]]
    LlamaCppSource(loaded("tiny", "float32", True, True), "float32", len(prompts), 8, 1).prefill(prompts)


class LlamaCppSource:
    """llama.cpp's context for `batch` sequences of up to `capacity` tokens."""

    def __init__(self, model: Model, dtype: str, batch: int, capacity: int, threads: int):
        self.llama, self.model, self.batch, self.filled = library(), model, batch, np.zeros(batch, np.int32)
        self.note = model.note
        llama, settings = self.llama, self.llama.llama_context_default_params()
        settings.n_ctx = batch * -(-capacity // PAGE) * PAGE
        settings.n_batch = max(batch * capacity, batch)
        settings.n_ubatch = max(UBATCH, batch)
        settings.n_seq_max = settings.n_outputs_max = batch
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = gguf_type(FORMATS[dtype])
        settings.flash_attn_type = getattr(llama, f"LLAMA_FLASH_ATTN_TYPE_{FLASH[dtype == 'float32']}")
        self.context = llama.llama_init_from_model(model.handle, settings)
        if not self.context:
            raise MemoryError(f"llama.cpp made no cache for {batch} sequences of {capacity} tokens in {dtype}")
        weakref.finalize(self, llama.llama_free, self.context)
        self.step_batch = Batch(llama, np.arange(batch), np.ones(batch, bool))

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """B prompts, into an empty cache -> logits (B, V)"""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), False)
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        last = np.zeros(lengths.sum(), bool)
        last[lengths.cumsum() - 1] = True
        batch = Batch(self.llama, np.repeat(np.arange(self.batch), lengths), last)
        self.filled = lengths
        return self._run(batch, np.concatenate(prompts), np.concatenate([np.arange(n) for n in lengths]))

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """The newest token of each row, (B,) -> logits (B, V)"""
        positions, self.filled = self.filled, self.filled + 1
        return self._run(self.step_batch, ids.numpy(), positions)

    def _run(self, batch: "Batch", ids: np.ndarray, positions: np.ndarray) -> torch.Tensor:
        batch.ids[:], batch.positions[:] = ids, positions
        failed = self.llama.llama_decode(self.context, batch.handle)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed} for {len(ids)} tokens")
        logits = self.llama.llama_get_logits(self.context)
        return torch.from_numpy(np.ctypeslib.as_array(logits, (self.batch, self.model.config.n_vocab)).copy())


class Batch:
    """llama.cpp's memory for so many tokens: the row of each, whose logits are wanted; ids and positions to set."""

    def __init__(self, llama: Any, rows: np.ndarray, wanted: np.ndarray):
        n = len(rows)
        self.handle = llama.llama_batch_init(n, 0, 1)
        self.handle.n_tokens = n
        self.ids = np.ctypeslib.as_array(self.handle.token, (n,))
        self.positions = np.ctypeslib.as_array(self.handle.pos, (n,))
        np.ctypeslib.as_array(self.handle.logits, (n,))[:] = wanted
        np.ctypeslib.as_array(self.handle.n_seq_id, (n,))[:] = 1
        for i, row in enumerate(rows.tolist()):
            self.handle.seq_id[i][0] = row
        weakref.finalize(self, llama.llama_batch_free, self.handle)
