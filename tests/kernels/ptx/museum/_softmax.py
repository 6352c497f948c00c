"""Exhibits: softmax over blocks and over parts: maxima, masks, scales, caps, and to which base a logarithm is."""

import numpy as np
import triton
import triton.language as tl

from ._exhibit import Wrong, exhibit, launch, normal, softmax, unwritten


@triton.jit
def merge_two(a, b, lse_a, lse_b, out, FIXED: tl.constexpr, D: tl.constexpr):
    p, d = tl.program_id(0), tl.arange(0, D)
    la, lb = tl.load(lse_a + p), tl.load(lse_b + p)
    top = tl.maximum(la, lb)
    if FIXED:
        top = tl.maximum(top, -1e30)
    wa, wb = tl.exp(la - top), tl.exp(lb - top)
    z = wa + wb
    if FIXED:
        z = tl.maximum(z, 1e-30)
    tl.store(out + p * D + d, (tl.load(a + p * D + d) * wa + tl.load(b + p * D + d) * wb) / z)


@exhibit(
    "vllm-project/vllm#39148",
    Wrong("out"),
    "Two parts without a token were merged: -inf minus -inf, so the whole row was NaN.",
)
def both_parts_empty(FIXED):
    a, b, out = normal(3, 16), normal(3, 16, seed=1), unwritten(3, 16)
    lse = np.array([[0.5, -np.inf, -np.inf], [1.5, 2.0, -np.inf]], np.float32)
    a[1:], b[2] = 0, 0
    truth = (softmax(lse.T)[:, :, None] * np.stack([a, b], 1)).sum(1)
    return launch(
        merge_two, 3, {"out": (truth, 1e-5)}, a=a, b=b, lse_a=lse[0], lse_b=lse[1], out=out, FIXED=FIXED, D=16
    )


