"""Triton kernels of the kinds that tutorials and other people's repositories hold, each as a Case of _kernels.py."""

import ml_dtypes
import numpy as np
import triton
import triton.language as tl

from ._kernels import Case, launch, unwritten


@triton.jit
def dropout(x, out, n, p, key, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = tl.rand(key, at) > p
    tl.store(out + at, tl.where(keep, tl.load(x + at, mask=at < n) / (1 - p), 0.0), mask=at < n)


def philox(seed: int, n: int) -> np.ndarray:
    """The first of the four numbers that Philox 4x32-10 makes of each counter below n: (n,) uint32."""
    a, b, c, d = np.arange(n).astype(object), *[np.zeros(n, object)] * 3
    word = 2**32 - 1
    for turn in range(10):
        key, high = (seed + turn * 0x9E3779B9) & word, turn * 0xBB67AE85 & word
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ key, q & word, (p >> 32) ^ d ^ high, p & word
    return a.astype(np.uint32)


def dropout_case(n=700, p=0.4) -> Case:
    x, out = np.linspace(1, 2, n, dtype=np.float32), unwritten(n)
    bits = philox(12345, n).view(np.int32).astype(np.int64)
    uniform = np.where(bits < 0, -bits - 1, bits) / 2**31
    truth = np.where(uniform > p, x / (1 - p), 0)
    return launch(dropout, (3,), {"out": (truth, 1e-6)}, "out", x=x, out=out, n=n, p=p, key=12345, BLOCK=256)


@triton.jit
def add_rows(x, total, lock, n, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows add up into one of a few sums, under a lock beside which it stands whether the sum has begun."""
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    group = row % GROUPS
    v = tl.load(x + row * n + at, mask=at < n)
    while tl.atomic_cas(lock + group, 0, 1) == 1:
        pass
    begun = tl.load(lock + GROUPS + group)
    tl.debug_barrier()  # without it one warp may change the word before another has read it
    if begun == 0:
        tl.atomic_xchg(lock + GROUPS + group, 1)
    else:
        v += tl.load(total + group * n + at, mask=at < n)
    tl.store(total + group * n + at, v, mask=at < n)
    tl.debug_barrier()
    tl.atomic_xchg(lock + group, 0)


def add_rows_case(rows=9, n=100, groups=3) -> Case:
    x = np.random.default_rng(0).standard_normal((rows, n)).astype(np.float32)
    truth = np.stack([x[g::groups].sum(0, dtype=float) for g in range(groups)])
    arrays = {"x": x, "total": unwritten((groups, n)), "lock": np.zeros(2 * groups, np.int32)}
    return launch(add_rows, (rows,), {"total": (truth, 1e-5)}, "total", **arrays, n=n, GROUPS=groups, BLOCK=128)


@triton.jit
def stream_k(a, b, c, ready, N, K, share, PER_TILE: tl.constexpr, TILES: tl.constexpr, B: tl.constexpr):
    """Programs take equal shares of all steps of all tiles: who ends a tile stores it, the others then add to it."""
    at = tl.program_id(0) * share
    stop = tl.minimum(at + share, TILES * PER_TILE)
    while at < stop:
        end = tl.minimum(at + PER_TILE - at % PER_TILE, stop)  # pyright: ignore[reportOperatorIssue]
        tile = at // PER_TILE
        i, j = tile // (N // B) * B + tl.arange(0, B), tile % (N // B) * B + tl.arange(0, B)
        acc = tl.zeros((B, B), tl.float32)
        for step in range(at, end):
            k = step % PER_TILE * B + tl.arange(0, B)  # pyright: ignore[reportOperatorIssue]
            acc = tl.dot(tl.load(a + i[:, None] * K + k), tl.load(b + k[:, None] * N + j), acc)
        where = c + i[:, None] * N + j
        if end % PER_TILE == 0:
            tl.store(where, acc)
            tl.debug_barrier()
            tl.atomic_xchg(ready + tile, 1)
        else:
            while tl.atomic_cas(ready + tile, 1, 1) != 1:
                pass
            tl.atomic_add(where, acc)
        at = end


def stream_k_case(size=64, K=160, programs=3) -> Case:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((size, K), (K, size)))
    truth, steps, tiles = a.astype(float) @ b.astype(float), K // 32, (size // 32) ** 2
    arrays = {"a": a, "b": b, "c": unwritten((size, size)), "ready": np.zeros(tiles, np.int32)}
    sizes = {"N": size, "K": K, "share": -(-tiles * steps // programs), "PER_TILE": steps, "TILES": tiles, "B": 32}
    return launch(stream_k, (programs,), {"c": (truth, 1e-4)}, "c", **arrays, **sizes)


@triton.jit
def through_fp8(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at).to(tl.float8e5).to(tl.float16))


def through_fp8_case(n=256) -> Case:
    """Two elements to a thread, where Triton converts four: two of its registers are never written."""
    x = np.linspace(-40, 40, n).astype(ml_dtypes.float8_e5m2).astype(np.float32)
    return launch(through_fp8, (1,), {"out": (x, 0)}, "out", x=x, out=unwritten(n, np.float16), N=n)


@triton.jit
def recurrence(a, b, a2, b2):
    return a * a2, b * a2 + b2


@triton.jit
def scan_and_sort(x, y, states, ordered, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    v = tl.load(y + at)
    _, h = tl.associative_scan((tl.load(x + at), v), 0, recurrence, reverse=True)
    tl.store(states + at, h)
    tl.store(ordered + at, tl.sort(v, descending=True))  # pyright: ignore[reportArgumentType]


def scan_and_sort_case(rows=2, n=256) -> Case:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.8, 1, (rows, n)).astype(np.float32), rng.standard_normal((rows, n)).astype(np.float32)
    h, truth = np.zeros(rows), np.empty((rows, n))
    for t in range(n - 1, -1, -1):
        truth[:, t] = h = h * x[:, t] + y[:, t]
    results = {"states": (truth, 1e-4), "ordered": (np.sort(y)[:, ::-1], 0)}
    arrays = {"x": x, "y": y, "states": unwritten((rows, n)), "ordered": unwritten((rows, n))}
    return launch(scan_and_sort, (rows,), results, "states ordered", **arrays, N=n)


CASES = (dropout_case, add_rows_case, stream_k_case, through_fp8_case, scan_and_sort_case)
TUTORIALS = {case.__name__.removesuffix("_case"): case for case in CASES}
