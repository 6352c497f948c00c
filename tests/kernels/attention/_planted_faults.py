"""Bugs for the kernels' own source: a file of kernels/, a piece of text that occurs there once, what replaces it, and
a call that shows it. None but a few reads outside its buffers, so that a GPU would survive most of them too."""

from typing import NamedTuple

from kvproof.reference.judge.cases import Case

PLAIN = Case(lengths=(300, 129, 33, 1, 0), T=320)
LONG = Case(lengths=(1100, 1030), T=1100, H_kv=1)  # nine splits: more than are combined at a time
FAR = Case(lengths=(8448,), T=8448, H_kv=1)  # the last split is longer
PEAKED = Case(lengths=(1,) * 8, T=8, std=12.0)
TOKENS = Case(lengths=(200, 129, 33, 2), T=220, M=3)
SHARED = Case(lengths=(140, 33), group=4)
CORES = Case("float16", (300, 129, 33, 1, 0), 320, group=4)
PEAKED_CORES = Case("float16", (140, 33), group=4, std=4.0)
SEVERAL = Case("float16", (200, 129, 33, 2), 220, M=3, group=2)
WINDOW = Case(lengths=(300, 129, 33, 140), T=320, window=20)
SINKS = Case(lengths=(300, 129, 33, 140), T=320, window=20, sinks=36)
WINDOW_CORES = Case("float16", (300, 129, 33, 140), 320, group=4, window=20, sinks=36)
WINDOW_TILE = Case("float16", (300, 129, 33, 140), 320, M=3, window=20)
CAPPED = Case(softcap=5.0, std=2.0)
SLOPES = Case(lengths=(140, 33, 9), alibi="row", M=3)
PAGES = Case(lengths=(300, 129, 33), T=320, page=48)
INT8 = Case(lengths=(140, 33, 20), int8=True)
APPEND = Case(lengths=(140, 33, 1), append=True)
APPEND_CORES = Case("float16", (140, 33, 1), append=True, M=3)
APPEND_TILES = Case("float16", (140, 33, 9), append=True, M=6, group=4)  # two programs per KV head, one appends
QUANTISE = Case(lengths=(140, 33, 20), int8=True, append=True)
SCALE = "CFG.SCALE * CFG.LOG2E if"
QUANTISED = "(tl.div_rn(x, tl.broadcast_to(divisor, x.shape)) + 12582912.0) - 12582912.0"
ROW = "(b * M + r // CFG.G) * (CFG.H_KV * CFG.G) + h * CFG.G + r % CFG.G"
STORED = "tl.where(l == 0, 1.0, l)\n    tl.store"  # of store_result; finish_tile has it further to the right


class Fault(NamedTuple):
    case: Case
    file: str
    old: str
    new: str


def of(case: Case, file: str, old: str, new: str) -> Fault:
    return Fault(case, file, old, new)


