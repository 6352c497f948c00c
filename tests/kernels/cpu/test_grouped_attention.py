"""The compiled attention over other models' caches, against softmax(q k^T) v in float64, slot by slot."""

from itertools import product

import numpy as np
import pytest
import torch

from kvproof.kernels.cpu import grouped_attention
from kvproof.kernels.cpu.decode_attention import JOB, decode_attention

from ._compiled import guarded

# What a right path may lose of outputs of rms 1, per dtype: its rounding, and float32's sums of scores up to 20.
BARS = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SHAPES = [  # B, H, H_kv, T, D, D_v
    (2, 4, 2, 70, 16, 16), (3, 9, 3, 200, 64, 64), (1, 8, 1, 129, 192, 128), (2, 4, 4, 5, 8, 8), (1, 2, 1, 1, 3, 5),
]  # fmt: skip


def formula(q, k, v, seen, scale, softcap=None, sink_logits=None):
    """(B, H, D_v) in float64; seen (B, T) bool."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    s = torch.einsum("bhd,bhtd->bht", q, k) * scale
    s = s if softcap is None else softcap * torch.tanh(s / softcap)
    s = s.masked_fill(~seen[:, None], -torch.inf)
    if sink_logits is not None:
        s = torch.cat([s, sink_logits.double().expand(q.shape[:2])[..., None]], -1)
    p = torch.softmax(s, -1)[..., : k.shape[2]]
    return torch.einsum("bht,bhtd->bhd", p, v.nan_to_num())


def draw(B, H, H_kv, T, D, D_v, dtype, rng):
    """q, k laid out (B, T, H_kv, D), v laid out (B, H_kv, T, D_v) within wider rows."""
    q = torch.from_numpy(rng.standard_normal((B, H, D)))
    k = torch.from_numpy(rng.standard_normal((B, T, H_kv, D))).transpose(1, 2)
    v = torch.from_numpy(rng.standard_normal((B, H_kv, T, D_v + 3)))[..., :D_v]
    return [x.to(dtype) for x in (q, k, v)]


@pytest.mark.parametrize("dtype", BARS, ids=str)
def test_every_term_agrees_with_the_formula_and_dead_slots_are_never_read(dtype):
    rng = np.random.default_rng(0)
    for shape, softcap, sunk, holes in product(SHAPES, (None, 3.0), (False, True), (False, True)):
        (B, H, _, T, _, _), (q, k, v) = shape, draw(*shape, dtype, rng)
        first = torch.from_numpy(rng.integers(0, T, B))
        lengths = torch.tensor([int(rng.integers(1, T - f + 1)) for f in first.tolist()])
        numbers = torch.arange(T)
        seen = (numbers >= first[:, None]) & (numbers < (first + lengths)[:, None])
        given = {"first": first, "lengths": lengths}
        if holes:
            seen = torch.from_numpy(rng.random((B, T)) < 0.5)
            seen[:, -1] = True
            order = torch.argsort(~seen, dim=1, stable=True).int()
            order[numbers >= seen.sum(1, keepdim=True)] = 2**30  # what follows the live slots is never looked at
            given = {"slots": order, "lengths": seen.sum(1)}
        for x in (k, v):
            x.transpose(1, 2)[~seen] = torch.nan
        sinks = torch.from_numpy(rng.standard_normal(H)) if sunk else None
        terms = {"softcap": softcap, "sink_logits": sinks}
        found = decode_attention(q, k, v, scale=0.4, **given, **terms)
        expected = formula(q, k.nan_to_num(), v, seen, 0.4, **terms)
        assert found.dtype == dtype
        assert (found.double() - expected).abs().max() < BARS[dtype], (shape, softcap, sunk, holes)


def test_the_newest_slot_is_seen_and_nothing_after_it():
    q, k, v = (torch.zeros(1, 1, *rest) for rest in ((8,), (130, 8), (130, 8)))
    for n in (1, 63, 64, 65, 128, 129, 130):
        q[:], k[:], v[:] = 1.0, 0.0, 0.0
        k[0, 0, n - 1], v[0, 0, n - 1] = 4.0, 1.0  # the needle
        k[0, 0, n:], v[0, 0, n:] = torch.nan, torch.nan
        assert decode_attention(q, k, v, lengths=torch.tensor([n]), scale=4.0).allclose(torch.ones(1, 1, 8), atol=1e-6)


def test_no_byte_past_the_cache_is_touched():
    rng = np.random.default_rng(0)
    for D, T in ((8, 3), (19, 65), (64, 64)):
        q = torch.from_numpy(rng.standard_normal((1, 2, D), np.float32))
        k, v = (torch.from_numpy(guarded(rng.standard_normal((1, 1, T, D), np.float32))) for _ in range(2))
        found = decode_attention(q, k, v)
        assert (found.double() - formula(q, k, v, torch.ones(1, T, dtype=torch.bool), D**-0.5)).abs().max() < 1e-5


def test_a_row_s_bits_depend_on_no_other_row_and_on_no_number_of_threads():
    rng, before = np.random.default_rng(0), torch.get_num_threads()
    q, k, v = draw(4, 6, 3, 2048, 64, 64, torch.float32, rng)
    try:
        torch.set_num_threads(2)
        together = decode_attention(q, k, v)
        torch.set_num_threads(1)
        assert torch.equal(together, decode_attention(q, k, v))
    finally:
        torch.set_num_threads(before)
    for b in range(4):
        rows = slice(b, b + 1)
        assert torch.equal(together[rows], decode_attention(q[rows], k[rows], v[rows]))


def test_the_rounding_of_sums_hardly_grows_with_the_length():
    rng, errors = np.random.default_rng(0), []
    for T in (64, 65536):
        q, k, v = torch.zeros(1, 1, 8), torch.zeros(1, 1, T, 8), torch.from_numpy(rng.random((1, 1, T, 8), np.float32))
        mean = v.double().mean(2)
        errors.append(((decode_attention(q, k, v) - mean).abs() / mean).max().item())
    assert errors[1] < 1e-5 < 1024 * max(errors[0], 1e-7)


def test_a_sequence_that_sees_nothing_gets_zeros_and_none_at_all_are_taken():
    q, k, v = torch.ones(2, 2, 8), torch.full((2, 1, 4, 8), torch.nan), torch.full((2, 1, 4, 8), torch.nan)
    assert not decode_attention(q, k, v, lengths=torch.zeros(2, dtype=torch.int64)).any()
    assert decode_attention(q[:0], k[:0], v[:0]).shape == (0, 2, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": torch.zeros(2, 2, 6, 9)}, r"q is \[2, 4, 8\], k \[2, 2, 6, 9\]"),
        ({"k": torch.zeros(2, 3, 6, 8), "v": torch.zeros(2, 3, 6, 8)}, "H must be a multiple of H_kv"),
        ({"q": torch.zeros(2, 4, 8, dtype=torch.float64)}, "q is torch.float64, k torch.float32"),
        ({"k": torch.zeros(2, 2, 8, 6).transpose(2, 3)}, "the last axis must be contiguous"),
        ({"lengths": torch.tensor([6, 7])}, "the cache has 6 slots to lie within"),
        ({"first": torch.tensor([-1, 0])}, "the cache has 6 slots to lie within"),
        ({"lengths": torch.tensor([6, 6], dtype=torch.int32)}, r"lengths is torch.int32 \[2\]; it must be int64"),
        ({"slots": torch.tensor([[0], [6]]).int(), "lengths": torch.ones(2).long()}, "each of those must be 0..5"),
        ({"slots": torch.tensor([[0], [5]]).int(), "lengths": torch.tensor([1, 2])}, r"\[1, 2\] of 1 slots"),
        ({"slots": torch.tensor([[0], [5]]), "lengths": torch.ones(2).long()}, r"it must be int32 \[2, N\]"),
        ({"sink_logits": torch.zeros(2)}, r"sink_logits is \[2\] on cpu; it must be \[4\] or \[2, 4\]"),
        ({"q": torch.zeros(2, 4, 8, device="meta")}, "all must be on the CPU"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(change, words):
    given = {"q": torch.zeros(2, 4, 8), "k": torch.zeros(2, 2, 6, 8), "v": torch.zeros(2, 2, 6, 8), **change}
    with pytest.raises(ValueError, match=words):
        decode_attention(given.pop("q"), given.pop("k"), given.pop("v"), **given)


def test_what_is_compiled_reads_what_the_call_writes():
    assert vars(grouped_attention)["JOB"] is JOB
    assert JOB.itemsize == 8 * len(JOB.names or ())
