"""The place of an access in words: array, element, how far outside, and whether an overflow explains it."""

from .segments import BITS, Region, Segments


def described(at: int, regions: list[Region]) -> str:
    """A byte of the arena: 'k[0, 1, 0]', or 'k +128 bytes, 0 past its end'."""
    if not regions:
        return f"address {at}"
    distance = lambda r: max(r.low - at, at - r.high + 1, 0)  # noqa: E731
    region = min(regions, key=distance)
    name, array = region.buffer
    if distance(region):
        return outside(at, region)
    index, rest = [0] * array.ndim, at - region.pointer
    for axis in sorted(range(array.ndim), key=lambda i: -abs(array.strides[i])):
        if array.strides[axis] > 0:
            index[axis], rest = divmod(rest, array.strides[axis])
    return f"{name}[{', '.join(map(str, index))}]"


def stray(address: int, segments: Segments, regions: list[Region]) -> str:
    """An address, as a kernel sees it, that is near no array: by the array whose pointer it was derived from."""
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
    at = address - int(segments.virtual[n] - segments.arena[n])
    return outside(at, min(own, key=lambda r: abs(r.pointer - at)))


def outside(at: int, region: Region) -> str:
    """A byte outside of an array, and whether its index would be one of the array's, had 32 bits been enough for it."""
    name, array = region.buffer
    past = at - region.high
    text = f"{name} {at - region.pointer:+d} bytes, "
    text += f"{past} past its end" if past >= 0 else f"{region.low - at} before its start"
    for unit, many in ((array.itemsize, "elements"), (1, "bytes")):
        wraps = -(-(region.low - at) // (unit << 32))
        if wraps and region.low <= at + wraps * (unit << 32) < region.high:
            times = "2**32" if abs(wraps) == 1 else f"{abs(wraps)} * 2**32"
            way = "further" if wraps > 0 else "back"
            return f"{text} (a 32-bit offset that overflowed: {times} {many} {way} it is inside)"
    return text
