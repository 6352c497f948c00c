"""The kernel's NumPy twin: right in every feature and order of its programs, in the kernel's steps and words."""

import ast
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings

from kvproof.kernels.attention.steps import split_of, split_start
from kvproof.reference.attention import decode_attention
from kvproof.reference.attention import steps as twin
from kvproof.reference.judge.cases import Case, check, draw

from ..._attention_battery import check_attention
from ..._attention_grid import CASES, cases

ROOT = Path(__file__).parents[3]
FILES = ("op.py", "steps.py", "append.py", "combine.py", "simt.py", "mma.py")
MULTIPLIED = [case for case in CASES if case.rounded_weights]  # what a tensor core may do to them, the judge allows
LONG = (
    Case("float64", (700, 129, 5), 700, H_kv=1, group=3, M=3, append=True),
    Case("float16", (700, 300, 1), 700, group=4, M=5, append=True, int8=True, page=48, window=30, sinks=140),
    Case("float32", (8194,), 8200, D=4, H_kv=1, M=4),  # on either side of the first split of 256 slots
)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_twin_is_right_in_every_feature(case):
    check(decode_attention, case)
    check(partial(decode_attention, engine="simt", order=1), case)


@pytest.mark.parametrize("case", MULTIPLIED, ids=range(len(MULTIPLIED)))
def test_the_twins_mma_engine_is_right_in_every_feature(case):
    check(partial(decode_attention, engine="mma", order=1), case)


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_the_twin_is_right_in_any_call(case):
    check(partial(decode_attention, order=case.seed), case)


def test_the_twin_passes_the_battery():
    check_attention(decode_attention)


@pytest.mark.parametrize(("case", "engine"), [*((case, "simt") for case in LONG), (LONG[1], "mma")])
def test_whichever_program_arrives_last_the_bits_are_the_same(case, engine):
    results = set()
    for order in (None, 0, 1, 2):
        call = draw(case)
        o, lse = decode_attention(**call, return_lse=True, engine=engine, order=order)
        results.add((o.tobytes(), lse.tobytes(), call["k"].tobytes(), call["v"].tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("case", LONG, ids=["contiguous", "paged", "very long"])
def test_a_tokens_bits_depend_on_no_other_token_and_no_other_sequence(case):
    call = draw(case)
    together = decode_attention(**call, engine="simt")  # which also fills the cache
    kept = {name: call[name] for name in ("k", "v", "k_scale", "v_scale", "window", "sinks") if name in call}
    for b, n in enumerate(case.lengths):
        own = {"block_table": call["block_table"][b : b + 1]} if case.page else {x: call[x][b : b + 1] for x in "kv"}
        for i in range(max(case.new - n, 0), case.new):
            lengths = [n - case.new + i + 1]
            alone = decode_attention(call["q"][b : b + 1, i], lengths=lengths, engine="simt", **kept | own)
            assert alone[0].tobytes() == together[b, i].tobytes(), (b, i)


@pytest.mark.parametrize(("engine", "dtype"), [("mma", np.float32), ("mma", np.float64), ("cuda", np.float16)])
def test_an_engine_that_does_not_take_the_dtype_is_refused(engine, dtype):
    q, k = np.ones((1, 1, 16), dtype), np.ones((1, 1, 8, 16), dtype)
    with pytest.raises(ValueError, match=rf"engine is '{engine}', q {np.dtype(dtype)}; \"simt\" takes every dtype"):
        decode_attention(q, k, k, [8], engine=engine)


def test_a_length_outside_the_cache_is_refused():
    q, k = np.ones((1, 1, 4)), np.ones((1, 1, 8, 4))
    for n in (-1, 9):
        with pytest.raises(ValueError, match=rf"lengths are \[{n}\]; the cache has 8 slots, so each must be 0..8"):
            decode_attention(q, k, k, [n])


def test_splits_are_cut_at_absolute_slots():
    starts = np.array([twin.split_start(split, 128) for split in range(300)])
    sizes = np.diff(starts)
    assert starts[0] == 0
    assert sizes[:224].tolist() == [128] * 64 + [256] * 32 + [512] * 32 + [1024] * 32 + [2048] * 32 + [4096] * 32
    assert (sizes[224:] == 4096).all()


@triton.jit
def ask(split, slot, answers):
    tl.store(answers, split_start(split, 128))
    tl.store(answers + 1, split_of(slot, 128))


@pytest.mark.parametrize("split", [0, 1, 63, 64, 65, 96, 128, 191, 192, 300])
def test_the_kernel_splits_where_its_twin_does(split, device):
    start = twin.split_start(split, 128)
    for slot, owner in ((start, split), (start + 127, split), (start - 1, max(split - 1, 0))):
        answers = torch.full((2,), -1, dtype=torch.int32, device=device)
        ask[(1,)](split, slot, answers)
        assert answers.tolist() == [start, owner]


def steps(folder, *files):
    """The numbered comments of files in order, each number once; repeated, it must start with the same words."""
    found: dict[int, str] = {}
    for name in files:
        text = (ROOT / folder / "attention" / name).read_text(encoding="utf-8")
        for number, words in re.findall(r"^ *# (\d+)\. (.*)$", text, re.MULTILINE):
            first = found.setdefault(int(number), words)
            assert words.startswith(first), f"{folder}/{name}: step {number} is {first!r}, and again {words!r}"
    return list(found.items())


@pytest.mark.parametrize("engine", ["simt.py", "mma.py"])
def test_each_engine_takes_the_steps_of_its_twin(engine):
    found = steps("kernels", engine, "combine.py")
    assert sorted(number for number, _ in found) == list(range(1, 11))
    assert found == steps("reference", engine, "combine.py")


def functions(folder, name):
    body = ast.parse((ROOT / folder / "attention" / name).read_text(encoding="utf-8")).body
    return [node.name for node in body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", FILES)
def test_functions_of_one_name_come_in_one_order(name):
    here, there = functions("reference", name), functions("kernels", name)
    shared = [x for x in here if x in there]
    assert shared == [x for x in there if x in here]
    assert len(shared) >= min(4, len(here))
