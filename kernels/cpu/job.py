"""What one call of the compiled engine is told: sizes and addresses, in a record that NumPy writes and Numba reads."""

import numpy as np

MODEL = """
    n_layer n_head head_dim n_embd n_inner n_vocab exact_gelu int8_weights int8_cache
    layers wte wte_scale wpe ln_f ln_f_bias head
"""
CALL = """
    rows outputs page max_pages splits only_attention threads
    ids sequences slots output_rows cache table x normed wide logits scratch scratch_size phases
"""
JOB = np.dtype([("eps", np.float64)] + [(name, np.int64) for name in MODEL.split() + CALL.split()])
"""What stays the same for a model, and what each call brings: sizes and flags, then addresses.

    layers          (n_layer, len(LAYER)) int64: the addresses of a layer's tensors; head: of a weight, scale and bias
    rows            tokens that this call brings; ids, sequences, slots (rows,) int64, in any order
    outputs         rows whose logits are wanted; output_rows (outputs,) int64
    page            slots per page; table (batch, max_pages) int32
    only_attention  1: attend in the first layer alone, wide holds q, k and v, normed receives it; 2: append first
    cache           (n_layer, 4) int64: the addresses of k, v and, in 8 bits, their scales
    x, normed       (rows, n_embd), wide (rows, max(3 n_embd, n_inner)), logits (outputs, n_vocab): in the dtype of sums
    scratch         scratch_size bytes per thread
    phases          counters of the phases of work, all 0, see phases.py
"""
LAYER = (
    "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.scale", "attn.c_attn.bias", "attn.c_proj.weight",
    "attn.c_proj.scale", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.scale",
    "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.scale", "mlp.c_proj.bias",
)  # fmt: skip
LANES, BLOCK, SPLIT_LEN = 16, 64, 128  # for vectors.py and attention.py, which Python need not import to run the engine
LINE, PHASES = 16, 8  # int64 per phase, phases per layer: as in phases.py and forward.py


def scratch_bytes(head_dim: int, splits: int, size: int) -> int:
    """Bytes that a thread needs for attention, sums taking `size` bytes each; whole cache lines."""
    numbers = 2 * BLOCK + head_dim + splits * (2 + head_dim)
    return -(-(8 * BLOCK + size * numbers) // 128) * 128


def phases(n_layer: int) -> np.ndarray:
    """Counters for one job."""
    return np.zeros((3 + n_layer * PHASES + 1, LINE), np.int64)
