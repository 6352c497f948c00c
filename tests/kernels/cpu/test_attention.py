"""kernels/cpu/attention.py: right, in the steps of its NumPy twin, and blind to what it must not see."""

import re
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from kvproof.kernels.cpu import attention as engine_attention
from kvproof.reference import decode as twin
from kvproof.reference.cache import quantise
from kvproof.reference.judge.cases import Case, check, draw

from ..._attention_battery import CASES as BATTERY
from ..._attention_battery import check_attention
from . import _attending
from ._compiled import engine_modules

ROOT = Path(__file__).parents[3]
EXHAUSTIVE = pytest.mark.exhaustive
PAGES = (None, 1, 5, 16, 64)
EDGES = (1, 15, 16, 17, 31, 33, 127, 128, 129)  # of a block of 16 and a split of 128 slots
CASES = (
    Case("float32", EDGES, 140, D=32, append=True),
    Case("float32", (130, 17, 1, 16), 140, D=25, H_kv=25, page=5, append=True),
    Case("float64", EDGES, 140, D=20, page=16, append=True),
    Case("bfloat16", (300, 129, 33, 1), 320, D=64, page=64, append=True),
    Case("float32", (300, 257, 8), 300, D=80, page=1, std=4.0),
    Case("float32", (40, 33, 1), 40, D=16, page=5, int8=True, append=True),
)
MORE = tuple(
    Case(dtype, (*EDGES, 255, 256, 257, 385), 400, D=D, H_kv=H, page=PAGES[(i + 2 * j) % 5], append=(i + j) % 2 == 0,
         std=(1.0, 4.0)[i % 2], seed=D)
    for i, (D, H) in enumerate(((1, 1), (3, 2), (25, 2), (32, 2), (64, 25), (80, 1), (100, 1), (256, 1)))
    for j, dtype in enumerate(("float64", "float32", "bfloat16", "float16"))
)  # fmt: skip
INT8 = tuple(
    Case("float32", (*EDGES, 257), 300, D=D, page=page, int8=True, append=True, std=std)
    for D in (1, 25, 64, 256)
    for page, std in zip(PAGES, (1.0, 4.0, 1.0, 4.0, 1.0), strict=True)
)


@cache
def op(dtype: str, cache: str | None = None, threads: int = 1):
    return _attending.op(engine_modules(), dtype, cache, threads)


def op_for(case: Case, threads: int = 1):
    return op(case.dtype, "int8" if case.int8 else None, threads)


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(x, marks=EXHAUSTIVE) for x in (*MORE, *INT8))], ids=str)
def test_it_is_right_and_writes_only_the_new_rows(case):
    check(op_for(case), case, return_lse=False)


@pytest.mark.parametrize("dtype", ["float32", *(pytest.param(x, marks=EXHAUSTIVE) for x in ("float64", "float16"))])
def test_it_passes_the_battery(dtype):
    check_attention(
        lambda q, k, v, lengths: op(q.dtype.name)(q, k, v, lengths),
        [x for x in BATTERY if not x.scale and (x.dtype == dtype)],
    )


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_two_threads_have_the_bits_of_one(case):
    one, two = draw(case), draw(case)
    assert op_for(case)(**one).tobytes() == op_for(case, 2)(**two).tobytes()
    assert one["k"].tobytes() == two["k"].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pages_and_neighbours_change_no_bit(dtype):
    case = Case(dtype, (129, 16, 140, 1), 320, D=20)
    call = draw(case, dead=0)
    want = op(dtype)(**call)
    order = np.random.default_rng(0).permutation
    for page in (1, 5, 16, 64, 320):
        N = 320 // page
        table = order(4 * N).reshape(4, N).astype(np.int32)
        cut = {}
        for name in "kv":
            pages = call[name].reshape(4, 2, N, page, 20).swapaxes(1, 2).reshape(4 * N, 2, page, 20)
            cut[name] = np.empty_like(pages)
            cut[name][table.ravel()] = pages
        got = op(dtype)(call["q"], lengths=call["lengths"], block_table=table, **cut)
        assert got.tobytes() == want.tobytes()
    for b in range(4):
        lone = op(dtype)(*(call[name][b : b + 1] for name in ("q", "k", "v", "lengths")))
        assert lone.tobytes() == want[b : b + 1].tobytes()


