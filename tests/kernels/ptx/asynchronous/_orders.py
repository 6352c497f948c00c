"""Random programs of warps that hand shared memory to each other, and whether they race: by reachability.

A program is a list of events in an order in which it can run. An event is what one warp does, or several at a barrier:

    ("write" | "read", warp, cell)             a word of each lane
    ("arrive" | "wait", warp, mbarrier)        each mbarrier is for one phase, of as many arrivals as there are
    ("meet", warps, number)                    bar.sync of some warps
    ("fence", warp)                            fence.proxy.async
    ("copy", warp, cell, mbarrier)             a bulk copy into the cell, for which the mbarrier waits, too
    ("send", warp, cell)                       a bulk copy from the cell, in a group of its own
    ("drain", warp)                            waits for the groups of this warp
"""

import itertools
from typing import Any

import numpy as np

WARPS, CELLS, WORDS = 4, 3, 128  # bytes of a cell
BARRIERS = 1024  # where mbarriers begin


def draw(rng: np.random.Generator, length: int, copies: bool) -> list[tuple]:
    """A program of about so many events."""
    events: list[tuple] = [("write", int(rng.integers(WARPS)), cell) for cell in range(CELLS)]
    events.append(("meet", tuple(range(WARPS)), 1))
    mbarriers, kinds = itertools.count(), ["write", "read", "read", "hand", "hand", "meet"]
    kinds += ["copy", "send", "fence", "fence", "drain"] if copies else []
    while len(events) < length:
        kind = kinds[rng.integers(len(kinds))]
        warp, cell = int(rng.integers(WARPS)), int(rng.integers(CELLS))
        if kind in ("write", "read", "send"):
            events.append((kind, warp, cell))
        elif kind in ("fence", "drain"):
            events.append((kind, warp))
        elif kind == "meet":
            warps = tuple(sorted(rng.permutation(WARPS)[: rng.integers(2, WARPS + 1)].tolist()))
            events.append(("meet", warps, 2 + len(events) % 13))
        else:
            m = next(mbarriers)
            arrives = rng.permutation(WARPS)[: rng.integers(1, 3)].tolist()
            if kind == "copy" and warp not in arrives:  # whose arrival keeps the phase open until the copy has begun
                arrives[0] = warp
            events += [("copy", warp, cell, m)] if kind == "copy" else []
            events += [("arrive", w, m) for w in arrives]
            events += [("wait", w, m) for w in rng.permutation(WARPS)[: rng.integers(1, 3)].tolist()]
    return events


def warps_of(event: tuple) -> tuple[int, ...]:
    return event[1] if event[0] == "meet" else (event[1],)


def reach(events: list[tuple]) -> np.ndarray:
    """(events + ends, events + ends) bool: what happens before what; event n's asynchronous end is n + len(events)."""
    N = len(events)
    before = np.eye(2 * N, dtype=bool)
    last: dict[int, int] = {}
    for n, event in enumerate(events):
        for warp in warps_of(event):
            if warp in last:
                before[last[warp], n] = True
            last[warp] = n
        before[n, N + n] = event[0] in ("copy", "send")
        if event[0] == "wait":
            for m, other in enumerate(events):
                if other[0] == "arrive" and other[2] == event[2]:
                    before[m, n] = True
                if other[0] == "copy" and other[3] == event[2]:
                    before[N + m, n] = True
        if event[0] == "drain":
            for m in range(n):
                if events[m][0] == "send" and events[m][1] == event[1]:
                    before[N + m, n] = True
    for middle in range(2 * N):
        before |= before[:, middle, None] & before[middle]
    return before


def race(events: list[tuple]) -> bool:
    """Whether two accesses to one cell, one of them a write, are unordered, or lack a proxy fence on the way.

    Likewise if the program ends before a bulk copy does.
    """
    N, before = len(events), reach(events)
    if any(event[0] in ("copy", "send") and not before[N + n, :N].any() for n, event in enumerate(events)):
        return True
    fences = [n for n, event in enumerate(events) if event[0] == "fence"]
    accesses = [n for n, event in enumerate(events) if event[0] in ("write", "read", "copy", "send")]
    for a, b in itertools.combinations(accesses, 2):
        one, other = events[a], events[b]
        writes = [event[0] in ("write", "copy") for event in (one, other)]
        if one[2] != other[2] or not any(writes):
            continue
        if one[0] in ("copy", "send"):
            if not before[N + a, b]:
                return True
        elif other[0] in ("copy", "send"):
            if not any(before[a, f] and before[f, b] for f in fences):
                return True
        elif not before[a, b]:
            return True
    return False


def text(events: list[tuple]) -> tuple[str, int]:
    """PTX of a program, and how many bytes of shared memory it takes. %rd1 is an array of WORDS * CELLS bytes."""
    counts: dict[int, int] = {}
    bytes: dict[int, int] = {}
    for event in events:
        if event[0] == "arrive":
            counts[event[2]] = counts.get(event[2], 0) + 1
        elif event[0] == "copy":
            bytes[event[3]] = bytes.get(event[3], 0) + WORDS
    lines = ["setp.eq.u32 %p1, %r1, 0; and.b32 %r6, %r1, 31; shl.b32 %r6, %r6, 2; setp.eq.u32 %p2, %r6, 0;"]
    lines += [f"@%p1 mbarrier.init.shared::cta.b64 [{BARRIERS + 8 * m}], {n};" for m, n in counts.items()]
    lines += ["bar.sync 0; shr.u32 %r7, %r1, 5;"]
    lines += [f"setp.eq.u32 %p3, %r7, {warp}; @%p3 bra W{warp};" for warp in range(WARPS)]
    labels = itertools.count()
    for warp in range(WARPS):
        lines.append(f"W{warp}:")
        lines += [spelled(event, bytes, labels) for event in events if warp in warps_of(event)]
        lines.append("ret;")
    return " ".join(lines), BARRIERS + 8 * len(counts) + 8


def spelled(event: tuple, bytes: dict[int, int], labels: Any) -> str:
    """One event of a warp. A copy is told of by the thread that begins it, before it does."""
    kind, _, *rest = event
    at = rest[0] * WORDS if rest else 0
    barrier = BARRIERS + 8 * rest[-1] if rest else 0
    if kind == "copy":
        tx = f"@%p2 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [{barrier}], {bytes[rest[1]]};"
        copy = "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes"
        return f"{tx} @%p2 {copy} [{at}], [%rd1], {WORDS}, [{barrier}];"
    here = next(labels)
    return {
        "write": f"st.shared.b32 [%r6+{at}], %r6;",
        "read": f"ld.shared.b32 %r9, [%r6+{at}];",
        "arrive": f"bar.warp.sync -1; @%p2 mbarrier.arrive.shared::cta.b64 _, [{barrier}];",
        "wait": f"L{here}: mbarrier.try_wait.parity.shared::cta.b64 %p4, [{barrier}], 0; @!%p4 bra L{here};",
        "meet": f"bar.sync {rest[0] if rest else 0}, {32 * len(warps_of(event))};",
        "fence": "fence.proxy.async.shared::cta;",
        "send": f"@%p2 cp.async.bulk.global.shared::cta.bulk_group [%rd2+{32 * 8 * here}], [{at}], {WORDS}; "
        "cp.async.bulk.commit_group;",
        "drain": "cp.async.bulk.wait_group 0;",
    }[kind]
