"""Bugs planted in the kernel's own source: the battery must reject each of them.

A fault is a piece of text that occurs exactly once in the kernel's file, and what replaces it; when the kernel changes
under a fault, the fault's test says so. None reads outside its buffers, so that a GPU survives it too.
"""

from pathlib import Path

import pytest
from attention_battery import CASES, check_attention
from planted_text import load_text
from test_decode_attention import numpy_op

from kvproof.kernels.ptx import PtxError

SOURCE = Path(__file__).parents[1] / "kernels" / "decode_attention.py"

FAULTS = {
    "no_scale": ("* (SCALE * LOG2E)", "* LOG2E"),
    "natural_scores_as_powers_of_two": ("* (SCALE * LOG2E)", "* SCALE"),
    "length_short": ("hi = tl.minimum(lo + size, n)", "hi = tl.minimum(lo + size, n - 1)"),
    "length_long": ("hi = tl.minimum(lo + size, n)", "hi = tl.minimum(lo + size, tl.minimum(n + 1, T))"),
    "length_of_the_first_sequence": ("length = tl.load(lengths + b)", "length = tl.load(lengths)"),
    "query_of_the_first_sequence": ("tl.load(q + b * stride_qb + h", "tl.load(q + h"),
    "query_of_the_first_head": ("b * stride_qb + h * stride_qh + d", "b * stride_qb + d"),
    "keys_of_the_first_sequence": ("k += b * stride_kb + h", "k += h"),
    "values_of_the_first_head": ("v += b * stride_vb + h.to(tl.int64) * stride_vh", "v += b * stride_vb"),
    "values_by_the_strides_of_keys": ("vb = load_rows(v, row, stride_vt", "vb = load_rows(v, row, stride_kt"),
    "values_from_keys": ("vb = load_rows(v, row, stride_vt", "vb = load_rows(k, row, stride_kt"),
    "tail_counted_again": ('s = tl.where(live, s, float("-inf"))', "s = s + 0"),
    "tail_counted_once_more": ("live = row < hi - lo", "live = row <= hi - lo"),
    "rows_clamped_to_the_capacity": ("tl.minimum(row, hi - lo - 1)", "tl.minimum(row, T - lo - 1)"),
    "max_starts_at_zero": ("m = tl.full([ROWS], LOWEST, ACC)", "m = tl.zeros([ROWS], ACC)"),
    "values_not_rescaled": ("acc = acc * a[:, None] + tl.sum", "acc = acc + tl.sum"),
    "sum_not_rescaled": ("l = l * a + tl.sum(p, 0)", "l = l + tl.sum(p, 0)"),
    "weights_in_half_precision": ("p = tl.exp2(s - m[None, :])", "p = tl.exp2(s - m[None, :]).to(tl.float16).to(ACC)"),
    "scores_in_half_precision": ("kb.to(ACC) * qh[None, None, :]", "(kb.to(ACC) * qh).to(tl.float16).to(ACC)"),
    "rows_merged_without_rescale": ("tl.where(a[:, None] > 0, acc * a[:, None], 0.0)", "acc"),
    "nothing_attended_divides_by_zero": ("total = tl.where(l == 0, 1.0, l)", "total = l"),
    "splits_always_of_128": ("lo = split * size", "lo = split * 128"),
    "parts_stored_for_the_first_sequence": (
        "at = bh * tl.num_programs(0) + split",
        "at = h * 9 + split",
    ),
    "combine_stops_after_a_chunk": ("for first in range(0, count, CHUNK):", "for first in range(0, CHUNK, CHUNK):"),
    "combine_counts_the_last_split_again": (
        'tl.where(split < count, tl.load(part_m + at), float("-inf"))',
        "tl.load(part_m + at)",
    ),
    "combine_does_not_rescale": ("acc = acc * a + tl.sum", "acc = acc + tl.sum"),
    "combine_mixes_sequences": ("at = bh * SPLITS + tl.minimum", "at = h * SPLITS + tl.minimum"),
}


def load_kernel(name, old, new, folder):
    """The kernel's module with `old`, which must occur once, replaced by `new`, and with an op name of its own."""
    text = SOURCE.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name} is stale: {old!r} occurs {text.count(old)} times in {SOURCE.name}"
    text = text.replace(old, new).replace('"kvproof::decode_attention"', f'"kvproof_faults::{name}"')
    return load_text(folder / f"{name}.py", text, f"kvproof.kernels.{name}")


def test_the_source_loaded_without_a_fault_passes(device, tmp_path):
    module = load_kernel("no_fault", "CHUNK = 8", "CHUNK = 8", tmp_path)
    check_attention(numpy_op(device, module.decode_attention), CASES[:2])


@pytest.mark.parametrize("name", FAULTS)
def test_the_battery_rejects(name, device, tmp_path):
    module = load_kernel(name, *FAULTS[name], tmp_path)
    # By its results, or, where the PTX machine runs it, by what it does to get there.
    with pytest.raises((AssertionError, PtxError), match=r"error|dead slots|exactly|PTX line"):
        check_attention(numpy_op(device, module.decode_attention))
