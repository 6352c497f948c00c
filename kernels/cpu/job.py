"""What one call of the compiled engine is told: sizes and addresses, as a record that NumPy writes and Numba reads."""

import numpy as np

FIELDS = """
    n_layer n_head head_dim n_embd n_inner n_vocab exact_gelu int8_weights int8_cache
    rows outputs page max_pages threads splits
    ids sequences slots output_rows
    layers wte wte_scale wpe ln_f ln_f_bias head
    cache table
    x normed wide logits scratch scratch_size phases cancelled
"""
JOB = np.dtype([(name, np.int64) for name in FIELDS.split()] + [("eps", np.float64)])
"""Whole numbers; those of the last lines are addresses.

    rows          tokens that this call brings: ids, sequences, slots (rows,) int64, in any order
    outputs       rows whose logits are wanted: output_rows (outputs,) int64
    page          slots per page; table (batch, max_pages) int32
    layers        (n_layer, len(LAYER)) int64: addresses
    cache         (n_layer, 4) int64: addresses of k, v and, in 8 bits, of their scales
    x, normed     (rows, n_embd); wide (rows, max(3 n_embd, n_inner)); logits (outputs, n_vocab): the dtype of sums
    scratch       scratch_size bytes per thread
    phases        a cache line of counters per phase of work, all 0: see threads.py
"""
LAYER = (
    "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.scale", "attn.c_attn.bias", "attn.c_proj.weight",
    "attn.c_proj.scale", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.scale",
    "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.scale", "mlp.c_proj.bias",
)  # fmt: skip
