"""Exhibits: which keys a query sees, of which head, and which program stores what."""

import math

import numpy as np
import triton
import triton.language as tl

from kvproof.kernels import ptx

from ._exhibit import Named, Unwritten, Wrong, exhibit, launch, normal, softmax, unwritten


@triton.jit
def copy_heads(x, out, FIXED: tl.constexpr, H: tl.constexpr, T: tl.constexpr):
    z, h, t = tl.program_id(0), tl.program_id(1), tl.arange(0, T)
    row = z * H * T + h * T if FIXED else z + h * T
    tl.store(out + row + t, tl.load(x + row + t) * 2)


@exhibit(
    "triton-lang/triton#6242",
    Named(ptx.Race, "tl.store(out"),
    "A tutorial's row offset took the batch index for a row: batches wrote into each other.",
)
def batch_is_one_row(FIXED):
    x, out = normal(3, 2, 16), np.zeros((3, 2, 16), np.float32)
    return launch(copy_heads, (3, 2), {"out": (2 * x, 0)}, x=x, out=out, FIXED=FIXED, H=2, T=16)


@triton.jit
def weigh(p, v, out, FIXED: tl.constexpr, T: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    part, t = tl.program_id(0), tl.arange(0, T)
    d = part * BLOCK + tl.arange(0, BLOCK)
    o = tl.sum(tl.load(p + t)[:, None] * tl.load(v + t[:, None] * D + d[None, :]), 0)
    tl.store(out + (d if FIXED else tl.arange(0, BLOCK)), o)


@exhibit(
    "fla-org/flash-linear-attention#1031",
    Named(ptx.Race, "tl.store(out"),
    "Programs that share a head's values all stored their part at its start.",
)
def parts_stored_at_the_start(FIXED):
    p, v, out = softmax(normal(32)).astype(np.float32), normal(32, 64, seed=1), unwritten(64)
    return launch(weigh, 2, {"out": (p @ v, 1e-5)}, p=p, v=v, out=out, FIXED=FIXED, T=32, D=64, BLOCK=32)


@triton.jit
def weigh_and_norm(s, v, out, lse, FIXED: tl.constexpr, T: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    part, t = tl.program_id(0), tl.arange(0, T)
    d = part * BLOCK + tl.arange(0, BLOCK)
    p = tl.exp(tl.load(s + t))
    p = p / tl.sum(p, 0)
    tl.store(out + d, tl.sum(p[:, None] * tl.load(v + t[:, None] * D + d[None, :]), 0))
    if part == 0 or not FIXED:
        tl.store(lse, tl.log(tl.sum(tl.exp(tl.load(s + t)), 0)))


@exhibit(
    "fla-org/flash-linear-attention#1033",
    Named(ptx.Race, "tl.store(lse"),
    "Programs that share a head's values stored its log-sum-exp at the same time, each the same number.",
)
def lse_stored_by_all(FIXED):
    s, v, out, lse = normal(32), normal(32, 64, seed=1), unwritten(64), unwritten(1)
    truth = {"out": (softmax(s) @ v, 1e-5), "lse": (np.log(np.exp(s.astype(np.float64)).sum()), 1e-5)}
    return launch(weigh_and_norm, 2, truth, s=s, v=v, out=out, lse=lse, FIXED=FIXED, T=32, D=64, BLOCK=32)


@triton.jit
def chunk(x, out, FIXED: tl.constexpr, T: tl.constexpr, OFFSET: tl.constexpr, BT: tl.constexpr):
    local = tl.program_id(0) * BT + tl.arange(0, BT)
    t = OFFSET + local
    mask = (local if FIXED else t) < T
    tl.store(out + t, tl.load(x + t, mask, 0.0) * 3, mask)


@exhibit(
    "fla-org/flash-linear-attention#907",
    Unwritten("out"),
    "Later chunks compared the absolute position with their own length and left all their rows unwritten.",
)
def chunk_masked_by_its_length(FIXED):
    x, out = normal(40), unwritten(40)
    return [
        launch(chunk, 2, None, {"out": False}, x=x, out=out, FIXED=FIXED, T=20, OFFSET=0, BT=16),
        launch(
            chunk,
            2,
            {"out": (3 * x, 0)},
            {"out": np.arange(40) < 20},
            x=x,
            out=out,
            FIXED=FIXED,
            T=20,
            OFFSET=20,
            BT=16,
        ),
    ]


@triton.jit
def grouped(q, k, out, FIXED: tl.constexpr, H: tl.constexpr, KV: tl.constexpr, T: tl.constexpr, D: tl.constexpr):
    h, t, d = tl.program_id(0), tl.arange(0, T), tl.arange(0, D)
    kv = h // (H // KV) if FIXED else h
    keys = tl.load(k + kv * T * D + t[:, None] * D + d[None, :])
    tl.store(out + h * T + t, tl.sum(keys * tl.load(q + h * D + d)[None, :], 1))


@exhibit(
    "LMCache/LMCache#3092",
    Named(ptx.OutOfBounds, "keys = tl.load(k"),
    "The index of a query's head was used for keys, which have fewer heads.",
    state="an automatic review's remark on an open pull request: nobody shipped it",
)
def heads_without_groups(FIXED):
    q, k, out = normal(6, 16), normal(2, 8, 16, seed=1), unwritten(6, 8)
    truth = np.einsum("hd,htd->ht", q, k.repeat(3, 0))
    return launch(grouped, 6, {"out": (truth, 1e-4)}, q=q, k=k, out=out, FIXED=FIXED, H=6, KV=2, T=8, D=16)


@triton.jit
def causal(q, k, out, start, FIXED: tl.constexpr, T: tl.constexpr, D: tl.constexpr, N: tl.constexpr):
    d, at = tl.arange(0, D), start + tl.program_id(0)
    total = tl.zeros((), tl.float32)
    for block in range(0 if FIXED else start, at + 1, N):
        n = block + tl.arange(0, N)
        keys = tl.load(k + n[:, None] * D + d, (n <= at)[:, None], 0.0)
        s = tl.sum(keys * tl.load(q + tl.program_id(0) * D + d)[None, :], 1)
        total += tl.sum(tl.where(n <= at, tl.exp(s), 0.0), 0)
    tl.store(out + tl.program_id(0), total)


@exhibit(
    "openai/gpt-oss#196",
    Wrong("out"),
    "The loop over keys began where the queries begin, so everything cached before them was skipped.",
    state="not merged when it was read",
)
def keys_before_the_queries(FIXED):
    q, k, out, start = normal(3, 16) / 4, normal(27, 16, seed=1), unwritten(3), 24
    truth = [math.fsum(np.exp(k[: start + i + 1].astype(np.float64) @ q[i])) for i in range(3)]
    return launch(causal, 3, {"out": (truth, 1e-3)}, q=q, k=k, out=out, start=start, FIXED=FIXED, T=27, D=16, N=16)
