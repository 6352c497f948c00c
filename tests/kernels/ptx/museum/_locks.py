"""Exhibits: locks, and memory that a program, another one, or another launch had written before."""

import numpy as np
import triton
import triton.language as tl

from kvproof.kernels import ptx

from ._exhibit import Named, exhibit, launch, normal, unwritten


@triton.jit
def add_under_lock(x, total, lock, FIXED: tl.constexpr, N: tl.constexpr):
    n = tl.arange(0, N)
    part = tl.load(x + tl.program_id(0) * N + n)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(total + n, tl.load(total + n) + part)
    if FIXED:
        tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@exhibit(
    "triton-lang/triton#6307",
    Named(ptx.Race, "tl.store(total"),
    "One thread released a lock while other warps of its program still stored what the lock guards.",
)
def lock_without_a_barrier(FIXED):
    x, total, lock = (
        np.arange(4 * 256, dtype=np.float32).reshape(4, 256),
        np.zeros(256, np.float32),
        np.zeros(1, np.int32),
    )
    return launch(add_under_lock, 4, {"total": (x.sum(0), 0)}, x=x, total=total, lock=lock, FIXED=FIXED, N=256)


@triton.jit
def norm_and_rotate(x, cos, sin, D: tl.constexpr, FIXED: tl.constexpr):
    d, half = tl.arange(0, D), tl.arange(0, D // 2)
    row = x + tl.program_id(0) * D
    values = tl.load(row + d)
    scale = tl.rsqrt(tl.sum(values * values, 0) / D)
    a, b = tl.load(row + half) * scale, tl.load(row + D // 2 + half) * scale
    tl.debug_barrier()
    if not FIXED:
        tl.store(row + d, values * scale)
        a, b = tl.load(row + half), tl.load(row + D // 2 + half)
    c, s = tl.load(cos + half), tl.load(sin + half)
    tl.store(row + half, a * c - b * s)
    tl.store(row + D // 2 + half, b * c + a * s)


@exhibit(
    "pytorch/helion#3080",
    Named(ptx.Race, "a, b = tl.load(row + half), tl.load(row + D // 2 + half)"),
    "A row was stored by one layout of threads and loaded by another, with nothing in between.",
)
def stored_and_loaded_again(FIXED):
    x, angle = normal(2, 256), np.arange(128, dtype=np.float32) / 100
    y = x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True))
    c, s = np.cos(angle), np.sin(angle)
    truth = np.concatenate([y[:, :128] * c - y[:, 128:] * s, y[:, 128:] * c + y[:, :128] * s], 1)
    return launch(norm_and_rotate, 2, {"x": (truth, 1e-5)}, x=x, cos=c, sin=s, D=256, FIXED=FIXED)


@triton.jit
def shift(state, x, w, out, D: tl.constexpr, W: tl.constexpr, FIXED: tl.constexpr):
    d, t = tl.arange(0, D), tl.arange(0, W)[:, None]
    y = tl.zeros((D,), tl.float32)
    for tap in range(W):
        y += tl.load(state + tap * D + d) * tl.load(w + tap)
    new = tl.load(x + d + 0 * t)
    old = tl.load(state + (t + 1) * D + d, t < W - 1, 0.0)
    if FIXED:
        tl.debug_barrier()
    tl.store(state + t * D + d, tl.where(t < W - 1, old, new))
    tl.store(out + d, y)


@exhibit(
    "NVIDIA/TensorRT-LLM#17522",
    Named(ptx.Race, "tl.store(state"),
    "A convolution's state was shifted in place by threads that had not read it, while others still did.",
)
def state_shifted_too_early(FIXED):
    state, x, w, out = normal(4, 256), normal(256, seed=1), np.array([1, 2, 4, 8], np.float32), unwritten(256)
    truth = {"out": (w @ state, 1e-4), "state": (np.concatenate([state[1:], x[None]]), 0)}
    return launch(shift, 1, truth, state=state, x=x, w=w, out=out, D=256, W=4, FIXED=FIXED)


@triton.jit
def starts(counts, first, out, N: tl.constexpr, FIXED: tl.constexpr):
    n, expert = tl.arange(0, N), tl.program_id(0)
    count = tl.load(counts + n)
    start = tl.cumsum(count) - count
    if FIXED:
        mine = tl.sum(tl.where(n == expert, start, 0))
    else:
        tl.store(first + expert * N + n, start)
        mine = tl.load(first + expert * N + expert)
    tl.store(out + expert, mine)


@exhibit(
    "ModelTC/LightLLM#1361",
    Named(ptx.Race, "(first + expert * N"),
    "All warps stored the starts of the experts, and each thread loaded one that another warp had stored.",
)
def start_read_from_another_warp(FIXED):
    counts, first, out = np.arange(256, dtype=np.int32), np.zeros((3, 256), np.int32), unwritten(3, dtype=np.int32)
    truth = {"out": (np.cumsum(counts)[:3] - counts[:3], 0)}
    return launch(starts, 3, truth, counts=counts, first=first, out=out, N=256, FIXED=FIXED, num_warps=8)
