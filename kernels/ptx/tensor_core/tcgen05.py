"""tcgen05 but for moves and products: allocation of tensor memory, waits, fences and commits.

Source: PTX ISA 8.7, section 9.7.16 (TensorCore 5th generation family).
"""

import re
from typing import Any

import numpy as np

from ..asynchronous import proxy
from ..collective import ALL_LANES, converge
from ..decode import Decoder, Run
from ..errors import Undefined, UnknownOpcode
from ..forms import address
from ..parse import Instruction
from .tensor_memory import TensorMemory


def memory_of(block: Any) -> TensorMemory:
    """The block's tensor memory, made when it is first needed."""
    if block.tensor is None:
        block.tensor = TensorMemory(len(block.programs), block.clocks, block.world.checks, block.world.memory.filler)
    return block.tensor


def wait(d: Decoder, i: Instruction) -> Run:
    """tcgen05.wait::ld and ::st: all that this warp has begun of the kind is over."""
    kind = {"tcgen05.wait::ld.sync.aligned": "tcgen05.ld", "tcgen05.wait::st.sync.aligned": "tcgen05.st"}.get(i.opcode)
    if kind is None:
        raise UnknownOpcode(i.opcode, "its table has other forms of it", i)

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        proxy.commit(block, active, kind)
        proxy.wait(block, active, kind, 0)

    return run


def fence(d: Decoder, i: Instruction) -> Run:
    """tcgen05.fence: what it orders, the machine orders by the waits and barriers that it stands between."""
    if i.opcode not in ("tcgen05.fence::before_thread_sync", "tcgen05.fence::after_thread_sync"):
        raise UnknownOpcode(i.opcode, "its table has other forms of it", i)
    return lambda block, active: None


def issuer(block: Any, active: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Which programs, (P or 1,) bool, have a thread that issues an instruction, and which, (P or 1,)."""
    T = block.world.T
    threads = np.ones((1, T), bool) if active is None else np.broadcast_to(active, (len(active), T))
    number = threads.sum(1)
    if (number > 1).any():
        row = int(np.argmax(number > 1))
        raise block.error(Undefined, f"{int(number[row])} threads of the program each {what}: one may", row, 0)
    return number > 0, threads.argmax(1)


def picked(block: Any, value: np.ndarray, who: np.ndarray) -> np.ndarray:
    """What the issuing threads have in a register (P or 1, T or 1): (P or 1,)."""
    if value.shape[1] == 1:
        return value[:, 0]
    rows = max(len(value), len(who))
    return np.broadcast_to(value, (rows, value.shape[1]))[np.arange(rows), np.broadcast_to(who, rows)]


def commit(d: Decoder, i: Instruction) -> Run:
    """tcgen05.commit: an arrival at an mbarrier, once all that this thread has begun is done."""
    if not re.fullmatch(r"tcgen05\.commit\.cta_group::1\.mbarrier::arrive::one(\.shared::c\w+)?\.b64", i.opcode):
        raise UnknownOpcode(i.opcode, "its table has other forms of it", i)
    where = address(d, i.operands[0], "shared")

    def run(block, active):
        block.instruction = i
        rows, who = issuer(block, active, "commit")
        at = picked(block, where(block.R), who).astype(np.int64)
        block.mbarriers.arrive_after(block, at, rows, who, "tcgen05")

    return run


def allocate(d: Decoder, i: Instruction) -> Run:
    """tcgen05.alloc: the address of free columns into shared memory; by one warp."""
    where, count = address(d, i.operands[0], "shared"), d.source(i.operands[1], "u32")[0]
    d.granule = min(d.granule, 4)

    def run(block, active):
        rows, thread, n = by_warp(block, active, i, count)
        memory, T = memory_of(block), block.world.T
        at = memory.allocate(block, n, rows, thread)
        one = rows[:, None] & (np.arange(T) == thread)
        block.shared.store(where(block.R), at[:, None], 4, 32, one, block.tags, block)

    return run


def by_warp(block: Any, active: Any, i: Instruction, count: int) -> tuple[np.ndarray, int, int]:
    """Of an instruction of one warp: which programs execute it, its first thread, and a count of columns."""
    converge(block, ALL_LANES, active, i)
    warps = block.warps(active)
    if (warps.sum(1) > 1).any():
        raise block.error(Undefined, f"{int(warps.sum(1).max())} warps execute it, each for itself: one may", 0, 0)
    thread = 32 * int(np.argmax(warps.any(0)))
    n = np.unique(picked(block, block.R[count], np.full(1, thread)))
    if len(n) > 1:
        raise block.error(Undefined, "programs that execute it together ask for several numbers of columns", 0, thread)
    return warps.any(1), thread, int(n[0])


def free(d: Decoder, i: Instruction) -> Run:
    """tcgen05.dealloc"""
    where, count = d.source(i.operands[0], "b32")[0], d.source(i.operands[1], "u32")[0]

    def run(block, active):
        rows, thread, n = by_warp(block, active, i, count)
        at = picked(block, block.R[where], np.full(1, thread)).astype(np.int64)
        memory_of(block).free(block, at, n, rows, thread)

    return run


def relinquish(d: Decoder, i: Instruction) -> Run:
    """tcgen05.relinquish_alloc_permit"""

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        memory = memory_of(block)
        memory.closed = memory.closed | block.warps(active).any(1)

    return run


def one_program(build: Any) -> Any:
    """Refuse by name what two programs of a cluster do together."""

    def checked(d: Decoder, i: Instruction) -> Run:
        if "cta_group::1" not in i.opcode:
            raise UnknownOpcode(i.opcode, "pairs of programs (cta_group::2) are not known", i)
        return build(d, i)

    return checked


FAMILIES = {
    "tcgen05.alloc": one_program(allocate), "tcgen05.dealloc": one_program(free),
    "tcgen05.relinquish_alloc_permit": one_program(relinquish),
    "tcgen05.wait::ld": wait, "tcgen05.wait::st": wait, "tcgen05.fence::before_thread_sync": fence,
    "tcgen05.fence::after_thread_sync": fence, "tcgen05.commit": one_program(commit),
}  # fmt: skip
