"""Linear layers: y[r, n] = scale[n] * (x[r] · w[n]) + b[n], for rows r and output channels n.

The sum over the inputs is taken DEPTH of them at a time: 16 lanes add every 16th product in order, then the lanes are
added by `sums`, and that goes to what y holds. So it is for every tile of rows and channels; the tiles only decide how
often a number is loaded. Hence a row's bits do not depend on the number of rows. A weight (n_out, n_in) is read where
it lies, one channel's inputs after another, in its own dtype.
"""

from collections.abc import Sequence

from numba import njit, types

from .functions import OPTIONS
from .host import registers
from .memory import load_lanes, load_tile, store_tile
from .pointers import elements, prefetch, read
from .vectors import LANES, Vectors, every, literal, operation, outer, pack, shuffle, sums, unpack

DEPTH = 1024  # inputs of a sum: 8 rows of so many float32 fit a core's first cache
NARROW = 16  # channels of a few rows, each channel from its first input to its last
BLOCK = 64  # channels whose weights stay in the core's second cache while many rows pass
STEP = 64  # inputs per turn of the loop
# Bytes from a weight to the one asked for, or a whole tile. A CPU's own prefetcher follows one long row; these are
# short, and several at once. Without: 9 instead of 25 GB/s from a bfloat16 weight of 768 inputs (Xeon, one thread).
# Only the first rows ask: for the next the weights are near, and asking costs them a tenth of their time (AVX2).
AHEAD = 16384
# Rows, channels and lanes of a tile, for so many rows or more, by the CPU's registers: a loop's sums and factors fit
# them. A vector of 16 lanes takes two of AVX2's 16, so several rows take its halves one after another, the second from
# a core's first cache. The tiles for long registers spill there: a third of the speed. One row waits for memory.
TILES = {
    "long": ((8, 2, 16), (4, 4, 16), (2, 8, 16), (1, 8, 16)),
    "short": ((4, 2, 8), (2, 2, 16), (1, 8, 16)),
}


@operation
def zeros(context, n, lanes, number):
    """n vectors of so many lanes, all 0, in the dtype of a number."""
    kind = Vectors(str(number), literal(n, types.IntegerLiteral), literal(lanes, types.IntegerLiteral))

    def generate(ctx, builder, signature, args):
        return pack(builder, kind, [every(kind.vector, 0.0)] * kind.n)

    return kind(n, lanes, number), generate


@operation
def beside(context, a, b):
    """Vectors of twice the lanes: those of a, then those of b."""
    lanes = a.vector.count
    kind = Vectors(a.dtype, a.n, 2 * lanes)

    def generate(ctx, builder, signature, args):
        pairs = zip(*(unpack(builder, a, arg) for arg in args), strict=True)
        return pack(builder, kind, [shuffle(builder, x, y, list(range(2 * lanes))) for x, y in pairs])

    return kind(a, b), generate


def dots_of(ROWS: int, CHANNELS: int, WIDTH: int, FIRST: int):
    """The sums of ROWS rows and CHANNELS channels over WIDTH of the 16 lanes, from lane FIRST on."""
    SUMS = ROWS * CHANNELS

    @njit(**OPTIONS, forceinline=True)
    def dots(x, w, n_in, depth, ahead):
        acc, x, w = zeros(SUMS, WIDTH, read(x, 0)), x + FIRST, w + FIRST
        long, whole = depth - depth % STEP, depth - depth % LANES
        for start in range(0, long, STEP):
            if FIRST == 0 and (ROWS == 1 or ahead > 0):  # one row is the first as a rule
                for n in range(CHANNELS):
                    prefetch(w + n * n_in + start + ahead, STEP)
            for k in range(start, start + STEP, LANES):
                rows = load_lanes(ROWS, WIDTH, x + k, n_in, LANES)
                acc = outer(acc, rows, load_lanes(CHANNELS, WIDTH, w + k, n_in, LANES))
        for k in range(long, whole, LANES):
            rows = load_lanes(ROWS, WIDTH, x + k, n_in, LANES)
            acc = outer(acc, rows, load_lanes(CHANNELS, WIDTH, w + k, n_in, LANES))
        if whole < depth:
            live = depth - whole - FIRST
            rows = load_lanes(ROWS, WIDTH, x + whole, n_in, live)
            acc = outer(acc, rows, load_lanes(CHANNELS, WIDTH, w + whole, n_in, live))
        return acc

    return dots


