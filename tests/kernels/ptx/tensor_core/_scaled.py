"""A product of blocks of 32 numbers that share a scale, in Triton, and its truth from ml_dtypes."""

import ml_dtypes
import numpy as np
import torch
import triton
import triton.language as tl

TYPES = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2, "e2m1": ml_dtypes.float4_e2m1fn}
TENSORS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e2m1": torch.uint8, "bf16": torch.bfloat16}


@triton.jit
def scaled(a, a_scale, b, b_scale, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, KA: tl.constexpr,
           KB: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    m, n, blocks = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K // BLOCK)
    x = tl.load(a + m[:, None] * KA + tl.arange(0, KA)[None, :])
    y = tl.load(b + tl.arange(0, KB)[:, None] * N + n[None, :])
    if A == "bf16":  # noqa: SIM108
        s = None
    else:
        s = tl.load(a_scale + m[:, None] * (K // BLOCK) + blocks[None, :])
    t = tl.load(b_scale + n[:, None] * (K // BLOCK) + blocks[None, :])
    tl.store(c + m[:, None] * N + n[None, :], tl.dot_scaled(x, s, A, y, t, B))


def operand(rng: np.random.Generator, rows: int, K: int, kind: str) -> tuple[torch.Tensor, np.ndarray]:
    """(rows, K) numbers as Triton takes them, of e2m1 two to a byte, the first in the low half; and in float64."""
    x = rng.standard_normal((rows, K))
    if kind == "bf16":
        tensor = torch.from_numpy(x).bfloat16()
        return tensor, tensor.double().numpy()
    values = x.astype(TYPES[kind])
    bits = values.view(np.uint8)
    bits = bits[:, ::2] & 15 | bits[:, 1::2] << 4 if kind == "e2m1" else bits
    return torch.from_numpy(np.ascontiguousarray(bits)).view(TENSORS[kind]), values.astype(np.float64)


def drawn_scales(rng: np.random.Generator, rows: int, blocks: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """(rows, blocks) scales: powers of two as ue8m0 for blocks of 32, positive e4m3 for those of 16; and in float64."""
    if size == 32:
        bits = rng.integers(124, 131, (rows, blocks)).astype(np.uint8)
        return torch.from_numpy(bits), np.ldexp(1.0, bits.astype(int) - 127)
    values = np.abs(rng.standard_normal((rows, blocks))).astype(ml_dtypes.float8_e4m3fn)
    return torch.from_numpy(values.view(np.uint8)).view(torch.float8_e4m3fn), values.astype(np.float64)


class Scaled:
    """One launch of `scaled` and what it should give."""

    def __init__(self, A: str, B: str, block=32, M=128, N=64, K=128):
        rng = np.random.default_rng(0)
        (a, x), (b, y) = operand(rng, M, K, A), operand(rng, N, K, B)
        (s, u), (t, v) = (drawn_scales(rng, rows, K // block, block) for rows in (M, N))
        x = x if A == "bf16" else x * np.repeat(u, block, axis=1)
        y = y * np.repeat(v, block, axis=1)
        self.truth, self.sizes = x @ y.T, np.abs(x) @ np.abs(y).T
        self.c = torch.full((M, N), float("nan"))
        b = b.view(torch.uint8).T.contiguous().view(b.dtype)
        self.args = (a, s, b, t, self.c, M, N, K, a.shape[1], b.shape[0], A, B, block)

    def error(self) -> float:
        return float((np.abs(self.c.double().numpy() - self.truth) / self.sizes).max())
