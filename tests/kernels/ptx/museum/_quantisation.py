"""Exhibits: scales and groups, float8, packed integers."""

import ml_dtypes
import numpy as np
import triton
import triton.language as tl

from kvproof.kernels import ptx

from ._exhibit import FLOAT8, Named, Wrong, exhibit, launch, normal, unwritten


@triton.jit
def by_groups(w, scales, out, GROUP: tl.constexpr, FIXED: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0) * BLOCK
    k = first + tl.arange(0, BLOCK)
    group = k // GROUP if FIXED else tl.zeros((BLOCK,), tl.int32) + first // GROUP
    tl.store(out + k, tl.load(w + k).to(tl.float32) * tl.load(scales + group))


@exhibit(
    "vllm-project/vllm#39705",
    Wrong("out"),
    "A block of weights longer than a group was scaled by its first group alone.",
)
def block_longer_than_a_group(FIXED):
    w, scales, out = np.arange(128, dtype=np.int8), np.array([1, 2, 4, 8], np.float32), unwritten(128)
    truth = w * scales.repeat(32)
    return launch(
        by_groups, 2, {"out": (truth, 0)}, w=w, scales=scales, out=out, GROUP=32, FIXED=FIXED, K=128, BLOCK=64
    )


@triton.jit
def stepping(w, scales, out, group, K: tl.constexpr, BLOCK: tl.constexpr):
    for step in range(K // BLOCK):
        k = step * BLOCK + tl.arange(0, BLOCK)
        scale = tl.load(scales + (step * (BLOCK / group)).to(tl.int32))
        tl.store(out + k, tl.load(w + k).to(tl.float32) * scale)


@exhibit(
    "vllm-project/vllm#37329",
    Named(ptx.OutOfBounds, "scale = tl.load(scales"),
    "A group size of -1, one group for all, went into the kernel, whose scales then lay at negative indices.",
)
def group_size_minus_one(FIXED):
    w, scales, out = np.arange(64, dtype=np.int8), np.array([0.5], np.float32), unwritten(64)
    group = 64 if FIXED else -1
    return launch(stepping, 1, {"out": (0.5 * w, 0)}, w=w, scales=scales, out=out, group=group, K=64, BLOCK=32)


@triton.jit
def to_float8(x, out, scale, FIXED: tl.constexpr, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    values = tl.load(x + at)
    s = tl.maximum(tl.max(tl.abs(values) / 448.0, 0), 1e-12 if FIXED else 0.0)
    tl.store(out + at, (values / s).to(tl.float8e4nv).to(tl.uint8, bitcast=True))
    tl.store(scale + tl.program_id(0), s)


@exhibit(
    "huggingface/kernels-community#680",
    Wrong("out"),
    "A block of zeros has the scale 0, and 0 / 0 was stored as a float8 NaN.",
    FLOAT8,
)
def block_of_zeros(FIXED):
    x, out, scale = (
        np.ldexp(np.ones((2, 32), np.float32), np.arange(32) % 8),
        np.full((2, 32), 99, np.uint8),
        unwritten(2),
    )
    x[1] = 0
    truth = np.stack([(x[0] * np.float32(448 / 128)), x[1]]).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return launch(to_float8, 2, {"out": (truth, 0)}, x=x, out=out, scale=scale, FIXED=FIXED, N=32)


@triton.jit
def scaled_tail(w, scales, out, K, FIXED: tl.constexpr, BLOCK: tl.constexpr):
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    scale = tl.load(scales + k // 32, (k < K) | (not FIXED), 127)
    x = tl.load(w + k, k < K, 0.0) * (scale.to(tl.int32) << 23).to(tl.float32, bitcast=True)
    tl.store(out + tl.program_id(0), tl.sum(x, 0))


@exhibit(
    "vllm-project/vllm#47323",
    Named(ptx.OutOfBounds, "scale = tl.load(scales + k // 32, (k"),
    "Scales of the last tile were loaded without a mask: 0xff beyond the end is a NaN, and 0 times it too.",
)
def scales_beyond_the_end(FIXED):
    w, scales, out = np.ones(160, np.float32), np.array([127, 128, 126, 127, 129], np.uint8), unwritten(2)
    truth = [32 * (1 + 2 + 0.5 + 1), 32 * 4]
    return launch(scaled_tail, 2, {"out": (truth, 0)}, w=w, scales=scales, out=out, K=160, FIXED=FIXED, BLOCK=128)


@triton.jit
def pack_int4(x, out, range_of, D: tl.constexpr, FIXED: tl.constexpr, BLOCK: tl.constexpr):
    d = tl.arange(0, BLOCK)  # bytes: channels d and d + D / 2
    low, high = d % (D // 2), d % (D // 2) + D // 2
    live = d < D // 2
    a = tl.load(x + low, live | FIXED, 0.0)
    b = tl.load(x + high, live | FIXED, 0.0)
    least, most = tl.minimum(tl.min(a, 0), tl.min(b, 0)), tl.maximum(tl.max(a, 0), tl.max(b, 0))
    scale = (most - least) / 15
    qa, qb = ((a - least) / scale + 0.5).to(tl.int32), ((b - least) / scale + 0.5).to(tl.int32)
    tl.store(out + d, (qa | qb << 4).to(tl.uint8), live)
    tl.store(range_of, least)
    tl.store(range_of + 1, scale)


@exhibit(
    "InternLM/lmdeploy#4850",
    Wrong("range_of"),
    "Lanes beyond a head of 96 channels were loaded as 0 and widened the range of its int4 numbers.",
)
def padding_in_the_range(FIXED):
    x, out, range_of = 5 + normal(96), np.zeros(48, np.uint8), unwritten(2)
    truth = [x.min(), (x.max() - x.min()) / 15]
    return launch(
        pack_int4, 1, {"range_of": (truth, 1e-6)}, x=x, out=out, range_of=range_of, D=96, FIXED=FIXED, BLOCK=64
    )


@triton.jit
def power_of_two(codes, out, FIXED: tl.constexpr, N: tl.constexpr):
    code = tl.load(codes + tl.arange(0, N)).to(tl.int32)
    bits = code << 23
    if FIXED:
        bits = tl.where(code == 0, 1 << 22, bits)
        bits = tl.where(code == 255, 0x7FC00000, bits)
    tl.store(out + tl.arange(0, N), bits.to(tl.float32, bitcast=True))


@exhibit(
    "triton-lang/triton#11624",
    Wrong("out"),
    "An E8M0 scale was shifted into a float's exponent: code 0, which is 2**-127, became 0.",
)
def smallest_power_of_two(FIXED):
    codes, out = np.array([0, 1, 126, 127, 128, 200, 254, 255], np.uint8), unwritten(8)
    truth = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    return launch(power_of_two, 1, {"out": (truth, 0)}, codes=codes, out=out, FIXED=FIXED, N=8)
