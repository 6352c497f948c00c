"""Triton kernels of the kinds that tutorials and other people's repositories hold, each as a Case of _kernels.py."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

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


@triton.jit
def matmul_described(
    a, b, c, M, N, K, programs, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, APART: tl.constexpr
):
    """a @ b.T in tiles by descriptors, several to a program; APART: warps of their own load and multiply."""
    ad = tl.make_tensor_descriptor(a, [M, K], [K, 1], [BM, BK])
    bd = tl.make_tensor_descriptor(b, [N, K], [K, 1], [BN, BK])
    cd = tl.make_tensor_descriptor(c, [M, N], [N, 1], [BM, BN])
    across = tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, BM) * across, programs, flatten=True, warp_specialize=APART):
        i, j = tile // across * BM, tile % across * BN  # pyright: ignore[reportOperatorIssue]
        acc = tl.zeros((BM, BN), tl.float32)
        for k in range(0, K, BK):
            acc = tl.dot(ad.load([i, k]), bd.load([j, k]).T, acc)
        cd.store([i, j], acc.to(tl.float16))


def matmul_described_case(shape=(100, 72, 40), programs=2, apart=False) -> Case:
    (M, N, K), rng = shape, np.random.default_rng(0)
    a, b = (rng.standard_normal(x).astype(np.float16) for x in ((M, K), (N, K)))
    truth = a.astype(float) @ b.astype(float).T
    arrays = {"a": a, "b": b, "c": unwritten((M, N), np.float16)}
    sizes = {"M": M, "N": N, "K": K, "programs": programs, "BM": 64, "BN": 32, "BK": 16, "APART": apart}
    return launch(matmul_described, (programs,), {"c": (truth, 2**-10 * np.abs(truth) + 1e-3)}, "c", **arrays, **sizes)


@triton.jit
def attention_described(q, k, v, o, T, scale, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, APART: tl.constexpr):
    """softmax(q @ k.T * scale) @ v of one head, below the diagonal, BM rows to a program."""
    first = tl.program_id(0) * BM
    qd = tl.make_tensor_descriptor(q, [T, D], [D, 1], [BM, D])
    kd = tl.make_tensor_descriptor(k, [T, D], [D, 1], [BN, D])
    vd = tl.make_tensor_descriptor(v, [T, D], [D, 1], [BN, D])
    od = tl.make_tensor_descriptor(o, [T, D], [D, 1], [BM, D])
    rows, tile = first + tl.arange(0, BM), qd.load([first, 0])
    m, l, acc = tl.full((BM,), float("-inf"), tl.float32), tl.zeros((BM,), tl.float32), tl.zeros((BM, D), tl.float32)
    for n in tl.range(0, tl.minimum(first + BM, T), BN, warp_specialize=APART):
        s = tl.dot(tile, kd.load([n, 0]).T) * scale
        s = tl.where(rows[:, None] >= n + tl.arange(0, BN), s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        p, a = tl.exp(s - m_new[:, None]), tl.exp(m - m_new)
        acc = tl.dot(p.to(tl.float16), vd.load([n, 0]), acc * a[:, None])
        m, l = m_new, l * a + tl.sum(p, 1)
    od.store([first, 0], (acc / l[:, None]).to(tl.float16))


def attention_described_case(T=96, D=32, apart=False) -> Case:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((T, D)).astype(np.float16) for _ in range(3))
    s = np.where(np.tri(T, dtype=bool), q.astype(float) @ k.astype(float).T / 6, -np.inf)
    p = np.exp(s - s.max(1, keepdims=True))
    truth = p / p.sum(1, keepdims=True) @ v.astype(float)
    arrays = {"q": q, "k": k, "v": v, "o": unwritten((T, D), np.float16)}
    sizes = {"T": T, "scale": 1 / 6, "BM": 64, "BN": 32, "D": D, "APART": apart, "num_warps": 4}
    return launch(attention_described, (-(-T // 64),), {"o": (truth, 4e-3)}, "o", **arrays, **sizes)


@triton.jit
def layer_norm_back(dy, x, w, mean, rstd, dx, dw, lock, n, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """A row's gradient; those of the weights add up in a few rows, each under a lock."""
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    live, group = at < n, row % GROUPS
    g = tl.load(dy + row * n + at, mask=live, other=0.0)
    unit = (tl.load(x + row * n + at, mask=live, other=0.0) - tl.load(mean + row)) * tl.load(rstd + row)
    unit = tl.where(live, unit, 0.0)
    wg = g * tl.load(w + at, mask=live, other=0.0)
    mine = unit * tl.sum(unit * wg) / n + tl.sum(wg) / n
    tl.store(dx + row * n + at, (wg - mine) * tl.load(rstd + row), mask=live)
    while tl.atomic_cas(lock + group, 0, 1) == 1:
        pass
    tl.debug_barrier()
    sums = dw + group * n + at
    tl.store(sums, tl.load(sums, mask=live) + g * unit, mask=live)
    tl.debug_barrier()
    tl.atomic_xchg(lock + group, 0)


def layer_norm_back_case(rows=9, n=200, groups=3) -> Case:
    rng = np.random.default_rng(0)
    dy, x = rng.standard_normal((2, rows, n)).astype(np.float32)
    w, mean, rstd = rng.standard_normal(n).astype(np.float32), x.mean(1), 1 / np.sqrt(x.var(1) + 1e-5)
    unit = (x.astype(float) - mean[:, None]) * rstd[:, None]
    wg = dy * w.astype(float)
    dx = (wg - unit * (unit * wg).mean(1, keepdims=True) - wg.mean(1, keepdims=True)) * rstd[:, None]
    dw = np.stack([(dy * unit)[g::groups].sum(0) for g in range(groups)])
    arrays = {"dy": dy, "x": x, "w": w, "mean": mean, "rstd": rstd, "dx": unwritten((rows, n))}
    arrays |= {"dw": np.zeros((groups, n), np.float32), "lock": np.zeros(groups, np.int32)}
    results = {"dx": (dx, 1e-5), "dw": (dw, 1e-5)}
    return launch(layer_norm_back, (rows,), results, "dx", **arrays, n=n, GROUPS=groups, BLOCK=256)


CASES = (
    *(dropout_case, add_rows_case, stream_k_case, through_fp8_case, scan_and_sort_case),
    *(matmul_described_case, attention_described_case, layer_norm_back_case),
)
TUTORIALS = {case.__name__.removesuffix("_case"): case for case in CASES}
