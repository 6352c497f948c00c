"""How the splits of one query become its attention: the last steps of both engines, in their launch or in their own.

A program whose query has several splits leaves its part in the workspace. Unfused, a second launch combines them.
Fused, the last program to arrive does: it counts itself in with one atomic addition that releases its part and acquires
the others'. A part carries the ticket of its launch and is combined once. A counter or a tag that is not this launch's
own, of an aborted launch or of another that shares the workspace, raises the fault flag and makes the result NaN; two
launches that write one part at the same time may mix it, but not without the flag.
"""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from ..requires_triton import tl, triton
from .steps import gap, is_live, live_splits, visible_slots


@triton.jit
def output_row(b, h, r, M, HOW: tl.constexpr):
    """Row of (B, M, H, D) that query r of KV head h is: of token r // G the r % G-th head of the group."""
    return (b * M + r // HOW.G) * (HOW.H_KV * HOW.G) + h * HOW.G + r % HOW.G


@triton.jit
def store_result(result, row, m, l, acc, HOW: tl.constexpr):
    """Divide by the weights' sum; a sum of zero means nothing was attended to, and gives zeros."""
    d = tl.arange(0, HOW.D_POW2)
    total = tl.where(l == 0, 1.0, l)
    tl.store(result.out + row * HOW.D + d, acc / total, mask=d < HOW.D)
    if result.lse is not None:
        tl.store(result.lse + row, tl.where(l == 0, float("-inf"), (m + tl.log2(total)) / HOW.LOG2E))


@triton.jit
def others(splits):
    """How many splits there are beside one."""
    return tl.where(splits.far >= splits.near, splits.last, splits.far + 1 + splits.last - splits.near)


@triton.jit
def combine(row, S, splits, parts, HOW: tl.constexpr):
    """The parts of one row -> its m, l and acc, CHUNK splits at a time, in their order."""
    ACC: tl.constexpr = parts.acc.dtype.element_ty
    d = tl.arange(0, HOW.D_POW2)
    m = tl.full([], HOW.LOWEST, ACC)
    l = tl.zeros([], ACC)
    acc = tl.full([HOW.D_POW2], 0.0, ACC)
    kept, skipped = gap(0, splits.far + 1, splits.near, HOW.CHUNK)
    for chunk in range(splits.last // HOW.CHUNK + 1 - skipped):
        # 8. the splits of this chunk
        split = (chunk + tl.where(chunk < kept, 0, skipped)) * HOW.CHUNK + tl.arange(0, HOW.CHUNK)
        live = is_live(split, splits)
        at = row * S + split
        mc = tl.load(parts.m + at, mask=live, other=float("-inf"))
        lc = tl.load(parts.l + at, mask=live, other=0.0)
        accc = tl.load(parts.acc + at[:, None] * HOW.D + d[None, :], mask=live[:, None] & (d < HOW.D), other=0.0)
        # 9. new max; shrink the past
        m_new = tl.maximum(m, tl.max(mc, 0))
        a = tl.exp2(m - m_new)
        m = m_new
        # 10. add the splits
        p = tl.exp2(mc - m)
        l = l * a + tl.sum(p * lc, 0)
        acc = acc * a + tl.sum(p[:, None] * accc, 0)
    return m, l, acc


@triton.jit
def all_are(tags, splits, ticket, USED_UP: tl.constexpr):
    """Whether the tags of all parts are this launch's; if they are used up, they are cleared."""
    ours = tl.full([], 1, tl.int32)
    for start in range(0, splits.last + 1, 64):
        split = start + tl.arange(0, 64)
        live = is_live(split, splits)
        tag = tl.load(tags + split, mask=live, other=ticket)
        ours = tl.minimum(ours, tl.min((tag == ticket).to(tl.int32), 0))
        if USED_UP:
            tl.debug_barrier()  # another thread may clear what this one loads
            tl.store(tags + split, 0, mask=live)
    return ours


@triton.jit
def hand_over(b, h, r, r_end, split, splits, result, parts, M, ticket, HOW: tl.constexpr):
    """This split's part of the queries r..r_end is stored: count it in, and after the last one combine them all.

    A part is between two tags, written before and after it, and read the other way round: what another launch writes
    in the meantime is noticed.
    """
    S = tl.num_programs(0)
    counter = b * tl.num_programs(1) + tl.program_id(1)
    begun, done = parts.begun + counter * S, parts.done + counter * S
    tl.store(done + split, ticket)
    tl.debug_barrier()  # one thread arrives for all: their stores come first
    arrived = tl.atomic_add(parts.counters + counter, 1, sem="acq_rel")
    before = others(splits)
    if (arrived >= before) | (arrived < 0):
        ours = tl.full([], 0, tl.int32)
        if arrived == before:
            ours = all_are(done, splits, ticket, True)
        for query in range(r, r_end):
            row = output_row(b, h, query, M, HOW)
            m, l, acc = combine(row, S, splits, parts, HOW)
            ours = tl.minimum(ours, all_are(begun, splits, ticket, False))
            store_result(result, row, m, tl.where(ours > 0, l, float("nan")), acc, HOW)
        if ours > 0:
            tl.store(parts.counters + counter, 0)
        else:
            tl.store(parts.fault, 1)


@triton.jit
def begin_part(b, split, parts, ticket, HOW: tl.constexpr):
    """Say whose part the next stores are."""
    if HOW.FUSED:
        counter = b * tl.num_programs(1) + tl.program_id(1)
        tl.store(parts.begun + counter * tl.num_programs(0) + split, ticket)


@triton.jit
def finish(b, h, r, split, splits, m, l, acc, result, parts, M, ticket, HOW: tl.constexpr):
    """One query's m, l and acc (D_POW2,) over one split: the result if there is no other, else a part of it."""
    row = output_row(b, h, r, M, HOW)
    if others(splits) == 0:
        store_result(result, row, m, l, acc, HOW)
    else:
        begin_part(b, split, parts, ticket, HOW)
        at = row * tl.num_programs(0) + split
        d = tl.arange(0, HOW.D_POW2)
        tl.store(parts.m + at, m)
        tl.store(parts.l + at, l)
        tl.store(parts.acc + at * HOW.D + d, acc, mask=d < HOW.D)
        if HOW.FUSED:
            hand_over(b, h, r, r + 1, split, splits, result, parts, M, ticket, HOW)


@triton.jit
def finish_tile(b, h, r, r_end, split, splits, m, l, acc, result, parts, M, ticket, HOW: tl.constexpr):
    """The same for a tile of queries: m and l (TILE,), acc (TILE, D_POW2)."""
    query = r + tl.arange(0, HOW.TILE)
    row, is_query = output_row(b, h, query, M, HOW), query < r_end
    d = tl.arange(0, HOW.D_POW2)[None, :]
    wanted = is_query[:, None] & (d < HOW.D)
    if others(splits) == 0:
        total = tl.where(l == 0, 1.0, l)
        tl.store(result.out + row[:, None] * HOW.D + d, acc / total[:, None], mask=wanted)
        if result.lse is not None:
            tl.store(result.lse + row, tl.where(l == 0, float("-inf"), (m + tl.log2(total)) / HOW.LOG2E), mask=is_query)
    else:
        begin_part(b, split, parts, ticket, HOW)
        at = row * tl.num_programs(0) + split
        tl.store(parts.m + at, m, mask=is_query)
        tl.store(parts.l + at, l, mask=is_query)
        tl.store(parts.acc + at[:, None] * HOW.D + d, acc, mask=wanted)
        if HOW.FUSED:
            hand_over(b, h, r, r_end, split, splits, result, parts, M, ticket, HOW)


@triton.jit(do_not_specialize=["M", "S"])
def combine_splits(result, parts, lengths, T, M, S, HOW: tl.constexpr):
    """Program (r, h, b) merges the splits of query r of KV head h, if it has several: the launch of its own."""
    r, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    n = tl.load(lengths + b)
    n = tl.where((n < 0) | (n > T), 0, n)
    tile = r // HOW.TILE * HOW.TILE
    tile_end = tl.minimum(tile + HOW.TILE, M * HOW.G)
    first, stop = visible_slots(n, tile // HOW.G, (tile_end - 1) // HOW.G + 1, M, HOW)
    splits = live_splits(first, stop, HOW)
    if others(splits) == 0:
        return

    row = output_row(b, h, r, M, HOW)
    m, l, acc = combine(row, S, splits, parts, HOW)
    store_result(result, row, m, l, acc, HOW)
