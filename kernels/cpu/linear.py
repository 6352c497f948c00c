"""Linear layers: y[r, n] = scale[n] * (x[r] · w[n]) + b[n], for rows r and output channels n.

The sum over the inputs k is added in 16 lanes, lane k % 16 in the order of k, and the lanes by `sums`. It is the same for
every tile of rows and channels, so a row's bits do not depend on how many rows there are; the tiles decide only how often a
weight is loaded. A weight (n_out, n_in) is read where it lies, one channel's inputs after another, in its own dtype.
"""

from numba import njit

from .functions import OPTIONS
from .memory import elements, load, load_some, prefetch, read, write
from .vectors import LANES, filled, lane, like, outer, sums

STEP = 64  # inputs per turn of the loop
# Bytes from a weight to the one asked for. A CPU's own prefetcher follows one long row; these are short, several at once.
# Without: 9 instead of 25 GB/s from a bfloat16 weight of 768 inputs (Xeon, one thread); 8 to 48 KB differ little.
AHEAD = 16384
BLOCK = 64  # channels of a block, whose weights stay in the core's cache while all rows pass


def tile_of(ROWS: int, CHANNELS: int):
    """The product of ROWS rows and CHANNELS channels; together they need ROWS * CHANNELS sums in registers, at most 16."""

    SUMS = ROWS * CHANNELS

    @njit(**OPTIONS)
    def tile(y, n_out, x, w, scale, b, n_in, quantised, biased, add):
        """y, x, w, scale and b point to the tile's first row and channel; add: to what y holds."""
        acc, ahead = filled(SUMS, like(read(x, 0), 0.0)), elements(w, AHEAD)
        long, whole = n_in - n_in % STEP, n_in - n_in % LANES
        for start in range(0, long, STEP):
            for n in range(CHANNELS):
                prefetch(w + n * n_in + start + ahead, STEP)
            for k in range(start, start + STEP, LANES):
                acc = outer(acc, load(ROWS, x + k, n_in), load(CHANNELS, w + k, n_in))
        for k in range(long, whole, LANES):
            acc = outer(acc, load(ROWS, x + k, n_in), load(CHANNELS, w + k, n_in))
        if whole < n_in:
            live = n_in - whole
            acc = outer(acc, load_some(ROWS, x + whole, n_in, live), load_some(CHANNELS, w + whole, n_in, live))
        total = sums(acc)
        for r in range(ROWS):
            for n in range(CHANNELS):
                s = lane(total, r * CHANNELS + n)
                if quantised:
                    s = s * read(scale, n)
                if biased:
                    s = s + read(b, n)
                if add:
                    s = read(y, r * n_out + n) + s
                write(y, r * n_out + n, s)

    return tile


def band_of(ROWS: int, CHANNELS: int):
    """ROWS rows and any number of channels."""
    tile, last = tile_of(ROWS, CHANNELS), tile_of(ROWS, 1)

    @njit(**OPTIONS)
    def band(y, n_out, x, w, scale, b, n_in, quantised, biased, add, lo, hi):
        n = lo
        while n + CHANNELS <= hi:
            tile(y + n, n_out, x, w + n * n_in, scale + n, b + n, n_in, quantised, biased, add)
            n += CHANNELS
        while n < hi:
            last(y + n, n_out, x, w + n * n_in, scale + n, b + n, n_in, quantised, biased, add)
            n += 1

    return band


eight, four, two, one = band_of(8, 2), band_of(4, 4), band_of(2, 4), band_of(1, 4)


@njit(**OPTIONS)
def linear(y, n_out, x, rows, w, scale, b, n_in, quantised, biased, add, lo, hi):
    """Channels lo ... hi - 1 of a linear layer.

    y          (rows, n_out) float32, or float64   x (rows, n_in) the same
    w          (n_out, n_in) any dtype             scale, b (n_out,); scale is read only if quantised, b if biased
    add        whether to add to what y holds, else it is overwritten
    """
    for start in range(lo, hi, BLOCK):
        stop, r = min(start + BLOCK, hi), 0
        while r + 8 <= rows:
            eight(y + r * n_out, n_out, x + r * n_in, w, scale, b, n_in, quantised, biased, add, start, stop)
            r += 8
        if r + 4 <= rows:
            four(y + r * n_out, n_out, x + r * n_in, w, scale, b, n_in, quantised, biased, add, start, stop)
            r += 4
        if r + 2 <= rows:
            two(y + r * n_out, n_out, x + r * n_in, w, scale, b, n_in, quantised, biased, add, start, stop)
            r += 2
        if r < rows:
            one(y + r * n_out, n_out, x + r * n_in, w, scale, b, n_in, quantised, biased, add, start, stop)
