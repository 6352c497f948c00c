"""A tensor map: what describes a tensor in global memory, and the box of it that one copy moves.

The ISA leaves its 128 bytes opaque; here they are a magic number, a bit for each field that is set, and the fields.
Dimension 0 is the innermost one, whose elements lie side by side.

Source: PTX ISA 8.8, 5.5 and 9.7.9.27.3 (tensormap.replace); CUDA driver API, cuTensorMapEncodeTiled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

SIZE, ALIGNMENT = 128, 64
PIECE = 16  # bytes: bulk copies move no fewer, and swizzling moves as many as one
MAGIC = 0x50414D54  # "TMAP"


class Element(NamedTuple):
    """A type of elements."""

    name: str
    size: int  # bytes; of packed types, those that are moved as one
    nan: int | None  # what fills a box outside of the tensor, if that is to be NaN; None for integers
    packed: int = 0  # of packed types, how often `size` is in LINE elements; 0 for all others
    held: int = 16  # of 16 bytes in shared memory, how many come from the tensor; the rest is left as anything

    def moved(self, elements: Any) -> Any:
        """How many `size` bytes elements are, of packed types whole lines; negative numbers of them, too."""
        return elements * self.packed // LINE if self.packed else elements


LINE = 128  # elements: boxes of packed types begin and end at multiples

TYPES = (
    Element("u8", 1, None), Element("u16", 2, None), Element("u32", 4, None), Element("s32", 4, None),
    Element("u64", 8, None), Element("s64", 8, None), Element("f16", 2, 0x7FFF), Element("f32", 4, 0x7FFFFFFF),
    Element("f32.ftz", 4, 0x7FFFFFFF), Element("f64", 8, 0x7FFFFFFFFFFFFFFF), Element("bf16", 2, 0x7FFF),
    Element("tf32", 4, 0x7FFFFFFF), Element("tf32.ftz", 4, 0x7FFFFFFF), Element("b4x16", 0, None),
    Element("b4x16_p64", 8, None, packed=8, held=8), Element("b6x16_p32", 4, None, packed=24, held=12),
)  # fmt: skip
UNKNOWN = 13  # b4x16: Triton takes bytes instead
SPAN = {0: 0, 1: 32, 2: 64, 3: 128}  # swizzle mode -> bytes of the lines within which it moves pieces of 16 bytes

# What a map is made of, ordered so that none lies in two words of 16 bytes but those of 8 and 4 bytes an entry.
DTYPE = np.dtype(
    [
        ("magic", "<u4"), ("known", "<u4"), ("global_address", "<u8", (1,)), ("global_stride", "<u8", (4,)),
        ("global_dim", "<u4", (5,)), ("box_dim", "<u4", (5,)), ("element_stride", "u1", (5,)), ("rank", "u1", (1,)),
        ("elemtype", "u1", (1,)), ("interleave_layout", "u1", (1,)), ("swizzle_mode", "u1", (1,)),
        ("swizzle_atomicity", "u1", (1,)), ("fill_mode", "u1", (1,)), ("mode", "u1", (1,)),
        ("lower_corner", "<i2", (3,)), ("upper_corner", "<i2", (3,)), ("unused", "V16"),
    ]
)  # fmt: skip
FIRST: dict[str, int] = {str(name): place[1] for name, place in (DTYPE.fields or {}).items()}  # byte of each field
TILED, IM2COL = 0, 1  # mode, which the host alone sets, as the corners
# field -> entries, of those that tensormap.replace sets
FIELDS = {name: DTYPE[name].shape[0] for name in DTYPE.names or () if name in (
    "global_address", "global_stride", "global_dim", "box_dim", "element_stride", "rank", "elemtype",
    "interleave_layout", "swizzle_mode", "swizzle_atomicity", "fill_mode",
)}  # fmt: skip
BIT = {key: n for n, key in enumerate((name, entry) for name in FIELDS for entry in range(FIELDS[name]))}  # in `known`
OPTIONAL = {("swizzle_atomicity", 0)}


def encode(fields: dict[str, Any]) -> np.ndarray:
    """A map with all of its fields: (1,) of DTYPE."""
    made = np.zeros(1, DTYPE)
    made["magic"] = MAGIC
    for name, value in fields.items():
        values = np.atleast_1d(np.asarray(value))
        made[name][0, : len(values)] = values
    made["known"] = (1 << len(BIT)) - 1
    return made


def entries(name: str, rank: int) -> int:
    """How many entries of a field a tensor of so many dimensions has."""
    return rank - 1 if name == "global_stride" else rank if FIELDS[name] > 1 else 1


def called(name: str, entry: int) -> str:
    return f"{name}[{entry}]" if FIELDS[name] > 1 else name


def lacking(one: np.void) -> str:
    """The first field that a map needs and has not; "" if it is complete."""
    rank = int(one["rank"][0]) + 1
    known = int(one["known"])
    for (name, entry), bit in BIT.items():
        if not known >> bit & 1 and entry < entries(name, rank) and (name, entry) not in OPTIONAL:
            return called(name, entry)
    return ""


def fault(name: str, entry: int, value: int, place: Callable[[int], str] = str) -> str:
    """What is wrong with the value of one field, whatever the others are; "" if nothing is.

    place  puts an address into words
    """
    says = {
        "global_address": (value % 16 == 0, "a multiple of 16"),
        "global_dim": (value >= 1, "at least 1"),
        "global_stride": (value % 16 == 0 and 0 <= value < 1 << 40, "a multiple of 16 bytes below 2**40"),
        "box_dim": (1 <= value <= 256, "1 to 256"),
        "element_stride": (1 <= value <= 8, "1 to 8"),
        "rank": (0 <= value <= 4, "0 to 4, one less than the tensor's dimensions"),
        "elemtype": (
            0 <= value < len(TYPES) and value != UNKNOWN,
            f"0 to {len(TYPES) - 1}, but for {UNKNOWN}: b4x16, packed without padding, is not modelled",
        ),
        "interleave_layout": (value == 0, "0, for interleaved layouts are not modelled"),
        "swizzle_mode": (value in SPAN, "0 to 3, for that of 96 bytes is not modelled"),
        "swizzle_atomicity": (value == 0, "0, for pieces of more than 16 bytes are not modelled"),
        "fill_mode": (value in (0, 1), "0 (zeros) or 1 (NaN)"),
    }
    good, fits = says[name]
    text = place(value) if name == "global_address" else value
    return "" if good else f"{called(name, entry)} is {text}; it must be {fits}"


def faults(one: np.void) -> str:
    """What is wrong with a complete map; "" if nothing is."""
    rank = int(one["rank"][0]) + 1
    for name in FIELDS:
        for entry in range(entries(name, rank)):
            if found := fault(name, entry, int(one[name][entry])):
                return found
    element, span = TYPES[int(one["elemtype"][0])], SPAN[int(one["swizzle_mode"][0])]
    columns = int(one["box_dim"][0])
    if element.packed:
        return faults_of_packed(one, element)
    inner = columns * element.size
    if int(one["mode"][0]) == TILED and inner % 16:
        return f"box_dim[0] is {columns} elements of {element.name}, {inner} bytes; it must be a multiple of 16 bytes"
    if span and inner > span:
        return f"box_dim[0] is {columns} elements of {element.name}, {inner} bytes; its swizzle takes up to {span}"
    if int(one["fill_mode"][0]) and element.nan is None:
        return f"fill_mode is 1 (NaN), and elemtype {element.name}; integers are filled with zeros: make it 0"
    return ""


def faults_of_packed(one: np.void, element: Element) -> str:
    """Of a map whose elements, of 4 or 6 bits, are padded to 16 bytes for each 16."""
    strides = one["global_stride"][: int(one["rank"][0])].tolist()
    mode = int(one["swizzle_mode"][0])
    says = (
        ("box_dim[0]", int(one["box_dim"][0]), f"{LINE}", lambda x: x == LINE),
        ("global_dim[0]", int(one["global_dim"][0]), f"a multiple of {LINE}", lambda x: x % LINE == 0),
        ("global_address", int(one["global_address"][0]), "a multiple of 32", lambda x: x % 32 == 0),
        *((f"global_stride[{n}]", x, "a multiple of 32 bytes", lambda x: x % 32 == 0) for n, x in enumerate(strides)),
        ("swizzle_mode", mode, "0, or 3 (128 bytes)", lambda x: x in (0, 3)),
        ("fill_mode", int(one["fill_mode"][0]), "0 (zeros)", lambda x: x == 0),
    )
    for name, value, fits, good in says:
        if not good(value):
            return f"{name} is {value}, and elemtype {element.name}, which is packed; it must be {fits}"
    return ""
