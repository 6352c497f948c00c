"""The place of an access in words: array, element, how far outside, and whether an overflow explains it."""

import numpy as np

from .holes import HOLE
from .segments import BITS, GUARD, Region, Segments, address_of, span


def described(at: int, regions: list[Region], maps: dict[int, str] | None = None) -> str:
    """A byte of the arena: 'k[0, 1, 0]', or 'k +128 bytes, 0 past its end'.

    maps  first byte of each tensor map among the parameters -> its name; they come last in the arena
    """
    if near := [pair for pair in (maps or {}).items() if at >= pair[0] - GUARD // 2]:
        first, name = max(near)
        return f"the tensor map of parameter {name}{f' {at - first:+d} bytes' if at != first else ''}"
    if not regions:
        return f"address {at}"
    distance = lambda r: max(r.low - at, at - r.high + 1, 0)  # noqa: E731
    region = min(regions, key=distance)
    name, array = region.buffer
    if distance(region):
        low, high = ends(region)
        return outside(at - region.low + low if at < region.low else at - region.high + high, region)
    index, rest = [0] * array.ndim, at - region.pointer
    for axis in sorted(range(array.ndim), key=lambda i: -abs(region.strides[i])):
        if region.strides[axis] > 0:
            index[axis], rest = divmod(rest, region.strides[axis])
    return f"{name}[{', '.join(map(str, index))}]"


def stray(address: int, segments: Segments, regions: list[Region], wraps: bool = True) -> str:
    """An address, as a kernel sees it, that is near no array: by the array whose pointer it was derived from.

    wraps  whether the kernel's own arithmetic made it, where offsets of 32 bits may overflow
    """
    n = (address >> BITS) - 1
    if n == -1 and address < 1 << 16:
        return f"address {address}, a null pointer" if address == 0 else f"address {address}"
    if n == -1:
        return (
            f"address {address:#x} of this process, where no array known here lies; if a table of pointers holds it, "
            "keep alive what it points to and name it: reachable=[array]"
        )
    own = [r for r in regions if segments.pointer(r.pointer) >> BITS == n + 1]
    if not own:
        return f"address {address % 2**64:#x}, far from every array"
    offsets = ((address - segments.pointer(r.pointer), r) for r in own)
    return outside(*min(offsets, key=lambda pair: abs(pair[0])), wraps)


def relative(address: int, segments: Segments, regions: list[Region]) -> str:
    """An address, as a kernel sees it, from the first element of the array it was derived from on: 'k + 2 bytes'."""
    offsets = ((address - segments.pointer(r.pointer), r.buffer.name) for r in regions)
    offset, name = min(offsets, key=lambda pair: abs(pair[0]), default=(address, ""))
    if abs(offset) >= 1 << BITS - 1 or not name:
        return f"{address:#x}"
    return f"{name} {'+' if offset >= 0 else '-'} {abs(offset)} bytes"


def ends(region: Region) -> tuple[int, int]:
    """An array's first byte and one past its last, counted from its first element, holes included."""
    low, high = span(region.buffer.array)
    first = address_of(region.buffer.array)
    return low - first, high - first


def outside(offset: int, region: Region, wraps: bool = True) -> str:
    """A byte outside of an array, so far from its first element, and, if asked for, whether its index would be one of
    the array's, had 32 bits been enough for it."""
    name, array = region.buffer
    low, high = ends(region)
    past = offset - high
    text = f"{name} {offset:+d} bytes, "
    if low <= offset < high:
        return text + "in a hole between its elements"
    text += f"{past} past its end" if past >= 0 else f"{low - offset} before its start"
    holes = high - low - array.nbytes >= HOLE
    for unit, many in ((array.itemsize, "elements"), (1, "bytes")) if wraps else ():
        turns = -(-(low - offset) // (unit << 32))
        if turns < 0 and holes:  # one more slot lies as far behind as an overflow leads
            continue
        if turns and inside(array, offset + turns * (unit << 32) - low):
            times = "2**32" if abs(turns) == 1 else f"{abs(turns)} * 2**32"
            way = "further" if turns > 0 else "back"
            return f"{text} (a 32-bit offset that overflowed: {times} {many} {way} it is inside)"
    return text


def inside(array: np.ndarray, byte: int) -> bool:
    """Whether a byte of an array's memory, counted from its first, belongs to an element: not to a hole or padding."""
    for n, stride in sorted(zip(array.shape, map(abs, array.strides), strict=True), key=lambda axis: -axis[1]):
        if stride:
            byte -= min(max(byte, 0) // stride, n - 1) * stride
    return 0 <= byte < array.itemsize
