"""Instructions that make and change tensor maps, and the reading of one by a copy.

A map is changed in shared memory and copied out, or changed in global memory; then it is released, and acquired by the
program that is to use it: the accelerator reads maps through a proxy of its own. Maps among a launch's parameters are
there from its start.

Source: PTX ISA 8.8, 9.7.9.27.3 (tensormap.replace), 9.7.13.18 (tensormap.cp_fenceproxy), 9.7.13.4 (fence.proxy).
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np

from ..access import load_global, load_shared, store_global, store_shared
from ..arrays import first_of
from ..collective import ALL_LANES, meet
from ..decode import Decoder, Run
from ..errors import InvalidTensorMap, UnknownOpcode
from ..forms import Form, address
from ..locations import relative
from ..parse import Instruction
from .global_side import bulk
from .requests import Request
from .tensor_map import ALIGNMENT, BIT, DTYPE, FIELDS, FIRST, MAGIC, PIECE, SIZE, fault, faults, lacking

SHARED = Form("shared", "", "", "", PIECE, "b8", False)
GLOBAL = SHARED._replace(space="global")
ACCESS = {"shared": (load_shared, store_shared, SHARED), "global": (load_global, store_global, GLOBAL)}
SCOPE = "(cta|cluster|gpu|sys)"
MOST_SHARED = 1 << 24  # no array of global memory lies at an address below


def replace(d: Decoder, i: Instruction) -> Run:
    """tensormap.replace: one field of a map, in shared or global memory, becomes another value."""
    known = re.fullmatch(r"tensormap\.replace\.tile\.(\w+)\.(global|shared::cta|shared)\.b1024\.b(32|64)", i.opcode)
    if not known or known[1] not in FIELDS:
        raise UnknownOpcode(i.opcode, "this form of tensormap.replace, or a generic address", i)
    name, space = known[1], known[2].removesuffix("::cta")
    entry = i.operands[1].bits if FIELDS[name] > 1 else 0
    if (name, entry) not in BIT:
        raise UnknownOpcode(i.opcode, f"{name} has {FIELDS[name]} entries, and this is for number {entry}", i)
    where = address(d, i.operands[0], space)
    slot, narrow = d.source(i.operands[-1], f"b{known[3]}")
    signed = name in ("global_address", "global_stride")

    def run(block, active):
        block.instruction = i
        value = block.R[slot] if narrow is None else narrow(block.R[slot])
        on = np.broadcast_to(np.True_ if active is None else active, (len(block.programs), block.world.T))
        values = np.broadcast_to(value.view(f"i{value.itemsize}") if signed else value, on.shape)
        memory = block.world.memory
        place = lambda x: relative(x, memory.segments, memory.regions)  # noqa: E731
        # A tensor without elements is no fault until a copy uses the map: kernels make maps of empty groups.
        for given in np.unique(values[on]).tolist() if name != "global_dim" else ():
            if what := fault(name, entry, given, place):
                raise block.error(InvalidTensorMap, f"in a tensor map {what}", *first_of(on & (values == given)))
        change(block, where(block.R), space, name, entry, value, active)
        if space == "global":
            state = bulk(block)
            at = block.world.memory.located(where(block.R), PIECE, active, block)
            state.unreleased |= {(p, a) for p, a, _ in each(block, at, on)}

    return run


def change(block, at: np.ndarray, space: str, name: str, entry: int, value: np.ndarray, active) -> None:
    """Write an entry of a field, and that it is known, in the two words of 16 bytes that hold these."""
    read, write, form = ACCESS[space]
    kind = DTYPE[name].base
    first, offset = divmod(FIRST[name] + entry * kind.itemsize, PIECE)
    head = as_bytes(read(block, at, form, active))
    bad = (head[..., :4].view("<u4")[..., 0] != MAGIC) & head.any(-1)
    bad = bad if active is None else bad & active
    if bad.any():
        what = "128 bytes are changed as a tensor map, and are none: make them zero first"
        raise block.error(InvalidTensorMap, what, *first_of(bad))
    head[..., :4] = np.array([MAGIC], "<u4").view(np.uint8)
    head[..., 4:8].view("<u4")[...] |= np.uint32(1 << BIT[name, entry])
    after = at + at.dtype.type(first * PIECE)
    body = head if first == 0 else as_bytes(read(block, after, form, active))
    parts = np.ascontiguousarray(value).astype(kind)[..., None].view(np.uint8)  # (P or 1, T or 1, bytes)
    shape = np.broadcast_shapes(body.shape[:2], parts.shape[:2])
    body = np.broadcast_to(body, (*shape, PIECE)).copy()
    body[..., offset : offset + kind.itemsize] = parts
    if first:
        write(block, at, head.view("u8"), form, active)
    write(block, after, body.view("u8"), form, active)


def as_bytes(words: np.ndarray) -> np.ndarray:
    """(..., 2) words of 8 bytes -> a copy, (..., 16) bytes."""
    return np.array(words).view(np.uint8)


def each(block: Any, value: np.ndarray, on: np.ndarray) -> set[tuple[int, int, int]]:
    """The (program, value, row) that threads which are on have."""
    value = np.broadcast_to(value, on.shape)
    rows = np.flatnonzero(on.any(1))
    pairs = ((row, x) for row in rows.tolist() for x in np.unique(value[row][on[row]]).tolist())
    return {(int(block.programs[row]), x, row) for row, x in pairs}


def copy_out(d: Decoder, i: Instruction) -> Run:
    """tensormap.cp_fenceproxy: a warp copies a map from shared to global memory, and releases it."""
    form = r"tensormap\.cp_fenceproxy\.global\.shared::cta\.tensormap::generic\.release\.SCOPE\.sync\.aligned"
    if not re.fullmatch(form.replace("SCOPE", SCOPE), i.opcode) or i.operands[2].bits != SIZE:
        raise UnknownOpcode(i.opcode, "this form of tensormap.cp_fenceproxy", i)
    to, source = address(d, i.operands[0], "global"), address(d, i.operands[1], "shared")

    def run(block, active):
        block.instruction = i
        meet(block, ALL_LANES, active, i)
        lane = np.arange(block.world.T)[None] % 32
        copiers = (lane < SIZE // PIECE) & (True if active is None else active)
        start, target = (x(block.R) for x in (source, to))
        words = load_shared(block, start + (lane * PIECE).astype(start.dtype), SHARED, copiers)
        store_global(block, target + (lane * PIECE).astype(target.dtype), words, GLOBAL, copiers)

    return run


def fence(d: Decoder, i: Instruction) -> Run:
    """fence.proxy.tensormap: a map that was changed is released, or acquired."""
    known = re.fullmatch(rf"fence\.proxy\.tensormap::generic\.(release|acquire)\.{SCOPE}", i.opcode)
    if not known:
        raise UnknownOpcode(i.opcode, "this kind of fence", i)
    if known[1] == "release":
        return release
    if i.operands[1].bits != SIZE:
        raise UnknownOpcode(i.opcode, "a size other than that of a tensor map, 128", i)
    where = address(d, i.operands[0], "global")

    def run(block, active):
        block.instruction = i
        memory, state = block.world.memory, bulk(block)
        at = memory.located(where(block.R), ALIGNMENT, active, block)
        on = np.broadcast_to(np.True_ if active is None else active, (len(block.programs), block.world.T))
        for program, first, _ in each(block, at, on):
            state.acquired[program, first] = memory.bytes[first : first + SIZE].tobytes()

    return run


def release(block: Any, active: Any) -> None:
    """What the program changed in global memory is released."""
    rows = np.broadcast_to(np.True_ if active is None else active.any(1), len(block.programs))
    programs, state = set(block.programs[rows].tolist()), bulk(block)
    state.unreleased = {key for key in state.unreleased if key[0] not in programs}


def read(request: Request, pointer: np.ndarray) -> np.ndarray:
    """The maps that a copy is steered by, at addresses (P or 1,): (P or 1,) of DTYPE, complete and sound.

    Raises InvalidTensorMap for what is none, or is not yet to be used.
    """
    memory = request.block.world.memory
    on = request.on if len(pointer) > 1 else np.ones((1, 1), bool)
    low = (pointer < MOST_SHARED) & on[:, 0]
    if low.any():
        what = (
            f"the tensor map lies at {int(pointer[np.argmax(low)])}, in shared memory; copies want it in global memory"
        )
        raise request.error(InvalidTensorMap, f"{what}: tensormap.cp_fenceproxy puts it there", int(np.argmax(low)))
    site = request.site(lambda row, n: "the tensor map")
    at = memory.located(pointer.view("u8")[:, None], ALIGNMENT, on, site)
    words = memory.load(at + np.arange(0, SIZE, PIECE), PIECE, site)
    maps = np.ascontiguousarray(words).view(np.uint8).reshape(len(at), SIZE)
    rows = np.flatnonzero(on[:, 0])
    for row in rows[:1] if (maps == maps[:1]).all() else rows:
        if what := judged(maps[row].tobytes()):
            raise request.error(InvalidTensorMap, what, None if len(maps) == 1 else int(row))
    changed(request, at[:, 0], maps)
    return maps.view(DTYPE)[:, 0]


@lru_cache(maxsize=4096)
def judged(data: bytes) -> str:
    """What is wrong with 128 bytes as a map; "" if nothing is."""
    one = np.frombuffer(data, DTYPE)[0]
    if one["magic"] != MAGIC:
        return "128 bytes are used as a tensor map, and are none: only a descriptor or tensormap.replace makes one"
    if name := lacking(one):
        return f"the tensor map has no {name} yet: set it by tensormap.replace before its use"
    what = faults(one)
    return what and f"in the tensor map {what}"


def changed(request: Request, at: np.ndarray, maps: np.ndarray) -> None:
    """Raise unless the programs have acquired these maps as they are; those among the parameters need not be."""
    block, state = request.block, bulk(request.block)
    for row in np.flatnonzero(request.rows).tolist():
        first = int(at[row % len(at)])
        if first in block.world.memory.maps:
            continue
        key = int(block.programs[row]), first
        if key in state.unreleased:
            what = "the tensor map was changed, and not released by fence.proxy.tensormap::generic.release since"
            raise request.error(InvalidTensorMap, what, row)
        if state.acquired.get(key) != maps[row % len(maps)].tobytes():
            what = "the tensor map was changed, and not acquired by fence.proxy.tensormap::generic.acquire since"
            raise request.error(InvalidTensorMap, what, row)


FAMILIES = {
    "tensormap.replace": replace, "tensormap.cp_fenceproxy": copy_out, "fence.proxy.tensormap::generic": fence,
}  # fmt: skip
