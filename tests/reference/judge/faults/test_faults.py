"""Every planted fault is rejected, the correct path that it was made from is not, and it hides where it says so."""

import json
import re
from functools import partial

import numpy as np
import pytest

from kvproof.bench.judge.subjects.oracle import capture_numpy
from kvproof.reference import forward
from kvproof.reference.cache import ContiguousCache, Int8Cache, PagedCache
from kvproof.reference.judge.faults import FAULTS, ORACLE, cached_logits, decode, describe, forward_with, int8_logits
from kvproof.reference.judge.faults.attention import MOST_BLOCKS
from kvproof.reference.judge.faults.base import used

from ...._attention_battery import check_attention
from ...._reference_models import F32_BAR, F64_BAR, error, synthetic

BARS = {np.float64: F64_BAR, np.float32: F32_BAR}
attention_faults = [fault for fault in FAULTS if fault.kind == "attention"]
path_faults = [fault for fault in FAULTS if fault.kind != "attention"]
each_dtype = pytest.mark.parametrize("dtype", BARS, ids=["float64", "float32"])
each_path = pytest.mark.parametrize("fault", path_faults, ids=lambda fault: fault.name)
each_attention = pytest.mark.parametrize("fault", attention_faults, ids=lambda fault: fault.name)
LONE = ("at B = 1", "in the row without pads", "in the longest row")  # where a batch of one shows nothing
OPERATIONS = {None: ("embed", "ln_f", "head"), int: ("ln_1", "c_attn", "attention", "c_proj", "ln_2", "mlp")}


def some_ids(B=2, T=16):
    return np.random.default_rng(0).integers(synthetic("syn-hd32")[1].n_vocab, size=(B, T))


def run(path, dtype, ids, correct=forward):
    """Error of a path in `dtype` against the correct one in float64."""
    params, config = synthetic("syn-hd32")
    return error(path(ids, synthetic("syn-hd32", dtype)[0], config), correct(ids, params, config))


def test_the_catalogue_names_each_fault_once_and_says_where_it_happened():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == len(attention_faults) + len(path_faults)
    thread = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull|commit)/[0-9a-f]+")
    assert all(thread.fullmatch(fault.link) for fault in FAULTS if fault.link)
    assert sum(fault.link is not None for fault in FAULTS) >= 40
    assert sum(fault.link is not None and not fault.closest for fault in FAULTS) >= 40


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_described_for_a_listing(fault):
    said = json.loads(json.dumps(describe(fault)))
    assert said["name"] == fault.name
    assert set(said) == {"name", "kind", "imitates", "link", "closest", "place", "seen_by"}
    assert fault.kind in ("attention", "cache", "model")
    assert fault.seen_by == (ORACLE if fault.kind == "model" else "cached against uncached")
    assert len(fault.imitates) > 20
    if fault.place:
        layer, operation = fault.place
        assert operation in OPERATIONS[layer if layer is None else int]


@each_dtype
@pytest.mark.parametrize("passes", [1, 2, 8])
def test_the_correct_cached_path_passes(passes, dtype):
    assert run(partial(cached_logits, passes=passes), dtype, some_ids()) <= BARS[dtype]


@pytest.mark.parametrize("make", [ContiguousCache, PagedCache], ids=["contiguous", "paged"])
def test_the_correct_path_passes_in_a_cache_that_was_used_before(make):
    def path(ids, params, config):
        return cached_logits(ids, params, config, used(make(config, *ids.shape), ids, params, config))

    assert run(path, np.float64, some_ids()) <= F64_BAR


def test_decoding_in_8_bits_agrees_with_one_pass_in_8_bits():
    def path(ids, params, config):
        return cached_logits(ids, params, config, Int8Cache(config, len(ids), ids.shape[1]))

    assert run(path, np.float64, some_ids(), int8_logits) <= F64_BAR
    assert run(path, np.float64, some_ids()) > F32_BAR  # it is 8 bits that were decoded with


def test_the_forward_with_seams_is_forward_bit_for_bit():
    params, config = synthetic("syn-hd32")
    ids, caches = some_ids(), [ContiguousCache(config, 2, 16) for _ in range(2)]
    for a, b in ((0, 6), (6, 7), (7, 16)):
        want, got = (
            step(ids[:, a:b], params, config, c) for step, c in zip((forward, forward_with), caches, strict=True)
        )
        assert want.tobytes() == got.tobytes()


