"""A row's bits: alone and in any batch, in any order, on any pages, fused or not, beside any tokens.

Nothing here is approximate: every comparison is of bytes. The op alone, both engines; whole models are elsewhere.
"""

from typing import Any

import numpy as np
import pytest
import torch

from kvproof.kernels import ptx
from kvproof.kernels.attention import SPLIT_LEN, decode_attention
from kvproof.kernels.attention.launch import throughput_split_len

ENGINES = [
    ("simt", "float16"), ("simt", "float32"), ("mma", "float16"),
    pytest.param("simt", "float64", marks=pytest.mark.exhaustive),
]  # fmt: skip
each_engine = pytest.mark.parametrize(("engine", "dtype"), ENGINES)
H, H_KV, D, PAGE = 2, 1, 16, 48
LENGTHS = (300, 3, 129, 64, 0, 1, 128, 257)


@pytest.fixture(autouse=True)
def reports():
    """Launches run on the PTX machine; threads that hold copies of one number must agree on its bits."""
    with ptx.route(keep=None) as reports:
        yield reports
    assert not any(report.disagreeing for report in reports)


def drawn(dtype, lengths=LENGTHS, M: int | None = None, T=300, seed=0) -> dict[str, Any]:
    """A call with NaN in the dead slots."""
    rng = np.random.default_rng(seed)
    B = len(lengths)
    q = rng.standard_normal((B, H, D) if M is None else (B, M, H, D)).astype(dtype)
    k, v = rng.standard_normal((2, B, H_KV, T, D)).astype(dtype)
    for b, n in enumerate(lengths):
        k[b, :, n:] = v[b, :, n:] = np.nan
    call = {"q": q, "k": k, "v": v, "lengths": np.array(lengths, np.int32)}
    return {name: torch.from_numpy(x) for name, x in call.items()}


def rows(call, order):
    """The call's sequences in another order, or some of them."""
    return {name: x[list(order)].clone() for name, x in call.items()}


def attend(call, engine, **options) -> list[bytes]:
    """Each sequence's o and lse as bytes."""
    o, lse = decode_attention(**call, engine=engine, return_lse=True, **options)
    return [o[b].numpy().tobytes() + lse[b].numpy().tobytes() for b in range(len(o))]


@each_engine
def test_a_row_has_the_same_bits_alone_and_in_any_batch_and_order(engine, dtype):
    call, rng = drawn(dtype), np.random.default_rng(1)
    alone = [attend(rows(call, [b]), engine)[0] for b in range(len(LENGTHS))]
    for size in range(2, len(LENGTHS) + 1):
        order = rng.permutation(len(LENGTHS))[:size].tolist()
        assert attend(rows(call, order), engine) == [alone[b] for b in order], order


@each_engine
def test_neighbours_of_other_lengths_and_contents_change_no_bit(engine, dtype):
    call, others = drawn(dtype), drawn(dtype, lengths=(12, 300, 0, 299, 64, 1, 200, 129), seed=1)
    mixed = {name: torch.where(torch.arange(8).view(-1, *[1] * (x.dim() - 1)) % 2 == 0, x, others[name])
             for name, x in call.items()}  # fmt: skip
    assert attend(mixed, engine)[::2] == attend(call, engine)[::2]


