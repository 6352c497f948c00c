"""Bugs for the engine's own source: a file of kernels/cpu, a text that stands there once, what replaces it, and the
check that must reject it. None reads or writes where the engine may not."""

from typing import Any, NamedTuple

from kvproof.reference.judge.cases import Case

EDGES = Case("float32", (1, 15, 16, 17, 33, 127, 128, 129), 140, D=20, append=True)
WIDE = Case("float32", (300, 257, 129, 40), 300, D=80, std=2.0)
RISING = Case("float32", (380, 257), 380, 64, H_kv=1, q_scale=16.0, rising=True)
LOW = Case("float32", (20, 3), 20, H_kv=1, shift=-300.0)
PAGES = Case("float32", (40, 33, 7), 48, D=16, page=5)
INT8 = Case("float32", (40, 33, 1), 40, D=16, int8=True, append=True)
O_IS_WRONG = r"the error of o is|must return its value"
CACHE_IS_WRONG = r"[kv](_scale)? is not as it was"
PRODUCT, LONE = "the product errs by", "has other bits than alone"


class Fault(NamedTuple):
    """check: a Case of attention, or the name of another check, see test_faults.py;  reason: what that says."""

    check: Any  # a Case, or a str
    file: str
    old: str
    new: str
    reason: str


def of(check, file: str, old: str, new: str, reason: str = O_IS_WRONG) -> Fault:
    return Fault(check, file, old, new, reason)


