"""One query per sequence and head attends to a cache of any strides, compiled; decode_attention.py calls it.

The query heads of a KV head take each block of keys and values in turn while it is near. Sums run within a block of 64
slots and over blocks, so that their rounding grows slowly with the length. A sink is a score without a value.
"""

import math
from typing import Any, NamedTuple

from numba import from_dtype, njit, types

from .attention import LOWEST, TILES, add_scaled, clear, divide, scores, weigh
from .decode_attention import JOB
from .functions import LOG2E, OPTIONS, exp2
from .job import BLOCK
from .memory import load, store
from .phases import Crew, all_here, count_up, meet, share
from .pointers import at, pointer, read, write
from .vectors import LANES, filled, first_of, lane, largest, like, maximum, operation, sums


class Kinds(NamedTuple):
    """A Pointer of each dtype that a job has."""

    cache: Any
    sum: Any
    index: Any
    slot: Any


class Scratch(NamedTuple):
    """A thread's own memory; rows are int64, the rest in the dtype of sums."""

    rows: Any  # (BLOCK,) the slots of a block
    s: Any  # (BLOCK,) scores, then weights
    part: Any  # (D_v,) a block's weighed values
    q: Any  # (group, D) the scaled queries
    m: Any  # (group,) running max, as exponents of 2
    l: Any  # (group,) running sum
    acc: Any  # (group, D_v)


@operation
def job_at(context, address):
    """The job at an address."""
    kind = from_dtype(JOB)

    def generate(ctx, builder, signature, args):
        return builder.inttoptr(args[0], ctx.get_value_type(kind))

    return kind(types.int64), generate


@njit(**OPTIONS)
def scratch_of(job, kinds, thread):
    base = job.scratch + thread * job.scratch_size
    s = at(kinds.sum, base + 8 * BLOCK)
    part = s + 2 * BLOCK
    q = part + job.D_v
    m = q + job.group * job.D
    l = m + job.group
    return Scratch(at(kinds.index, base), s, part, q, m, l, l + job.group)


@njit(**OPTIONS)
def begin(job, kinds, b, h, at_):
    """The scaled queries of a KV head, and sums over nothing, or over the sink."""
    D, heads = job.D, job.H_kv * job.group
    zero = like(read(at_.s, 0), 0.0)
    factor = job.scale / job.softcap if job.softcap > 0 else job.scale * LOG2E
    for g in range(job.group):
        head = h * job.group + g
        divide(at_.q + g * D, at(kinds.sum, job.q) + (b * heads + head) * D, like(zero, 1.0 / factor), D)
        clear(at_.acc + g * job.D_v, job.D_v)
        sunk = job.sink_logits != 0
        sink = at(kinds.sum, job.sink_logits)
        write(at_.m, g, read(sink, b * job.sink_b + head) * like(zero, LOG2E) if sunk else like(zero, LOWEST))
        write(at_.l, g, like(zero, 1.0) if sunk else zero)


@njit(**OPTIONS)
def find_slots(job, kinds, b, start, live, at_):
    """The slots of a block; those past `live` repeat the last, so that no dead slot is read."""
    first = read(at(kinds.index, job.first), b)
    for r in range(BLOCK):
        i = start + min(r, live - 1)
        write(at_.rows, r, read(at(kinds.slot, job.table), b * job.table_b + i) if job.table != 0 else first + i)


@njit(**OPTIONS)
def cap(s, live, softcap):
    """s (live,) -> softcap * tanh(s), as exponents of 2"""
    for r in range(live):
        write(s, r, math.tanh(read(s, r)) * like(read(s, 0), softcap * LOG2E))


@njit(**OPTIONS)
def attend(job, k, v, live, g, at_):
    """Let query g attend to the block whose slots are found."""
    D, D_v, s, part = job.D, job.D_v, at_.s, at_.part
    zero = like(read(s, 0), 0.0)
    scores(at_.q + g * D, k, at_.rows, live, D, job.kt, s)
    if job.softcap > 0:
        cap(s, live, job.softcap)
    block = first_of(load(TILES, s, LANES), live, like(zero, -math.inf))
    m = filled(1, read(at_.m, g))
    m_new = maximum(m, largest(block))
    a, p = lane(exp2(m - m_new), 0), exp2(block - m_new)
    store(s, p)
    tiles = sums(p)
    total = (lane(tiles, 0) + lane(tiles, 1)) + (lane(tiles, 2) + lane(tiles, 3))
    write(at_.m, g, lane(m_new, 0))
    write(at_.l, g, read(at_.l, g) * a + total)
    clear(part, D_v)
    weigh(part, filled(1, like(zero, 1.0)), s, v, at_.rows, live, D_v, job.vt)
    add_scaled(at_.acc + g * D_v, a, part, like(zero, 1.0), D_v)


@njit(**OPTIONS)
def attention(job, kinds, b, h, at_):
    """The attention of the queries of one KV head of one sequence."""
    D_v, length = job.D_v, read(at(kinds.index, job.lengths), b)
    k = at(kinds.cache, job.k) + (b * job.kb + h * job.kh)
    v = at(kinds.cache, job.v) + (b * job.vb + h * job.vh)
    begin(job, kinds, b, h, at_)
    for start in range(0, length, BLOCK):
        live = min(length - start, BLOCK)
        find_slots(job, kinds, b, start, live, at_)
        for g in range(job.group):
            attend(job, k, v, live, g, at_)
    out = at(kinds.sum, job.out) + (b * job.H_kv + h) * job.group * D_v
    for g in range(job.group):
        total = read(at_.l, g)
        divide(out + g * D_v, at_.acc + g * D_v, like(total, 1.0) if total == 0 else total, D_v)


@njit(**OPTIONS)
def attend_all(job, kinds, thread):
    """One thread's part: KV heads of sequences, one after another."""
    counters = at(kinds.index, job.phases)
    if thread == 0:
        count_up(counters, 0)
    elif not all_here(counters):
        return
    crew, at_ = Crew(counters, thread, job.threads), scratch_of(job, kinds, thread)
    count = job.B * job.H_kv
    i = share(crew, 1, count)
    while i < count:
        attention(job, kinds, i // job.H_kv, i % job.H_kv, at_)
        i = share(crew, 1, count)
    meet(crew, 1)


def entry(cache: str, total: str):
    """The attention for a dtype of keys and values, and of sums.

    returns  a function of int64 (the address of a job, the number of the thread), to be compiled
    """

    def run(address, thread):
        kinds = Kinds(
            pointer(cache, total, 0), pointer(total, total, 0), pointer("int64", total, 0), pointer("int32", total, 0)
        )
        attend_all(job_at(address), kinds, thread)
        return 0

    return run