@pytest.mark.parametrize("dead", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize(("dtype", "page"), [("float32", None), ("bfloat16", 5)])
def test_what_lies_in_dead_slots_changes_no_bit(dtype, page, dead):
    """Each other sequence has a needle in its last live slot, so one that stops short is wrong: `check` sees that."""
    case = Case(dtype, EDGES, 140, D=24, page=page)
    check(op(dtype), case, return_lse=False)
    assert op(dtype)(**draw(case, dead)).tobytes() == op(dtype)(**draw(case, 0.0)).tobytes()


def test_an_8_bit_cache_is_written_as_the_reference_writes_it():
    case = Case("float32", (33, 1, 129), 130, D=25, page=16, int8=True, append=True)
    call = draw(case)
    call["k_new"][1] = 0  # a row of zeros has scale 0
    op("float32", "int8")(**call)
    for b, n in enumerate(case.lengths):
        page, slot = call["block_table"][b, (n - 1) // 16], (n - 1) % 16
        for name in "kv":
            rows, scales = quantise(call[f"{name}_new"][b])
            assert np.array_equal(call[name][page, :, slot], rows)
            assert np.array_equal(call[f"{name}_scale"][page, :, slot], scales)


def awkward_scores():
    """Calls of one head whose scores are infinite, NaN, or below what the running max begins with."""
    q, v = np.ones((1, 1, 4), np.float32), np.random.default_rng(0).standard_normal((1, 1, 40, 4)).astype(np.float32)
    for name, values in {
        "all -inf": [-np.inf] * 40,
        "some -inf": [-np.inf, 1.0, 2.0] * 13 + [0.0],
        "-inf in the first block": [-np.inf] * 16 + [1.0] * 24,
        "NaN at the end": [1.0] * 39 + [np.nan],
        "NaN at the start": [np.nan] + [1.0] * 39,
        "inf": [1.0] * 20 + [np.inf] + [1.0] * 19,
        "below the first max": [-3.2e38] * 40,
        "huge": [3e38] * 20 + [-3e38] * 20,
    }.items():
        k = np.zeros((1, 1, 40, 4), np.float32)
        k[0, 0, :, 0] = values
        yield pytest.param(2 * q, k, v, id=name)  # scaled by 1 / sqrt(4): the score is what stands in k


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("q", "k", "v"), list(awkward_scores()))
def test_scores_that_are_no_numbers_give_what_the_twin_gives(q, k, v):
    q[0, 0, 1:] = 0
    got, want = op("float32")(q, k, v, np.array([40])), twin.decode_attention(q, k, v, np.array([40]))
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.allclose(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_a_rounded_cache_attends_with_the_rounded_rows():
    """The newest row too is read back from the cache, as all later queries read it."""
    q, new = (np.full((1, 1, 8), x, np.float32) for x in (1.0, 1.001))
    k, v = (np.zeros((1, 1, 4, 8), ml_dtypes.bfloat16) for _ in range(2))
    got = _attending.op(engine_modules(), "bfloat16", None, 1, exact=True)(q, k, v, np.array([1]), k_new=new, v_new=new)
    assert (got == np.float32(ml_dtypes.bfloat16(1.001))).all()


def steps(path: str) -> list[tuple[str, str]]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(r"^ *# (\d+)\. (.*)$", text, re.M)


def test_engine_and_twin_take_the_same_steps_in_the_same_words_and_order():
    """The twin's blocks have BLOCK_N slots, the engine's LANES."""
    ours = [(number, words.replace("LANES", "BLOCK_N")) for number, words in steps("kernels/cpu/attention.py")]
    assert [int(number) for number, _ in ours] == list(range(1, 11))
    assert ours == steps("reference/decode.py")
    for name in ("SPLIT_LEN", "LOG2E", "LOWEST"):
        assert getattr(engine_attention, name) == pytest.approx(getattr(twin, name), rel=1e-15)
