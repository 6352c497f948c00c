"""Decode attention in the ring of Triton's fpsan: all ways to compute it are one algebra, to the bit; faults are not.

A dead slot of a tile weighs there, since no exp is 0: tiles of other sizes agree where the lengths fill them.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from kvproof.kernels import decode
from kvproof.kernels.attention import decode_attention
from kvproof.kernels.ptx import same_algebra
from kvproof.kernels.ptx.algebra import ring
from kvproof.kernels.ptx.algebra.embedding import dialect
from kvproof.kernels.ptx.algebra.same import compare
from kvproof.reference.judge.cases import Case, draw

from ..ptx.algebra._fpsan import needs_fpsan
from ._planted_faults import FAULTS, Fault
from ._planted_kernels import decode_op, load_kernels, planted_op

pytestmark = needs_fpsan
FULL, RAGGED, T, D, PAGE = (256, 128), (200, 3), 256, 16, 64
LOG2E = 1.4426950408889634
ENGINES = [("simt", "float32"), ("mma", "float16"), pytest.param("simt", "float16", marks=pytest.mark.exhaustive),
           pytest.param("simt", "bfloat16", marks=pytest.mark.exhaustive),
           pytest.param("mma", "bfloat16", marks=pytest.mark.exhaustive)]  # fmt: skip
each_engine = pytest.mark.parametrize(("engine", "dtype"), ENGINES)
simt_first = pytest.mark.parametrize(("engine", "dtype"), [
    ENGINES[0], pytest.param("mma", "float16", marks=pytest.mark.exhaustive), *ENGINES[2:]])  # fmt: skip


def drawn(dtype: str, lengths=FULL) -> dict[str, torch.Tensor]:
    """A call of two query heads to a KV head, with NaN in the dead slots."""
    rng, B = np.random.default_rng(0), len(lengths)
    q, kv = rng.standard_normal((B, 2, D)), rng.standard_normal((2, B, 1, T, D))
    for b, n in enumerate(lengths):
        kv[:, b, :, n:] = np.nan
    call = {"q": q, "k": kv[0], "v": kv[1]}
    return {name: torch.from_numpy(x).to(getattr(torch, dtype)) for name, x in call.items()} | {
        "lengths": torch.tensor(lengths, dtype=torch.int32)
    }


def attending(call, **options):
    """A launcher of the call's tensors: o and lse."""
    return lambda *tensors: decode_attention(**dict(zip(call, tensors, strict=True)), return_lse=True, **options)


@ring.formula
def attention(q, k, v, lengths):
    """softmax(q k^T / sqrt(D)) v of full lengths, and its log-sum-exp, as plain formulas."""
    out, lse = ring.zeros(q.shape, "float32"), ring.zeros(q.shape[:2], "float32")
    for b, n in enumerate(lengths):
        qh = q[b].to("float32") * (D**-0.5 * LOG2E)
        s = qh @ k[b, 0, :n].to("float32").T  # (H, n)
        m = ring.max(s, 1, keepdims=True)
        p = ring.exp2(s - m)
        l = ring.sum(p, 1, keepdims=True)
        out[b] = (p @ v[b, 0, :n].to("float32")) / l
        lse[b] = ((m + ring.unary("log2", l)) / LOG2E)[:, 0]
    return out.to(q.dtype), lse


@each_engine
def test_the_kernel_is_the_formula(engine, dtype):
    call = drawn(dtype)
    narrowed = engine == "mma" and dialect().folds  # weights are narrowed before the sum over them
    verdict = compare(attending(call, engine=engine), attention, *call.values(), outputs=["returned[0]", "returned[1]"])
    assert verdict.same != narrowed, str(verdict)


def test_the_two_engines_are_one_algebra():
    call = drawn("float16")
    verdict = compare(attending(call, engine="simt"), attending(call, engine="mma"), *call.values())
    assert verdict.same != dialect().folds, str(verdict)


@pytest.mark.parametrize(("engine", "dtype"), [
    ENGINES[0], pytest.param("mma", "float16", marks=pytest.mark.exhaustive), ENGINES[2]])  # fmt: skip
def test_fused_or_not_in_splits_of_any_length(engine, dtype, tmp_path):
    """These ops take NumPy's arrays, which has no bfloat16."""
    call, module = drawn(dtype), load_kernels(tmp_path)
    arrays = [x.numpy() for x in call.values()]
    ops = {(n, fused): planted_op(module, split_len=n, engine=engine, fused=fused)
           for n, fused in ((128, True), (256, False), (512, True))}  # fmt: skip
    (usual, *others) = (lambda *x, op=op: op(**dict(zip(call, x, strict=True))) for op in ops.values())
    for other in others:
        same_algebra(usual, other, *arrays)


