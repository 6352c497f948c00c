"""Triton kernels that use tensor descriptors, and their launches with an edited PTX."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as ttgl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.tools.tensor_descriptor import TensorDescriptor

from .._edited import edited

BLOCK = (16, 64)
SHAPE = (64, 256)


@triton.jit
def copy_1(a, b, at, last, B0: tl.constexpr):
    i = tl.program_id(0) * B0 + last
    b.store([i], a.load([i]))


@triton.jit
def copy_2(a, b, at, last, B0: tl.constexpr, B1: tl.constexpr):
    i, j = tl.program_id(0) * B0 + at, tl.program_id(1) * B1 + last
    b.store([i, j], a.load([i, j]))


@triton.jit
def copy_3(a, b, at, last, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr):
    i, j, k = tl.program_id(0) * B0 + at, tl.program_id(1) * B1 + at, tl.program_id(2) * B2 + last
    b.store([i, j, k], a.load([i, j, k]))


@triton.jit
def copy_4(a, b, at, last, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, B3: tl.constexpr):
    i, j, k = tl.program_id(0) * B0 + at, tl.program_id(1) * B1 + at, tl.program_id(2) * B2 + at
    b.store([i, j, k, last], a.load([i, j, k, last]))


@triton.jit
def copy_5(a, b, at, last, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, B3: tl.constexpr, B4: tl.constexpr):
    i, j, k = tl.program_id(0) * B0 + at, tl.program_id(1) * B1 + at, tl.program_id(2) * B2 + at
    b.store([i, j, k, at, last], a.load([i, j, k, at, last]))


COPIES = {1: copy_1, 2: copy_2, 3: copy_3, 4: copy_4, 5: copy_5}


@triton.jit
def view(a, out, at, last, B0: tl.constexpr, B1: tl.constexpr):
    tl.store(out + tl.arange(0, B0)[:, None] * B1 + tl.arange(0, B1), a.load([at, last]))


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
        b.atomic_add([2, 16], value)
    elif OP == "min":
        b.atomic_min([2, 16], value)
    elif OP == "max":
        b.atomic_max([2, 16], value)
    elif OP == "and":
        b.atomic_and([2, 16], value)
    elif OP == "or":
        b.atomic_or([2, 16], value)
    else:
        b.atomic_xor([2, 16], value)


@triton.jit
def rows_of(a, b, rows, at, to, N: tl.constexpr):
    i = tl.load(rows + tl.arange(0, N))
    b.scatter(a.gather(i, at), i, to)


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


@triton.jit
def add_one_to_groups(inputs, outputs, rows, G: tl.constexpr, B0: tl.constexpr, B1: tl.constexpr):
    for g in range(G):
        n = tl.load(rows + g)
        x = tl.load(inputs + g).to(tl.pointer_type(tl.float16))
        y = tl.load(outputs + g).to(tl.pointer_type(tl.float16))
        a = tl.make_tensor_descriptor(x, [n, B1], [B1, 1], [B0, B1])
        b = tl.make_tensor_descriptor(y, [n, B1], [B1, 1], [B0, B1])
        for i in range(tl.program_id(0) * B0, n, B0 * tl.num_programs(0)):
            b.store([i, 0], a.load([i, 0]) + 1)


@triton.jit
def matmul(a, b, c, K, B0: tl.constexpr, B1: tl.constexpr, BK: tl.constexpr):
    i, j = tl.program_id(0) * B0, tl.program_id(1) * B1
    total = tl.zeros((B0, B1), tl.float32)
    for k in tl.range(0, K, BK, num_stages=3):
        total = tl.dot(a.load([i, k]), b.load([j, k]).T, total)
    c.store([i, j], total.to(c.dtype))


@triton.jit
def matmul_persistent(a, b, c, M, N, K, B0: tl.constexpr, B1: tl.constexpr, BK: tl.constexpr, APART: tl.constexpr):
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, B0) * tl.cdiv(N, B1), tl.num_programs(0), warp_specialize=APART):
        i, j = tile // tl.cdiv(N, B1) * B0, tile % tl.cdiv(N, B1) * B1
        total = tl.zeros((B0, B1), tl.float32)
        for k in tl.range(0, K, BK):
            total = tl.dot(a.load([i, k]), b.load([j, k]).T, total)
        c.store([i, j], total.to(c.dtype))


@gluon.jit
def image(a, b, n, h, w, DOWN: ttgl.constexpr, RIGHT: ttgl.constexpr):
    room = ttgl.allocate_shared_memory(a.dtype, a.block_shape, a.layout)
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    mbarrier.expect(bar, a.block_type.nbytes)
    tma.async_load_im2col(a, [n, h, w, 0], [DOWN, RIGHT], bar, room)
    mbarrier.wait(bar, phase=0)
    mbarrier.invalidate(bar)
    tma.async_store(b, [0, 0], room)
    tma.store_wait(pendings=0)


def descriptor(tensor: torch.Tensor, *block: int, **options: Any) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(tensor, [*(block or BLOCK)], **options)


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, most: int = 100) -> torch.Tensor:
    """Whole numbers, negative ones too where the type has them."""
    low = 0 if dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64) else -most
    return torch.randint(low, most, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@contextmanager
def planted(*faults: tuple[str, str]) -> Iterator[None]:
    """Inside, launches run a PTX in which each pattern is replaced, wherever it stands; each must stand somewhere."""

    def edit(text: str) -> str:
        for pattern, other in faults:
            text, found = re.subn(pattern, other, text)
            assert found, f"no {pattern} in the PTX"
        return text

    with edited(edit):
        yield
