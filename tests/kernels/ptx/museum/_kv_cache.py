"""Exhibits: caches of keys and values, their pages, slots, splits and types."""

import ml_dtypes
import numpy as np
import triton
import triton.language as tl

from kvproof.kernels import ptx

from ._exhibit import FLOAT8, Named, Wrong, exhibit, launch, normal, softmax, unwritten


@triton.jit
def gather(cache, table, out, stride_block, stride_slot, FIXED: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    p = tl.program_id(0)
    block = tl.load(table + p)
    base = block * stride_block if FIXED else block * N * stride_slot
    n, d = tl.arange(0, N)[:, None], tl.arange(0, D)[None, :]
    tl.store(out + (p * N + n) * D + d, tl.load(cache + base + n * stride_slot + d))


@exhibit(
    "ROCm/aiter#3498",
    Named(ptx.OutOfBounds, "tl.load(cache"),
    "A block's base was block size times the stride of a slot, where K and V of a block lie side by side.",
)
def interleaved_blocks(FIXED):
    both, table, out = normal(6, 2, 8, 16), np.array([4, 1, 5], np.int32), unwritten(3, 8, 16)
    k = both[:, 0]
    strides = {"stride_block": 256, "stride_slot": 16}
    return launch(gather, 3, {"out": (k[table], 0)}, cache=k, table=table, out=out, **strides, FIXED=FIXED, N=8, D=16)


@triton.jit
def attend(q, k, v, out, length, first, FIXED: tl.constexpr, T: tl.constexpr, D: tl.constexpr):
    t, d = tl.arange(0, T), tl.arange(0, D)
    live = (t >= first) & (t < length)
    here = live[:, None] if FIXED else tl.full((T, 1), True, tl.int1)
    keys = tl.load(k + t[:, None] * D + d, here, 0.0)
    s = tl.where(live, tl.sum(keys * tl.load(q + d)[None, :], 1), float("-inf"))
    p = tl.exp(s - tl.max(s, 0))
    values = tl.load(v + t[:, None] * D + d, here, 0.0)
    tl.store(out + d, tl.sum((p / tl.sum(p, 0))[:, None] * values, 0))


@exhibit(
    "vllm-project/vllm#47305",
    Named(ptx.Uninitialised, "keys = tl.load(k"),
    "The tail of the last page was read and its weight set to 0, but 0 times a NaN left there is NaN.",
)
def past_the_length(FIXED):
    q, k, v, out = normal(16), normal(32, 16, seed=1), normal(32, 16, seed=2), unwritten(16)
    truth, live = softmax(k[:21] @ q) @ v[:21], np.arange(32)[:, None] < 21
    return launch(attend, 1, {"out": (truth, 1e-5)}, {"k": live, "v": live}, q=q, k=k, v=v, out=out, length=21, first=0,
                  FIXED=FIXED, T=32, D=16)  # fmt: skip


@exhibit(
    "vllm-project/vllm#30887",
    Wrong("out"),
    "Values of pages that had left the sliding window were read, whatever had been put there since.",
)
def before_the_window(FIXED):
    q, k, v, out = normal(16), normal(32, 16, seed=1), normal(32, 16, seed=2), unwritten(16)
    v[:8] = np.nan  # the page belongs to somebody else by now
    truth = softmax(k[16:] @ q) @ v[16:]
    return launch(
        attend, 1, {"out": (truth, 1e-5)}, q=q, k=k, v=v, out=out, length=32, first=16, FIXED=FIXED, T=32, D=16
    )


@triton.jit
def put(x, loc, cache, stride, FIXED: tl.constexpr, D: tl.constexpr):
    p, d = tl.program_id(0), tl.arange(0, D)
    slot = tl.load(loc + p)
    if FIXED:
        slot = slot.to(tl.int64)
    tl.store(cache + slot * stride + d, tl.load(x + p * D + d))


@exhibit(
    "lightseekorg/tokenspeed#501",
    Named(ptx.OutOfBounds, "tl.store(cache"),
    "Slot number times stride was computed in 32 bits: pools of millions of slots wrote before their start.",
)
def slots_beyond_two_gib(FIXED):
    x, loc, cache = normal(2, 64), np.array([2, 1], np.int32), ptx.spread(np.zeros((3, 64), np.float32), 2**30)
    truth = {"cache": (np.stack([0 * x[0], x[1], x[0]]), 0)}
    return launch(put, 2, truth, x=x, loc=loc, cache=cache, stride=2**30, FIXED=FIXED, D=64)


@exhibit(
    "ModelTC/LightLLM#907",
    Named(ptx.AssertionFailed, "tl.store(cache", "overflow", Wrong("cache", "128 of 384")),
    "The index overflowed 32 bits. Here it comes round to another slot of the cache, and that token is lost.",
)
def slots_that_come_round(FIXED):
    x, loc, cache = normal(1, 64), np.array([5], np.int32), ptx.spread(np.zeros((6, 64), np.float32), 2**30)
    truth = np.zeros((6, 64))
    truth[5] = x[0]
    return launch(put, 1, {"cache": (truth, 0)}, x=x, loc=loc, cache=cache, stride=2**30, FIXED=FIXED, D=64, debug=True)


@triton.jit
def merge_splits(acc, lse, out, length, window, FIXED: tl.constexpr, S: tl.constexpr, D: tl.constexpr):
    d, seen = tl.arange(0, D), tl.minimum(length, window)
    each = tl.cdiv(seen, S)
    m, z, total = float("-inf"), 0.0, tl.zeros((D,), tl.float32)
    for split in range(S):
        if split * each < (seen if FIXED else length):
            l = tl.load(lse + split)
            top = tl.maximum(m, l)
            total = total * tl.exp(m - top) + tl.load(acc + split * D + d) * tl.exp(l - top)
            z = z * tl.exp(m - top) + tl.exp(l - top)
            m = top
    tl.store(out + d, total / z)


@exhibit(
    "vllm-project/vllm#47188",
    Named(ptx.Uninitialised, "l = tl.load(lse"),
    "With a sliding window the last splits had no token and wrote nothing, and the merge read their scratch.",
)
def empty_splits_merged(FIXED):
    S, window, acc, lse, out = 8, 10, normal(8, 16), normal(8, seed=1), unwritten(16)
    full = -(-window // -(-window // S))  # splits that hold a token: 5
    truth = softmax(lse[:full]) @ acc[:full]
    done = {"acc": np.arange(S)[:, None] < full, "lse": np.arange(S) < full}
    return launch(merge_splits, 1, {"out": (truth, 1e-5)}, done, acc=acc, lse=lse, out=out, length=100, window=window,
                  FIXED=FIXED, S=S, D=16)  # fmt: skip


@triton.jit
def read_float8(cache, out, FIXED: tl.constexpr, D: tl.constexpr):
    bits = tl.load(cache + tl.arange(0, D))
    x = bits.to(tl.float8e4nv if FIXED else tl.float8e5, bitcast=True)
    tl.store(out + tl.arange(0, D), x.to(tl.float32))


@exhibit(
    "vllm-project/vllm#54341",
    Wrong("out"),
    "The writer stored e4m3 whatever was asked for, the reader took the same bytes for e5m2.",
    FLOAT8,
)
def e4m3_read_as_e5m2(FIXED):
    x = normal(64).astype(ml_dtypes.float8_e4m3fn)
    out = unwritten(64)
    return launch(
        read_float8, 1, {"out": (x.astype(np.float32), 0)}, cache=x.view(np.uint8), out=out, FIXED=FIXED, D=64
    )


@triton.jit
def past_and_new(q, k, out, starts, kv_starts, lengths, FIXED: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    b, n, d = tl.program_id(0), tl.arange(0, N), tl.arange(0, D)
    start = tl.load(starts + b)
    base = tl.load(kv_starts + b) if FIXED else start
    live, length = n < tl.load(lengths + b), tl.load(lengths + b)
    keys = tl.load(k + (base + n)[:, None] * D + d, live[:, None], 0.0)
    s = tl.sum(keys * tl.load(q + start * D + d)[None, :], 1)
    tl.store(out + b * N + n, s, n < length)


@exhibit(
    "ModelTC/LightLLM#743",
    Wrong("out"),
    "Keys of each request were looked up where its queries start, which is elsewhere once a prefix is cached.",
)
def queries_start_elsewhere(FIXED):
    q, k, out = normal(2, 16), normal(14, 16, seed=1), np.zeros((2, 8), np.float32)
    lengths, starts, kv_starts = (np.array(x, np.int32) for x in ((6, 8), (0, 1), (0, 6)))  # a query each
    truth = np.zeros((2, 8))
    truth[0, :6], truth[1] = k[:6] @ q[0], k[6:] @ q[1]
    return launch(past_and_new, 2, {"out": (truth, 1e-4)}, q=q, k=k, out=out, starts=starts, kv_starts=kv_starts,
                  lengths=lengths, FIXED=FIXED, N=8, D=16)  # fmt: skip


@triton.jit
def windowed(q, k, out, length, left, FIXED: tl.constexpr, T: tl.constexpr, D: tl.constexpr):
    t, d = tl.arange(0, T), tl.arange(0, D)
    first = length - tl.minimum(length, left + 1 if FIXED else left)
    keys = tl.load(k + t[:, None] * D + d, ((t >= first) & (t < length))[:, None], 0.0)
    s = tl.sum(keys * tl.load(q + d)[None, :], 1)
    tl.store(out, tl.sum(tl.where((t >= first) & (t < length), tl.exp(s), 0.0), 0))


@exhibit(
    "lightseekorg/tokenspeed#578",
    Wrong("out"),
    "A window of n keys to the left of a token holds n + 1 with its own; decode attended to one too few.",
)
def window_without_its_own_key(FIXED):
    q, k, out = normal(16) / 4, normal(32, 16, seed=1), unwritten(1)
    truth = np.exp(k[30 - 8 - 1 : 30].astype(np.float64) @ q).sum()
    return launch(windowed, 1, {"out": (truth, 1e-4)}, q=q, k=k, out=out, length=30, left=8, FIXED=FIXED, T=32, D=16)
