"""Shared memory as the async proxy sees it: read and written by bulk copies, wgmma and tcgen05, beside the threads.

The machine moves the bytes when the instruction is issued, and remembers who may still be moving them: an access that
nothing orders after their end is a Race, whenever it comes. A plain store, and a plain read of what the async proxy
then writes, are ordered before it by a fence.proxy.async on the way (PTX ISA 8.7, 8.9.1.1 and 9.7.9.25.2: access to
one place by several proxies needs a fence across them). What waits for the async proxy needs no fence.
"""

from typing import Any, NamedTuple

import numpy as np

from ..decode import Decoder, Run
from ..errors import Race, Uninitialised, UnknownOpcode, location
from ..parse import Instruction
from ..shared import VERBS, Cells, unordered, warp_of


class Done(NamedTuple):
    """By what a thread learns that an asynchronous access is over.

    kind     "mbarrier", whose phase its bytes complete; "bulk", "wgmma", "tcgen05": a wait for the groups of that kind
    address  (P or 1,) of the mbarrier
    """

    kind: str
    address: np.ndarray | None = None


def read(
    block: Any, at: np.ndarray, size: int, on: np.ndarray | None, who: np.ndarray, done: Done, moves: bool = False
) -> np.ndarray:
    """The bytes that an asynchronous instruction reads: (P or 1, N, size) uint8.

    at    (P or 1, N) int64, first bytes, multiples of `size`; on (P or 1, N) bool, which of them; None: all
    who   (P or 1,) the thread that issues it
    moves it only moves them: the caller asks `written` which of them mean something
    """
    at = at.astype(np.int64)
    block.shared.check(at, size, on, block, who)
    if block.world.checks:
        shared, cells = block.shared, touched(block, at, size, on, who)
        good = shared.known("written")[cells.at] | moves
        shared.demand(good, Uninitialised, "that nothing has written", cells, size, block)
        arrived = ~shared.known("copying")[cells.at]
        shared.demand(arrived, Race, "that a cp.async may still be writing", cells, size, block)
        ordered(block, "writer", cells, "read", size)
        shared.order.note("read", cells.at, *agents(block, cells, on, who, done))
    at = at if on is None else np.where(on, at, 0)
    words = block.shared.bytes.reshape(len(block.programs), -1, size)
    return words[np.arange(len(words))[:, None], at // size]


def write(block: Any, at: np.ndarray, data: np.ndarray, on: np.ndarray | None, who: np.ndarray, done: Done) -> None:
    """Write what an asynchronous instruction brings: data (P or 1, N, size) uint8; the rest as for `read`."""
    at, size, P = at.astype(np.int64), data.shape[2], len(block.programs)
    shared = block.shared
    shared.check(at, size, on, block, who)
    if block.world.checks:
        cells = touched(block, at, size, on, who)
        ordered(block, "writer", cells, "written", size)
        ordered(block, "reader", cells, "written", size)
        shared.order.forget_reads(cells.at)
        shared.order.note("writer", cells.at, *agents(block, cells, on, who, done))
        for name, value in (("writer", -1), ("reader", -1), ("written", True), ("by", block.number)):
            shared.known(name)[cells.at] = value
    words = shared.bytes.reshape(P, -1, size)
    rows = np.broadcast_to(np.arange(P)[:, None], (P, at.shape[1]))
    place = np.broadcast_to(at // size, rows.shape)
    data = np.broadcast_to(data, (*rows.shape, size))
    if on is None:
        words[rows, place] = data
    else:
        here = np.broadcast_to(on, rows.shape)
        words[rows[here], place[here]] = data[here]


def forget(block: Any, at: np.ndarray, first: int, size: int, on: np.ndarray | None, who: np.ndarray) -> None:
    """Of what `write` has written, the bytes from `first` to `size` at each address are anything, as before a write."""
    shared = block.shared
    first = -(-first // shared.granule) * shared.granule
    if block.world.checks and first < size:
        cells = touched(block, at.astype(np.int64) + first, size - first, on, who)
        shared.known("written")[cells.at] = False


def written(block: Any, at: np.ndarray, size: int) -> np.ndarray:
    """Whether something has written all `size` bytes at addresses (P or 1, N): bool, (P or 1, N)."""
    shared = block.shared
    cells = (at // shared.granule)[..., None] + np.arange(max(size // shared.granule, 1))
    rows = np.arange(max(len(cells), len(shared.written)))[:, None, None] if len(shared.written) > 1 else 0
    return shared.written[rows, cells].all(-1)


def touched(block: Any, at: np.ndarray, size: int, on: np.ndarray | None, who: np.ndarray) -> Cells:
    """The cells of an asynchronous access, in the name of the thread that issues it."""
    shared, N = block.shared, at.shape[1]
    if len(who) > 1 and len(at) == 1:
        at = np.broadcast_to(at, (len(who), N))
    cells = shared.cells(at, size, on, np.zeros((1, N), np.int64))
    return cells._replace(by=who[cells.row if len(who) > 1 else 0] + np.zeros_like(cells.at))


def ordered(block: Any, name: str, cells: Cells, verb: str, size: int) -> None:
    """Raise unless all plain and other accesses to the cells are ordered before one by the async proxy."""
    lanes(block, name, cells, verb, size)
    good, who = block.shared.order.held(name, cells, True, proxy=True)
    if good.all():
        return
    known, _ = block.shared.order.held(name, cells, True)
    good |= known & holds_address(block, cells)
    if good.all():
        return
    unfenced = bool(known[~good].all())  # but for the fence, all is ordered
    why = "no fence.proxy.async in between" if unfenced else "nothing to order the two"
    what = f"{verb} here by the async proxy, that {who} {VERBS[name]} with {why}"
    what += written_at(block, cells.at[~good][0]) if name == "writer" else ""  # which instruction read it is not noted
    block.shared.demand(good, Race, what, cells, size, block)


def written_at(block: Any, cell: int) -> str:
    """The instruction that wrote a cell last, as the end of an error."""
    steps, n = block.world.decoded.steps, int(block.shared.known("by")[cell])
    if n < 0:
        return ""
    i = steps[n].instruction
    return f"; it was written at {location(i.where)}{', ' * bool(i.where)}PTX line {i.line}"


def lanes(block: Any, name: str, cells: Cells, verb: str, size: int) -> None:
    """Raise unless barriers order what other lanes of its own warp did before what the issuing thread begins."""
    tag, by = block.shared.known(name)[cells.at], np.asarray(cells.by)
    mine = block.tags[cells.row if len(block.tags) > 1 else 0, by]
    bad = unordered(tag, mine) & (warp_of(tag) == warp_of(mine))
    if bad.any():
        what = f"{verb} here by the async proxy, that another lane of the same warp {VERBS[name]} "
        what += "with no barrier in between"
        block.shared.demand(~bad, Race, what, cells, size, block)


def holds_address(block: Any, cells: Cells) -> np.ndarray:
    """Which cells tcgen05.alloc wrote last: its ISA names no proxy, and Triton overwrites them without a fence."""
    steps = block.world.decoded.steps
    allocate = [n for n, s in enumerate(steps) if s.instruction.opcode.startswith("tcgen05.alloc")]
    return np.isin(block.shared.known("by")[cells.at], allocate)


def agents(
    block: Any, cells: Cells, on: np.ndarray | None, who: np.ndarray, done: Done
) -> tuple[np.ndarray, np.ndarray]:
    """Of each cell, the agent (a column of the clocks) in whose name it is touched, and the moment."""
    clocks, at = block.clocks, done.address
    keys = np.asarray(at) if at is not None else np.array([leader(done.kind, w) for w in (who // 32).tolist()])

    def moments(key: int) -> np.ndarray:
        if at is None:
            return clocks.groups(done.kind)[:, key] + 1
        n = block.mbarriers.place(key, 1)
        return block.mbarriers.phase[:, n] + 1

    found = {key: (clocks.column((done.kind, key)), moments(key)) for key in np.unique(keys).tolist()}
    rows = max(len(keys), *(len(moment) for _, moment in found.values()))
    column, moment = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    here = np.ones(1, bool) if on is None else on.any(1)
    for thread in np.unique(who).tolist() if done.kind == "bulk" else ():
        clocks.issuers[thread] = clocks.issuers.get(thread, False) | (who == thread) & here
    for key, (agent, now) in found.items():
        clocks.issue(agent, np.where((keys == key) & here, now, 0), block.instruction)
        column, moment = np.where(keys == key, agent, column), np.where(keys == key, now, moment)
    block.shared.order.fit(1)
    row = cells.row if rows > 1 else np.zeros_like(cells.row)
    return column[row], moment[row]


def ended(block: Any, rows: np.ndarray) -> None:
    """Raise if some of a block's programs, (P or 1,) bool, end before what they began is over."""
    if block.tensor is not None:
        block.tensor.ended(block, rows)
    if block.clocks is None or not block.clocks.issued:
        return
    if (found := block.clocks.unfinished()) is None or not (late := found[0] & rows).any():
        return
    block.instruction = found[1]
    what = "the program ends, and nobody has waited until this access to its shared memory is over"
    raise block.error(Race, what, int(np.argmax(late)), 0)


def leader(kind: str, warp: int) -> int:
    """The warp in whose name a group is begun: of a wgmma the first of its four."""
    return warp // 4 * 4 if kind == "wgmma" else warp


def commit(block: Any, active: np.ndarray | None, kind: str) -> None:
    """What each warp has begun of a kind since its last commit is a group."""
    block.clocks.commit(issuing(block, active, kind), kind)


def issuing(block: Any, active: np.ndarray | None, kind: str) -> np.ndarray:
    """Which warps, (P or 1, W), have all threads active that begin bulk copies: groups of these are a thread's own."""
    warps, T = block.warps(active), block.world.T
    if kind != "bulk" or active is None:
        return warps
    on = np.broadcast_to(active, (len(active), T))
    for thread, programs in block.clocks.issuers.items():
        own = (np.arange(T // 32) == thread // 32) & programs[:, None]
        warps = warps & (~own | on[:, thread, None])
    return warps


def wait(block: Any, active: np.ndarray | None, kind: str, left: int) -> None:
    """All groups of each warp but its `left` latest are done with shared memory."""
    clocks, warps = block.clocks, issuing(block, active, kind)
    for warp in sorted({leader(kind, w) for w in np.flatnonzero(warps.any(0)).tolist()}):
        mine = warps & (np.array([leader(kind, w) for w in range(clocks.W)]) == warp)
        clocks.learn(mine, clocks.column((kind, warp)), np.maximum(clocks.groups(kind)[:, warp] - left, 0))


def fence(d: Decoder, i: Instruction) -> Run:
    """fence.proxy.async, and fence.mbarrier_init, after which other warps may see an mbarrier that init has begun."""
    parts = i.opcode.split(".")[1:]
    if parts[0] == "mbarrier_init":
        return lambda block, active: None
    if parts[:2] != ["proxy", "async"] or not set(parts[2:]) <= {"global", "shared::cta", "shared::cluster"}:
        raise UnknownOpcode(i.opcode, "this kind of proxy fence", i)

    if parts[2:] == ["global"]:  # of global memory, whose races races.py looks for
        return lambda block, active: None

    def run(block, active):
        block.clocks.fence(block.warps(active))

    return run


FAMILIES = {"fence.proxy": fence, "fence.mbarrier_init": fence}