SLOTS = {
    "length_short": of(PLAIN, "steps", "split + 1, CFG.SPLIT_LEN), stop)", "split + 1, CFG.SPLIT_LEN), stop - 1)"),
    "length_long": of(PLAIN, "steps", "CFG.SPLIT_LEN), stop)", "CFG.SPLIT_LEN), tl.minimum(stop + 1, T))"),
    "length_of_the_first_sequence": of(PLAIN, "steps", "tl.load(lengths + b)", "tl.load(lengths + 0 * b)"),
    "causal_one_late": of(TOKENS, "steps", "tl.maximum(n - M + i_end, 0) if", "tl.minimum(n - M + i_end + 1, n) if"),
    "causal_one_early": of(TOKENS, "steps", "tl.maximum(n - M + i_end, 0) if", "tl.maximum(n - M + i_end - 1, 0) if"),
    "causal_top_left": of(TOKENS, "steps", "tl.maximum(n - M + i_end, 0) if", "tl.minimum(i_end, n) if"),
    "tile_sees_not_itself": of(SEVERAL, "mma", "slot[None, :] <= pos", "slot[None, :] < pos"),
    "tile_without_causality": of(SEVERAL, "mma", "if CFG.CAUSAL:", "if False:"),
    "window_one_long": of(WINDOW, "steps", "i - CFG.WINDOW + 1", "i - CFG.WINDOW"),
    "window_one_short": of(WINDOW, "steps", "i - CFG.WINDOW + 1", "i - CFG.WINDOW + 2"),
    "window_of_a_tile_long": of(WINDOW_TILE, "mma", "position[:, None] - CFG.WINDOW)",
        "position[:, None] - CFG.WINDOW - 1)"),
    "sinks_out_of_sight": of(SINKS, "simt", "((slot >= slots.window) | (slot < CFG.SINKS))",
        "(slot >= slots.window)"),
    "sinks_one_more": of(SINKS, "simt", "(slot < CFG.SINKS)", "(slot <= CFG.SINKS)"),
    "sinks_of_a_tile_out_of_sight": of(WINDOW_CORES, "mma", " | (slot < CFG.SINKS)[None, :]", ""),
    "split_of_sinks_dead": of(SINKS, "steps", "if CFG.SINKS else -1", "if CFG.SINKS < 0 else -1"),
    "block_of_sinks_skipped": of(SINKS, "steps", "tl.cdiv(tl.maximum(sinks - lo, 0), N)",
        "tl.maximum(sinks - lo, 0) // N"),
    "tail_counted_as_zeros": of(PLAIN, "simt", 'tl.where(visible, s, float("-inf"))', "s + 0.0"),
    "tail_counted_once_more": of(PLAIN, "simt", "visible = slot < slots.hi\n", "visible = slot <= slots.hi\n"),
    "tail_of_a_tile_counted": of(CORES, "mma", "live = slot < slots.hi\n", "live = slot <= slots.hi\n"),
    "long_splits_begin_as_short_ones": of(FAR, "steps", "(split - 32 * e) * (SPLIT_LEN << e)", "split * SPLIT_LEN"),
    "long_splits_counted_as_short_ones": of(FAR, "steps", "tl.static_range(1, 6)", "tl.static_range(2, 6)"),
    "splits_after_the_last_live": of(PLAIN, "steps", " & (split <= splits.last)", ""),
}  # fmt: skip
PLACES = {
    "query_of_the_first_sequence": of(PLAIN, "simt", "q.q + b * q.b + i", "q.q + i"),
    "query_of_the_first_head": of(PLAIN, "simt", "i * q.m + head * q.h + d", "i * q.m + d"),
    "query_of_the_first_token": of(TOKENS, "simt", "i * q.m + head * q.h + d", "head * q.h + d"),
    "keys_of_the_first_sequence": of(PLAIN, "steps", "k += offset(b, cache.kb, k, CFG) + lo", "k += lo"),
    "values_of_the_first_head": of(PLAIN, "steps", "cache.v + offset(h, cache.vh, cache.v, CFG)", "cache.v + 0 * h"),
    "values_by_the_strides_of_keys": of(PLAIN, "steps", "at.v + rows * CFG.STRIDE_VT", "at.v + rows * CFG.STRIDE_KT"),
    "values_from_keys": of(PLAIN, "simt", "load_rows(at.v, None, 0, CFG)", "load_rows(at.k, None, 0, CFG)"),
    "groups_interleaved": of(SHARED, "simt", "at_head(cache, b, h, ", "at_head(cache, b, head % CFG.H_KV, "),
    "tile_head_by_head": of(SEVERAL, "combine", ROW, "(b * M + r % M) * (CFG.H_KV * CFG.G) + h * CFG.G + r // M"),
    "tile_without_its_last_row": of(CORES, "combine", "query < r_end\n", "query < r_end - 1\n"),
    "page_of_the_neighbour": of(PAGES, "steps", "// CFG.PAGE, mask", "// CFG.PAGE + 1, mask"),
    "table_of_the_first_sequence": of(PAGES, "steps", "cache.table + b * cache.tb", "cache.table + 0 * b"),
    "row_of_a_page_from_the_split": of(PAGES, "steps", "(lo + start) % CFG.PAGE, CFG)", "start % CFG.PAGE, CFG)"),
    "scale_of_the_first_row": of(INT8, "steps", "at.k_scale + rows * CFG.STRIDE_ST", "at.k_scale + rows * 0"),
    "scale_of_the_keys": of(INT8, "steps", "at.v_scale + rows * CFG.STRIDE_ST", "at.k_scale + rows * CFG.STRIDE_ST"),
    "scale_of_the_first_head": of(INT8, "steps", "cache.k_scale + h.to(tl.int64) * cache.sh", "cache.k_scale + 0 * h"),
    "scale_of_the_first_sequence": of(INT8, "steps", "k_scale += b * cache.sb + lo", "k_scale += lo"),
}
APPENDS = {
    "quantise_truncates": of(QUANTISE, "append", QUANTISED,
        "tl.div_rn(x, tl.broadcast_to(divisor, x.shape)).to(tl.int32).to(tl.float32)"),
    "quantise_by_128": of(QUANTISE, "append", ", 127.0)", ", 128.0)"),
    "quantise_a_row_of_zeros": of(QUANTISE, "append", "tl.max(tl.abs(x), AXIS)", "tl.max(x, AXIS)"),
    "new_row_attended_as_it_came": of(QUANTISE, "simt", "rows, new_scale = quantise(rows, 1)",
        "new_scale = tl.zeros([CFG.BLOCK_N], tl.float32) + 1.0"),
    "new_row_not_attended": of(APPEND, "simt", "tl.where(is_new[:, None], rows.to(x.dtype), x), scale",
        "x, scale"),
    "new_rows_from_the_cache": of(APPEND_TILES, "mma", "tl.where(i < 0, k_at",
        "tl.where(slot < slots.hi, k_at"),
    "append_one_slot_late": of(APPEND, "simt", "slots.lo, slots.new + i, CFG)",
        "slots.lo, slots.new + i + 1, CFG)"),
    "append_the_first_token_only": of(APPEND_CORES, "mma", "tl.cdiv(r_end, CFG.G))",
        "tl.cdiv(r, CFG.G) + 1)"),
    "append_the_first_head": of(APPEND, "append", " + offset(h, new.kh, new.k, CFG)", ""),
    "append_keys_as_values": of(APPEND, "append", "at.v_scale, new_ptrs.v + offset",
        "at.v_scale, new_ptrs.k + offset"),
}  # fmt: skip
SUMS = {
    "no_scale": of(PLAIN, "simt", f"qh *= {SCALE}", "qh *= CFG.LOG2E if"),
    "natural_scores_as_powers_of_two": of(PLAIN, "simt", f"qh *= {SCALE}", "qh *= CFG.SCALE if"),
    "no_scale_on_the_tensor_cores": of(CORES, "mma", f"s *= {SCALE}", "s *= CFG.LOG2E if"),
    "softcap_ignored": of(CAPPED, "steps", "tanh(s) * (CFG.SOFTCAP", "s * (CFG.SOFTCAP"),
    "softcap_without_sign": of(CAPPED, "steps", "tl.where(x < 0, -big, big)", "big"),
    "softcap_by_the_series_alone": of(CAPPED, "steps", "tl.where(y < 0.1225, small, big)", "small"),
    "alibi_of_the_wrong_sign": of(SLOPES, "steps", "tl.fma(-distance.to", "tl.fma(distance.to"),
    "alibi_as_powers_of_two": of(SLOPES, "steps", "slope * CFG.LOG2E, s)", "slope, s)"),
    "alibi_of_the_first_sequence": of(SLOPES, "simt", "slopes + b * slopes_b + head", "slopes + head"),
    "alibi_from_the_first_token": of(SLOPES, "simt", "tl.abs(position - slot)", "tl.abs(slots.new - slot)"),
    "max_starts_at_zero": of(PEAKED, "simt", "tl.full([CFG.BLOCK_N], CFG.LOWEST, ACC)",
        "tl.zeros([CFG.BLOCK_N], ACC)"),
    "values_not_rescaled": of(PLAIN, "simt", "    acc = acc * a[:, None]\n", ""),
    "sum_not_rescaled": of(PLAIN, "simt", "    l = l * a\n", ""),
    "values_of_a_tile_not_rescaled": of(CORES, "mma", "acc * a[:, None])", "acc)"),
    "sum_of_a_tile_not_rescaled": of(CORES, "mma", "l = l * a + tl.sum", "l = l + tl.sum"),
    "weights_in_half_precision": of(PLAIN, "simt", "p = tl.exp2(s[r] - m_new)",
        "p = tl.exp2(s[r] - m_new).to(tl.float16).to(acc.dtype)"),
    "scores_in_half_precision": of(PLAIN, "simt", "k.to(qh.dtype) * qh[None, :]",
        "(k.to(qh.dtype) * qh[None, :]).to(tl.float16).to(qh.dtype)"),
    "scores_of_a_tile_in_half_precision": of(PEAKED_CORES, "mma", "s = tl.dot(qt, k.to(qt.dtype))",
        "s = tl.dot(qt, k.to(qt.dtype)).to(tl.float16).to(tl.float32)"),
    "rows_merged_without_rescale": of(PLAIN, "simt", "tl.sum(acc * a[:, None], 0)", "tl.sum(acc, 0)"),
    "nothing_attended_divides_by_zero": of(PLAIN, "combine", STORED, "l\n    tl.store"),
    "lse_as_a_power_of_two": of(PLAIN, "combine", "(m + tl.log2(total)) / CFG.LOG2E))", "m + tl.log2(total)))"),
    "partials_of_all_sequences_in_one_place": of(PLAIN, "combine", "split\n        d =", "split * 0\n        d ="),
    "combine_stops_after_a_chunk": of(LONG, "combine", "splits.last // CFG.CHUNK + 1 - skipped", "1"),
    "combine_does_not_rescale": of(LONG, "combine", "acc = acc * a + tl.sum", "acc = acc + tl.sum"),
    "combine_does_not_rescale_the_sum": of(LONG, "combine", "l = l * a + tl.sum", "l = l + tl.sum"),
    "combine_mixes_sequences": of(LONG, "combine", "at = row * S + split", "at = row % CFG.G * S + split"),
}  # fmt: skip
GENERAL = SLOTS | PLACES | APPENDS | SUMS
LAST = "tl.load(lengths + b) - 1\n"
KEYS, VALUES = "stride_kb, stride_kh, STRIDE_KT, PAGE", "stride_vb, stride_vh, STRIDE_VT, PAGE"
# The same faults in kernels/decode.py, by the same names, where it has what they break, and faults of its own.
DECODE = {
    "length_short": of(PLAIN, "decode", "SPLIT_LEN, tl.load(lengths + b))\n", "SPLIT_LEN, tl.load(lengths + b) - 1)\n"),
    "length_long": of(PLAIN, "decode", "SPLIT_LEN, tl.load(lengths + b))\n", "SPLIT_LEN, tl.load(lengths + b) + 1)\n"),
    "length_of_the_first_sequence": of(PLAIN, "decode", "SPLIT_LEN, tl.load(lengths + b))\n",
        "SPLIT_LEN, tl.load(lengths))\n"),
    "tail_counted_as_zeros": of(PLAIN, "decode", 'tl.where(live, tl.sum(kb * qh[None, :], 1), float("-inf"))',
        "tl.sum(kb * qh[None, :], 1)"),
    "tail_counted_once_more": of(PLAIN, "decode", "live = slot < hi ", "live = slot <= hi "),
    "splits_after_the_last_live": of(PLAIN, "decode", "split < used,", "split < used + 1,"),
    "split_left_out": of(PLAIN, "decode", "tl.cdiv(tl.load(lengths + b), SPLIT_LEN)",
        "tl.load(lengths + b) // SPLIT_LEN"),
    "query_of_the_first_sequence": of(PLAIN, "decode", "q + b * stride_qb + h", "q + h"),
    "query_of_the_first_head": of(PLAIN, "decode", "+ h * stride_qh + d", "+ d"),
    "keys_of_the_first_sequence": of(PLAIN, "decode", KEYS, KEYS.replace("stride_kb", "0")),
    "values_of_the_first_head": of(PLAIN, "decode", VALUES, VALUES.replace("stride_vh", "0")),
    "values_by_the_strides_of_keys": of(PLAIN, "decode", VALUES, KEYS),
    "values_from_keys": of(PLAIN, "decode", "at_v = rows_at(v, ", "at_v = rows_at(k, "),
    "page_of_the_neighbour": of(PAGES, "decode", "slot // PAGE, mask", "slot // PAGE + 1, mask"),
    "table_of_the_first_sequence": of(PAGES, "decode", "block_table + b * stride_tb", "block_table + b * 0"),
    "row_of_a_page_from_the_split": of(PAGES, "decode", "= slot % PAGE", "= slot % 128 % PAGE"),
    "new_row_not_attended": of(APPEND, "decode", "tl.store(at + d, row, mask=d < D)",
        "tl.store(at + d, row, mask=d < 0)"),
    "append_one_slot_late": of(APPEND, "decode", LAST, "tl.minimum(tl.load(lengths + b), 159)\n"),
    "append_the_first_head": of(APPEND, "decode", "b * stride_nb + h * stride_nh + d", "b * stride_nb + d"),
    "append_keys_as_values": of(APPEND, "decode", "(v, v_new)", "(v, k_new)"),
    "append_after_attending": of(APPEND, "decode", "tl.minimum((split + 1) * SPLIT_LEN, tl.load(lengths + b))",
        "tl.minimum((split + 1) * SPLIT_LEN, tl.load(lengths + b) - 1)"),
    "no_scale": of(PLAIN, "decode", "(D**-0.5 * LOG2E)", "LOG2E"),
    "natural_scores_as_powers_of_two": of(PLAIN, "decode", "(D**-0.5 * LOG2E)", "D**-0.5"),
    "max_starts_at_zero": of(PEAKED, "decode", "tl.full([BLOCK_N], LOWEST, ACC)", "tl.zeros([BLOCK_N], ACC)"),
    "values_not_rescaled": of(PLAIN, "decode", "l * a, acc * a[:, None]\n", "l * a, acc\n"),
    "sum_not_rescaled": of(PLAIN, "decode", "l * a, acc * a[:, None]\n", "l, acc * a[:, None]\n"),
    "weights_in_half_precision": of(PLAIN, "decode", "p = tl.exp2(s[r] - m)",
        "p = tl.exp2(s[r] - m).to(tl.float16).to(ACC)"),
    "scores_in_half_precision": of(PLAIN, "decode", "tl.sum(kb * qh[None, :], 1)",
        "tl.sum((kb * qh[None, :]).to(tl.float16).to(ACC), 1)"),
    "rows_merged_without_rescale": of(PLAIN, "decode", "tl.sum(acc * a[:, None], 0)", "tl.sum(acc, 0)"),
    "nothing_attended_divides_by_zero": of(PLAIN, "decode", "tl.where(l == 0, 1.0, l)", "l"),
    "partials_of_all_sequences_in_one_place": of(PLAIN, "decode", "* tl.num_programs(0) + split ",
        "* tl.num_programs(0) + split * 0 "),
    "combine_stops_after_a_chunk": of(LONG, "decode", "range(0, used, CHUNK)", "range(0, CHUNK, CHUNK)"),
    "combine_does_not_rescale": of(LONG, "decode", "l * a, acc * a\n", "l * a, acc\n"),
    "combine_does_not_rescale_the_sum": of(LONG, "decode", "l * a, acc * a\n", "l, acc * a\n"),
    "combine_mixes_sequences": of(LONG, "decode", "query * splits + split", "query * 0 + split"),
}  # fmt: skip
# What decode.py has not: one length of split, no log-sum-exp, no launch that appends while it attends.
NOT_IN_DECODE = {"long_splits_begin_as_short_ones", "long_splits_counted_as_short_ones", "lse_as_a_power_of_two"}
FAULTS = GENERAL | {f"decode: {name}": fault for name, fault in DECODE.items()}
