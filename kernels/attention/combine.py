"""The splits of one query become its attention: the last steps of both engines, in their launch or in their own.

A program whose query has several splits stores its partial sums in the workspace. Unfused, a second launch combines
them. Fused, the last program to arrive does: each counts itself in with one atomic addition, which releases its partial
and acquires the others. A partial carries the ticket of its launch and is combined once. A counter or a tag of another
launch, aborted before or sharing the workspace, raises the fault flag and makes the result NaN; two launches that write
one partial at the same time may mix it, but not without the flag.
"""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from ..requires_triton import tl, triton
from .steps import is_live, live_splits, skipped_blocks, visible_slots


@triton.jit
def output_row(b, h, r, M, CFG: tl.constexpr):
    """Row of (B, M, H, D) that query r of KV head h is: of token r // G the r % G-th head of the group."""
    return (b * M + r // CFG.G) * (CFG.H_KV * CFG.G) + h * CFG.G + r % CFG.G


@triton.jit
def store_result(result, row, m, l, acc, CFG: tl.constexpr):
    """Divide by the weights' sum; a sum of zero means nothing was attended to, and gives zeros."""
    d = tl.arange(0, CFG.D_POW2)
    total = tl.where(l == 0, 1.0, l)
    tl.store(result.out + row * CFG.D + d, acc / total, mask=d < CFG.D)
    if result.lse is not None:
        tl.store(result.lse + row, tl.where(l == 0, float("-inf"), (m + tl.log2(total)) / CFG.LOG2E))


@triton.jit
def other_splits(splits):
    """The number of splits, less one."""
    return tl.where(splits.sinks >= splits.window, splits.last, splits.sinks + 1 + splits.last - splits.window)


@triton.jit
def combine(row, S, splits, partials, CFG: tl.constexpr):
    """The partials of one row -> its m, l and acc, CHUNK splits at a time, in their order."""
    ACC: tl.constexpr = partials.acc.dtype.element_ty
    d = tl.arange(0, CFG.D_POW2)
    m = tl.full([], CFG.LOWEST, ACC)
    l = tl.zeros([], ACC)
    acc = tl.full([CFG.D_POW2], 0.0, ACC)
    kept, skipped = skipped_blocks(0, splits.sinks + 1, splits.window, CFG.CHUNK)
    for chunk in range(splits.last // CFG.CHUNK + 1 - skipped):
        # 8. the splits of this chunk
        split = (chunk + tl.where(chunk < kept, 0, skipped)) * CFG.CHUNK + tl.arange(0, CFG.CHUNK)
        live = is_live(split, splits)
        at = row * S + split
        mc = tl.load(partials.m + at, mask=live, other=float("-inf"))
        lc = tl.load(partials.l + at, mask=live, other=0.0)
        accc = tl.load(partials.acc + at[:, None] * CFG.D + d[None, :], mask=live[:, None] & (d < CFG.D), other=0.0)
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
def all_are(tags, splits, ticket, CLEAR: tl.constexpr):
    """Whether the tags of all partials are this launch's ticket; CLEAR sets them to 0."""
    ours = tl.full([], 1, tl.int32)
    for start in range(0, splits.last + 1, 64):
        split = start + tl.arange(0, 64)
        live = is_live(split, splits)
        tag = tl.load(tags + split, mask=live, other=ticket)
        ours = tl.minimum(ours, tl.min((tag == ticket).to(tl.int32), 0))
        if CLEAR:
            tl.debug_barrier()  # another thread may clear what this one loads
            tl.store(tags + split, 0, mask=live)
    return ours


@triton.jit
def hand_over(b, h, r, r_end, split, splits, result, partials, M, ticket, CFG: tl.constexpr):
    """This split's partials of the queries r..r_end are stored: count it in; the last one to arrive combines all.

    A partial stands between two tags, written before and after it and read the other way round, so that a write of
    another launch in the meantime is found.
    """
    S = tl.num_programs(0)
    counter = b * tl.num_programs(1) + tl.program_id(1)
    begun, done = partials.begun + counter * S, partials.done + counter * S
    tl.store(done + split, ticket)
    tl.debug_barrier()  # one thread arrives for all: their stores come first
    arrived = tl.atomic_add(partials.counters + counter, 1, sem="acq_rel")
    before = other_splits(splits)
    if (arrived >= before) | (arrived < 0):
        ours = tl.full([], 0, tl.int32)
        if arrived == before:
            ours = all_are(done, splits, ticket, True)
        for query in range(r, r_end):
            row = output_row(b, h, query, M, CFG)
            m, l, acc = combine(row, S, splits, partials, CFG)
            ours = tl.minimum(ours, all_are(begun, splits, ticket, False))
            store_result(result, row, m, tl.where(ours > 0, l, float("nan")), acc, CFG)
        if ours > 0:
            tl.store(partials.counters + counter, 0)
        else:
            tl.store(partials.fault, 1)


@triton.jit
def begin_partial(b, split, partials, ticket, CFG: tl.constexpr):
    """Tag the partial with this launch's ticket, before it is stored."""
    if CFG.FUSED:
        counter = b * tl.num_programs(1) + tl.program_id(1)
        tl.store(partials.begun + counter * tl.num_programs(0) + split, ticket)


@triton.jit
def finish(b, h, r, split, splits, m, l, acc, result, partials, M, ticket, CFG: tl.constexpr):
    """One query's m, l and acc (D_POW2,) over one split: the result if there is no other, else a partial."""
    row = output_row(b, h, r, M, CFG)
    if other_splits(splits) == 0:
        store_result(result, row, m, l, acc, CFG)
    else:
        begin_partial(b, split, partials, ticket, CFG)
        at = row * tl.num_programs(0) + split
        d = tl.arange(0, CFG.D_POW2)
        tl.store(partials.m + at, m)
        tl.store(partials.l + at, l)
        tl.store(partials.acc + at * CFG.D + d, acc, mask=d < CFG.D)
        if CFG.FUSED:
            hand_over(b, h, r, r + 1, split, splits, result, partials, M, ticket, CFG)


@triton.jit
def finish_tile(b, h, r, r_end, split, splits, m, l, acc, result, partials, M, ticket, CFG: tl.constexpr):
    """The same for a tile of queries: m and l (BLOCK_M,), acc (BLOCK_M, D_POW2)."""
    query = r + tl.arange(0, CFG.BLOCK_M)
    row, is_query = output_row(b, h, query, M, CFG), query < r_end
    d = tl.arange(0, CFG.D_POW2)[None, :]
    wanted = is_query[:, None] & (d < CFG.D)
    if other_splits(splits) == 0:
        total = tl.where(l == 0, 1.0, l)
        tl.store(result.out + row[:, None] * CFG.D + d, acc / total[:, None], mask=wanted)
        if result.lse is not None:
            tl.store(result.lse + row, tl.where(l == 0, float("-inf"), (m + tl.log2(total)) / CFG.LOG2E), mask=is_query)
    else:
        begin_partial(b, split, partials, ticket, CFG)
        at = row * tl.num_programs(0) + split
        tl.store(partials.m + at, m, mask=is_query)
        tl.store(partials.l + at, l, mask=is_query)
        tl.store(partials.acc + at[:, None] * CFG.D + d, acc, mask=wanted)
        if CFG.FUSED:
            hand_over(b, h, r, r_end, split, splits, result, partials, M, ticket, CFG)


@triton.jit(do_not_specialize=["M", "S"])
def combine_splits(result, partials, lengths, T, M, S, CFG: tl.constexpr):
    """Program (r, h, b) merges the splits of query r of KV head h, if it has several: the launch of its own."""
    r, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    n = tl.load(lengths + b)
    n = tl.where((n < 0) | (n > T), 0, n)
    tile = r // CFG.BLOCK_M * CFG.BLOCK_M
    tile_end = tl.minimum(tile + CFG.BLOCK_M, M * CFG.G)
    window, stop = visible_slots(n, tile // CFG.G, (tile_end - 1) // CFG.G + 1, M, CFG)
    splits = live_splits(window, stop, CFG)
    if other_splits(splits) == 0:
        return

    row = output_row(b, h, r, M, CFG)
    m, l, acc = combine(row, S, splits, partials, CFG)
    store_result(result, row, m, l, acc, CFG)
