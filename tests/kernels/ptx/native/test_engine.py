"""What the driver keeps of a launch for the next one of the same kernel shows in neither."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kvproof.kernels.ptx.errors import Refused
from kvproof.kernels.ptx.native.records import aligned

from .._text import own, run
from ._both import facts

# Every program adds to a counter, and the last to come sums up what all wrote.
LAST = """
    .shared .align 4 .b8 turn[4];
    ld.global.b32 %r6, [%rd11]; mul.wide.u32 %rd12, %r4, 4; add.u64 %rd12, %rd2, %rd12; st.global.b32 [%rd12], %r6;
    bar.sync 0; setp.eq.u32 %p1, %r1, 0; mov.u32 %r8, turn;
    @%p1 atom.global.acq_rel.gpu.add.u32 %r7, [%rd3], 1;
    @%p1 st.shared.b32 [%r8], %r7;
    bar.sync 0; ld.shared.b32 %r7, [%r8]; setp.ne.u32 %p2, %r7, 2;
    @%p2 bra END;
    mul.wide.u32 %rd13, %r1, 4; add.u64 %rd13, %rd2, %rd13; ld.global.b32 %r10, [%rd13];
    ld.global.b32 %r11, [%rd13+256]; ld.global.b32 %r12, [%rd13+512];
    add.u32 %r10, %r10, %r11; add.u32 %r10, %r10, %r12; st.global.b32 [%rd13], %r10;
    END: ret;
"""


def launched(seed: int, engine: str):
    arrays = [aligned((size,)).view(np.uint32) for size in (768, 768, 4)]  # alike in the sectors that they lie in
    arrays[0][:] = np.random.default_rng(seed).integers(0, 1 << 30, 192)
    arrays[1][:] = arrays[2][:] = 0
    report = run(LAST, *arrays, programs=3, threads=64, engine=engine)
    found = facts(report) | {"left": [a.tobytes() for a in arrays]}
    assert report.engine == engine
    del found["stored_to"]  # addresses
    return found


def test_a_launch_after_others_is_as_it_would_be_alone():
    alone = [launched(seed, "numpy") for seed in range(3)]
    for seed in (0, 1, 1, 2, 0):
        assert launched(seed, "native") == alone[seed]


def test_threads_launch_one_kernel_at_a_time_of_their_own():
    alone = [launched(seed, "numpy") for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(launched, range(8), ["native"] * 8)) == alone


def test_moved_approximations_are_left_to_the_numpy_form():
    body = "cvt.rn.f32.u32 %r9, %r4; ex2.approx.f32 %r9, %r9; "
    plain, moved = own(body, engine="native"), own(body, engine="numpy", approximation_ulps=64)
    assert (plain != moved).any()
    assert (own(body, approximation_ulps=64) == moved).all()
    with pytest.raises(Refused, match="approximations"):
        own(body, engine="native", approximation_ulps=64)
