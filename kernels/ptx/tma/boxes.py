"""Boxes of tensors: which element each of their words is, and where their pieces of 16 bytes lie in shared memory.

Source: PTX ISA 8.8, 5.5 (tensors: tiled mode, im2col mode, swizzling modes).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import InvalidTensorMap, Misaligned, OutOfBounds
from .opcodes import Form
from .requests import Request
from .tensor_map import FIRST, IM2COL, LINE, PIECE, SPAN, TILED, TYPES, Element

STATIC = slice(FIRST["box_dim"], FIRST["unused"])  # how a box lies, in any tensor


class Box(NamedTuple):
    """Boxes that lie alike in the tensors of some programs: a row for each program, or one for all."""

    element: Element
    word: int  # bytes, which are wholly inside of the tensor or outside
    coordinates: list[np.ndarray]  # by dimension, (P or 1, N) int64, of each word's first element
    address: np.ndarray  # (P or 1, N) uint64, of each word
    inside: np.ndarray  # (P or 1, N) bool
    tail: np.ndarray | None  # likewise: past the end of a row, but in a piece of 16 bytes that begins within
    swizzle: int
    nan: bool
    rows: np.ndarray  # (P,) bool

    @property
    def bytes(self) -> int:
        """Those that come from the tensor, or are filled in: padding is none of them."""
        return self.inside.shape[1] * self.word

    def places(self, at: np.ndarray) -> np.ndarray:
        """Where the pieces of 16 bytes lie in shared memory, (P or 1, pieces), for boxes at (P or 1,)."""
        pieces = self.bytes // self.element.held
        return swizzled(at[:, None] + np.arange(0, pieces * PIECE, PIECE), self.swizzle)

    def where(self, row: int, n: int) -> str:
        """A word of a program's box, in words."""
        at = [int(x[row % len(x), n % x.shape[1]]) for x in self.coordinates[::-1]]
        at[-1] = at[-1] * LINE // self.element.packed if self.element.packed else at[-1]
        return f"element {at} of a tensor map"


def boxes(
    request: Request, maps: np.ndarray, f: Form, start: list[np.ndarray], offsets: list[np.ndarray]
) -> Iterator[Box]:
    """The boxes of a copy, in groups of programs whose maps differ in no more than the tensor's place and shape.

    maps     (P or 1,) of DTYPE
    start    coordinates as the instruction has them, (P or 1,) each, the innermost first
    offsets  of im2col
    """
    static = maps.view(np.uint8).reshape(len(maps), -1)[:, STATIC]
    for data in np.unique(static[request.rows] if len(maps) > 1 else static, axis=0):
        rows = request.rows & (static == data).all(1)
        yield box(request, maps, maps[int(np.argmax(rows)) % len(maps)], rows, f, start, offsets)


