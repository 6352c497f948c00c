"""Linear layers: y[r, n] = scale[n] * (x[r] · w[n]) + b[n], for rows r and output channels n.

The sum over the inputs is taken DEPTH of them at a time: 16 lanes add every 16th product in order, then the lanes are
added by `sums`, and that goes to what y holds. So it is for every tile of rows and channels; the tiles only decide how
often a number is loaded. Hence a row's bits do not depend on the number of rows. A weight (n_out, n_in) is read where
it lies, one channel's inputs after another, in its own dtype.
"""

from numba import njit

from .functions import OPTIONS
from .memory import load, load_some, load_tile, store_tile
from .pointers import elements, prefetch, read
from .vectors import LANES, filled, like, outer, sums

DEPTH = 1024  # inputs of a sum: 8 rows of so many float32 fit a core's first cache
NARROW = 16  # channels of a few rows, each channel from its first input to its last
BLOCK = 64  # channels whose weights stay in the core's second cache while many rows pass
STEP = 64  # inputs per turn of the loop
# Bytes from a weight to the one asked for, or a whole tile. A CPU's own prefetcher follows one long row; these are
# short, and several at once. Without: 9 instead of 25 GB/s from a bfloat16 weight of 768 inputs (Xeon, one thread).
AHEAD = 16384


def tile_of(ROWS: int, CHANNELS: int):
    """The product of ROWS rows and CHANNELS channels: ROWS * CHANNELS sums in registers, at most 16."""

    SUMS = ROWS * CHANNELS

    @njit(**OPTIONS)
    def tile(y, n_out, x, w, scale, b, n_in, depth, quantised, biased, add):
        """Add `depth` inputs. Pointers are to the tile's first row, channel and input; add: to what y holds."""
        acc, ahead = filled(SUMS, like(read(x, 0), 0.0)), max(elements(w, AHEAD), CHANNELS * n_in)
        long, whole = depth - depth % STEP, depth - depth % LANES
        for start in range(0, long, STEP):
            for n in range(CHANNELS):
                prefetch(w + n * n_in + start + ahead, STEP)
            for k in range(start, start + STEP, LANES):
                acc = outer(acc, load(ROWS, x + k, n_in), load(CHANNELS, w + k, n_in))
        for k in range(long, whole, LANES):
            acc = outer(acc, load(ROWS, x + k, n_in), load(CHANNELS, w + k, n_in))
        if whole < depth:
            live = depth - whole
            acc = outer(acc, load_some(ROWS, x + whole, n_in, live), load_some(CHANNELS, w + whole, n_in, live))
        total = sums(acc)
        if quantised:
            total = total * load_tile(ROWS, CHANNELS, scale, 0)
        if biased:
            total = total + load_tile(ROWS, CHANNELS, b, 0)
        if add:
            total = load_tile(ROWS, CHANNELS, y, n_out) + total
        store_tile(ROWS, CHANNELS, y, n_out, total)

    return tile


def band_of(ROWS: int, CHANNELS: int):
    """ROWS rows and any number of channels."""
    tile, last = tile_of(ROWS, CHANNELS), tile_of(ROWS, 1)

    @njit(**OPTIONS)
    def band(y, n_out, x, w, scale, b, n_in, depth, quantised, biased, add, lo, hi):
        n = lo
        while n + CHANNELS <= hi:
            tile(y + n, n_out, x, w + n * n_in, scale + n, b + n, n_in, depth, quantised, biased, add)
            n += CHANNELS
        while n < hi:
            last(y + n, n_out, x, w + n * n_in, scale + n, b + n, n_in, depth, quantised, biased, add)
            n += 1

    return band


eight, four, two, one = band_of(8, 2), band_of(4, 4), band_of(2, 8), band_of(1, 8)


@njit(**OPTIONS)
def bands(y, n_out, x, rows, w, scale, b, n_in, depth, quantised, biased, add, lo, hi):
    """Channels lo ... hi - 1 and `depth` inputs of all rows: as many at a time as there are."""
    r = 0
    while r + 8 <= rows:
        eight(y + r * n_out, n_out, x + r * n_in, w, scale, b, n_in, depth, quantised, biased, add, lo, hi)
        r += 8
    if r + 4 <= rows:
        four(y + r * n_out, n_out, x + r * n_in, w, scale, b, n_in, depth, quantised, biased, add, lo, hi)
        r += 4
    if r + 2 <= rows:
        two(y + r * n_out, n_out, x + r * n_in, w, scale, b, n_in, depth, quantised, biased, add, lo, hi)
        r += 2
    if r < rows:
        one(y + r * n_out, n_out, x + r * n_in, w, scale, b, n_in, depth, quantised, biased, add, lo, hi)


@njit(**OPTIONS)
def linear(y, n_out, x, rows, w, scale, b, n_in, quantised, biased, add, lo, hi):
    """Channels lo ... hi - 1 of a linear layer.

    y          (rows, n_out) float32, or float64   x (rows, n_in) the same
    w          (n_out, n_in) any dtype             scale, b (n_out,); scale is read only if quantised, b if biased
    add        whether to add to what y holds, else it is overwritten
    """
    block = BLOCK if rows > 8 else NARROW
    for start in range(lo, hi, block):
        for k in range(0, n_in, DEPTH):
            depth, stop = min(n_in - k, DEPTH), min(start + block, hi)
            bands(
                y,
                n_out,
                x + k,
                rows,
                w + k,
                scale,
                b,
                n_in,
                depth,
                quantised,
                biased and k == 0,
                add or k > 0,
                start,
                stop,
            )
