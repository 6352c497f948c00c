"""PTX written by hand, run on the machine: what the tests of its parts have in common."""

import numpy as np
import pytest

from kvproof.kernels.ptx import errors, launch
from kvproof.kernels.ptx.segments import Buffer

HEAD = """.version 8.7
.target sm_80
.address_size 64
.visible .entry k({parameters})
{{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>;
.local .align 8 .b8 depot[16];
{loads}
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mad.lo.u32 %r4, %r2, %r3, %r1;
mul.wide.u32 %rd10, %r4, 4;
add.u64 %rd11, %rd1, %rd10;
shl.b32 %r5, %r1, 2;
"""
OWN = "st.global.b32 [%rd11], {}; ret;"  # what a thread has found, in its own element of the first array


def run(body: str, *arrays: np.ndarray, programs=1, threads=32, shared=1024, **settings):
    """Run a body in which %rd1, %rd2, ... are the arrays a, b, ...; %r1 %tid.x, %r2 %ctaid.x, %r5 4 * %tid.x."""
    names = [f"k_param_{n}" for n in range(len(arrays))]
    parameters = ", ".join(f".param .u64 {name}" for name in names)
    loads = "\n".join(f"ld.param.b64 %rd{n + 1}, [{name}];" for n, name in enumerate(names))
    text = HEAD.format(parameters=parameters, loads=loads) + body.replace("; ", ";\n") + "\n}\n"
    arguments = [("abc"[n], Buffer("abc"[n], array.view(f"u{array.itemsize}"))) for n, array in enumerate(arrays)]
    settings |= {"name": "k", "target": "sm_80", "shared": shared, "num_warps": threads // 32}
    return launch.execute(text, (programs, 1, 1), arguments, **settings)


def own(body: str, result="%r9", programs=1, threads=32, **settings) -> np.ndarray:
    """What each thread has in the register `result` at the end of a body: (programs * threads,) uint32."""
    out = np.full(programs * threads, 99, np.uint32)
    run(body + OWN.format(result), out, programs=programs, threads=threads, **settings)
    return out


def fails(kind: type[errors.PtxError], what: str, body: str, *arrays, **settings) -> errors.PtxError:
    """The error that a body ends in, of exactly this kind and with these words."""
    with pytest.raises(kind, match=what) as caught:
        run(body, *(arrays or (np.zeros(256, np.uint32),)), **settings)
    assert type(caught.value) is kind
    assert caught.value.line is not None
    return caught.value


SEEDS = pytest.mark.parametrize("seed", [None, 0, 1])
