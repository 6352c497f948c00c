"""What compiled code knows of a launch: one row of 64-bit words for each thread of the CPU, most of them addresses."""

from typing import Any

from . import ir
from .lanes import I64

POINTER = ir.PointerType()

FIELDS = (
    "grid_x", "grid_y", "grid_z", "warps",
    "given",  # int64 for each slot: what the launch fills in
    "blocks",  # int64 for each of Plan.starts: how many warps have run what begins there
    "traffic",  # int64 (instructions, TRAFFIC)
    "fuel",  # instructions of warps that this thread may still run
    # of the program that runs now
    "program", "ctaid_x", "ctaid_y", "ctaid_z", "epoch",  # its number; barriers of all its threads that it has passed
    "frames", "frame_size",  # of its warps, see frames.py; bytes of one
    "warp_code",  # flow.py's function
    "next_program", "last_program",  # the address of the next one's number, which all threads share; one past the last
    # global memory, see arrays.py; the number, from 1 on, of a segment of which more is to be kept
    "segments", "segment_count", "conflicts", "replicas", "syncs", "wants_fine",
    "parted", "disagreeing",  # whether lanes of a warp have parted; copies of values that disagree
    "synced", "synced_before", "synced_epoch",  # atomics of the program: so far, and before barrier number synced_epoch
    # shared memory, see shared_cells.py
    "shared_size", "shared_cells",  # bytes, a multiple of 32; cells
    "shared_bytes", "shared_writer", "shared_reader", "shared_by", "shared_copies", "bank_patterns",
    "shadow",  # see twin_cells.py
    # of programs with asynchronous instructions, see clocks.py: a number that no other program has, nor one of another
    # launch; mbarriers, as many as there is room for; and of tensor maps, see tensor_maps.py
    "shared_reads", "generation", "clocks", "agents", "mbarriers", "maps", "map_count",
)  # fmt: skip

# Words of "traffic": threads and sectors of global memory; threads, wavefronts and conflicts of shared memory.
# A bulk copy keeps in SHARED_THREADS how many bytes of global memory it moved.
GLOBAL_THREADS, SECTORS, SHARED_THREADS, WAVEFRONTS, CONFLICTS = range(5)
TRAFFIC = 5

# What a warp's code returns. It stops before an EVENT, which programs take turns at; before a TURN, which the warps of
# a program do; and in a GROUP, for the other three of four warps.
DONE, BARRIER, EVENT, PAUSED, TURN, GROUP, SUSPECT, FUEL = range(8)


def place(builder: Any, context: Any, name: str) -> Any:
    """The address of a field."""
    return builder.gep(context, [I64(FIELDS.index(name))], source_etype=I64)


def field(builder: Any, context: Any, name: str) -> Any:
    """The value of a field, i64."""
    return builder.load(place(builder, context, name), typ=I64)


def pointer(builder: Any, context: Any, name: str) -> Any:
    """The value of a field that is an address, as a pointer."""
    return builder.load(place(builder, context, name), typ=POINTER)
