"""Triton kernels whose programs share memory, for the PTX machine: atomics, a lock, flags, a last one that combines.

As in _kernels.py; every atomic has the order it needs, and a barrier stands before each publication.
"""

import numpy as np
import triton
import triton.language as tl

from ._kernels import DEEP, SUMS, TYPES, WIDE, Case, launch, roundoff, unwritten


@triton.jit
def total(x, parts, done, out, n, PROGRAMS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """Each program sums a block; the last to finish sums the sums."""
    p = tl.program_id(0)
    at = p * BLOCK + tl.arange(0, BLOCK)
    s = tl.sum(tl.load(x + at, mask=at < n, other=0).to(ACC), 0)
    tl.store(parts + p, s)
    tl.debug_barrier()  # every thread's part is stored before one thread says so
    if tl.atomic_add(done, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        each = tl.arange(0, PROGRAMS)
        tl.store(out, tl.sum(tl.load(parts + each, mask=each < tl.num_programs(0), other=0), 0))
        tl.store(done, 0)


def total_case(dtype="float32", n=3000) -> Case:
    x = np.random.default_rng(n).normal(3, 50, n).astype(TYPES[dtype])
    v, P = x.astype(np.float64), triton.cdiv(n, 256)
    error = 0 if dtype == "int32" else DEEP * roundoff(dtype) * np.abs(v).sum()
    truth, sizes = {"out": (v.sum(), error), "done": (0, 0)}, {"n": n, "PROGRAMS": triton.next_power_of_2(P)}
    parts, out, done = unwritten(P, WIDE[dtype]), unwritten(1, WIDE[dtype]), np.zeros(1, np.int32)
    arrays = {"x": x, "parts": parts, "done": done, "out": out}
    return launch(total, (P,), truth, "parts out", ACC=SUMS[dtype], BLOCK=256, **arrays, **sizes)


@triton.jit
def histogram(x, counts, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bins = tl.load(x + at, mask=at < n, other=0)
    tl.atomic_add(counts + bins, 1, mask=at < n, sem="relaxed")


def histogram_case(dtype="int32", n=1000) -> Case:
    x = np.random.default_rng(n).integers(0, 11, n).astype(TYPES[dtype])
    truth = {"counts": (np.bincount(x, minlength=11), 0)}
    return launch(histogram, (triton.cdiv(n, 256),), truth, x=x, counts=np.zeros(11, np.int32), n=n, BLOCK=256)


@triton.jit
def locked(x, sums, lock, n, BLOCK: tl.constexpr):
    """Each program adds its row to the sums while it holds the lock."""
    at = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * n + at, mask=at < n)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    s = tl.load(sums + at, mask=at < n)
    tl.debug_barrier()  # a short row is loaded by several threads and stored by one
    tl.store(sums + at, s + row, mask=at < n)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0, sem="release")


def locked_case(dtype="int32", n=50, programs=4) -> Case:
    x = np.random.default_rng(n).integers(-99, 99, (programs, n)).astype(TYPES[dtype])
    truth, lock = {"sums": (x.sum(0), 0), "lock": (0, 0)}, np.zeros(1, np.int32)
    return launch(locked, (programs,), truth, x=x, sums=np.zeros(n, x.dtype), lock=lock, n=n, BLOCK=64)


@triton.jit
def relay(x, sums, flags, n, BLOCK: tl.constexpr):
    """A running sum over programs: each waits for its neighbour's flag, adds its own block and raises its own flag."""
    p = tl.program_id(0)
    at = p * BLOCK + tl.arange(0, BLOCK)
    s = tl.sum(tl.load(x + at, mask=at < n, other=0), 0)
    if p > 0:
        while tl.atomic_add(flags + p - 1, 0, sem="acquire") == 0:
            pass
        s += tl.load(sums + p - 1)
    tl.store(sums + p, s)
    tl.debug_barrier()
    tl.atomic_xchg(flags + p, 1, sem="release")


def relay_case(dtype="int32", n=1000) -> Case:
    x = np.random.default_rng(n).integers(-99, 99, n).astype(TYPES[dtype])
    P, running = triton.cdiv(n, 256), np.cumsum(x.astype(np.int64))
    truth = {"sums": (np.append(running[255:-1:256], running[-1]), 0), "flags": (np.ones(P), 0)}
    arrays = {"x": x, "sums": unwritten(P, x.dtype), "flags": np.zeros(P, np.int32)}
    return launch(relay, (P,), truth, "sums", n=n, BLOCK=256, **arrays)


@triton.jit
def decode(q, k, v, lengths, part_m, part_l, part_acc, done, out, T, SPLITS: tl.constexpr, N: tl.constexpr,
           D: tl.constexpr):  # fmt: skip
    """One query per sequence attends to its cached slots, N to a program; the last program of a sequence combines."""
    split, b, d = tl.program_id(0), tl.program_id(1), tl.arange(0, D)
    row = split * N + tl.arange(0, N)
    live = row < tl.load(lengths + b)
    at = (b * T + row)[:, None] * D + d[None, :]
    s = tl.sum(tl.load(k + at, mask=live[:, None], other=0.0) * tl.load(q + b * D + d)[None, :], 1)
    m = tl.max(tl.where(live, s, -1.0e30), 0)
    p = tl.where(live, tl.exp(s - m), 0.0)  # pyright: ignore[reportOperatorIssue]
    part = b * SPLITS + split
    tl.store(part_m + part, m)
    tl.store(part_l + part, tl.sum(p, 0))
    tl.store(part_acc + part * D + d, tl.sum(p[:, None] * tl.load(v + at, mask=live[:, None], other=0.0), 0))
    tl.debug_barrier()
    if tl.atomic_add(done + b, 1, sem="acq_rel") == SPLITS - 1:
        each = b * SPLITS + tl.arange(0, SPLITS)
        each_m = tl.load(part_m + each)
        a = tl.exp(each_m - tl.max(each_m, 0))
        acc = tl.sum(a[:, None] * tl.load(part_acc + each[:, None] * D + d[None, :]), 0)
        l = tl.sum(a * tl.load(part_l + each), 0)
        tl.store(out + b * D + d, acc / l)  # pyright: ignore[reportOperatorIssue]


def decode_case(dtype="float32", T=100, D=32) -> Case:
    rng, lengths = np.random.default_rng(T), np.array([T, 1, 65], np.int32)
    B, SPLITS = len(lengths), triton.next_power_of_2(triton.cdiv(T, 32))
    q, k, v = (rng.normal(size=shape).astype(TYPES[dtype]) for shape in ((B, D), (B, T, D), (B, T, D)))
    live = np.arange(T) < lengths[:, None]  # (B, T)
    s = np.where(live, np.einsum("bd,btd->bt", q.astype(float), k.astype(float)), -np.inf)
    p = np.exp(s - s.max(1, keepdims=True))
    truth = np.einsum("bt,btd->bd", p / p.sum(1, keepdims=True), v.astype(float))
    k[~live], v[~live] = np.nan, np.nan
    # A score is off by |q||k| times its roundings, exp by what its argument is off and its size.
    largest = np.abs(s[live]).max() + np.einsum("bd,btd->bt", np.abs(q), np.abs(k))[live].max()
    error = (DEEP + 4 * largest) * roundoff(dtype) * np.abs(v[live]).max()
    shapes = {"part_m": (B, SPLITS), "part_l": (B, SPLITS), "part_acc": (B, SPLITS, D), "out": (B, D)}
    arrays = {"q": q, "k": k, "v": v, "lengths": lengths, "done": np.zeros(B, np.int32)}
    arrays |= {name: unwritten(shape) for name, shape in shapes.items()}
    results = {"out": (truth, error)}
    case = launch(decode, (SPLITS, B), results, " ".join(shapes), T=T, SPLITS=SPLITS, N=32, D=D, **arrays)
    slots = np.repeat(live[:, :, None], D, 2)
    return case._replace(readable=case.readable | {"k": slots, "v": slots})
