"""Registers that some lanes have not written, and stack memory: short programs on both engines."""

import numpy as np
import pytest

from kvproof.kernels.ptx.native import tiers, writer

from .. import _text
from ._random import Program
from .test_random import outcome

FIRST = "setp.eq.u32 %p1, %r1, 0; setp.gt.u32 %p2, %r1, 99; setp.eq.u32 %p3, %r2, 1; "  # thread 0; none; program 1
OWN = "st.global.b32 [%rd11], %r9; ret;"
# Bodies, and whether they run natively: a lane that reads what it has not written is left to the NumPy form.
BODIES = {
    "jumped over by a lane": ("@%p1 bra S; mov.u32 %r9, 5; S: " + OWN, False),
    "jumped over by a program": ("@%p3 bra S; mov.u32 %r9, 5; S: " + OWN, False),
    "written by some lanes": ("@%p1 mov.u32 %r9, 5; " + OWN, False),
    "written by no lane": ("@%p2 mov.u32 %r9, 5; " + OWN, False),
    "written by one program": ("@%p3 mov.u32 %r9, %r1; " + OWN, False),
    "written by one program, moved by all": ("@%p3 mov.u32 %r9, %r1; add.u32 %r9, %r9, 1; " + OWN, False),
    "shuffled by one program": ("@%p3 shfl.sync.idx.b32 %r9, %r1, 3, 31, -1; " + OWN, False),
    "an atomic's, of some lanes": ("@%p1 atom.global.gpu.relaxed.add.u32 %r9, [%rd1], 1; @!%p1 " + OWN, False),
    "over a barrier": ("@%p1 mov.u32 %r9, 5; bar.sync 0; " + OWN, False),
    "read where it is written": ("@%p1 mov.u32 %r9, 5; bar.sync 0; @%p1 " + OWN, True),
    "written by all in two parts": ("@%p1 mov.u32 %r9, 5; @!%p1 mov.u32 %r9, 6; bar.sync 0; " + OWN, True),
    "on two ways": ("@%p1 bra S; mov.u32 %r9, 5; bra E; S: mov.u32 %r9, 6; E: " + OWN, True),
    "loaded by some lanes": ("@!%p1 ld.global.b32 %r9, [%rd11]; add.u32 %r9, %r9, 1; @!%p1 " + OWN, True),
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)


@pytest.mark.parametrize("threads", [32, 64])
@pytest.mark.parametrize("name", BODIES)
def test_what_a_lane_has_not_written(name, threads):
    body, natively = BODIES[name]
    memory = np.arange(256, dtype=np.uint32)
    program = Program(FIRST + body, [memory], {"programs": 2, "threads": threads})
    came = [memory.copy()]
    usual, _ = outcome(program, "numpy", came)
    now, engine = outcome(program, None, came)
    assert now == usual
    assert engine == ("native" if natively else "numpy")


@pytest.mark.parametrize(("limit", "engine"), [(2048, "native"), (512, "numpy")])
def test_scattered_loads_share_their_stack_memory(limit, engine, monkeypatch):
    monkeypatch.setattr(writer, "STACK", limit)
    body = "shl.b64 %rd3, %rd10, 2; xor.b64 %rd3, %rd3, 16; add.u64 %rd3, %rd3, %rd1; "
    body += "ld.global.v4.b32 {%r9, %r10, %r11, %r12}, [%rd3]; " * (limit >> 7)
    report = _text.run(body + "ret;", np.arange(128, dtype=np.uint32))
    assert report.engine == engine, report.engine_reason
