"""tcgen05.cp on PTX written by hand: rows of shared memory, in order, and the lanes where they come to lie."""

import numpy as np
import pytest

from kvproof.kernels.ptx import Race, Uninitialised, UnknownOpcode, launch
from kvproof.kernels.ptx.segments import Buffer

# 128 threads write 32 bytes each to shared memory, as a matrix of 128 rows whose core matrices of 8 rows by 16 bytes
# follow one another: all rows of the first 16 bytes, then those of the second. Thread 0 copies; warps read their lanes.
TEXT = """.version 8.7
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 k_param_0)
{{
.reg .pred %p<4>; .reg .b32 %r<40>; .reg .b64 %rd<9>;
.shared .align 16 .b8 memory[4224];
ld.param.b64 %rd1, [k_param_0];
mov.u32 %r1, %tid.x;
setp.lt.u32 %p1, %r1, 32;
setp.eq.u32 %p2, %r1, 0;
mov.b32 %r2, memory;
@%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r2+4096], 32;
@%p2 mbarrier.init.shared::cta.b64 [%r2+4104], 1;
shl.b32 %r3, %r1, 4;
mul.lo.u32 %r4, %r1, 8;
add.u32 %r5, %r4, 1; add.u32 %r6, %r4, 2; add.u32 %r7, %r4, 3;
add.u32 %r8, %r4, 4; add.u32 %r9, %r4, 5; add.u32 %r10, %r4, 6; add.u32 %r11, %r4, 7;
st.shared.v4.b32 [%r3], {{%r4, %r5, %r6, %r7}};
{second}st.shared.v4.b32 [%r3+2048], {{%r8, %r9, %r10, %r11}};
fence.proxy.async.shared::cta;
bar.sync 0;
ld.shared.b32 %r12, [%r2+4096];
mov.b64 %rd2, {descriptor};
@%p2 tcgen05.cp.cta_group::1.{shape} [%r12], %rd2;
@%p2 tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r2+4104];
again:
{wait}
shr.u32 %r13, %r1, 5;
shl.b32 %r14, %r13, 21;
add.u32 %r15, %r12, %r14;
tcgen05.ld.sync.aligned.32x32b.x{columns}.b32 {registers}, [%r15];
tcgen05.wait::ld.sync.aligned;
mul.wide.u32 %rd3, %r1, {bytes};
add.u64 %rd4, %rd1, %rd3;
{stores}
bar.sync 0;
@%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r12, 32;
ret;
}}
"""
LEADING, STRIDE = 2048, 128
WAIT = "mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2+4104], 0; @!%p3 bra again;"


def copied(shape: str, columns: int, wait=WAIT, second="") -> np.ndarray:
    """What each of 128 lanes has in the first columns after the copy; second: a guard of the second 16 bytes' store."""
    out = np.zeros((128, columns), np.uint32)
    registers = [f"%r{20 + n}" for n in range(columns)]
    stores = "\n".join(f"st.global.b32 [%rd4+{4 * n}], {r};" for n, r in enumerate(registers))
    descriptor = LEADING >> 4 << 16 | STRIDE >> 4 << 32 | 1 << 46
    text = TEXT.format(descriptor=descriptor, shape=shape, columns=columns, registers="{" + ", ".join(registers) + "}",
                       bytes=4 * columns, stores=stores, wait=wait, second=second).replace("; ", ";\n")  # fmt: skip
    arguments = [("out", Buffer("out", out))]
    launch.execute(text, (1, 1, 1), arguments, name="k", target="sm_100", shared=0, num_warps=4)
    return out


ROWS = np.arange(128)
FROM = {"128x256b": ROWS, "128x128b": ROWS, "32x128b.warpx4": ROWS % 32, "warpx4.32x128b": ROWS % 32,
        "64x128b.warpx2::02_13": ROWS % 64, "64x128b.warpx2::01_23": ROWS // 64 * 32 + ROWS % 32}  # fmt: skip


@pytest.mark.parametrize("shape", FROM)
def test_rows_come_to_lie_in_the_lanes_that_the_shape_names(shape):
    columns = 8 if "256b" in shape else 4
    assert np.array_equal(copied(shape, columns), 8 * FROM[shape][:, None] + np.arange(columns))


def test_a_copy_read_before_its_mbarrier_was_waited_for_is_a_race():
    with pytest.raises(Race, match=r"a tcgen05\.mma or cp of warp 0 writes, and nothing tells"):
        copied("128x256b", 8, wait="mov.pred %p3, -1;")


def test_a_shape_that_is_not_known_is_refused_by_name():
    for shape in ("4x256b", "32x128b", "128x256b.b8x16.b4x16_p64"):
        with pytest.raises(UnknownOpcode, match="its table has other forms of it"):
            copied(shape, 8)


def test_what_is_copied_unwritten_is_unwritten_where_it_arrives():
    """Threads from 32 on store no second half: columns from 4 on of the lanes from 32 on."""
    assert np.array_equal(copied("128x256b", 4, second="@%p1 "), 8 * ROWS[:, None] + np.arange(4))
    what = "column 4 of lanes 32 to 47 of tensor memory, that a tcgen05.cp brought from shared memory, where nothing"
    with pytest.raises(Uninitialised, match=what):
        copied("128x256b", 8, second="@%p1 ")
