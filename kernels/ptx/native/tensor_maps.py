"""The tensor maps among a launch's parameters, taken apart for compiled code, which reads no others.

Each is a row of words: where its tensor lies, as the kernel sees it; log2 of an element's bytes; how many dimensions;
the span of its swizzle in pieces of 16 bytes; what fills 8 bytes outside of the tensor; then five times a dimension,
the bytes from one to the next, and a box's size.
"""

# pyright: reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportReturnType=false

from typing import Any

import numpy as np

from ..segments import BITS, MIDDLE
from ..tma import host, tensor_map
from ..tma.tensor_map import TILED, TYPES
from .lower import Unlowered

ADDRESS, SIZE, RANK, SPAN, FILL, DIMENSION = range(6)
MAP = DIMENSION + 3 * 5  # words
NONE = np.zeros((1, MAP), np.int64)


def row(fields: dict[str, Any], address: int) -> list[int]:
    """Raises Unlowered for maps whose copies do more than to move boxes."""
    element, rank = TYPES[fields["elemtype"]], fields["rank"] + 1
    plain = element.size and not (element.packed or "ftz" in element.name or "tf32" in element.name)
    if fields["mode"] != TILED or not plain or {*fields["element_stride"]} != {1}:
        raise Unlowered("a tensor map of this kind")
    nan = element.nan if fields["fill_mode"] and element.nan else 0
    fill = int.from_bytes(nan.to_bytes(element.size, "little") * (8 // element.size), "little", signed=True)
    strides = [element.size, *fields["global_stride"]]
    each = [x for n in range(rank) for x in (fields["global_dim"][n], strides[n], fields["box_dim"][n])]
    head = [address, element.size.bit_length() - 1, rank, tensor_map.SPAN[fields["swizzle_mode"]] // 16, fill]
    return head + each + [0] * (MAP - len(head) - len(each))


def maps(parameters: dict[str, Any], pointers: dict[str, int], segments: int) -> tuple[np.ndarray, dict[str, int]]:
    """(N, MAP) int64, and by parameter the address of its map: after the launch's own segments, as in NumPy form.

    pointers  the arrays' addresses as the kernel sees them, by name
    segments  how many the launch has
    """
    found = {name: x for name, x in parameters.items() if x.__class__ is host.Descriptor}
    rows = [row(x.fields, pointers[x.base.name]) for x in found.values()]
    places = {name: (segments + 1 + n << BITS) + MIDDLE for n, name in enumerate(found)}
    return np.array(rows, np.int64) if rows else NONE, places


def map_row(context, address):
    """The row of the map at an address, or 0."""
    n = (address >> BITS) - 1 - context.segment_count
    return context.maps + 8 * MAP * n if 0 <= n < context.map_count and address & (1 << BITS) - 1 == MIDDLE else 0