@simt_first
def test_paged_and_permuted_calls_are_the_plain_one(engine, dtype):
    call = drawn(dtype, RAGGED)
    order, B, N = [1, 0], 2, T // PAGE
    table = torch.from_numpy(np.random.default_rng(1).permutation(B * N).astype(np.int32)).view(B, N)
    scattered = {name: call[name].view(B, N, PAGE, D)[..., None, :, :].flatten(0, 1) for name in "kv"}
    pages = {name: torch.empty_like(x) for name, x in scattered.items()}
    for name, x in scattered.items():
        pages[name][table.flatten().long()] = x

    def paged(q, k, v, lengths):
        return decode_attention(q, pages["k"], pages["v"], lengths, block_table=table, engine=engine, return_lse=True)

    def permuted(*tensors):
        moved = {name: x[order] for name, x in zip(call, tensors, strict=True)}
        return tuple(x[order] for x in decode_attention(**moved, engine=engine, return_lse=True))

    usual = attending(call, engine=engine)
    same_algebra(usual, paged, *call.values())
    same_algebra(usual, permuted, *call.values())


def test_decode_py_is_the_formula_and_the_general_op(tmp_path):
    call = drawn("float32")
    call |= {name: call[name].repeat(1, 2, 1, 1) for name in "kv"}  # it has a KV head for each query head

    def plain(*tensors):
        return decode.decode_attention(*tensors)

    unsplit = load_kernels(tmp_path, ("decode", "tl.constexpr(128)", "tl.constexpr(512)"), module="decode")
    same_algebra(plain, lambda *tensors: unsplit.decode_attention(*tensors), *call.values())
    same_algebra(plain, lambda *tensors: attending(call)(*tensors)[0], *call.values())

    def formula(q, k, v, lengths):
        return attention(q, k[:, :1], v[:, :1], lengths)[0]

    same_algebra(plain, ring.formula(formula), *call.values())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_one_last_place_of_one_key_is_seen_and_two_values_swapped_if_bits_are_left(dtype):
    """A sum of 256 odd weights is divisible by 256, so is what stands for its inverse, and weights differ from bit 8
    on: of two rows of V swapped nothing is left in the low 16 bits, to which 3.8 narrows a float16 output."""
    call = drawn(dtype)
    usual = partial(decode_attention, engine="simt")

    def nudged(q, k, v, lengths):
        k = k.clone()
        k.view(torch.int16)[1, 0, 77, 6] += 1
        return usual(q, k, v, lengths)

    def swapped(q, k, v, lengths):
        v = v.clone()
        v[0, 0, [5, 9]] = v[0, 0, [9, 5]]
        return usual(q, k, v, lengths)

    assert not compare(usual, nudged, *call.values(), outputs="returned").same
    verdict = compare(usual, swapped, *call.values(), outputs="returned")
    assert verdict.same == (dtype == "float16" and not dialect().folds)
    if verdict.same:
        assert "truncf (simt.py" in str(verdict)
        assert "drops the high bits of payloads, and with them what differs there" in str(verdict)


# Faults that leave the ring's bits alone, and why.
UNSEEN = {
    "nothing_attended_divides_by_zero": "0 / 0 is 0 in the ring",
    "decode: nothing_attended_divides_by_zero": "0 / 0 is 0 in the ring",
    "new_rows_from_the_cache": "a race, which the machine's checks find: the other program has appended them by then",
}
SEEDS = 20  # a fault in combining chunks is seen where the ninth split, of few slots, has the largest payload
# One fault of each file, and all that the ring does not see; the others are exhaustive.
QUICK = ("length_long", "sinks_of_a_tile_out_of_sight", "sinks_one_more", "lse_as_a_power_of_two", "quantise_by_128",
         "decode: length_short")  # fmt: skip
IN_THE_SUITE = {*QUICK, *UNSEEN}
NAMES = [pytest.param(x, marks=[] if x in IN_THE_SUITE else pytest.mark.exhaustive) for x in FAULTS]


@pytest.fixture(scope="module")
def unedited(tmp_path_factory) -> dict[bool, Any]:
    """The ops without a fault: of kernels/decode.py, or not."""
    folder = tmp_path_factory.mktemp("unedited")
    return {True: decode_op(load_kernels(folder, module="decode")), False: planted_op(load_kernels(folder))}


def differs(case: Case, usual, other) -> bool:
    call = draw(case)
    arrays = {name: x for name, x in call.items() if isinstance(x, np.ndarray)}
    rest = {name: x for name, x in call.items() if name not in arrays}
    sides = (lambda *x, op=op: op(**dict(zip(arrays, x, strict=True)), **rest) for op in (usual, other))
    return not compare(*sides, *arrays.values()).same


def test_a_fault_of_each_file_is_in_the_suite():
    assert {FAULTS[name].file for name in QUICK} == {fault.file for fault in FAULTS.values()}


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_fault_is_another_algebra(name, unedited, tmp_path):
    fault: Fault = FAULTS[name]
    is_decode = fault.file == "decode"
    module = load_kernels(tmp_path, fault[1:], module="decode" if is_decode else "attention.launch")
    op = decode_op(module) if is_decode else planted_op(module)
    seeds = range(2 if name in UNSEEN else SEEDS)
    seen = any(differs(replace(fault.case, seed=seed), unedited[is_decode], op) for seed in seeds)
    assert seen != (name in UNSEEN)
