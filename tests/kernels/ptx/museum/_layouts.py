"""Exhibits: strides that two layouts share, halves of a head, masks of the last block, grids and random numbers."""

import numpy as np
import triton
import triton.language as tl

from kvproof.kernels import ptx

from ._exhibit import Named, Unwritten, Wrong, exhibit, launch, normal, unwritten


@triton.jit
def row_max(logits, out, vocab, stride, FIXED: tl.constexpr, N: tl.constexpr):
    p, n = tl.program_id(0), tl.arange(0, N)
    row = logits + p * (stride if FIXED else vocab)
    tl.store(out + p, tl.max(tl.load(row + n, n < vocab, float("-inf")), 0))


@exhibit(
    "vllm-project/vllm#42739",
    Named(ptx.OutOfBounds, "tl.load(row + n"),
    "Rows of logits were taken to lie one vocabulary apart, but the vocabulary was padded.",
)
def padded_vocabulary(FIXED):
    logits, out = normal(4, 128)[:, :100], unwritten(4)
    return launch(
        row_max, 4, {"out": (logits.max(1), 0)}, logits=logits, out=out, vocab=100, stride=128, FIXED=FIXED, N=128
    )


@triton.jit
def swish_gradient(dy, y, out, stride_t, stride_d, FIXED: tl.constexpr, D: tl.constexpr):
    t, d = tl.program_id(0), tl.arange(0, D)
    g = tl.load(dy + t * stride_t + d * stride_d)
    x = tl.load(y + (t * D + d if FIXED else t * stride_t + d * stride_d))
    s = tl.sigmoid(x)
    tl.store(out + t * D + d, g * s * (1 + x * (1 - s)))


@exhibit(
    "fla-org/flash-linear-attention#1139",
    Wrong("out"),
    "A recomputed tensor was read with the strides of its gradient, its own only where both are contiguous.",
)
def strides_of_the_gradient(FIXED):
    dy, y, out = normal(16, 16).T, normal(16, 16, seed=1), unwritten(16, 16)
    s = 1 / (1 + np.exp(-y.astype(np.float64)))
    truth = {"out": (dy * s * (1 + y * (1 - s)), 1e-5)}
    return launch(swish_gradient, 16, truth, dy=dy, y=y, out=out, stride_t=1, stride_d=16, FIXED=FIXED, D=16)


