"""The parts of a bulk copy's opcode, in whatever order they stand, and its operands."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..decode import Decoder
from ..errors import UnknownOpcode
from ..forms import address
from ..parse import Instruction
from .requests import Request

SHARED = ("shared", "shared::cta", "shared::cluster")
MODES = ("tile", "tile::gather4", "tile::scatter4", "im2col", "im2col_no_offs")
OPERATIONS = ("add", "min", "max", "inc", "dec", "and", "or", "xor")
TYPE = re.compile(r"(?:[bus](?:32|64)|f(?:16|32|64)|bf16)")
ELSEWHERE = {
    "multicast::cluster": "copies into other programs of a cluster",
    "cta_group::2": "pairs of programs of a cluster",
    "cp_mask": "copies with a mask of bytes",
}


class Form(NamedTuple):
    """A bulk copy."""

    loads: bool  # from global to shared memory, or back
    rank: int  # of a tensor; 0: plain bytes
    mode: str
    operation: str  # of a reduction
    kind: str  # the type of a reduction of plain bytes
    multicast: bool
    hint: bool  # a cache policy is the last operand


def form(i: Instruction) -> Form:
    """Read an opcode. Raises UnknownOpcode, with the part, for what is not modelled."""
    parts = [p for p in i.opcode.split(".") if p not in ("cp", "reduce", "async", "bulk", "tensor")]
    spaces = [p for p in parts if p == "global" or p in SHARED]
    found: dict[str, str] = dict.fromkeys(("rank", "mode", "operation", "kind"), "")
    fields: dict[str, tuple[str, ...]] = {"mode": MODES, "operation": OPERATIONS if ".reduce." in i.opcode else ()}
    if len(spaces) != 2 or spaces.count("global") != 1:
        raise UnknownOpcode(i.opcode, "copies within shared memory are not modelled", i)
    done = "mbarrier::complete_tx::bytes" if spaces[1] == "global" else "bulk_group"
    for part in parts:
        name = next((field for field, names in fields.items() if part in names), "")
        name = name or ("rank" if re.fullmatch("[1-5]d", part) else "kind" if TYPE.fullmatch(part) else "")
        if name and not found[name]:
            found[name] = part
        elif part not in (*spaces, done, "noftz", "cta_group::1", "multicast::cluster", "L2::cache_hint"):
            raise UnknownOpcode(i.opcode, ELSEWHERE.get(part, f".{part} is not known here"), i)
    named = bool(found["rank"]) == (".tensor." in i.opcode) and bool(found["operation"]) == (".reduce." in i.opcode)
    if done not in parts or not named:
        raise UnknownOpcode(i.opcode, "a part of it is missing", i)
    return Form(
        spaces[1] == "global", int(found["rank"][:1] or 0), found["mode"] or "tile", found["operation"], found["kind"],
        "multicast::cluster" in parts, "L2::cache_hint" in parts,
    )  # fmt: skip


def value_of(d: Decoder, operand: Any, kind: str) -> Callable[[list], np.ndarray]:
    """What reads a value from the registers."""
    slot, narrow = d.source(operand, kind)
    return (lambda R: R[slot]) if narrow is None else lambda R: narrow(R[slot])


class Operands(NamedTuple):
    """What reads the operands of a copy."""

    shared: Callable
    other: Callable  # the tensor map, or global memory
    coordinates: list[Callable]
    size: Callable | None  # of plain bytes
    mbarrier: Callable | None
    offsets: list[Callable]  # of im2col
    mask: Callable | None


def operands(d: Decoder, i: Instruction, f: Form) -> Operands:
    """[to], [from], size of plain bytes, [mbarrier] of a load, {im2col offsets}, multicast mask, cache policy."""
    given = list(i.operands)
    to, source = given.pop(0), given.pop(0)
    inner, outer = (to, source) if f.loads else (source, to)
    coordinates: list[Callable] = []
    if f.rank:
        outer, vector = outer.parts
        assert len(vector.parts) == (5 if f.mode in ("tile::gather4", "tile::scatter4") else f.rank)
        coordinates = [value_of(d, x, "b32") for x in vector.parts]
    size = None if f.rank else value_of(d, given.pop(0), "b32")
    bar = address(d, given.pop(0), "shared") if f.loads else None
    offsets = [value_of(d, x, "b16") for x in given.pop(0).parts] if f.mode == "im2col" else []
    assert len(offsets) == (f.rank - 2 if f.mode == "im2col" else 0)
    mask = value_of(d, given.pop(0), "b16") if f.multicast else None
    assert len(given) == f.hint
    return Operands(
        address(d, inner, "shared"), address(d, outer, "global"), coordinates, size, bar, offsets, mask
    )  # fmt: skip


def alone(request: Request, mask: Callable | None, i: Instruction) -> None:
    """Raise UnknownOpcode for a multicast to any program but the one that asks for it."""
    if mask is not None and (request.value(mask)[request.rows if len(request.value(mask)) > 1 else [True]] != 1).any():
        raise UnknownOpcode(i.opcode, ELSEWHERE["multicast::cluster"], i)
