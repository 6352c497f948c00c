"""Shared memory as the async proxy reads and writes it, in compiled code: ../asynchronous/proxy.py."""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F821, RET503

from typing import Any

from ..syntax import Instruction
from .lower import Unlowered
from .memory import call
from .ordered_cells import AGENT, COPYING, LANE, MOMENT, MOMENTS
from .routine import routines


def proxy_read(context, at, size, warp, lane, agent, moment, log):
    """`size` bytes at an address, by a lane of a warp and in the name of an agent."""
    mine = order_mine(context, warp)
    if mine < 0 or moment >= MOMENTS or shared_strays(context, at, size, size):
        return 1
    for k in range(at >> log, at + size >> log):
        writer = u64[context.shared_writer, k]
        if writer & AGENT == 0 or writer & COPYING != 0:
            return 1
        if order_written(context, writer, warp, mine + (lane << LANE), 1):
            return 1
        u64[order_reads(context, k), agent] = (moment << MOMENT) + agent + 1
    clock_issue(context, agent, moment)


def proxy_write(context, n, at, size, warp, lane, agent, moment, log):
    """Note that they are written; the bytes are the caller's to move."""
    mine = order_mine(context, warp)
    if mine < 0 or moment >= MOMENTS or shared_strays(context, at, size, size):
        return 1
    mine = mine + (lane << LANE)
    for k in range(at >> log, at + size >> log):
        writer = u64[context.shared_writer, k]
        if writer & COPYING != 0 or order_unread(context, k, warp, mine, 1):
            return 1
        if writer & AGENT != 0 and order_written(context, writer, warp, mine, 1):
            return 1
        memset(order_reads(context, k), 0, 8 * context.agents)
        u64[context.shared_writer, k], u32[context.shared_by, k] = (moment << MOMENT) + agent + 1, n
    clock_issue(context, agent, moment)


RUNTIME = routines(proxy_read, proxy_write)


def fence(w: Any, i: Instruction) -> None:
    """fence.proxy.async; of global memory alone it orders nothing that is looked for."""
    if not i.opcode.startswith("fence.proxy.async"):
        raise Unlowered(i.opcode)
    if i.opcode != "fence.proxy.async.global":
        call(w, "clock_fence", w.context, w.warp)


LOWER = {"fence.proxy": fence, "fence.mbarrier_init": lambda w, i: None}