def box(request: Request, maps: np.ndarray, one: np.void, rows: np.ndarray, f: Form, start: list, offsets: list) -> Box:
    """One such group; `one` is a map of it."""
    rank, mode = int(one["rank"][0]) + 1, int(one["mode"][0])
    if rank != f.rank or mode != (IM2COL if f.mode.startswith("im2col") else TILED):
        have = f"{rank} dimensions, {('tiled', 'im2col')[mode]}"
        what = f"the tensor map has {have}; the instruction takes {f.rank}, {f.mode}"
        raise request.error(InvalidTensorMap, what, int(np.argmax(rows)))
    element = TYPES[int(one["elemtype"][0])]
    placed(request, f, rows, start, element)
    start = [element.moved(start[0]), *start[1:]]
    dims = [maps["global_dim"][:, n, None].astype(np.int64) for n in range(rank)]
    dims[0] = element.moved(dims[0])
    columns = element.moved(int(one["box_dim"][0]))
    word = element.size if element.packed else word_of(element.size, dims[0], rows)
    size = columns * element.size // word  # words of the innermost dimension
    if f.mode.startswith("im2col"):
        coordinates = image(one, dims, start, offsets, int(size), word // element.size)
    elif f.mode == "tile":
        steps = tuple(one["element_stride"][:rank].tolist())
        along = tile((columns, *one["box_dim"][1:rank].tolist()), steps, word // element.size)
        coordinates = [x[:, None] + y for x, y in zip(start, along, strict=True)]
    else:
        column, row = tile((columns, 4), (1, 1), word // element.size)
        picked = np.stack(np.broadcast_arrays(*start[1:]), 1)
        coordinates = [start[0][:, None] + column, picked[:, row[0]]]
    address = maps["global_address"][:, :1].astype(np.int64) + coordinates[0] * element.size
    line = coordinates[0] >= 0
    for n in range(1, rank):
        address = address + coordinates[n] * maps["global_stride"][:, n - 1, None].astype(np.int64)
        line = line & (coordinates[n] >= 0) & (coordinates[n] < dims[n])
    inside = line & (coordinates[0] < dims[0])
    whole = -(-dims[0] * element.size // PIECE) * (PIECE // element.size)
    tail = line & (coordinates[0] >= dims[0]) & (coordinates[0] < whole) if word < PIECE else None
    return Box(
        element, word, coordinates, address.view(np.uint64), inside, tail, int(one["swizzle_mode"][0]),
        bool(one["fill_mode"][0]), rows,
    )  # fmt: skip


def placed(request: Request, f: Form, rows: np.ndarray, start: list[np.ndarray], element: Element) -> None:
    """Raise unless boxes begin where the hardware takes them: else it faults with an illegal instruction."""
    bad = ((start[0] % LINE if element.packed else start[0] * element.size % PIECE) != 0) & rows
    if bad.any() and element.packed:
        row = int(np.argmax(bad))
        what = f"the innermost coordinate is {int(start[0][row % len(start[0])])} of packed elements, {element.name}"
        raise request.error(Misaligned, f"{what}; a box begins at a multiple of {LINE}", row)
    if bad.any():
        row = int(np.argmax(bad))
        column = int(start[0][row % len(start[0])])
        what = f"the innermost coordinate is {column}, {column * element.size} bytes of {element.name}"
        raise request.error(Misaligned, f"{what}; a box begins at a multiple of {PIECE} bytes", row)
    if f.mode == "tile::scatter4":
        bad = np.stack(np.broadcast_arrays(*(x < 0 for x in start))).any(0) & rows
        if bad.any():
            row = int(np.argmax(bad))
            at = [int(x[row % len(x)]) for x in start]
            what = f"rows {at[1:]} from column {at[0]} on are scattered; a coordinate must not be negative"
            raise request.error(OutOfBounds, what, row)


@lru_cache(maxsize=256)
def tile(box: tuple[int, ...], steps: tuple[int, ...], word: int) -> tuple[np.ndarray, ...]:
    """By dimension, (1, N) int64: where each word of `word` elements is, from the first element of the box on.

    steps  by dimension, from one element taken to the next; the innermost dimension is taken whole
    """
    along = [np.arange(0, n, step) for n, step in zip(box, (word, *steps[1:]), strict=True)]
    grid = np.meshgrid(*along[::-1], indexing="ij")[::-1]
    return tuple(np.ascontiguousarray(x).reshape(1, -1) for x in grid)


def image(one: np.void, dims: list, start: list, offsets: list, columns: int, word: int) -> list[np.ndarray]:
    """Coordinates of an im2col box: pixels one after the other within the bounding box, row by row, image by image.

    columns  words of `word` elements, of each pixel
    """
    rank = len(dims)
    pixels = np.repeat(np.arange(int(one["box_dim"][1])), columns)[None]
    channel = start[0][:, None] + np.tile(np.arange(columns) * word, int(one["box_dim"][1]))[None]
    lower, upper, step = (one[x].astype(np.int64) for x in ("lower_corner", "upper_corner", "element_stride"))
    counts = [-(-(dims[n] + upper[n - 1] - lower[n - 1]) // step[n]) for n in range(1, rank - 1)]
    linear = start[-1][:, None]
    for n in range(rank - 2, 0, -1):
        linear = linear * counts[n - 1] + (start[n][:, None] - lower[n - 1]) // step[n]
    rest, coordinates = linear + pixels, [channel]
    for n in range(1, rank - 1):
        rest, at = np.divmod(rest, np.maximum(counts[n - 1], 1))
        shift = offsets[n - 1][:, None] if offsets else 0
        coordinates.append(at * step[n] + lower[n - 1] + shift)
    return [*coordinates, rest]


def word_of(size: int, columns: np.ndarray, rows: np.ndarray) -> int:
    """The most bytes, up to 16, that lie wholly inside of a tensor or outside: its rows have `columns` (P or 1, 1)."""
    some = columns[rows] if len(columns) > 1 else columns
    bits = int(np.bitwise_or.reduce(some * size, axis=None)) | PIECE
    return bits & -bits


def swizzled(at: np.ndarray, mode: int) -> np.ndarray:
    """Addresses in shared memory -> where the mode puts them: within lines of its span, pieces trade places."""
    span = SPAN[mode]
    return at ^ ((at >> 7 & span // PIECE - 1) << 4) if span else at
