"""Kernels under triton.autotune, and what launches them."""

from typing import Any

import torch
import triton
import triton.language as tl
from triton import Config

ALL: Any = {"autotune": "all", "target": "sm_80"}
SIZES = [Config({"BLOCK": 64}, num_warps=2), Config({"BLOCK": 128}), Config({"BLOCK": 256}, num_warps=8)]


@triton.jit
def add_to(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(out + at, at < n) + tl.load(x + at, at < n), at < n)


@triton.jit
def total(x, out, n, BLOCK: tl.constexpr, TAIL: tl.constexpr = 0):  # pyright: ignore[reportArgumentType]
    """The sum of x, in blocks; the last TAIL elements are forgotten."""
    sum = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, n, BLOCK):
        at = first + tl.arange(0, BLOCK)
        sum += tl.load(x + at, at < n - TAIL, other=0).to(tl.float32)
    tl.store(out, tl.sum(sum))


@triton.jit
def partials(x, parts, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(parts + tl.program_id(0), tl.sum(tl.load(x + at, at < n, other=0)))


def per(meta):
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


def tuned(kernel: Any = add_to, configs: Any = SIZES, **options):
    return triton.autotune(configs, key=["n"], **options)(kernel)


def arrays(n=300):
    return torch.arange(float(n)), torch.ones(n)
