"""Bank conflicts of shared memory in compiled code, counted as Counters.banks counts them.

A row of `bank_patterns` keeps what an instruction's last addresses were, relative to the first of them, and came to: a
common shift by whole words only turns the banks. Instructions share ROWS rows.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F821, RET503

from .context import SHARED_THREADS, TRAFFIC
from .routine import routines

ROWS, PATTERN = 256, 40  # u32: 32 addresses; the lanes, bytes of each, the first address within a word; the results
ON, SIZE, SHIFT, WAVEFRONTS, CONFLICTS = 32, 33, 34, 35, 36


def shared_count(context, n, at, on, size, line):
    """Add an access to an instruction's traffic; `line`: what shared_run found."""
    row = context.bank_patterns + 4 * PATTERN * (n & ROWS - 1)
    first = u32[at, lowest(on)]
    counts = context.traffic + 8 * (TRAFFIC * n + SHARED_THREADS)
    u64[counts, 0] += bits(on)
    if line == 32:
        u64[counts, 1] += size >> 2 if size > 4 else 1
        return 0
    same = u32[row, ON] == on and u32[row, SIZE] == size and u32[row, SHIFT] == first & 3
    rest = on if same else 0
    while rest:
        lane = lowest(rest)
        rest = rest & rest - 1 if u32[row, lane] == u32[at, lane] - first & 0xFFFFFFFF else 0
        same = u32[row, lane] == u32[at, lane] - first & 0xFFFFFFFF
    if not same:
        bank_passes(row, at, on, size, first)
    u64[counts, 1] += u32[row, WAVEFRONTS]
    u64[counts, 2] += u32[row, CONFLICTS]


def bank_passes(row, at, on, size, first):
    """Fill a row. Units of at least a word go by groups of lanes that fill the banks; a group takes as many passes as
    its fullest slot has different units. The slots are counted where the addresses come to stand."""
    shift = lowest(size) if size > 4 else 2
    group = 128 >> shift
    memset(row, 0, 128)
    for lane in lanes(on):
        unit, begin = u32[at, lane] >> shift, lane & ~(group - 1)
        slot, new = begin + (unit & group - 1), 1
        for other in range(begin, lane if u32[row, slot] > 0 else begin):
            if on >> other & 1 and u32[at, other] >> shift == unit:
                new = 0
        u32[row, slot] += new
    total, groups, fullest = 0, 0, 0
    for slot in range(32):
        fullest = most(fullest, u32[row, slot])
        if slot + 1 & group - 1 == 0:
            total, groups, fullest = total + fullest, groups + (fullest > 0), 0
    u32[row, WAVEFRONTS], u32[row, CONFLICTS] = total, total - groups
    u32[row, ON], u32[row, SIZE], u32[row, SHIFT] = on, size, first & 3
    for lane in range(32):
        u32[row, lane] = u32[at, lane] - first


RUNTIME = routines(shared_count, bank_passes)
