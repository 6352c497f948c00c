"""Instructions on mbarriers: init, inval, arrive, expect_tx, complete_tx, test_wait and try_wait.

Source: PTX ISA 8.7, section 9.7.13.15 (mbarrier).
"""

from typing import Any

import numpy as np

from ..access import arrive as landed
from ..decode import Decoder, Run
from ..errors import InvalidBarrier, UnknownOpcode
from ..forms import address
from ..parse import Instruction
from .clocks import Knowledge
from .mbarrier import MARK, MOST, settled, targets, valid

TOO_EARLY = 0.2  # share of the answers of a random schedule that come before the last bytes


def touch(block: Any, at: int, here: np.ndarray, verb: str) -> None:
    """Hold the use of an mbarrier's bytes against other accesses to them, as of an atomic."""
    where = np.full((1, 1), at, np.uint32)
    shared = block.shared
    shared.check(where, 8, here, block)
    if block.world.checks:
        shared.changed(shared.cells(where, 8, here, block.tags), verb, 8, block)


def init(d: Decoder, i: Instruction) -> Run:
    where, count = address(d, i.operands[0], "shared"), d.source(i.operands[1], "u32")[0]
    d.granule = min(d.granule, 8)

    def run(block, active):
        block.instruction = i
        T = block.world.T
        for at, here in targets(block, where(block.R), active):
            n = block.mbarriers.place(at, len(here))
            rows, counts = here.any(1), np.broadcast_to(block.R[count], (len(here), T)).astype(np.int64)
            number = np.where(here, counts, 0).max(1)
            again, two = rows & block.mbarriers.live[:, n], here.sum(1) > 1
            for bad, what in (
                (again, "is initialised again without mbarrier.inval"),
                (two, "is initialised by several threads; one is to do it"),
                (
                    rows & ((number < 1) | (number > MOST)),
                    f"is to take {int(number.max())} arrivals; 1 to {MOST:,} fit",
                ),
            ):
                if bad.any():
                    row = int(np.argmax(bad))
                    raise block.error(InvalidBarrier, f"the mbarrier at {at} of shared memory {what}", row, 0)
            block.shared.store(np.full((1, 1), at), np.full((1, 1), MARK), 8, 64, here, block.tags, block)
            block.mbarriers.init(n, rows, number)
            block.world.memory.version += 1

    return run


def inval(d: Decoder, i: Instruction) -> Run:
    where = address(d, i.operands[0], "shared")

    def run(block, active):
        block.instruction = i
        for at, here in targets(block, where(block.R), active):
            n = valid(block, at, here)
            block.shared.store(np.full((1, 1), at), np.zeros((1, 1), np.uint64), 8, 64, here, block.tags, block)
            block.mbarriers.live[:, n] &= ~here.any(1)

    return run


def arrive(d: Decoder, i: Instruction) -> Run:
    """mbarrier.arrive, also with .expect_tx, whose last operand counts bytes and not arrivals."""
    parts = known(i, "arrive", "expect_tx", "noComplete", "release", "relaxed")
    put = d.result(i.operands[0], "b64")
    where = address(d, i.operands[1], "shared")
    number = d.source(i.operands[2], "u32")[0] if len(i.operands) > 2 else None
    expects, silent = "expect_tx" in parts, "relaxed" in parts
    assert number is not None or not expects

    def run(block, active):
        block.instruction = i
        T = block.world.T
        state = np.zeros((1, T), np.uint64)
        for at, here in targets(block, where(block.R), active):
            n = valid(block, at, here)
            touch(block, at, here, "arrived at")
            barriers, one = block.mbarriers, np.int64(1)
            state = np.where(here, barriers.phase[:, n, None].astype(np.uint64), state)
            each = one if number is None else block.R[number].astype(np.int64)
            if expects:
                barriers.expect(n, np.where(here, each, 0).sum(1))
            given = block.clocks.released(block.warps(here) & (not silent))
            barriers.arrive(n, np.where(here, one if expects else each, 0).sum(1), given)
            settled(block, n, at)
        put(block.R, state, active)

    return run


