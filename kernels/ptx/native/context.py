"""What compiled code knows of a launch: one row of 64-bit words for each thread of the CPU, most of them addresses."""

from typing import Any

from llvmlite import ir

from .lanes import I64

POINTER = ir.PointerType()

FIELDS = (
    "grid_x", "grid_y", "grid_z",
    "issued",  # int64 for each instruction: by how many warps
    "traffic",  # int64 (instructions, 2): threads and sectors of global memory, or wavefronts and conflicts of shared
    "fuel",  # instructions of warps that this thread may still run
    # of the program that runs now
    "program", "epoch",  # its number; barriers of all its threads that it has passed
    # global memory, see memory.py
    "segments", "segment_count",
    # shared memory, see shared.py
    "shared_size", "shared_bytes", "shared_written", "shared_writer", "shared_reader", "shared_by", "shared_copying",
)  # fmt: skip

DONE, BARRIER, EVENT, SUSPECT, FUEL = range(5)  # what a warp's code returns


def place(builder: Any, context: Any, name: str) -> Any:
    """The address of a field."""
    return builder.gep(context, [I64(FIELDS.index(name))], source_etype=I64)


def field(builder: Any, context: Any, name: str) -> Any:
    """The value of a field, i64."""
    return builder.load(place(builder, context, name), typ=I64)


def pointer(builder: Any, context: Any, name: str) -> Any:
    """The value of a field that is an address, as a pointer."""
    return builder.load(place(builder, context, name), typ=POINTER)
