"""A product of numbers of 8 bits by those of 4, in Gluon: these come by a tensor map that pads them on the way."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# The types of what a kernel calls are those that Triton gives it.

import numpy as np
import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import blackwell
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kvproof.kernels import ptx

from ._scaled import drawn_scales, operand

M, N, K = 128, 128, 128
BLOCK = 64  # columns of the product that a program makes
ROWS = gl.BlockedLayout([1, 1], [32, 1], [4, 1], [0, 1])


@gluon.jit
def scales_from(source, rows: gl.constexpr):
    """(rows, 4) scales of blocks of 32, to tensor memory."""
    held = blackwell.allocate_tensor_memory(gl.uint8, [rows, 4], blackwell.TensorMemoryScalesLayout())
    at = gl.arange(0, rows, gl.SliceLayout(1, ROWS))[:, None] * 4 + gl.arange(0, 4, gl.SliceLayout(0, ROWS))[None, :]
    held.store(gl.convert_layout(gl.load(source + at), held.get_reg_layout()))
    return held


@gluon.jit
def padded(a, b, a_scale, b_scale, c, COLUMNS: gl.constexpr):
    first = gl.program_id(0) * b.block_type.shape[0]
    M: gl.constexpr = a.block_type.shape[0]
    N: gl.constexpr = b.block_type.shape[0]
    x = gl.allocate_shared_memory(a.dtype, a.block_type.shape, a.layout)
    y = gl.allocate_shared_memory(b.dtype, b.block_type.shape, b.layout)
    bar = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(bar, count=1)
    mbarrier.expect(bar, a.block_type.nbytes + b.block_type.nbytes)
    tma.async_load(a, [0, 0], bar, x)
    tma.async_load(b, [first, 0], bar, y)
    mbarrier.wait(bar, 0)
    s, t = scales_from(a_scale, M), scales_from(b_scale + first * 4, N)
    sums = blackwell.allocate_tensor_memory(gl.float32, [M, N], blackwell.TensorMemoryLayout([M, N], col_stride=1))
    blackwell.tcgen05_mma_scaled(x, y.permute((1, 0)), sums, s, t, "e4m3", "e2m1", use_acc=False)
    blackwell.tcgen05_commit(bar)
    mbarrier.wait(bar, 1)
    mbarrier.invalidate(bar)
    column = first + gl.arange(0, N, gl.SliceLayout(0, ROWS))[None, :]
    at = gl.arange(0, M, gl.SliceLayout(1, ROWS))[:, None] * COLUMNS + column
    gl.store(c + at, gl.convert_layout(sums.load(), ROWS))


class Padded:
    """One launch, of two programs, and what it should give."""

    def __init__(self):
        rng = np.random.default_rng(0)
        (a, x), (b, y) = operand(rng, M, K, "e4m3"), operand(rng, N, K, "e2m1")
        (s, self.u), (t, self.v) = (drawn_scales(rng, rows, K // 32, 32) for rows in (M, N))
        self.x, self.c = x, torch.full((M, N), float("nan"))
        plain = gl.NVMMASharedLayout.get_default_for([M, K], gl.float8e4nv)
        wide = gl.NVMMASharedLayout.get_default_for([BLOCK, K // 2], gl.uint8, fp4_padded=True)
        with ptx.route("sm_100", pretend=True):  # Gluon pads for no older GPU, and asks which there is
            first = TensorDescriptor.from_tensor(a, [M, K], plain)
            second = TensorDescriptor.from_tensor(b.clone(), [BLOCK, K // 2], wide)
        self.args, self.y = (first, second, s, t, self.c, N), y

    def error(self, y: np.ndarray) -> float:
        """Of what the launch gave, against B (N, K) of float64."""
        left, right = self.x * np.repeat(self.u, 32, axis=1), y * np.repeat(self.v, 32, axis=1)
        sizes = np.abs(left) @ np.abs(right).T
        return float((np.abs(self.c.double().numpy() - left @ right.T) / sizes).max())
