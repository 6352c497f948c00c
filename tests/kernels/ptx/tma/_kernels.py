"""Triton kernels that use tensor descriptors, and their launches with an edited PTX."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from kvproof.kernels.ptx import launch

GRID, BLOCK = 4, (16, 64)
SHAPE = (64, 256)


@triton.jit
def copy_1(a, b, at, B0: tl.constexpr):
    i = tl.program_id(0) * B0 + at
    b.store([i], a.load([i]))


@triton.jit
def copy_2(a, b, at, B0: tl.constexpr, B1: tl.constexpr):
    i, j = tl.program_id(0) * B0 + at, tl.program_id(1) * B1 + at
    b.store([i, j], a.load([i, j]))


@triton.jit
def copy_3(a, b, at, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr):
    i, j, k = tl.program_id(0) * B0 + at, tl.program_id(1) * B1 + at, tl.program_id(2) * B2 + at
    b.store([i, j, k], a.load([i, j, k]))


@triton.jit
def copy_4(a, b, at, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, B3: tl.constexpr):
    i, j, k = tl.program_id(0) * B0 + at, tl.program_id(1) * B1 + at, tl.program_id(2) * B2 + at
    b.store([i, j, k, at], a.load([i, j, k, at]))


@triton.jit
def copy_5(a, b, at, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, B3: tl.constexpr, B4: tl.constexpr):
    i, j, k = tl.program_id(0) * B0 + at, tl.program_id(1) * B1 + at, tl.program_id(2) * B2 + at
    b.store([i, j, k, at, at], a.load([i, j, k, at, at]))


COPIES = {1: copy_1, 2: copy_2, 3: copy_3, 4: copy_4, 5: copy_5}


@triton.jit
def view(a, out, at, B0: tl.constexpr, B1: tl.constexpr):
    tl.store(out + tl.arange(0, B0)[:, None] * B1 + tl.arange(0, B1), a.load([at, at]))


@triton.jit
def transpose(a, b, B: tl.constexpr):
    i, j = tl.program_id(0) * B, tl.program_id(1) * B
    b.store([j, i], a.load([i, j]).T)


@triton.jit
def row_sums(a, out, N, B0: tl.constexpr, B1: tl.constexpr):
    i = tl.program_id(0) * B0
    total = tl.zeros((B0,), tl.float32)
    for j in tl.range(0, N, B1, num_stages=3):
        total += tl.sum(a.load([i, j]).to(tl.float32), 1)
    tl.store(out + i + tl.arange(0, B0), total)


@triton.jit
def reduce(a, b, OP: tl.constexpr, B0: tl.constexpr, B1: tl.constexpr):
    value = a.load([tl.program_id(0) * B0, 0])
    if OP == "add":
        b.atomic_add([2, 4], value)
    elif OP == "min":
        b.atomic_min([2, 4], value)
    elif OP == "max":
        b.atomic_max([2, 4], value)
    elif OP == "and":
        b.atomic_and([2, 4], value)
    elif OP == "or":
        b.atomic_or([2, 4], value)
    else:
        b.atomic_xor([2, 4], value)


@triton.jit
def rows_of(a, b, rows, at, N: tl.constexpr):
    i = tl.load(rows + tl.arange(0, N))
    b.scatter(a.gather(i, at), i, at)


@triton.jit
def add_one(a, b, N, B0: tl.constexpr, B1: tl.constexpr):
    i = tl.program_id(0) * B0
    for j in tl.range(0, N, B1, num_stages=3):
        b.store([i, j], a.load([i, j]) + 1)


@triton.jit
def add_one_made(x, y, M, N, stride, B0: tl.constexpr, B1: tl.constexpr):
    a = tl.make_tensor_descriptor(x, [M, N], [stride, 1], [B0, B1])
    b = tl.make_tensor_descriptor(y, [M, N], [stride, 1], [B0, B1])
    i = tl.program_id(0) * B0
    for j in range(0, N, B1):
        b.store([i, j], a.load([i, j]) + 1)


@triton.jit
def double_ragged(x, y, lengths, B0: tl.constexpr, B1: tl.constexpr):
    p = tl.program_id(0)
    rows = tl.load(lengths + p)
    a = tl.make_tensor_descriptor(x + p * B0 * B1, [rows, B1], [B1, 1], [B0, B1])
    b = tl.make_tensor_descriptor(y + p * B0 * B1, [rows, B1], [B1, 1], [B0, B1])
    b.store([0, 0], a.load([0, 0]) * 2)


def descriptor(tensor: torch.Tensor, *block: int, **options: Any) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(tensor, [*(block or BLOCK)], **options)


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, most: int = 100) -> torch.Tensor:
    """Whole numbers, negative ones too where the type has them."""
    low = 0 if dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64) else -most
    return torch.randint(low, most, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@contextmanager
def planted(*faults: tuple[str, str]) -> Iterator[None]:
    """Inside, launches run a PTX in which each pattern is replaced, wherever it stands; each must stand somewhere."""
    usual = launch.execute

    def execute(text: str, *args: Any, **settings: Any) -> Any:
        for pattern, other in faults:
            text, found = re.subn(pattern, other, text)
            assert found, f"no {pattern} in the PTX"
        return usual(text, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "execute", execute)
        yield
