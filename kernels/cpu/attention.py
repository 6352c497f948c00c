"""Attention over the KV cache where it lies: append, attend, combine, in the ten steps of reference/decode.py.

A cache has pages of `page` slots: k and v (pages, n_head, page, head_dim), float64, float32, float16, bfloat16 or int8,
the latter with one float32 scale per row. A static cache has one page per sequence. A query's sums are added slot by
slot from slot 0 on, in blocks of 64 slots, so its bits depend on no other query and not on where the pages lie.
"""

import math

from numba import njit

from .functions import LOG2E, OPTIONS, exp2
from .job import BLOCK, SPLIT_LEN
from .memory import load, load_rows, load_some, store, store_some
from .pointers import prefetch, read, write
from .vectors import LANES, absolute, filled, first_of, lane, largest, like, maximum, nearest, outer, sums

LOWEST = -3.0e38  # initial running max: below usual scores, but finite, since -inf - -inf is NaN
TILES = BLOCK // LANES  # vectors of scores in a block, which has one running max to wait for
KEYS = 8  # keys that a query meets at a time: each has its sum in registers
VALUES = 4  # vectors of a value that are weighed at a time
WIDTH = VALUES * LANES


@njit(**OPTIONS)
def row_at(job, table, b, h, slot):
    """The number of the row of sequence b, head h, at this slot."""
    page = read(table, b * job.max_pages + slot // job.page)
    return (page * job.n_head + h) * job.page + slot % job.page


@njit(**OPTIONS)
def append(job, x, scales, new, row):
    """Write a new row (head_dim,) to the cache x, of keys or of values."""
    D, divisor = job.head_dim, like(read(new, 0), 1.0)
    whole, at = D - D % LANES, x + row * D
    if job.int8_cache:
        divisor = quantise(scales, new, row, D)
    for d in range(0, whole, LANES):
        store(at + d, stored(job, load(1, new + d, 0), divisor))
    if whole < D:
        store_some(at + whole, stored(job, load_some(1, new + whole, 0, D - whole), divisor), D - whole)


@njit(**OPTIONS)
def quantise(scales, new, row, D):
    """Write the scale of a row to be stored in 8 bits, max|row| / 127 in float32; returns what to divide the row by."""
    top = filled(1, like(read(new, 0), 0.0))
    for d in range(0, D, LANES):
        top = maximum(top, absolute(load_some(1, new + d, 0, min(D - d, LANES))))
    write(scales, row, lane(largest(top), 0) / like(read(new, 0), 127.0))
    scale = like(read(new, 0), read(scales, row))
    return like(scale, 1.0) if scale == 0 else scale


@njit(**OPTIONS)
def stored(job, x, divisor):
    """A vector as the cache stores it."""
    return nearest(x / divisor) if job.int8_cache else x


@njit(**OPTIONS)
def scores(q, k, rows, live, D, stride, s):
    """Dot products of q (D,) and a block's keys -> s (BLOCK,); those past `live` repeat the last key's.

    stride  elements from a row of k to the next
    """
    whole, zero = D - D % LANES, like(read(q, 0), 0.0)
    for r in range(0, live, KEYS):
        acc = filled(KEYS, zero)
        for d in range(0, whole, LANES):
            acc = outer(acc, load(1, q + d, 0), load_rows(KEYS, k + d, rows + r, stride, LANES))
        if whole < D:
            last = load_some(1, q + whole, 0, D - whole)
            acc = outer(acc, last, load_rows(KEYS, k + whole, rows + r, stride, D - whole))
        store_some(s + r, sums(acc), KEYS)


@njit(**OPTIONS)
def weigh(acc, a, p, v, rows, live, D, stride):
    """acc (D,) = acc * a + the sum of p[r] * v[r], in the order of r < live; a is one vector of equal lanes.

    stride  elements from a row of v to the next
    """
    wide, whole, shrink = D - D % WIDTH, D - D % LANES, lane(a, 0)
    for d in range(0, wide, WIDTH):
        total = load(VALUES, acc + d, LANES) * shrink
        for r in range(live):
            total = outer(total, filled(1, read(p, r)), load(VALUES, v + read(rows, r) * stride + d, LANES))
        store(acc + d, total)
    for d in range(wide, whole, LANES):
        total = load(1, acc + d, 0) * shrink
        for r in range(live):
            total = outer(total, filled(1, read(p, r)), load(1, v + read(rows, r) * stride + d, 0))
        store(acc + d, total)
    if whole < D:
        total = load_some(1, acc + whole, 0, D - whole) * shrink
        for r in range(live):
            total = outer(total, filled(1, read(p, r)), load_some(1, v + read(rows, r) * stride + whole, 0, D - whole))
        store_some(acc + whole, total, D - whole)


@njit(**OPTIONS)
def attend(job, split, q, k, v, k_scale, v_scale, table, b, h, length, at):
    """Let a query attend to the slots of one split, a block of TILES * LANES slots at a time."""
    D, s, rows, acc = job.head_dim, at.s, at.rows, at.part_acc + split * job.head_dim
    # 1. the slots of this split
    lo, hi = split * SPLIT_LEN, min((split + 1) * SPLIT_LEN, length)
    zero = like(read(q, 0), 0.0)
    m, l = filled(1, like(zero, LOWEST)), filled(TILES, zero)
    clear(acc, D)
    for start in range(lo, hi, BLOCK):
        # 2. the keys and values of this block
        live = min(hi - start, BLOCK)
        find_rows(job, rows, table, b, h, start, live)
        if start + BLOCK < length:
            ask_ahead(k, v, read(rows, 0) + BLOCK, D)
        # 3. scores of this block, as exponents of 2
        scores(q, k, rows, live, D, D, s)
        block = load(TILES, s, LANES)
        if job.int8_cache:
            block = block * scales_of(k_scale, rows, at)
        block = first_of(block, live, like(zero, -math.inf))
        # 4. new max; shrink the past
        m_new = maximum(m, largest(block))
        a, m = exp2(m - m_new), m_new
        l = l * a
        # 5. add the weights, and the values they weigh
        p = exp2(block - m)
        l = l + p
        store(s, p * scales_of(v_scale, rows, at) if job.int8_cache else p)
        weigh(acc, a, s, v, rows, live, D, D)
    # 6. merge the LANES sums
    tiles = sums(l)
    total = (lane(tiles, 0) + lane(tiles, 1)) + (lane(tiles, 2) + lane(tiles, 3))
    # 7. store this split's sums
    write(at.part_m, split, lane(m, 0))
    write(at.part_l, split, total)


@njit(**OPTIONS)
def ask_ahead(k, v, row, D):
    """Ask for a block of rows from the one named on: the next block, where pages are that long."""
    for i in range(row * D, (row + BLOCK) * D, WIDTH):
        prefetch(k + i, WIDTH)
        prefetch(v + i, WIDTH)


@njit(**OPTIONS)
def clear(x, n):
    """x (n,) = 0"""
    whole, zero = n - n % LANES, filled(1, like(read(x, 0), 0.0))
    for i in range(0, whole, LANES):
        store(x + i, zero)
    if whole < n:
        store_some(x + whole, zero, n - whole)


@njit(**OPTIONS)
def divide(y, x, a, n):
    """y (n,) = x / a"""
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        store(y + i, load(1, x + i, 0) / a)
    if whole < n:
        store_some(y + whole, load_some(1, x + whole, 0, n - whole) / a, n - whole)


@njit(**OPTIONS)
def add_scaled(y, a, x, b, n):
    """y (n,) = y * a + x * b"""
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        store(y + i, load(1, y + i, 0) * a + load(1, x + i, 0) * b)
    if whole < n:
        last = load_some(1, y + whole, 0, n - whole) * a + load_some(1, x + whole, 0, n - whole) * b
        store_some(y + whole, last, n - whole)


@njit(**OPTIONS)
def find_rows(job, rows, table, b, h, start, live):
    """The numbers of a block's rows; those past `live` repeat the last, so that no dead slot is read."""
    column, row = start // job.page, row_at(job, table, b, h, start)
    left = (column + 1) * job.page - start  # slots of this page from here on
    for r in range(live):
        if left == 0:
            column, left = column + 1, job.page
            row = row_at(job, table, b, h, column * job.page)
        write(rows, r, row)
        row, left = row + 1, left - 1
    for r in range(live, BLOCK):
        write(rows, r, read(rows, live - 1))


@njit(**OPTIONS)
def scales_of(scales, rows, at):
    """The scales of a block's rows, as vectors."""
    for r in range(BLOCK):
        write(at.scales, r, like(read(at.scales, 0), read(scales, read(rows, r))))
    return load(TILES, at.scales, LANES)


@njit(**OPTIONS)
def combine(job, out, length, at):
    """Combine the splits of a query into its attention out (head_dim,), in their order."""
    D, zero = job.head_dim, like(read(at.s, 0), 0.0)
    m, l = filled(1, like(zero, LOWEST)), filled(1, zero)
    clear(out, D)
    for split in range((length + SPLIT_LEN - 1) // SPLIT_LEN):
        # 8. the splits of this chunk
        m_chunk, l_chunk = filled(1, read(at.part_m, split)), filled(1, read(at.part_l, split))  # a chunk is one split
        # 9. new max; shrink the past
        m_new = maximum(m, m_chunk)
        a, m = exp2(m - m_new), m_new
        # 10. add the splits
        p = exp2(m_chunk - m)
        l = l * a + p * l_chunk
        add_scaled(out, lane(a, 0), at.part_acc + split * D, lane(p, 0), D)
    total = lane(l, 0)
    divide(out, out, like(zero, 1.0) if total == 0 else total, D)


@njit(**OPTIONS)
def attention(job, out, q, k, v, k_scale, v_scale, table, b, h, length, at):
    """softmax(q k^T / sqrt(D)) v of one query (head_dim,) over the first `length` slots of sequence b, head h."""
    scale = like(read(q, 0), math.sqrt(job.head_dim) / LOG2E)  # divided by it, a dot product is score * LOG2E
    divide(at.q, q, scale, job.head_dim)
    for split in range((length + SPLIT_LEN - 1) // SPLIT_LEN):
        attend(job, split, at.q, k, v, k_scale, v_scale, table, b, h, length, at)
    combine(job, out, length, at)
