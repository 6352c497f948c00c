"""Twins in memory, in compiled code: shadow/planes.py's, cell by cell.

A `row` is the record of a segment, in which VALUES, CODES and BYTES are the addresses of its plane's; what a program
that runs knows of its shadow begins with that of shared memory. `addresses` are those of 32 lanes, 64 bits each, of
which `on` count, and `offset` the bytes from there on to a number.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: F401, F821

from .pieces import BASE, BYTES, CODES, DATA, FIRST, LAST, RECORD, VALUES
from .routine import routines

# Words behind that record: whether the program has stored any twin in shared memory; and addresses: by instruction,
# bits (NOTED) of LOST and CHOICE, float64 (ERRORS), bytes (KEEPS); by parameter that is a float, float64 (GIVEN).
HELD, NOTED, ERRORS, KEEPS, GIVEN = range(RECORD, RECORD + 5)
WORDS = 24
LOST, CHOICE = 1, 2


def twins_reset(context):
    """Shared memory as a program finds it."""
    row = context.shadow
    if row.HELD != 0:
        memset(row.CODES, 0, row.LAST >> 1)
    row.HELD = 0


def twins_there(context, address):
    """The row of the segment that an address is in, if that has twins, or 0."""
    n = (address >> 48) - 1
    row = context.segments + 8 * RECORD * n
    if 0 <= n < context.segment_count and row.VALUES != 0:
        return row
    return 0


def twins_shared(context):
    """The row of shared memory, if that has twins, or 0."""
    return context.shadow if u64[context.shadow, HELD] != 0 else 0


def twins_same(row, cell, size, bits, lane):
    """Whether a cell's twin belongs to these bits."""
    at = row.BYTES + 2 * cell
    if size == 2:
        return u16[at, 0] == u16[bits, lane]
    if size == 4:
        return u32[at, 0] == u32[bits, lane]
    return u64[at, 0] == u64[bits, lane]


def twins_read(row, on, offset, code, size, addresses, bits, values):
    """Put the twins of numbers that have been loaded into `values`, where there are any."""
    first = offset - row.BASE
    for lane in lanes(on):
        cell = u64[addresses, lane] + first >> 1
        if u8[row.CODES, cell] == code and twins_same(row, cell, size, bits, lane):
            u64[values, lane] = u64[row.VALUES, cell]


def twins_held(row, on, offset, addresses):
    """Whether some cells may have a twin."""
    for lane in lanes(on):
        if u8[row.CODES, u64[addresses, lane] + offset - row.BASE >> 1] != 0:
            return 1
    return 0


def twins_write(row, on, offset, code, size, addresses, bits, values):
    """Note twins that are stored with their bits; of code 0, that these bits have none."""
    first = offset - row.BASE
    for lane in lanes(on):
        cell = u64[addresses, lane] + first >> 1
        u8[row.CODES, cell] = code
        if code == 0:
            for k in range(1, size >> 1):
                u8[row.CODES, cell + k] = 0
        else:
            u64[row.VALUES, cell] = u64[values, lane]
            at = row.BYTES + 2 * cell
            if size == 2:
                u16[at, 0] = u16[bits, lane]
            elif size == 4:
                u32[at, 0] = u32[bits, lane]
            else:
                u64[at, 0] = u64[bits, lane]


def twins_copy(context, row, on, reads, size, addresses, sources):
    """Copy cells from global to shared memory with what is known of them; of lanes that read nothing, that is none."""
    to = context.shadow
    for lane in lanes(on):
        cell = u64[addresses, lane] >> 1
        if row != 0 and reads >> lane & 1:
            other = u64[sources, lane] - row.BASE >> 1
            memcpy(to.CODES + cell, row.CODES + other, size >> 1)
            memcpy(to.VALUES + 8 * cell, row.VALUES + 8 * other, 4 * size)
            memcpy(to.BYTES + 2 * cell, row.BYTES + 2 * other, size)
        else:
            memset(to.CODES + cell, 0, size >> 1)


def twins_peek(row, on, offset, size, addresses, bits):
    """What memory holds; 1 if that is out of bounds."""
    for lane in lanes(on):
        off = u64[addresses, lane] - row.BASE + offset
        if not row.FIRST <= off <= row.LAST - size:
            return 1
        memcpy(bits + size * lane, row.DATA + off, size)
    return 0


RUNTIME = routines(
    twins_reset, twins_there, twins_shared, twins_same, twins_read, twins_held, twins_write, twins_copy, twins_peek,
)  # fmt: skip