def on_pages(call, seed):
    """The same call, its cache cut into pages that lie in a random order among pages of NaN."""
    rng = np.random.default_rng(seed)
    B, _, T, _ = call["k"].shape
    N = -(-T // PAGE)
    table = torch.from_numpy(rng.permutation(B * N + 5)[: B * N].reshape(B, N).astype(np.int32))
    cut = {"block_table": table}
    for name in ("k", "v"):
        slots = torch.full((B, H_KV, N * PAGE, D), torch.nan, dtype=call[name].dtype)
        slots[:, :, :T] = call[name]
        pages = torch.full((B * N + 5, H_KV, PAGE, D), torch.nan, dtype=slots.dtype)
        pages[table.view(-1).long()] = slots.view(B, H_KV, N, PAGE, D).transpose(1, 2).reshape(-1, H_KV, PAGE, D)
        cut[name] = pages
    return call | cut


@each_engine
def test_pages_in_any_order_give_the_bits_of_a_contiguous_cache(engine, dtype):
    call = rows(drawn(dtype), range(4))
    plain = attend(call, engine)
    for seed in range(3):
        assert attend(on_pages(call, seed), engine) == plain


@each_engine
def test_capacity_beyond_the_lengths_changes_no_bit(engine, dtype):
    call = rows(drawn(dtype, T=900), range(4))
    tight = call | {name: call[name][:, :, :300] for name in ("k", "v")}
    assert attend(tight, engine) == attend(call, engine)


@each_engine
def test_launches_of_their_own_and_any_schedule_give_the_bits_of_one(engine, dtype):
    call = drawn(dtype, (300, 129, 5), M=2)
    one = attend(call, engine)
    assert attend(call, engine, fused=False) == one
    for seed in range(3):
        with ptx.route(seed=seed):
            assert attend(call, engine) == one


@pytest.mark.parametrize(("engine", "dtype"), ENGINES)
@pytest.mark.parametrize("page", [None, pytest.param(PAGE, marks=pytest.mark.exhaustive)])
def test_a_prompt_s_tokens_have_the_same_bits_in_chunks_and_one_by_one(engine, dtype, page):
    """17 tokens, for one sequence over the boundary of a split, appended by each call as they are attended to."""
    prompt, n = drawn(dtype, (137, 127), M=17), 17
    streams = {}
    for chunk in (1, 7, 16):
        cache = {name: prompt[name].clone() for name in ("k", "v")}
        for x in cache.values():
            x[0, :, 120:] = x[1, :, 110:] = torch.nan
        call = on_pages(prompt | cache, 0) if page else prompt | cache
        streams[chunk] = [decoded(call, prompt, at, min(chunk, n - at), engine) for at in range(0, n, chunk)]
    joined = {chunk: np.concatenate(partials, 1) for chunk, partials in streams.items()}
    assert joined[7].tobytes() == joined[16].tobytes() == joined[1].tobytes()
    assert np.isfinite(joined[1]).all()


def decoded(call, prompt, at, M, engine):
    """Append tokens at .. at + M of the prompt's two sequences, after 120 and 110 slots, and attend: (B, M, H, D)."""
    first = torch.tensor([120, 110]) + at
    new = {f"{name}_new": torch.stack([prompt[name][b, :, n : n + M].transpose(0, 1) for b, n in enumerate(first)])
           for name in ("k", "v")}  # fmt: skip
    tokens = {"q": prompt["q"][:, at : at + M].contiguous(), "lengths": (first + M).to(torch.int32)}
    return decode_attention(**call | tokens | new, engine=engine).numpy()


@each_engine
def test_the_last_token_s_bits_do_not_depend_on_the_tokens_before_it(engine, dtype):
    call = drawn(dtype, (300, 129, 16), M=16)
    many = decode_attention(**call, engine=engine, return_lse=True)
    for M in (1, 3):
        last = decode_attention(**call | {"q": call["q"][:, -M:].contiguous()}, engine=engine, return_lse=True)
        assert all(torch.equal(x, every[:, -M:]) for x, every in zip(last, many, strict=True))


def test_throughput_mode_cuts_longer_splits_for_large_batches_alone():
    firsts = [throughput_split_len(programs, 8192) for programs in (1, 12, 12 * 64, 12 * 256, 12 * 4096)]
    assert firsts[:2] == [SPLIT_LEN, SPLIT_LEN]
    assert firsts == sorted(firsts)
    assert firsts[-1] > SPLIT_LEN


def test_throughput_mode_may_change_a_row_s_bits_in_a_large_batch_and_in_no_other():
    call = drawn("float32", (300, 299, 1, 0, 257), M=16)
    for name in ("k", "v"):
        call[name] = torch.nn.functional.pad(call[name], (0, 0, 0, 16384 - 300), value=torch.nan)
    alone = attend(rows(call, [0]), "simt")
    assert attend(rows(call, [0]), "simt", batch_invariant=False) == alone
    assert attend(call, "simt")[:1] == alone
    assert attend(call, "simt", batch_invariant=False)[:1] != alone
