"""PTX with bulk copies, written by hand, and its launches."""

from typing import Any

import numpy as np

from kvproof.kernels.ptx import launch
from kvproof.kernels.ptx.segments import Buffer
from kvproof.kernels.ptx.tma.host import Descriptor

BAR = 8192  # an mbarrier, after the room for what is copied; MAP: 128 zeros, for a tensor map
MAP = 8448
HEAD = """.version 8.8
.target sm_90a
.address_size 64
.visible .entry k({parameters})
{{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<30>; .reg .b64 %rd<30>;
{loads}
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
setp.eq.u32 %p1, %r1, 0;
"""
INIT = f"@%p1 mbarrier.init.shared::cta.b64 [{BAR}], 1; bar.sync 0; "
WAIT = f"L{{0}}: mbarrier.try_wait.parity.shared::cta.b64 %p2, [{BAR}], {{1}}; @!%p2 bra L{{0}}; "
EXPECT = f"@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [{BAR}], {{}}; "
ENDED = "@%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group 0; "
OUT = "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [{}], {}; " + ENDED + "ret;"


def run(body: str, *arguments: Any, programs: int = 1, threads: int = 32, shared: int = 8704, **settings: Any) -> Any:
    """Run a body in which %rd1, %rd2, ... are the arrays a, b, ... or tensor maps; %r1 is %tid.x, %p1 thread 0."""
    parameters, loads, given = [], [], []
    for n, x in enumerate(arguments):
        parameter, name = f"k_param_{n}", "abcdef"[n]
        if isinstance(x, Descriptor):
            parameters.append(f".param .align 64 .b8 {parameter}[128]")
            loads.append(f"mov.b64 %rd{n + 1}, {parameter}; cvta.param.u64 %rd{n + 1}, %rd{n + 1};")
            given.append((name, x._replace(base=Buffer(name, x.base.view(f"u{x.base.itemsize}")))))
        else:
            parameters.append(f".param .u64 {parameter}")
            loads.append(f"ld.param.b64 %rd{n + 1}, [{parameter}];")
            given.append((name, Buffer(name, x.view(f"u{x.itemsize}"))))
    text = HEAD.format(parameters=", ".join(parameters), loads="\n".join(loads)) + body.replace("; ", ";\n") + "\n}\n"
    known: dict[str, Any] = {"name": "k", "target": "sm_90", "shared": shared, "num_warps": threads // 32}
    return launch.execute(text, (programs, 1, 1), given, **known, **settings)


def tensor(array: np.ndarray, box: list[int], elemtype: int, **fields: Any) -> Descriptor:
    """A map of an array, whose last axis is dimension 0, and of boxes (innermost first) without swizzle."""
    rank = array.ndim
    usual: dict[str, Any] = {
        "rank": rank - 1, "elemtype": elemtype, "global_dim": array.shape[::-1], "swizzle_mode": 0, "fill_mode": 0,
        "global_stride": array.strides[-2::-1], "box_dim": box, "element_stride": [1] * rank, "mode": 0,
    }  # fmt: skip
    return Descriptor(array, usual | fields)


def loaded(array: np.ndarray, map: Descriptor, at: list[int], bytes: int, mode: str = "", more: str = "") -> np.ndarray:
    """The bytes that a copy of a box at coordinates (innermost first) leaves in shared memory, from 0 on."""
    out = np.full(bytes, 0xAB, np.uint8)
    many = {"tile::gather4": 2}.get(mode, len(at))
    opcode = f"cp.async.bulk.tensor.{many}d.shared::cta.global{f'.{mode}' if mode else ''}.mbarrier::complete_tx::bytes"
    body = INIT + EXPECT.format(bytes)
    body += f"@%p1 {opcode} [0], [%rd2, {{{', '.join(str(x) for x in at)}}}], [{BAR}]{more}; "
    run(body + WAIT.format(0, 0) + OUT.format(0, bytes), out, map)
    return out