@triton.jit
def rotate(x, cos, sin, out, D: tl.constexpr, FIXED: tl.constexpr):
    half, row = tl.arange(0, D // 2), tl.program_id(0) * D
    a, b = tl.load(x + row + half), tl.load(x + row + D // 2 + half)
    c, s = tl.load(cos + half), tl.load(sin + half)
    tl.store(out + row + half, a * c - b * s)
    if FIXED:
        tl.store(out + row + D // 2 + half, b * c + a * s)


@exhibit(
    "vllm-project/vllm-ascend#7082",
    Unwritten("out"),
    "Of a rotated head the second half was computed and never stored.",
)
def half_a_head(FIXED):
    x, out, angle = normal(3, 32), unwritten(3, 32), np.arange(16, dtype=np.float32) / 10
    c, s = np.cos(angle), np.sin(angle)
    truth = np.concatenate([x[:, :16] * c - x[:, 16:] * s, x[:, 16:] * c + x[:, :16] * s], 1)
    return launch(rotate, 3, {"out": (truth, 1e-6)}, {"out": False}, x=x, cos=c, sin=s, out=out, D=32, FIXED=FIXED)


@triton.jit
def rotate_from(x, cos, offsets, out, T, FIXED: tl.constexpr, D: tl.constexpr):
    b, t, d = tl.program_id(0), tl.program_id(1), tl.arange(0, D)
    at = t + tl.load(offsets + b)
    y = tl.load(x + (b * T + t) * D + d) * tl.load(cos + at * D + d, at >= 0, 0.0)
    tl.store(out + (b * T + t) * D + d, y, (at >= 0) | FIXED)


@exhibit(
    "fla-org/flash-linear-attention#967",
    Unwritten("out"),
    "Padding on the left has negative positions, whose rows were skipped: what torch.empty left went on.",
)
def rows_before_position_zero(FIXED):
    x, cos, offsets, out = normal(2, 6, 16), normal(6, 16, seed=1), np.array([0, -2], np.int32), unwritten(2, 6, 16)
    truth = np.zeros((2, 6, 16))
    truth[0], truth[1, 2:] = x[0] * cos, x[1, 2:] * cos[:4]
    arrays = {"x": x, "cos": cos, "offsets": offsets, "out": out}
    return launch(rotate_from, (2, 6), {"out": (truth, 1e-6)}, {"out": False}, **arrays, T=6, FIXED=FIXED, D=16)


@triton.jit
def relu_squared(x, out, n, FIXED: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = (at < n) | (not FIXED)
    y = tl.maximum(tl.load(x + at, mask), 0.0)
    tl.store(out + at, y * y, mask)


@exhibit(
    "fla-org/flash-linear-attention#1103",
    Named(ptx.OutOfBounds, "tl.load(x + at, mask)"),
    "The last block was as full as the others, whatever the number of elements.",
)
def last_block_unmasked(FIXED):
    x, out = normal(300), unwritten(300)
    truth = {"out": (np.maximum(x, 0) ** 2, 0)}
    return launch(relu_squared, 3, truth, x=x, out=out, n=300, FIXED=FIXED, BLOCK=128)


@triton.jit
def shift_in(x, state, D: tl.constexpr, FIXED: tl.constexpr):
    n = tl.program_id(0) if FIXED else tl.program_id(1)
    tl.store(state + n * D + tl.arange(0, D), tl.load(x + n * D + tl.arange(0, D)))


@exhibit(
    "fla-org/flash-linear-attention#1097",
    Named(ptx.Refused, text=r"grid .*65536"),
    "Sequences were the second axis of the grid, where no GPU takes more than 65535 programs.",
)
def too_many_sequences(FIXED):
    x, state = np.arange(65536 * 2, dtype=np.int8), np.zeros(65536 * 2, np.int8)
    grid = 65536 if FIXED else (1, 65536)
    return launch(shift_in, grid, {"state": (x, 0)}, x=x, state=state, D=2, FIXED=FIXED, num_warps=1)


@triton.jit
def dropout(number, out, FIXED: tl.constexpr, N: tl.constexpr):
    key = tl.load(number) if FIXED else number.to(tl.int64, bitcast=True).to(tl.int32)
    tl.store(out + tl.arange(0, N), tl.rand(key, tl.arange(0, N)) > 0.5)


@exhibit(
    "facebookresearch/xformers#173",
    Wrong("out"),
    "The address of the seed was the seed: the same one elsewhere in memory gave another mask.",
)
def address_for_a_seed(FIXED):
    seeds, one, other = np.full(16, 7, np.int32), np.zeros(64, bool), np.zeros(64, bool)
    first = launch(dropout, 1, number=seeds[:1], out=one, FIXED=FIXED, N=64)
    return [first, launch(dropout, 1, {"out": (one, 0)}, number=seeds[8:], out=other, FIXED=FIXED, N=64)]


@triton.jit
def dropped_alike(out, row, other, stride, FIXED: tl.constexpr, N: tl.constexpr):
    n = tl.arange(0, N)
    if FIXED:
        row, other = row.to(tl.int64), other.to(tl.int64)
    tl.store(out, tl.sum((tl.rand(1, row * stride + n) == tl.rand(1, other * stride + n)).to(tl.int32), 0))


@exhibit(
    "xlite-dev/ffpa-attn#352",
    Named(ptx.AssertionFailed, "row * stride", "overflow", Wrong("out", "is 64, not 0")),
    "The number of a score was counted in 32 bits: rows 2**32 scores apart dropped the same ones.",
)
def random_numbers_again(FIXED):
    out = np.zeros(1, np.int32)
    return launch(
        dropped_alike, 1, {"out": (0, 2)}, out=out, row=3, other=7, stride=2**30, FIXED=FIXED, N=64, debug=True
    )