def arrive_with_copies(d: Decoder, i: Instruction) -> Run:
    """cp.async.mbarrier.arrive: an arrival of each thread when all that it copies by cp.async is there.

    The copies are taken to be there at once: that the thread itself reads them without waiting is not found.
    """
    parts = known(i, "async", "mbarrier", "arrive", "noinc")
    where = address(d, i.operands[0], "shared")

    def run(block, active):
        block.instruction = i
        landed(block, active, -1)
        for at, here in targets(block, where(block.R), active):
            n = valid(block, at, here)
            touch(block, at, here, "arrived at")
            count = here.sum(1)
            given = block.clocks.released(block.warps(here))
            if "noinc" not in parts:
                block.mbarriers.pending[:, n] += count
            block.mbarriers.arrive(n, count, given)
            settled(block, n, at)

    return run


def count_bytes(d: Decoder, i: Instruction) -> Run:
    """mbarrier.expect_tx and complete_tx."""
    parts = known(i, "expect_tx", "complete_tx", "relaxed")
    where, number = address(d, i.operands[0], "shared"), d.source(i.operands[1], "u32")[0]
    sign = 1 if "expect_tx" in parts else -1

    def run(block, active):
        block.instruction = i
        for at, here in targets(block, where(block.R), active):
            n = valid(block, at, here)
            touch(block, at, here, "changed")
            bytes = block.R[number].astype(np.int64)
            block.mbarriers.expect(n, sign * np.where(here, bytes, 0).sum(1))
            settled(block, n, at)

    return run


def wait(d: Decoder, i: Instruction) -> Run:
    """mbarrier.test_wait and try_wait: whether a phase is complete. Whoever sees that learns what its arrivals gave.

    In a random schedule the answer is sometimes no all the same, as on a GPU before the last bytes are there: a program
    that does not ask again goes on without knowing.
    """
    parts = known(i, "test_wait", "try_wait", "parity", "acquire", "relaxed")
    parity, silent = "parity" in parts, "relaxed" in parts
    put = d.result(i.operands[0], "pred")
    where, asked = address(d, i.operands[1], "shared"), d.source(i.operands[2], "u32" if parity else "b64")[0]

    def run(block, active):
        block.instruction = i
        done = np.zeros((1, block.world.T), bool)
        for at, here in targets(block, where(block.R), active):
            n = valid(block, at, here)
            touch(block, at, here, "waited for")
            barriers = block.mbarriers
            phase = barriers.phase[:, n, None]
            now = (phase & 1 != block.R[asked] & 1) if parity else phase.astype(np.uint64) != block.R[asked]
            if now.any() and block.world.random is not None and block.world.random.random() < TOO_EARLY:
                now = np.zeros_like(now)
                block.world.memory.version += 1  # so that nobody takes the next answer for the same one
            passed = here & now
            if passed.any() and not silent:
                ready = Knowledge(*(x[:, n] for x in barriers.ready))
                block.clocks.acquire(block.warps(passed), ready)
                block.learned(passed.any(1))
            for warp in np.flatnonzero(block.warps(here & ~now).any(0)).tolist():
                barriers.waits[id(i), warp] = at
            done = np.where(here, now, done)
        put(block.R, done, active)

    return run


def known(i: Instruction, *names: str) -> list[str]:
    """The parts of an opcode. Raises UnknownOpcode unless all are among `names` or say where the mbarrier is."""
    parts = i.opcode.split(".")[1:]
    where = ("b64", "shared", "shared::cta", "shared::cluster", "cta", "cluster")
    if other := [p for p in parts if p not in (*names, *where)]:
        raise UnknownOpcode(i.opcode, f".{other[0]} is not known here", i)
    return parts


FAMILIES = {
    "mbarrier.init": init, "mbarrier.inval": inval, "mbarrier.arrive": arrive, "mbarrier.expect_tx": count_bytes,
    "mbarrier.complete_tx": count_bytes, "mbarrier.test_wait": wait, "mbarrier.try_wait": wait,
    "cp.async.mbarrier": arrive_with_copies,
}  # fmt: skip
