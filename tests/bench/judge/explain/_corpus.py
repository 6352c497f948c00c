"""A part of the right explanation of each fault of the corpus; nothing for those that no hypothesis explains."""

import torch

from kvproof.bench.judge import exam
from kvproof.bench.judge.faults.catalogue import TORCH_FAULTS, in_torch
from kvproof.reference.judge.faults import FAULTS

CHUNK = "on the causal mask is aligned at the top left"
LENGTHS = "every sequence is read as far as the shortest one"
SAYS = {
    "no_scale": "not divided by √head_dim",
    "scale_after_softmax": "the weights are scaled after the softmax",
    "scale_twice": "divided by √head_dim twice",
    "scale_of_the_width": "divided by √n_embd",
    "scale_literal": "multiplied by 0.5, not by 0.1768",
    "length_short": "the newest slot is not read",
    "length_of_the_first": LENGTHS,
    "v_from_k": "the values are read from the keys",
    "head_zero": "every head reads head 0",
    "head_next": "query heads 0 to 3 read heads 1, 2, 3, 0",
    "heads_tiled": "query heads 0 to 3 read heads 0, 2, 1, 3",
    "softmax_over_queries": "every weight is 1",
    "mask_top_left": "only the first slot is seen",
    "tail_dropped": "partial block of 16 slots is skipped",
    "tail_of_zeros": "the last block of 16 slots is read whole",
    "half_sums": "kept in float16",
    "positions_off_by_one": "positions are 1 too large",
    "positions_not_advanced": "every such token stands at position 12",
    "positions_zero": "every such token stands at position 0",
    "positions_jump": "positions are 12 too large",
    "positions_restart_at_chunks": "positions are 6 too small",
    "positions_counted_twice": "positions are 6 too large",
    "left_padding_without_positions": "positions are 1 too large in sequence 1",
    "left_pads_attended": "1 slot late, beside rows of no token",
    "positions_of_the_longest": "positions are 1 too large in sequence 1",
    "right_pads_kept": "positions are 1 too large in sequence 1",
    "mask_top_left_in_chunks": f"in the chunk from token 6 {CHUNK}",
    "mask_top_left_in_decode": "only the first slot is seen",
    "mask_transposed": "the causal mask is transposed",
    "prefill_unmasked": "the prefill is not causal",
    "v_overwrites_k": "the cache holds values for keys",
    "values_one_slot_late": "the values of the token 1 before it: they stand 1 slot late",
    "dropped_slot": "slot 6 is not read",
    "oldest_evicted": "only the last 12 slots are seen",
    "length_frozen": "only the first 13 slots are read",
    "layer_caches_twice": "the token 12 before it",
    "cache_narrowed": "the cache keeps keys and values in bfloat16",
    "stale_cache": "positions are 1 too large",
    "reset_keeps_the_length": "positions are 1 too large",
    "beams_not_reordered": "rows of the batch are mixed",
    "rejected_draft_kept": "1 slot late, beside rows of no token",
    "crop_too_deep": "positions are 1 too small",
    "page_size_mismatch": "the token 2 before it",
    "c_proj_untransposed": "the square weight is untransposed",
    "other_gelu": "the GELU is the exact one, not the tanh one",
    "other_eps": "epsilon is 1e-06, not 1e-05",
    "qkv_split_across_shards": "cut in 2 shards as one block",
    "qkv_bias_dropped": "the bias is not added",
    "scale_by_layer": "the queries are multiplied by 0.5",
    "position_offset": "positions are 2 too large",
    "ln_f_dropped": "the head reads the last block's output",
    "torch_positions_behind": "positions are 1 too small",
    "torch_positions_of_the_longest": "positions are 14 too large in sequence 0",
    "torch_write_slot_early": "the token 1 after it: they stand 1 slot early",
    "torch_stale_slot": "are zeros",
    "torch_read_before_write": "read before it is written",
    "torch_lengths_not_advanced": "the newest slot is not read",
    "torch_length_of_the_shortest": LENGTHS,
    "torch_heads_permuted": "query heads 0 to 3 read heads 1, 2, 3, 0",
    "torch_rows_mixed": "rows of the batch are mixed",
    "torch_attention_output_lost": "the output is zero",
    "torch_positions_restart_at_chunks": "positions are 10 too small in sequence 1",
    "torch_mask_top_left_in_chunks": f"in the chunk from token 10 {CHUNK}",
}
SAYS |= dict.fromkeys((
    "pages_taken_as_neighbours", "page_id_truncated", "page_table_stuck", "block_table_stale",
    "page_shared_without_copy",
), "slots hold keys and values of other tokens")  # fmt: skip
SAYS |= {f"torch_{name}": SAYS[name] for name in (
    "positions_off_by_one", "positions_zero", "v_from_k", "scale_twice", "no_scale", "half_sums", "cache_narrowed",
    "prefill_unmasked", "other_gelu", "other_eps", "c_proj_untransposed", "qkv_bias_dropped", "position_offset",
)}  # fmt: skip


def subject_of(fault):
    """A fault of the corpus before the judge, as the exam has it."""
    if fault.kind in ("cache", "model"):
        return exam.in_numpy(fault)
    models = exam.Models("tiny", torch.device("cpu"))
    return exam.ours(models, "eager", 0, in_torch(fault) if fault.kind == "attention" else fault)


CORPUS = {fault.name: fault for fault in (*FAULTS, *TORCH_FAULTS)}