@each_dtype
@each_path
def test_a_wrong_path_stands_above_the_bars_of_both_dtypes(fault, dtype):
    found = run(fault.apply, dtype, some_ids(), fault.correct)
    assert np.isfinite(found)  # a fault that shows as NaN would be found by anyone
    assert found > F32_BAR > F64_BAR


@each_path
def test_a_lone_row_shows_a_fault_unless_that_needs_a_batch(fault):
    found = run(fault.apply, np.float64, some_ids(B=1), fault.correct)
    if any(place in fault.imitates for place in LONE):
        assert found <= F64_BAR
    else:
        assert found > F32_BAR


@pytest.mark.parametrize("T", [2, 3, 5])
@each_path
def test_a_fault_runs_on_the_shortest_sequences(fault, T):
    params, config = synthetic("syn-tiny")
    ids = np.random.default_rng(0).integers(config.n_vocab, size=(3, T))
    with np.errstate(all="ignore"):
        assert fault.apply(ids, params, config).shape == (3, T, config.n_vocab)


def traced(path):
    """Every operation's result of a path, by its place, in order of computation."""
    params, config = synthetic("syn-hd32")
    with capture_numpy(config) as tape:
        logits = path(some_ids(), params, config)
    trace = tape.activations(logits, params["wte"]["weight"])
    return {x[:2]: x.value for x in trace} | {(None, "head"): logits}


@pytest.fixture(scope="module")
def correct_trace():
    return traced(cached_logits)


@pytest.mark.parametrize("fault", [f for f in path_faults if f.place], ids=lambda fault: fault.name)
def test_a_run_first_differs_at_the_place_that_the_fault_names(fault, correct_trace):
    wrong = traced(fault.apply)
    differs = [
        place for place, value in correct_trace.items() if not np.allclose(wrong[place], value, rtol=0, atol=1e-9)
    ]
    assert differs[0] == fault.place


def test_the_exact_rounded_attention_passes_the_battery():
    check_attention(decode)


@each_attention
def test_a_wrong_attention_is_rejected_by_the_battery(fault):
    with pytest.raises(AssertionError):
        check_attention(fault.apply)


def drawn(B=3, H=3, T=40, D=16, lengths=(37, 21, 3), dead=0.5):
    """q, k, v, lengths of one decode step; K and V laid out alike, `dead` in the slots that are not live."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(shape) for shape in ((B, H, D), (B, H, T, D), (B, H, T, D)))
    lengths = np.array(lengths[:B], np.int32)
    for b, n in enumerate(lengths):
        k[b, :, n:] = v[b, :, n:] = dead
    return q, k, v, lengths


HIDES = {
    "at D = 1": {"D": 1},
    "at D = 4": {"D": 4},
    "at H = 1": {"H": 1},
    "at H = 1 and 2": {"H": 2},
    "at B = 1": {"B": 1},
    "equally long": {"lengths": (21, 21, 21)},
    "the cache is full": {"lengths": (40, 40, 40)},
    "at whole blocks": {"lengths": (32, 16, 0)},
    "within one block": {"lengths": (16, 7, 1)},
    "within one split": {"lengths": (8, 7, 1)},
    "in short sequences": {"lengths": (16 * MOST_BLOCKS, 7, 1)},
    "in a sequence of one slot": {"lengths": (1, 1, 1)},
    "in small caches": {"B": 1, "H": 1, "lengths": (20,)},
    "both share a layout": {},
    "every split has a live slot": {"lengths": (40, 33, 34)},
    "none is empty": {},
    "while live scores stay above it": {},
    "unless one holds NaN": {},
}
hiding = [
    (fault, where) for fault in attention_faults for where in HIDES if re.search(where + r"\b(?! and)", fault.imitates)
]


@pytest.mark.parametrize(("fault", "where"), hiding, ids=[f"{fault.name}: {where}" for fault, where in hiding])
def test_an_attention_fault_is_invisible_where_it_says_so(fault, where):
    case = drawn(**HIDES[where])
    np.testing.assert_allclose(fault.apply(*case), decode(*case), rtol=1e-12, atol=1e-12)


def test_every_invisibility_of_an_attention_fault_is_tested():
    said = {fault.name for fault in attention_faults if "invisible" in fault.imitates}
    assert said == {fault.name for fault, _ in hiding}


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@each_attention
def test_a_wrong_attention_keeps_shape_and_dtype(fault, dtype, B):
    q, k, v, lengths = drawn(B, lengths=(40, 21, 0))
    with np.errstate(all="ignore"):
        o = fault.apply(q.astype(dtype), k.astype(dtype), v.astype(dtype), lengths)
    assert o.shape == q.shape
    assert o.dtype == dtype
