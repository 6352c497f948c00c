"""The checker of whole calls is checked: correct NumPy ops pass every case, and each planted fault is rejected."""

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from kvproof.reference.judge.cases import Case, check, draw
from kvproof.reference.judge.faults import FAULTS, OP_FAULTS
from kvproof.reference.judge.faults.decode_cache import in_splits
from kvproof.reference.judge.faults.decode_op import decode_op
from kvproof.reference.judge.features import seen_slots

from ..._attention_grid import CASES, GRID, PAIRS, cases

each_case = pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
each_fault = pytest.mark.parametrize("fault", OP_FAULTS, ids=lambda fault: fault.name)
HIDES = {
    "at one KV head": lambda c: c.H_kv == 1,
    "at one query head each": lambda c: c.group == 1,
    "in groups of a power of two": lambda c: c.group in (1, 2, 4, 8),
    "at one token": lambda c: c.new == 1,
    "with several tokens": lambda c: c.new > 1,
    "without causality": lambda c: not c.causal,
    "where every token has a position": lambda c: min(c.lengths) >= c.new,
    "without a window": lambda c: c.window is None,
    "without sinks": lambda c: not c.sinks,
    "without softcap": lambda c: c.softcap is None,
    "without ALiBi": lambda c: c.alibi is None,
    "without pages": lambda c: c.page is None,
    "in a batch of one": lambda c: len(c.lengths) == 1,
    "without 8 bits": lambda c: not c.int8,
    "without append": lambda c: not c.append,
    "within one split": lambda c: max(c.lengths) <= 128,
}


def float32_rows(q, k, v, lengths, *, scale=None, alibi_slopes=None, softcap=None, rounded=None, **seen):
    """The formula as a tensor core has it: sums in float32, exp2, weights rounded to `rounded` before the values."""
    f = np.float32
    heads = (q if q.ndim == 4 else q[:, None]).astype(f)
    B, M, H, D = heads.shape
    scale, group = f(D**-0.5 if scale is None else scale), H // k.shape[1]
    o, lse = np.zeros(heads.shape, f), np.full((B, M, H), -np.inf, f)
    for b, i, h in np.ndindex(B, M, H):
        p = int(lengths[b]) - M + i
        t = seen_slots(p, int(lengths[b]), **seen)
        if len(t):
            s = k[b, h // group, t].astype(f) @ heads[b, i, h] * scale
            if softcap is not None:
                s = f(softcap) * (1 - 2 / (np.exp2(s * f(2 * np.log2(np.e) / softcap)) + 1))
            if alibi_slopes is not None:
                s = s + np.broadcast_to(alibi_slopes, (B, H))[b, h] * -np.abs(t - p).astype(f)
            s = s * f(np.log2(np.e))
            w = np.exp2(s - s.max())
            lse[b, i, h] = (s.max() + np.log2(w.sum())) * f(np.log(2))
            o[b, i, h] = (w.astype(rounded or f).astype(f) @ v[b, h // group, t].astype(f)) / w.sum()
    return o.reshape(q.shape), lse.reshape(q.shape[:-1])


def splits(q, k, v, lengths, **asked):
    """The formula in float64, its sums in another order."""
    turn = np.random.default_rng(0).permutation(q.shape[-1])
    o, lse = in_splits(lambda lse: np.exp(lse - lse.max()))(q[..., turn], k[..., turn], v[..., turn], lengths, **asked)
    return o[..., np.argsort(turn)], lse


def correct_op(case: Case):
    """An op that does what a kernel does to this case's dtype."""

    def attend(*cache, **asked):
        if case.dtype == "float64":
            return splits(*cache, **asked)
        return float32_rows(*cache, **asked, rounded=case.rounded_weights)

    return lambda **call: decode_op(**call, attend=attend)


@each_case
def test_the_formula_rounded_once_passes(case):
    check(decode_op, case)


@each_case
def test_an_op_with_a_kernels_sums_passes(case):
    check(correct_op(case), case)


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_any_call_passes_with_a_kernels_sums(case):
    check(correct_op(case), case)


@pytest.mark.exhaustive
@settings(
    max_examples=3000, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(case=cases())
def test_three_thousand_calls_pass_with_a_kernels_sums(case):
    check(correct_op(case), case)


@each_fault
def test_a_wrong_op_is_rejected_and_only_where_it_can_be_seen(fault):
    hidden = [HIDES[where] for where in HIDES if re.search(where + r"\b", fault.imitates)]
    assert bool(hidden) == ("invisible" in fault.imitates)
    assert any(rejects(fault.apply, case) for case in CASES)
    blind = [case for case in CASES if any(hides(case) for hides in hidden)]
    for hides in hidden:
        case = next(case for case in blind if hides(case))
        assert not rejects(fault.apply, case), case


def rejects(op, case) -> bool:
    try:
        with np.errstate(all="ignore"):
            check(op, case)
    except AssertionError:
        return True
    return False


def test_the_catalogue_of_ops_names_each_fault_once():
    assert len({fault.name for fault in FAULTS + OP_FAULTS}) == len(FAULTS) + len(OP_FAULTS)
    assert {fault.kind for fault in OP_FAULTS} == {"op"}
    assert all(len(fault.imitates) > 20 for fault in OP_FAULTS)
    thread = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/[0-9]+")
    assert all(thread.fullmatch(fault.link) for fault in OP_FAULTS if fault.link)


def test_the_grid_has_every_two_settings_together():
    names, *lines = (line.split() for line in GRID.strip().split("\n"))
    assert len(lines) == len(PAIRS)
    values = [sorted(set(column)) for column in zip(*lines, strict=True)]
    assert [len(v) for v in values] == [4, 4, 3, 4, 4, 4, 2, 2, 4, 3, 3, 2, 2, 2]
    for a, b in combinations(range(len(names)), 2):
        met = {(line[a], line[b]) for line in lines}
        impossible = (
            {(w, "-") for w in values[a] if w != "-"} if (names[a], names[b]) == ("window", "causal") else set()
        )
        assert met == {(x, y) for x in values[a] for y in values[b]} - impossible, (names[a], names[b])


def test_a_call_holds_nothing_but_poison_where_nobody_may_read():
    call = draw(Case("float16", (20, 0, 3), 40, page=16, append=True, M=2))
    table, k = call["block_table"], call["k"].astype(np.float32)
    assert sorted(np.bincount(table.reshape(-1))) == [0, 0, 0, 0, 1, 1, 1, 6]  # three in use, one for all else
    assert np.isnan(k[table[0, 1], :, 2:]).all()
    assert np.isfinite(k[table[0, 1], :, :2]).all()
    assert np.isnan(k[table[1]]).all()
    assert np.isnan(k[table[2, 0], :, 1:]).all()


def test_k_and_v_have_strides_of_their_own():
    for page in (None, 16):
        call = draw(Case(page=page))
        assert call["k"].strides != call["v"].strides
        assert call["k"].strides[-1] == call["v"].strides[-1] == 4
