"""Warp-specialised rings of buffers in Gluon: one partition fills them, others empty them, mbarriers in between.

FAULT plants one fault, by its name; "" is the right kernel.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# The types of what a kernel calls are those that Triton gives it.

import numpy as np
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from .._kernels import unwritten
from ._launch import Launch, described

B = 128
LINE = gl.constexpr(gl.BlockedLayout([1], [32], [4], [0]))
ROW = gl.constexpr(gl.BlockedLayout([1, 1], [1, 32], [1, 4], [1, 0]))


@gluon.jit
def fill(x, n, ring, full, empty, STAGES: gl.constexpr, FAULT: gl.constexpr):
    at = gl.arange(0, 128, LINE)
    for i in range(n):
        s = i % STAGES
        if FAULT == "wrong phase":
            mbarrier.wait(empty.index(s), i // STAGES & 1)
        elif FAULT != "no wait for empty":
            mbarrier.wait(empty.index(s), (i // STAGES & 1) ^ 1)
        ring.index(s).store(gl.load(x + i * 128 + at))
        if FAULT != "no arrival at full":
            mbarrier.arrive(full.index(s), count=1)


@gluon.jit
def drain(y, n, ring, full, empty, STAGES: gl.constexpr, FAULT: gl.constexpr):
    """Double what arrives, on its way to y."""
    at = gl.arange(0, 128, LINE)
    for i in range(n):
        s = i % STAGES
        if FAULT != "no wait for full":
            mbarrier.wait(full.index(s), i // STAGES & 1)
        v = ring.index(s).load(LINE)
        if FAULT != "no arrival at empty":
            mbarrier.arrive(empty.index(s))
        gl.store(y + i * 128 + at, v * 2)


@gluon.jit
def two_partitions(x, out, n, STAGES: gl.constexpr, FAULT: gl.constexpr):
    ring = gl.allocate_shared_memory(gl.float32, [STAGES, 128], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    full, empty = mbarrier.allocate_mbarrier(batch=STAGES), mbarrier.allocate_mbarrier(batch=STAGES)
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), count=1)
        mbarrier.init(empty.index(s), count=1)
    gl.warp_specialize(
        [
            (drain, (out, n, ring, full, empty, STAGES, FAULT)),
            (fill, (x, n, ring, full, empty, STAGES, FAULT)),
        ],
        [4],
        [24],
    )


def two_partitions_case(fault="", n=5, stages=2) -> Launch:
    x, out = np.random.default_rng(0).standard_normal((n, B)).astype(np.float32), unwritten((n, B))
    return Launch(two_partitions, {"x": x, "out": out, "n": n, "STAGES": stages, "FAULT": fault}, [(out, 2 * x, 0)])


@gluon.jit
def fetch(desc, n, ring, full, empty, STAGES: gl.constexpr, FAULT: gl.constexpr):
    """Bulk copies into the ring: their bytes complete `full`."""
    for i in range(n):
        s = i % STAGES
        if FAULT != "no wait for empty":
            mbarrier.wait(empty.index(s), (i // STAGES & 1) ^ 1)
        mbarrier.expect(full.index(s), 2 * desc.block_type.nbytes if FAULT == "wrong bytes" else desc.block_type.nbytes)
        tma.async_load(desc, [i, 0], full.index(s), ring.index(s))


@gluon.jit
def double(n, ring, full, empty, done, full2, empty2, STAGES: gl.constexpr, FAULT: gl.constexpr):
    for i in range(n):
        s = i % STAGES
        if FAULT != "no wait for full":
            mbarrier.wait(full.index(s), i // STAGES & 1)
        v = ring.index(s).load(ROW)
        if FAULT != "no fence after reading":
            fence_async_shared()
        mbarrier.arrive(empty.index(s))
        mbarrier.wait(empty2.index(s), (i // STAGES & 1) ^ 1)
        done.index(s).store(v * 2)
        if FAULT != "no fence after writing":
            fence_async_shared()
        mbarrier.arrive(full2.index(s))


@gluon.jit
def put(desc, n, done, full2, empty2, STAGES: gl.constexpr, FAULT: gl.constexpr):
    """Bulk copies out of the second ring; a buffer is empty when its copy has read it."""
    for i in range(n):
        s = i % STAGES
        mbarrier.wait(full2.index(s), i // STAGES & 1)
        tma.async_store(desc, [i, 0], done.index(s))
        if FAULT != "no store wait":
            tma.store_wait(0)
        mbarrier.arrive(empty2.index(s))
    tma.store_wait(0)


@gluon.jit
def three_partitions(x_desc, out_desc, n, STAGES: gl.constexpr, FAULT: gl.constexpr):
    ring = gl.allocate_shared_memory(gl.float32, [STAGES, 1, 128], x_desc.layout)
    done = gl.allocate_shared_memory(gl.float32, [STAGES, 1, 128], out_desc.layout)
    full, empty = mbarrier.allocate_mbarrier(batch=STAGES), mbarrier.allocate_mbarrier(batch=STAGES)
    full2, empty2 = mbarrier.allocate_mbarrier(batch=STAGES), mbarrier.allocate_mbarrier(batch=STAGES)
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), count=1)
        mbarrier.init(empty.index(s), count=1)
        mbarrier.init(full2.index(s), count=1)
        mbarrier.init(empty2.index(s), count=1)
    gl.warp_specialize(
        [
            (double, (n, ring, full, empty, done, full2, empty2, STAGES, FAULT)),
            (fetch, (x_desc, n, ring, full, empty, STAGES, FAULT)),
            (put, (out_desc, n, done, full2, empty2, STAGES, FAULT)),
        ],
        [1, 1],
        [24, 24],
    )


def three_partitions_case(fault="", n=5, stages=2) -> Launch:
    x, out = np.random.default_rng(0).standard_normal((n, B)).astype(np.float32), unwritten((n, B))
    x_desc, out_desc = (described(array, [1, B], gl.NVMMASharedLayout(0, 32, 2)) for array in (x, out))
    arguments = {"x_desc": x_desc, "out_desc": out_desc, "n": n, "STAGES": stages, "FAULT": fault}
    return Launch(three_partitions, arguments, [(out, 2 * x, 0)])