SLOTS = {
    "causal_one_late": of(EDGES, "forward", "b, h, slot + 1, scratch)", "b, h, slot + 2, scratch)"),
    "causal_one_early": of(EDGES, "forward", "b, h, slot + 1, scratch)", "b, h, slot, scratch)"),
    "split_one_short": of(EDGES, "attention", "min((split + 1) * SPLIT_LEN, length)",
        "min((split + 1) * SPLIT_LEN - 1, length)"),
    "split_one_long": of(WIDE, "attention", "min((split + 1) * SPLIT_LEN, length)",
        "min((split + 1) * SPLIT_LEN + 1, length)"),
    "last_split_left_out": of(EDGES, "attention",
        "    for split in range((length + SPLIT_LEN - 1) // SPLIT_LEN):\n        # 8.",
        "    for split in range(max(length // SPLIT_LEN, 1)):\n        # 8."),
    "dead_slots_counted": of(EDGES, "attention", "block = first_of(block, live, like(zero, -math.inf))",
        "block = first_of(block, LANES, like(zero, -math.inf))"),
    "page_table_ignored": of(PAGES, "attention", "page = read(table, b * job.max_pages + slot // job.page)",
        "page = b * job.max_pages + slot // job.page"),
    "table_of_the_first_sequence": of(PAGES, "attention", "read(table, b * job.max_pages + ", "read(table, "),
    "page_turned_too_late": of(PAGES, "attention", "        if left == 0:\n", "        if left == -1:\n"),
    "head_h_reads_head_0": of(EDGES, "attention", "(page * job.n_head + h) * job.page",
        "(page * job.n_head + 0 * h) * job.page", f"{O_IS_WRONG}|{CACHE_IS_WRONG}"),
    "query_of_head_0": of(EDGES, "forward", "q, out = qkv + r * 3 * E + h * D,", "q, out = qkv + r * 3 * E,"),
    "query_of_the_first_row": of(EDGES, "forward", "q, out = qkv + r * 3 * E + h * D,", "q, out = qkv + h * D,"),
    "values_appended_as_keys": of(EDGES, "forward", "append(job, k, k_scale, new + E, row)",
        "append(job, k, k_scale, new + 2 * E, row)", CACHE_IS_WRONG),
    "share_never_taken": of(EDGES, "phases", "taken = first + count_up",
        "taken = 1 + first + count_up", f"{O_IS_WRONG}|{CACHE_IS_WRONG}"),
}  # fmt: skip
SUMS = {
    "no_scale": of(EDGES, "attention", "math.sqrt(job.head_dim) / LOG2E", "1.0 / LOG2E"),
    "natural_scores_as_powers_of_two": of(EDGES, "attention", "math.sqrt(job.head_dim) / LOG2E",
        "math.sqrt(job.head_dim)"),
    "tail_of_head_dim_dropped": of(EDGES, "attention", "        if whole < D:\n            last =",
        "        if whole > D:\n            last ="),
    "max_not_updated": of(WIDE, "attention", "m_new = maximum(m, largest(block))", "m_new = m"),
    "max_starts_at_zero": of(LOW, "attention", "LOWEST = -3.0e38", "LOWEST = 0.0"),
    "l_not_shrunk": of(RISING, "attention", "        l = l * a\n        # 5.", "        # 5."),
    "values_not_shrunk": of(RISING, "attention", "total = load(VALUES, acc + d, LANES) * shrink",
        "total = load(VALUES, acc + d, LANES)"),
    "weight_of_another_slot": of(WIDE, "attention", "filled(1, read(p, r)), load(VALUES,",
        "filled(1, read(p, live - 1 - r)), load(VALUES,"),
    "value_of_the_first_slot": of(WIDE, "attention", "load(VALUES, v + read(rows, r) * stride",
        "load(VALUES, v + read(rows, 0) * stride"),
    "splits_not_rescaled": of(RISING, "attention", "add_scaled(out, lane(a, 0), at",
        "add_scaled(out, like(zero, 1.0), at"),
    "sums_of_splits_not_rescaled": of(RISING, "attention", "l = l * a + p * l_chunk", "l = l + p * l_chunk"),
    "no_scale_of_8_bit_keys": of(INT8, "attention", "block = block * scales_of(k_scale, rows, at)", "block = block"),
    "scale_of_keys_for_values": of(INT8, "attention", "p * scales_of(v_scale,", "p * scales_of(k_scale,"),
    "8_bits_truncated": of(INT8, "attention", "nearest(x / divisor)", "(x / divisor)", CACHE_IS_WRONG),
    "8_bits_of_128": of(INT8, "attention", "like(read(new, 0), 127.0)", "like(read(new, 0), 128.0)", CACHE_IS_WRONG),
}  # fmt: skip
PRODUCTS = {
    "tail_of_inputs_dropped": of("product float32", "linear", "if whole < depth:", "if whole > depth:", PRODUCT),
    "scale_of_int8_forgotten": of("product int8", "linear", "        if quantised:\n", "        if quantised < 0:\n",
        PRODUCT),
    "every_band_takes_the_first_rows": of("product float32", "linear", "y + r * n_out, x + r * n_in, r == 0",
        "y + r * n_out, x, r == 0", PRODUCT),
    "odd_channel_takes_channel_0": of("product float32", "linear", "last(y + n, n_out, x, w + n * n_in,",
        "last(y + n, n_out, x, w,", PRODUCT),
    "sum_in_another_order_for_one_row": of("product float32", "linear", "for start in range(0, long, STEP):",
        "for start in range(0, long, STEP) if ROWS > 1 else range(long - STEP, -1, -STEP):", LONE),
    "sum_cut_elsewhere_for_few_rows": of("product float32", "linear", "for k in range(0, n_in, DEPTH):\n"
        "            depth, stop = min(n_in - k, DEPTH),", "DEPTHS = DEPTH if rows > 8 else DEPTH // 2\n"
        "        for k in range(0, n_in, DEPTHS):\n            depth, stop = min(n_in - k, DEPTHS),", LONE),
    "bias_added_for_every_part": of("product float32", "linear", "biased and k == 0", "biased", PRODUCT),
    "parts_overwrite_each_other": of("product float32", "linear", "add or k > 0", "add", PRODUCT),
    "residual_overwritten": of("parts", "linear", "        if add:\n", "        if add < 0:\n", "with what y holds"),
}  # fmt: skip
NUMBERS = {
    "layer_norm_over_n_less_1": of("norm", "functions", "math.sqrt(variance / like(zero, n)",
        "math.sqrt(variance / like(zero, n - 1)", "layer_norm errs by"),
    "tail_of_the_mean_dropped": of("norm", "functions", "        mean += read(x, i)\n", "        mean += zero\n",
        "layer_norm errs by"),
    "gelu_of_another_constant": of("gelu", "functions", "0.044715", "0.044751", "gelu errs by"),
    "gelu_of_another_pi": of("gelu", "functions", "math.sqrt(2 / math.pi)", "math.sqrt(2 / 3.14159)", "gelu errs by"),
    "exp2_of_one_term_less": of("exp2", "functions", '"float32": 8,', '"float32": 7,', "exp2 errs by"),
    "bfloat16_truncated": of("bfloat16", "pointers", "builder.add(bits, builder.add(odd, every(whole, 0x7FFF)))",
        "bits", "rounded otherwise"),
    "bfloat16_ties_away_from_zero": of("bfloat16", "pointers", "builder.add(odd, every(whole, 0x7FFF))",
        "every(whole, 0x8000)", "rounded otherwise"),
    "bfloat16_nan_becomes_infinite": of("bfloat16", "pointers", "every(whole, 0x7FC0), rounded)",
        "every(whole, 0x7F80), rounded)", "NaN became a number"),
}  # fmt: skip
WRONG_LOGITS = "logits are wrong by"
MODELS = {
    "attention_s_residual_dropped": of("model", "forward", "p, ATTN_PROJ, True, False)", "p, ATTN_PROJ, False, False)",
        WRONG_LOGITS),
    "share_taken_twice": of("model", "phases", "if taken < stop:\n",
        "taken = first + (taken - first) // 2\n        if taken < stop:\n", WRONG_LOGITS),
    "second_norm_has_the_first_s_weights": of("model", "forward", "p, LN_2)", "p, LN_1)", WRONG_LOGITS),
    "position_one_late": of("model", "forward", "job.wpe) + slot * E", "job.wpe) + (slot + 1) * E", WRONG_LOGITS),
    "logits_of_the_first_rows": of("model", "forward", "layer_norm(y + i * E, x + r * E",
        "layer_norm(y + i * E, x + i * E", WRONG_LOGITS),
    "gelu_left_out": of("model", "forward", "p, C_FC, False, True)", "p, C_FC, False, False)", WRONG_LOGITS),
    "bits_of_a_row_from_the_number_of_rows": of("model", "forward",
        "r = share(crew, phase, job.rows)\n    while r < job.rows:\n        layer",
        "if job.rows > 1:\n        for i in range(0, job.rows * E):\n"
        "            write(x, i, read(x, i) * like(read(x, 0), 1.0000002))\n"
        "    r = share(crew, phase, job.rows)\n    while r < job.rows:\n        layer", "other bits than alone"),
}  # fmt: skip
FAULTS = SLOTS | SUMS | PRODUCTS | NUMBERS | MODELS
