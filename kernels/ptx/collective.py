"""Instructions that a warp executes together, bound to the functions of warp.py. All lanes that their member
mask names must come: until they have, the machine lets others run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import warp
from .arrays import first_of
from .decode import Decoder, Run
from .errors import DivergentBarrier, NotConverged
from .forms import address, parts_of
from .matrix_forms import Matrices, matrix_form
from .parse import Instruction
from .tags import SEVERAL, WHO

ALL_LANES = np.full((1, 1), 0xFFFFFFFF, np.uint32)


def converge(block, members: np.ndarray, active, i: Instruction) -> None:
    block.instruction = i
    if active is not None and warp.absent(members, active, block.world.T).any():
        raise NotConverged


def member_mask(d: Decoder, i: Instruction) -> int:
    return d.source(i.operands[-1], "b32")[0]


def by_lanes(d: Decoder, i: Instruction, kinds: tuple[str, ...], results: Callable[..., Any]) -> Run:
    """A warp-wide instruction that writes `results(block, active)`, of the types `kinds`, to as many as are named."""
    puts = [d.result(x, kind) for x, kind in zip(parts_of(i.operands[0]), kinds, strict=False)]
    members = member_mask(d, i)

    def run(block, active):
        converge(block, block.R[members], active, i)
        for put, result in zip(puts, results(block, active), strict=False):
            put(block.R, result, active)

    return run


def shfl(d: Decoder, i: Instruction) -> Run:
    mode = i.opcode.split(".")[2]
    value, b, c = (d.source(x, "b32")[0] for x in i.operands[1:4])

    def results(block, active):
        R = block.R
        read, in_range, inactive = warp.shfl(mode, R[value], R[b], R[c], active, block.world.T)
        if active is not None and inactive.any():
            what = "a shuffle reads a lane that does not take part"
            raise block.error(DivergentBarrier, what, *first_of(inactive))
        return read, in_range

    return by_lanes(d, i, ("b32", "pred"), results)


def vote(d: Decoder, i: Instruction) -> Run:
    mode = i.opcode.split(".")[2]
    pred, negate = d.source(i.operands[1], "pred")

    def results(block, active):
        return (warp.vote(mode, negate(block.R[pred]) if negate else block.R[pred], active),)

    return by_lanes(d, i, ("b32" if mode == "ballot" else "pred",), results)


def redux(d: Decoder, i: Instruction) -> Run:
    value, operation = d.source(i.operands[1], "b32")[0], i.opcode.removeprefix("redux.sync.")
    warp.redux(operation, np.zeros((1, 32), np.uint32), None)  # an unknown operation raises before the launch
    return by_lanes(d, i, ("b32",), lambda block, active: (warp.redux(operation, block.R[value], active),))


def elect(d: Decoder, i: Instruction) -> Run:
    return by_lanes(d, i, ("b32", "pred"), lambda block, active: warp.elect(active, block.world.T))


def match(d: Decoder, i: Instruction) -> Run:
    _, mode, _, kind = i.opcode.split(".")
    value = d.source(i.operands[1], kind)[0]
    return by_lanes(d, i, ("b32", "pred"), lambda block, active: warp.match(mode, block.R[value], active))


def active_mask(d: Decoder, i: Instruction) -> Run:
    put = d.result(i.operands[0], "b32")
    return lambda block, active: put(block.R, warp.activemask(active), active)


def warp_barrier(d: Decoder, i: Instruction) -> Run:
    """bar.warp.sync: orders the accesses of a warp's lanes; in a program of one warp it is the program's barrier."""
    members = member_mask(d, i)

    def run(block, active):
        meet(block, block.R[members], active, i)

    return run


def meet(block, members, active, i: Instruction) -> None:
    """The lanes of each warp meet, which orders their accesses."""
    converge(block, members, active, i)
    if block.world.T == 32:
        block.barrier_passed()
        return
    block.warp_epoch = block.warp_epoch + block.warps(active)
    block.retag()


def row_lanes(block, matrices: Matrices, active) -> tuple[np.ndarray, np.ndarray]:
    """The threads whose addresses count, and the tags of the access: the whole warp's."""
    T = block.world.T
    on = (np.arange(T) % 32 < matrices.num * matrices.rows)[None]
    return on if active is None else on & active, (block.tags & ~WHO) | (SEVERAL + np.arange(T) // 32)


def load_matrix(d: Decoder, i: Instruction) -> Run:
    form = matrix_form(i)
    puts = [d.result(x, "b32") for x in parts_of(i.operands[0])]
    where = address(d, i.operands[1], "shared")

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        on, tags = row_lanes(block, form, active)
        at = np.where(on, where(block.R), np.uint32(0))
        words = block.shared.load(at, 16, on, tags, block)  # (P, T, 2)
        block.world.counters.banks(block, at, 16, on)
        rows = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1, 32, 16)[:, :, : form.num * form.rows]
        values = warp.byte_fragments(rows) if form.rows == 16 else warp.fragments(rows, form.num, form.trans)
        for put, value in zip(puts, values, strict=True):
            put(block.R, value, active)

    return run


def store_matrix(d: Decoder, i: Instruction) -> Run:
    form = matrix_form(i)
    where = address(d, i.operands[0], "shared")
    sources = [d.source(x, "b32")[0] for x in parts_of(i.operands[1])]

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        T = block.world.T
        on, tags = row_lanes(block, form, active)
        rows = warp.rows_of([np.broadcast_to(block.R[s], (len(block.R[s]), T)) for s in sources], form.trans)
        words = np.zeros((len(rows), T // 32, 32, 16), np.uint8)
        words[:, :, : 8 * form.num] = rows
        at = np.where(on, where(block.R), np.uint32(0))
        words = words.reshape(len(rows), T, 16).view(np.uint64)
        lost = block.shared.store(at, words, 16, (16, 32), on, tags, block)  # .b16 moves what is 32 bits wide, too
        block.world.counters.disagreeing += lost
        block.world.counters.banks(block, at, 16, on)

    return run


FAMILIES = {
    "shfl.sync": shfl, "vote.sync": vote, "redux.sync": redux, "elect.sync": elect, "match.any": match,
    "match.all": match, "activemask": active_mask, "bar.warp": warp_barrier, "ldmatrix.sync": load_matrix,
    "stmatrix.sync": store_matrix,
}  # fmt: skip
