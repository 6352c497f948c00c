"""Tensor descriptors as arguments: of Triton's TensorDescriptor and Gluon's, what the driver makes for a launch.

A target without tensor maps gets a descriptor's pointer, shape and strides instead.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import Refused
from ..memory import GlobalMemory
from ..segments import Buffer
from .tensor_map import IM2COL, SIZE, TILED, encode, fault, faults

TF32 = 11
# Triton counts the types of elements as devices do; the ISA's order, which tensor_map.py has, is the same.


class Descriptor(NamedTuple):
    """A parameter that is a tensor map."""

    base: Any  # the caller's tensor, and from the launch on its Buffer
    fields: dict[str, Any]  # of the map, all but its address


def placed(name: str, value: Any, meta: dict[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """The PTX parameters of a tensor descriptor.

    meta  what Triton's compiler says of it; None: this target has no tensor maps

    Raises Refused for what the driver refuses, and for a descriptor that Triton's class would not have made.
    """
    made(name, value)
    shape, strides = [*map(int, value.shape)], [*map(int, value.strides)]
    sizes = [(f"{name}.shape[{n}]", x) for n, x in enumerate(shape)]
    sizes += [(f"{name}.strides[{n}]", x) for n, x in enumerate(strides)]
    if not meta:
        yield name, value.base
        yield from sizes
        yield f"{name}.padding", value.padding == "nan"
        yield f"{name}.round_f32_to_tf32", value.round_f32_to_tf32
        yield from sizes
        return
    fields = described(name, value, shape, strides, meta)
    if what := wrong(fields, value.base.data_ptr()):
        raise Refused(f"{name}, a tensor descriptor of shape {shape} and strides {strides}, is none for a GPU: {what}")
    yield name, Descriptor(value.base, fields)
    yield from sizes


def made(name: str, value: Any) -> None:
    """Raise unless a descriptor is such as Triton's class makes: its fields may have been changed since."""
    if not hasattr(value.base, "data_ptr"):
        what = f"{name}.base is {type(value.base).__name__}; a tensor descriptor is one of a torch tensor"
        raise Refused(f"{what}: TensorDescriptor.from_tensor(torch.from_numpy(array), ...)")
    lists = ("shape", "strides") if hasattr(value, "pixel_box_lower_corner") else ("shape", "strides", "block_shape")
    lengths = {x: len(getattr(value, x)) for x in lists}
    if len({*lengths.values()}) > 1:
        have = ", ".join(f"{n} in {x}" for x, n in lengths.items())
        raise Refused(f"{name}, a tensor descriptor, has as dimensions {have}; make these lists equally long")


def wrong(fields: dict[str, Any], address: int) -> str:
    """What is wrong with the fields of a map and its address; "" if nothing is."""
    found = [fault("global_address", 0, address, lambda x: f"{x % 16} bytes past a multiple of 16")]
    found += [fault("global_stride", n, x) for n, x in enumerate(fields["global_stride"])]  # as signed as they are
    return next(filter(None, found), "") or faults(encode(fields | {"global_address": address})[0])


def described(name: str, value: Any, shape: list[int], strides: list[int], meta: dict[str, Any]) -> dict[str, Any]:
    """The fields of the map of a descriptor, the innermost dimension first."""
    if meta.get("fp4_padded"):  # then the map counts elements of 4 bits, and the descriptor bytes
        shape = [*shape[:-1], 2 * shape[-1]]
    size, rank = meta["elem_size"], len(shape)
    fields: dict[str, Any] = {
        "rank": rank - 1, "elemtype": TF32 if value.round_f32_to_tf32 else meta["elem_type"],
        "global_dim": shape[::-1], "global_stride": [size * stride for stride in strides[-2::-1]],
        "swizzle_mode": meta["swizzle"], "fill_mode": int(value.padding == "nan"), "mode": TILED,
    }  # fmt: skip
    if max(shape) >= 1 << 32:
        raise Refused(f"the tensor descriptor {name} has shape {shape}; each must be less than 2**32")
    if not meta.get("is_im2col"):
        return fields | {"box_dim": meta["block_size"][::-1], "element_stride": [1] * rank}
    lower, upper = value.pixel_box_lower_corner, value.pixel_box_upper_corner
    return fields | {
        "mode": IM2COL, "box_dim": [*meta["block_size"][::-1], *[1] * (rank - 2)],
        "element_stride": [*(value.element_strides or [1] * rank)][::-1],
        "lower_corner": lower[::-1], "upper_corner": upper[::-1],
    }  # fmt: skip


def arrays(values: list[Any]) -> list[Buffer]:
    """The arrays among the values of parameters, those of descriptors too."""
    bases = [value.base if value.__class__ is Descriptor else value for value in values]
    return [base for base in bases if base.__class__ is Buffer]


def room(parameters: dict[str, Any]) -> dict[str, bytes]:
    """The variables that hold the maps of a launch's parameters, empty."""
    return {name: bytes(SIZE) for name, value in parameters.items() if isinstance(value, Descriptor)}


def write(memory: GlobalMemory, parameters: dict[str, Any]) -> None:
    """Put each descriptor's map where its parameter points to."""
    for name in room(parameters):
        base, fields = parameters[name]
        made = encode(fields | {"global_address": memory.pointers[base.name]})
        first = int(memory.segments.arena[memory.segments.constants[name]])
        memory.bytes[first : first + SIZE] = made.view(np.uint8)
        memory.maps[first] = base.name