@triton.jit
def online(s, v, out, FIXED: tl.constexpr, BLOCKS: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    n, d = tl.arange(0, N), tl.arange(0, D)
    m, z, acc = float("-inf"), 0.0, tl.zeros((D,), tl.float32)
    for block in range(BLOCKS):
        scores = tl.load(s + block * N + n)
        top = tl.maximum(m, tl.max(scores, 0))
        base = tl.maximum(top, -1e30) if FIXED else top
        p = tl.exp(scores - base)
        acc = acc * tl.exp(m - base) + tl.sum(p[:, None] * tl.load(v + (block * N + n)[:, None] * D + d), 0)
        z = z * tl.exp(m - base) + tl.sum(p, 0)
        m = top
    tl.store(out + d, acc / z)


@exhibit(
    "vllm-project/vllm#48364",
    Wrong("out"),
    "The first block of a row's indices was all padding: NaN from -inf minus -inf, which no later block mends.",
)
def first_block_masked(FIXED):
    s, v, out = normal(48), normal(48, 16, seed=1), unwritten(16)
    s[:16] = -np.inf
    return launch(online, 1, {"out": (softmax(s) @ v, 1e-5)}, s=s, v=v, out=out, FIXED=FIXED, BLOCKS=3, N=16, D=16)


@triton.jit
def merge_many(lse, v, out, n, FIXED: tl.constexpr, D: tl.constexpr):
    d = tl.arange(0, D)
    m, z, acc = float("-inf") if FIXED else -5e4, 0.0, tl.zeros((D,), tl.float32)
    for part in range(n):
        l = tl.load(lse + part)
        top = tl.maximum(m, l)
        acc = acc * tl.exp(m - top) + tl.load(v + part * D + d) * tl.exp(l - top)
        z = z * tl.exp(m - top) + tl.exp(l - top)
        m = top
    tl.store(out + d, acc / z)


@exhibit(
    "flashinfer-ai/flashinfer#5262",
    Wrong("out"),
    "The running maximum began at a finite number, and scores below it got the weight 0: 0 / 0.",
    state="not merged when it was read",
)
def finite_first_maximum(FIXED):
    lse, v, out = normal(4) - 60000, normal(4, 16, seed=1), unwritten(16)
    return launch(merge_many, 1, {"out": (softmax(lse) @ v, 1e-2)}, lse=lse, v=v, out=out, n=4, FIXED=FIXED, D=16)


@triton.jit
def scaled(s, v, out, scale, FIXED: tl.constexpr, BLOCKS: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    n, d = tl.arange(0, N), tl.arange(0, D)
    m, z, acc = float("-inf"), 0.0, tl.zeros((D,), tl.float32)
    if FIXED:
        scale *= 1.44269504
    for block in range(BLOCKS):
        if not FIXED:
            scale *= 1.44269504
        scores = tl.load(s + block * N + n) * scale
        top = tl.maximum(m, tl.max(scores, 0))
        p = tl.exp2(scores - top)
        acc = acc * tl.exp2(m - top) + tl.sum(p[:, None] * tl.load(v + (block * N + n)[:, None] * D + d), 0)
        z, m = z * tl.exp2(m - top) + tl.sum(p, 0), top
    tl.store(out + d, acc / z)


@exhibit(
    "FlagOpen/FlagGems#424",
    Wrong("out"),
    "The scale was multiplied by log2(e) inside the loop, once more for each block of keys; one block was right.",
)
def scale_grows_with_blocks(FIXED):
    s, v, out = normal(64), normal(64, 16, seed=1), unwritten(16)
    truth = softmax(0.25 * s) @ v
    return launch(scaled, 1, {"out": (truth, 1e-5)}, s=s, v=v, out=out, scale=0.25, FIXED=FIXED, BLOCKS=4, N=16, D=16)


@triton.jit
def biased(s, bias, out, FIXED: tl.constexpr, N: tl.constexpr):
    n = tl.arange(0, N)
    b = tl.load(bias + n)
    if FIXED:
        b *= 1.44269504
    x = tl.load(s + n) * 1.44269504 + b
    p = tl.exp2(x - tl.max(x, 0))
    tl.store(out + n, p / tl.sum(p, 0))


@exhibit(
    "meta-pytorch/segment-anything-fast#71",
    Wrong("out"),
    "Scores were scaled for exp2, the bias that was added to them was not.",
)
def bias_without_log2e(FIXED):
    s, bias, out = normal(32), normal(32, seed=1), unwritten(32)
    return launch(biased, 1, {"out": (softmax(s + bias), 1e-6)}, s=s, bias=bias, out=out, FIXED=FIXED, N=32)


@triton.jit
def lse_of_block(s, out, FIXED: tl.constexpr, N: tl.constexpr):
    x = tl.load(s + tl.program_id(0) * N + tl.arange(0, N)) * 1.44269504
    m = tl.max(x, 0)
    lse = m + tl.log2(tl.sum(tl.exp2(x - m), 0))
    if FIXED:
        lse *= 0.69314718
    tl.store(out + tl.program_id(0), lse)


@exhibit(
    "ROCm/aotriton#108",
    Wrong("out"),
    "The kernel's log-sum-exp was to the base 2; whoever merged by it took it for a natural logarithm.",
)
def lse_to_base_two(FIXED):
    s, a, lse, out = normal(2, 32), normal(2, 16, seed=1), unwritten(2), unwritten(1, 16)
    truth = softmax(np.log(np.exp(s.astype(np.float64)).sum(1))) @ a
    return [
        launch(lse_of_block, 2, s=s, out=lse, FIXED=FIXED, N=32),
        launch(merge_two, 1, {"out": (truth[None], 1e-5)}, a=a[:1], b=a[1:], lse_a=lse[:1], lse_b=lse[1:], out=out,
               FIXED=True, D=16),
    ]  # fmt: skip


@triton.jit
def softcap(s, out, cap, FIXED: tl.constexpr, N: tl.constexpr):
    x = tl.load(s + tl.arange(0, N)) / cap
    y = 1 - 2 / (tl.exp(2 * x) + 1) if FIXED else (tl.exp(x) - tl.exp(-x)) / (tl.exp(x) + tl.exp(-x))
    tl.store(out + tl.arange(0, N), cap * y)


@exhibit(
    "vllm-project/vllm#56579",
    Wrong("out"),
    "The cap of large scores was made of exponentials that overflow: inf / inf.",
)
def softcap_of_large_scores(FIXED):
    s, out = np.array([0, 1, -50, 1000, 4400, -5000, 10000, -10000], np.float32), unwritten(8)
    return launch(softcap, 1, {"out": (50 * np.tanh(s / 50.0), 1e-3)}, s=s, out=out, cap=50.0, FIXED=FIXED, N=8)
