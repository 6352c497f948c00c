"""Bodies of PTX that load, store and synchronise at random, run on both engines."""

import warnings
from typing import Any

import numpy as np

from kvproof.kernels.ptx.errors import PtxError

from .. import _text

WHERE = (
    "mov.u32 %r6, {k};", "mov.u32 %r6, %r1;", "shr.u32 %r6, %r1, {s};", "and.b32 %r6, %r1, {m};", "mov.u32 %r6, %r2;",
    "mov.u32 %r6, %r4;", "xor.b32 %r6, %r4, {k};", "add.u32 %r6, %r1, %r2;", "shl.b32 %r6, %r2, {s};",
    "mul.lo.u32 %r6, %r1, 5; and.b32 %r6, %r6, 31;", "sub.u32 %r6, 63, %r1;", "xor.b32 %r6, %r1, 32;",
)  # fmt: skip
GUARDS = (
    "", "", "setp.eq.u32 %p1, %r1, 0;", "setp.eq.u32 %p1, %r1, {k};", "setp.lt.u32 %p1, %r1, {m};",
    "setp.eq.u32 %p1, %r2, {b};", "and.b32 %r7, %r1, {m}; setp.eq.u32 %p1, %r7, 0;", "setp.lt.u32 %p1, %r1, 32;",
)  # fmt: skip
VALUES = ("mov.u32 %r8, {k};", "mov.u32 %r8, %r1;", "mov.u32 %r8, %r2;", "mov.u32 %r8, %r9;", "shr.u32 %r8, %r1, 1;")
ORDERS = ("relaxed", "acquire", "release", "acq_rel", "acq_rel", "acq_rel")
KINDS = ("load", "load", "store", "store", "store", "atomic", "atomic", "barrier", "barrier")


def operation(random: np.random.Generator, kind: str) -> str:
    draw = lambda options: options[random.integers(len(options))]  # noqa: E731
    if kind == "barrier":
        return "bar.sync 0; "
    numbers = {"k": draw((0, 1, 5, 33)), "s": draw((1, 3, 5)), "m": draw((1, 7, 31)), "b": draw((0, 1))}
    guard, base = draw(GUARDS), "%rd1" if kind != "atomic" and random.random() < 0.9 else "%rd2"
    at = "@%p1 " if guard else ""
    text = f"{draw(WHERE) if base == '%rd1' else 'mov.u32 %r6, {b};'} {guard} {draw(VALUES)} "
    text += f"mul.wide.u32 %rd5, %r6, 4; add.u64 %rd5, {base}, %rd5; "
    done = {
        "load": f"{at}ld.global.b32 %r9, [%rd5]; ", "store": f"{at}st.global.b32 [%rd5], %r8; ",
        "atomic": f"{at}atom.global.gpu.{draw(ORDERS)}.add.u32 %r9, [%rd5], 1; ",
    }  # fmt: skip
    return (text + done[kind]).format(**numbers)


def body(random: np.random.Generator) -> str:
    kinds = random.choice(KINDS, random.integers(2, 7))
    return "mov.u32 %r9, 7; " + "".join(operation(random, kind) for kind in kinds) + "ret;"


def publication(random: np.random.Generator) -> str:
    """What one program writes and another reads, with atomics between, which may or may not order that."""
    store, load = (operation(random, kind) for kind in ("store", "load"))
    atomics = [operation(random, "atomic") for _ in range(random.integers(1, 4))]
    barriers = ["bar.sync 0; " if random.random() < 0.7 else "" for _ in range(4)]
    extra = [operation(random, random.choice(KINDS)) if random.random() < 0.3 else "" for _ in range(2)]
    text = store + barriers[0] + atomics[0] + barriers[1] + "".join(atomics[1:]) + extra[0] + barriers[2]
    return "mov.u32 %r9, 7; " + text + "setp.eq.u32 %p2, %r2, 1; @!%p2 bra END; " + load + extra[1] + "END: ret;"


def outcome(text: str, arrays: list[np.ndarray], engine: str, **settings: Any) -> tuple[dict[str, Any], str]:
    """What a body leaves and reports, or the error it ends in; and who ran it, or error. The arrays stay."""
    came = [a.copy() for a in arrays]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            report = _text.run(text, *arrays, engine=engine, **settings)
    except PtxError as error:
        return {"error": str(error)}, "error"
    finally:
        left = [a.tobytes() for a in arrays]
        for array, before in zip(arrays, came, strict=True):
            array[...] = before
    names = ("total", "unique", "unwritten", "stored_to", "disagreeing", "by_instruction")
    return {name: getattr(report, name) for name in names} | {"left": left}, report.engine