def lanes_of(ROWS: int, CHANNELS: int, WIDTH: int):
    """All 16 lanes of the sums, WIDTH at a time: 16, or 8."""
    low, high = dots_of(ROWS, CHANNELS, WIDTH, 0), dots_of(ROWS, CHANNELS, WIDTH, LANES - WIDTH)
    if WIDTH == LANES:
        return low

    @njit(**OPTIONS, forceinline=True)
    def lanes(x, w, n_in, depth, ahead):
        return beside(low(x, w, n_in, depth, ahead), high(x, w, n_in, depth, ahead))

    return lanes


def tile_of(ROWS: int, CHANNELS: int, WIDTH: int):
    """The product of ROWS rows and CHANNELS channels, at most 16 sums."""
    lanes = lanes_of(ROWS, CHANNELS, WIDTH)

    @njit(**OPTIONS)
    def tile(y, n_out, x, w, scale, b, n_in, depth, quantised, biased, add, fetch):
        """Add `depth` inputs. Pointers are to the tile's first row, channel and input; add: to what y holds."""
        total = sums(lanes(x, w, n_in, depth, max(elements(w, AHEAD), CHANNELS * n_in) if fetch or ROWS == 1 else 0))
        if quantised:
            total = total * load_tile(ROWS, CHANNELS, scale, 0)
        if biased:
            total = total + load_tile(ROWS, CHANNELS, b, 0)
        if add:
            total = load_tile(ROWS, CHANNELS, y, n_out) + total
        store_tile(ROWS, CHANNELS, y, n_out, total)

    return tile


def band_of(ROWS: int, CHANNELS: int, WIDTH: int):
    """ROWS rows and any number of channels."""
    tile, last = tile_of(ROWS, CHANNELS, WIDTH), tile_of(ROWS, 1, WIDTH)

    @njit(**OPTIONS)
    def band(y, n_out, x, w, scale, b, n_in, depth, quantised, biased, add, fetch, lo, hi):
        n = lo
        while n + CHANNELS <= hi:
            tile(y + n, n_out, x, w + n * n_in, scale + n, b + n, n_in, depth, quantised, biased, add, fetch)
            n += CHANNELS
        while n < hi:
            last(y + n, n_out, x, w + n * n_in, scale + n, b + n, n_in, depth, quantised, biased, add, fetch)
            n += 1

    return band


def bands_of(tiles: Sequence[tuple[int, int, int]]):
    """Any number of rows, as many at a time as there are: of the first tile, then of the others."""
    (ROWS, CHANNELS, WIDTH), *others = tiles
    band, rest = band_of(ROWS, CHANNELS, WIDTH), bands_of(others) if others else no_rows

    @njit(**OPTIONS)
    def bands(y, n_out, x, rows, w, scale, b, n_in, depth, quantised, biased, add, lo, hi, r):
        """Channels lo ... hi - 1 and `depth` inputs of the rows from r on."""
        while r + ROWS <= rows:
            at, source, fetch = y + r * n_out, x + r * n_in, r == 0
            band(at, n_out, source, w, scale, b, n_in, depth, quantised, biased, add, fetch, lo, hi)
            r += ROWS
        rest(y, n_out, x, rows, w, scale, b, n_in, depth, quantised, biased, add, lo, hi, r)

    return bands


@njit(**OPTIONS)
def no_rows(y, n_out, x, rows, w, scale, b, n_in, depth, quantised, biased, add, lo, hi, r):
    """What is left after the tile of one row."""


bands = bands_of(TILES[registers()])


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
                0,
            )
