"""Gluon kernels that need what the machine has not: clusters of two programs, launches taken over, targets to come."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# The types of what a kernel calls are those that Triton gives it.

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import blackwell, hopper
from triton.experimental.gluon.language.nvidia.blackwell import clc
from triton.experimental.gluon.language.nvidia.hopper import cluster, mbarrier

from ._core import LINE


@gluon.jit
def two_programs(x, out):
    """Each wants num_ctas of two."""
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    mbarrier.fence_init_release_cluster()
    cluster.arrive(relaxed=True)
    cluster.wait()
    cluster.barrier()
    at = gl.arange(0, 128, LINE)
    line = gl.allocate_shared_memory(gl.float32, [128], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    hopper.async_store(line, gl.load(x + at), bar)
    blackwell.async_store(line, gl.load(x + at), bar)
    gl.store(out + at, line.load(LINE))


@gluon.jit
def taken_over(out):
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    answer = gl.allocate_shared_memory(gl.int64, [2], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    mbarrier.expect(bar, 16)
    clc.try_cancel(answer, bar)
    mbarrier.wait(bar, 0)
    result = clc.load_result(answer)
    if result.is_canceled():
        gl.store(out, result.program_id(0))


@gluon.jit
def least(x, out):
    """Loads of tensor memory that also find the least and the largest of each row: sm_103 has them."""
    cells = blackwell.allocate_tensor_memory(
        gl.float32, [128, 64], blackwell.TensorMemoryLayout([128, 64], col_stride=1)
    )
    cells.store(gl.full([128, 64], 1.0, gl.float32, cells.get_reg_layout()))
    _, low = cells.load_min()
    _, high = cells.load_max()
    gl.store(out + gl.arange(0, 128, low.type.layout), low + high)


@gluon.jit
def shifted(out):
    bar = mbarrier.allocate_mbarrier()
    mbarrier.init(bar, count=1)
    asm: gl.constexpr = "tcgen05.shift.cta_group::1.down [$1]; mov.u32 $0, 0;"
    at = gl.arange(0, 128, LINE)
    gl.inline_asm_elementwise(asm, "=r,r", [at], dtype=gl.int32, is_pure=False, pack=1)
    gl.store(out + at, at.to(gl.float32))
