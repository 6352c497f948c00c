"""Moves, and instructions that change no value, that order accesses, or whose effects only the NumPy form has."""

from typing import Any

from ..opcode import BITS
from ..syntax import Vector
from .frames import WARP_EPOCH
from .lanes import I1, I64, WARP
from .memory import call


def nothing(w: Any, i: Any) -> None:
    """A hint, or an instruction that only takes time."""


def leave(w: Any, i: Any) -> None:
    """What prints, fails, or reaches a thread's local memory."""
    w.bail(I1(1))


def meet(w: Any, i: Any) -> None:
    """bar.warp.sync: in a program of one warp it is the program's barrier."""
    members = w.read(i.operands[-1], "b32")
    if w.apart:
        w.bail(w.pending())
    w.bail(w.L.any(w.b.icmp_unsigned("!=", *w.L.alike(members, w.on))))
    if w.T == WARP:
        w.passed()
    elif w.decoded.asynchronous:
        call(w, "clock_met", w.context, w.warp)
    else:
        w.set_head(WARP_EPOCH, w.b.add(w.warp_epoch, I64(1)))


def move(w: Any, i: Any) -> None:
    """mov, also between a register and the parts of a vector (9.7.9.2)."""
    kind = i.opcode.split(".")[1]
    target, source = i.operands
    many = [x for x in (target, source) if isinstance(x, Vector) and len(x.parts) > 1]
    if not many:
        return w.write(target, kind, w.read(source, kind))
    bits = BITS[kind] // len(many[0].parts)
    if many[0] is target:
        value = w.read(source, kind)
        for k, part in enumerate(target.parts):
            w.write(part, f"b{bits}", w.L.resize(w.b.lshr(value, w.L.const(value, k * bits)), bits))
        return None
    parts = w.L.alike(*(w.L.resize(w.read(x, f"b{bits}"), BITS[kind]) for x in source.parts))
    value = parts[0]
    for k, part in enumerate(parts[1:], 1):
        value = w.b.or_(value, w.b.shl(part, w.L.const(part, k * bits)))
    return w.write(target, kind, value)


LOWER = {
    "mov": move,
    "bar.warp": meet, "vprintf": leave, "__assertfail": leave, "ld.local": leave, "st.local": leave,
}  # fmt: skip
