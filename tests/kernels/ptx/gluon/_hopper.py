"""Gluon kernels of what sm_90 brought: bulk copies by tensor descriptors, wgmma, the barrier of a cluster."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# The types of what a kernel calls are those that Triton gives it.

import numpy as np
import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptorIm2Col

from .._kernels import unwritten
from ._core import TILE
from ._launch import Launch, described

PLAIN = gl.constexpr(gl.NVMMASharedLayout(0, 32, 2))


@gluon.jit
def tiles(x_desc, sums, low, high, every, some, odd, copy, R: gl.constexpr, C: gl.constexpr):
    """A tile goes to seven arrays, by a plain copy and by six kinds of reduction; its descriptors are made here."""
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    tile = gl.allocate_shared_memory(gl.int32, [R, C], PLAIN)
    mbarrier.expect(bar, x_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(x_desc, [0, 0], bar, tile)
    mbarrier.wait(bar, 0)
    mbarrier.expect(bar, x_desc.block_type.nbytes)
    tma.async_load(x_desc, [R, 0], bar, tile)
    mbarrier.wait(bar, 1)
    mbarrier.invalidate(bar)
    tma.async_store(tma.make_tensor_descriptor(copy, [R, C], [C, 1], [R, C], PLAIN), [0, 0], tile)
    tma.async_copy_shared_to_global(
        tma.make_tensor_descriptor(copy + R * C, [R, C], [C, 1], [R, C], PLAIN), [0, 0], tile
    )
    tma.async_atomic_add(tma.make_tensor_descriptor(sums, [R, C], [C, 1], [R, C], PLAIN), [0, 0], tile)
    tma.async_atomic_min(tma.make_tensor_descriptor(low, [R, C], [C, 1], [R, C], PLAIN), [0, 0], tile)
    tma.async_atomic_max(tma.make_tensor_descriptor(high, [R, C], [C, 1], [R, C], PLAIN), [0, 0], tile)
    tma.async_atomic_and(tma.make_tensor_descriptor(every, [R, C], [C, 1], [R, C], PLAIN), [0, 0], tile)
    tma.async_atomic_or(tma.make_tensor_descriptor(some, [R, C], [C, 1], [R, C], PLAIN), [0, 0], tile)
    tma.async_atomic_xor(tma.make_tensor_descriptor(odd, [R, C], [C, 1], [R, C], PLAIN), [0, 0], tile)
    tma.store_wait(0)


def tiles_launch(R=16, C=32) -> Launch:
    rng = np.random.default_rng(0)
    x, *others = rng.integers(0, 99, (7, R, C)).astype(np.int32)
    both = np.concatenate([others[0], x])
    kinds = (np.add, np.minimum, np.maximum, np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    results = [(other, kind(other, x), 0) for other, kind in zip(others, kinds, strict=True)]
    copy = unwritten((2, R, C), np.int32)
    names = ("sums", "low", "high", "every", "some", "odd")
    arguments = {"x_desc": described(both, [R, C], PLAIN.value), **dict(zip(names, others, strict=True)), "copy": copy}
    return Launch(tiles, {**arguments, "R": R, "C": C}, [*results, (copy, np.stack([x, x]), 0)])


@gluon.jit
def pixels(in_desc, out_desc):
    """The pixels of a padded picture that an im2col copy takes, two ways to write it."""
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    tile = gl.allocate_shared_memory(gl.float32, in_desc.block_shape, in_desc.layout)
    for i in gl.static_range(2):
        mbarrier.expect(bar, in_desc.block_type.nbytes)
        if i == 0:
            tma.async_load_im2col(
                in_desc, [0, -1, -1, 0], [gl.to_tensor(1).to(gl.int16), gl.to_tensor(0).to(gl.int16)], bar, tile
            )
        else:
            tma.async_copy_global_to_shared_im2col(
                in_desc, [0, -1, -1, 0], [gl.to_tensor(2).to(gl.int16), gl.to_tensor(1).to(gl.int16)], bar, tile
            )
        mbarrier.wait(bar, i)
        tma.async_store(out_desc, [i * 16, 0], tile)
        tma.store_wait(0)


def pixels_launch(H=4, W=4, C=8) -> Launch:
    """Of a picture (1, H, W, C), shifted by (0, -1) and (1, 0) for a filter of 3 by 3 and a border of zeros."""
    x, out = np.random.default_rng(1).standard_normal((1, H, W, C)).astype(np.float32), unwritten((2 * H * W, C))
    corners = {"pixel_box_lower_corner": [-1, -1], "pixel_box_upper_corner": [-1, -1]}
    given = torch.from_numpy(x), [H * W, C], PLAIN.value
    in_desc = TensorDescriptorIm2Col.from_tensor(*given, "zero", element_strides=[1] * 4, **corners)
    wide = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    truth = np.concatenate([wide[1 : 1 + H, :W], wide[2 : 2 + H, 1 : 1 + W]]).reshape(2 * H * W, C)
    return Launch(pixels, {"in_desc": in_desc, "out_desc": described(out, [16, C], PLAIN.value)}, [(out, truth, 0)])


@gluon.jit
def multiplied(a_desc, b_desc, out, STEPS: gl.constexpr, FAULT: gl.constexpr):
    """(64, 64 * STEPS) @ (64 * STEPS, 64) by wgmma, from a ring of two buffers that bulk copies fill."""
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    a = gl.allocate_shared_memory(gl.float16, [2, 64, 64], a_desc.layout)
    b = gl.allocate_shared_memory(gl.float16, [2, 64, 64], b_desc.layout)
    bars = mbarrier.allocate_mbarrier(batch=2)
    mbarrier.init(bars.index(0), count=1)
    mbarrier.init(bars.index(1), count=1)
    acc = warpgroup_mma_init(gl.zeros([64, 64], gl.float32, mma))
    for i in range(STEPS):
        bar = bars.index(i % 2)
        # One wait short, and the last product but one may still read these buffers.
        sums = warpgroup_mma_wait(2 if FAULT == "one wait short" else 1, deps=[acc])
        mbarrier.expect(bar, a_desc.block_type.nbytes + b_desc.block_type.nbytes)
        tma.async_load(a_desc, [0, 64 * i], bar, a.index(i % 2))
        tma.async_load(b_desc, [64 * i, 0], bar, b.index(i % 2))
        mbarrier.wait(bar, i // 2 & 1)
        acc = warpgroup_mma(a.index(i % 2), b.index(i % 2), sums, is_async=True)
    total = warpgroup_mma_wait(0, deps=[acc])
    rows, columns = gl.arange(0, 64, gl.SliceLayout(1, mma))[:, None], gl.arange(0, 64, gl.SliceLayout(0, mma))[None, :]
    gl.store(out + rows * 64 + columns, total)


def multiplied_launch(steps=4, fault="") -> Launch:
    rng = np.random.default_rng(2)
    a, b = (
        rng.standard_normal((64, 64 * steps)).astype(np.float16),
        rng.standard_normal((64 * steps, 64)).astype(np.float16),
    )
    layout, out = gl.NVMMASharedLayout.get_default_for([64, 64], gl.float16), unwritten((64, 64))
    arguments = {"a_desc": described(a, [64, 64], layout), "b_desc": described(b, [64, 64], layout), "out": out}
    return Launch(
        multiplied, arguments | {"STEPS": steps, "FAULT": fault}, [(out, a.astype(float) @ b.astype(float), 1e-3)]
    )


@gluon.jit
def stored(x, out_desc, FAULT: gl.constexpr):
    rows, columns = (
        gl.arange(0, 16, gl.SliceLayout(1, TILE))[:, None],
        gl.arange(0, 32, gl.SliceLayout(0, TILE))[None, :],
    )
    tile = gl.allocate_shared_memory(gl.float32, [16, 32], PLAIN, gl.load(x + rows * 32 + columns))
    if FAULT != "no proxy fence":
        fence_async_shared()
    tma.async_store(out_desc, [0, 0], tile)
    tma.store_wait(0)


def stored_launch(fault="") -> Launch:
    x, out = np.random.default_rng(3).standard_normal((16, 32)).astype(np.float32), unwritten((16, 32))
    return Launch(stored, {"x": x, "out_desc": described(out, [16, 32], PLAIN.value), "FAULT": fault}, [(out, x, 0)])


LAUNCHES = (tiles_launch, pixels_launch, multiplied_launch, stored_launch)
HOPPER = {launch.__name__.removesuffix("_launch"): launch for launch in LAUNCHES}
