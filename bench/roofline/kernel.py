"""What the decode kernel does with a call: its own functions asked, and the committed table of its machine code.

The only file of this room that knows the kernel. Its modules need torch and Triton, so that they are imported when the
first call is asked about: `--help` does not wait for them.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple


class Call(NamedTuple):
    """What a kernel is compiled for: the caches' dtype, head_dim, query heads per KV head and new tokens."""

    dtype: str
    D: int
    G: int
    M: int


class Program(NamedTuple):
    """One program of the attending kernel on one architecture.

    engine     that the kernel chooses for the call
    block_m    query rows of a KV head that it attends to
    variant    row of kernels/aot/targets.txt that the figures below are from, and whether it is this very call's
    registers  of a thread
    warps      of a program
    resident   programs that an SM holds
    in_flight  bytes of K and V that it waits for at once
    loop       warp instructions of the main loop, per slot
    beside     warp instructions beside the main loop, per split of 128 slots; counted on sm_90
    """

    engine: str
    block_m: int
    variant: str
    exact: bool
    registers: int
    warps: int
    resident: int
    in_flight: float
    loop: float
    beside: float


@lru_cache(maxsize=1)
def limits() -> dict[str, int]:
    """What the kernel takes and how it combines: the most head_dim and new tokens, splits combined in one trip."""
    from ...kernels.attention.arguments import Tuning
    from ...kernels.attention.checks import MAX_HEAD_DIM, MAX_NEW

    return {"head_dim": MAX_HEAD_DIM, "new_tokens": MAX_NEW, "chunk": Tuning.CHUNK}


def splits(n: int) -> int:
    """How many splits n slots begin; 0 slots take one program, which writes the zeros."""
    from ...kernels.attention import max_splits

    return max_splits(n)


def split_len(n: int) -> int:
    """Slots of the largest split of n slots."""
    from ...kernels.attention import SPLIT_LEN, doublings

    return min(n, SPLIT_LEN << doublings(n))


def engine(call: Call, sm: int) -> str:
    """The engine that the kernel chooses on compute capability sm / 10."""
    import torch

    from ...kernels.attention.launch import choose_engine

    int8 = call.dtype == "int8"
    dtype = torch.float16 if int8 else getattr(torch, call.dtype)
    return choose_engine(dtype, int8, call.G * call.M, call.D, divmod(sm, 10))


@lru_cache(maxsize=1)
def table() -> dict[tuple[str, str], Any]:
    from ...kernels.aot.table import TABLE, read_table

    return {(row.variant, row.target): row for row in read_table(TABLE.read_text(encoding="utf-8"))}


@lru_cache(maxsize=1)
def variants() -> dict[str, Call]:
    """The variants of the table that are a plain call: contiguous, appended by the same launch, all slots seen."""
    from ...kernels.aot.variants import VARIANTS, Variant

    plain = {
        name: Call("int8" if x.int8 else str(x.dtype).removeprefix("torch."), x.D, x.G, x.M)
        for name, x in VARIANTS.items()
        if x == Variant(x.dtype, x.D, x.G, x.M, int8=x.int8)
    }
    return {name: call for name, call in plain.items() if call.dtype != "float64"}


def targets() -> list[int]:
    return sorted({int(target[3:]) for _, target in table() if target.startswith("sm_")})


def width(D: int) -> int:
    """The head_dim that the kernel computes with: the next power of 2."""
    return 1 << (D - 1).bit_length()


def nearest(call: Call, chosen: str, sm: int) -> str:
    """The variant that runs on this engine on sm / 10 and is most like the call: dtype, head_dim, queries."""

    def distance(name: str) -> tuple[float, ...]:
        x = variants()[name]
        queries = abs(math.log2(x.G * x.M / (call.G * call.M)))
        head_dim = abs(math.log2(width(x.D) / width(call.D)))
        return x.dtype != call.dtype, head_dim, queries, abs(math.log2(x.M / call.M))

    return min((name for name, x in variants().items() if engine(x, sm) == chosen), key=distance)


def sizes(call: Call, sm: int) -> Any:
    """The kernel's Tuning of one program; its cap on registers is not the call's, which no figure here needs."""
    from ...kernels.attention.launch import tuning

    itemsize = 4 if call.dtype == "float32" else 2
    return tuning(call.D, itemsize, engine(call, sm), False, call.dtype == "int8", capability=divmod(sm, 10))


@lru_cache
def program(call: Call, sm: int) -> Program:
    chosen = engine(call, sm)
    name, counted = nearest(call, chosen, sm), nearest(call, chosen, 90)
    row, row_90, of_90 = table()[name, f"sm_{sm}"], table()[counted, "sm_90"], variants()[counted]
    size, like = sizes(call, sm), variants()[name]
    programs_90 = -(-of_90.G * of_90.M // sizes(of_90, 90).BLOCK_M)  # of a KV head
    # Loads of 128 bits are counted; int8 has none on sm_75, where one block is assumed to be in flight.
    in_flight = 1024 * row.flight / row.programs or 2 * size.UNROLL * size.BLOCK_N * width(call.D)
    return Program(
        engine=chosen,
        block_m=size.BLOCK_M,
        variant=name,
        exact=like == call,
        registers=row.registers,
        warps=size.WARPS,
        resident=row.programs * row.warps // size.WARPS,
        in_flight=in_flight * size.WARPS / row.warps,
        loop=row.per_slot * width(call.D) / width(like.D),
        beside=(row_90.n8192 * of_90.G * of_90.M / programs_90 - row_90.per_slot) * split_len(1 << 13),
    )
