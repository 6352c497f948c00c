"""What one layer's decode attention does, counted: splits, programs, bytes, warp instructions."""

from dataclasses import dataclass
from typing import NamedTuple

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}
MOST_TOKENS = 16
TILE = 16  # query rows of one program of the tensor-core engine
FIRST = 128  # slots of each of the first 64 splits


class Engine(NamedTuple):
    """What a program of one of the two engines takes.

    registers     of a thread
    warps         of a program
    in_flight     bytes of K, and as many of V, that a program asks for at once
    instructions  warp instructions of the main loop per token, KV head and tile, at head_dim 64, by the caches' dtype
    """

    name: str
    registers: int
    warps: int
    in_flight: int
    instructions: dict[str, float]


# Registers and instructions are the gates of the compiled code (sm_90), float32's instructions an assumption. In flight
# are 4 loads of 16 bytes of 128 threads; and a third, as three programs fit an SM, of half the gate of 96 KB per SM.
VECTOR = Engine("vector", 64, 4, 8192, {"float16": 16.0, "bfloat16": 18.0, "float32": 16.0})
TENSOR = Engine("tensor-core", 136, 4, 16384, dict.fromkeys(ITEMSIZE, 9.5))
EPILOGUE = 13 * 128  # warp instructions of a program beside its main loop: 13 per token of a split of 128


@dataclass(frozen=True)
class Shape:
    """One call: q (B, new_tokens, heads, head_dim) attends to caches of `dtype` with `lengths` (B,) visible slots.

    capacity  slots a sequence has room for, which sizes the grid; the longest length if None
    append    whether the launch also writes the new rows into the cache
    int8 caches have float32 scales, and float16 q.

    Raises ValueError for what the kernel does not take.
    """

    lengths: tuple[int, ...]
    heads: int = 12
    kv_heads: int | None = None
    head_dim: int = 64
    dtype: str = "float16"
    new_tokens: int = 1
    capacity: int | None = None
    append: bool = False

    def __post_init__(self):
        if not self.lengths or min(self.lengths) < 0:
            raise ValueError("lengths must be one or more numbers of 0 or more; give --batch and --context 1 or more")
        if self.dtype not in ITEMSIZE:
            hint = "; float64 exists to be judged, not to be fast" if self.dtype == "float64" else ""
            raise ValueError(f"dtype is {self.dtype}; choose of {', '.join(ITEMSIZE)}{hint}")
        if self.heads < 1 or self.n_kv < 1 or self.heads % self.n_kv:
            raise ValueError(f"{self.heads} heads do not share {self.n_kv} KV heads evenly; give a divisor")
        if not 1 <= self.head_dim <= 256:
            raise ValueError(f"head_dim is {self.head_dim}; the kernel takes 1..256")
        if not 1 <= self.new_tokens <= MOST_TOKENS:
            raise ValueError(f"new_tokens is {self.new_tokens}; the kernel takes 1..{MOST_TOKENS}")
        if self.slots < max(self.lengths):
            raise ValueError(f"capacity is {self.slots}, below a length of {max(self.lengths)}; give at least that")

    @property
    def n_kv(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def slots(self) -> int:
        return max(self.lengths) if self.capacity is None else self.capacity

    @property
    def engine(self) -> Engine:
        """One query row per KV head in 16 or 32 bits goes to the vector engine, all else to the tensor cores."""
        vector = self.heads == self.n_kv and self.new_tokens == 1 and self.dtype != "int8"
        return VECTOR if vector else TENSOR

    @property
    def columns(self) -> int:
        """Programs per split and sequence: KV heads, and tiles of 16 query rows of each."""
        tiles = 1 if self.engine is VECTOR else -(-self.heads // self.n_kv * self.new_tokens // TILE)
        return self.n_kv * tiles


def doublings(n: int) -> int:
    """How often the size of the splits has doubled at the last of n slots: after 64, 96, 128, 160 and 192 splits."""
    return min(5, (max(0, n - 1) // (64 * FIRST)).bit_length())


def splits(n: int) -> int:
    """How many splits n slots begin: 64 of 128 slots, then 32 each of 256, 512, 1024 and 2048, then 4096 each.

    Boundaries lie at absolute slots, so that a token's bits do not depend on how many follow it. 0 slots take one
    program, which writes the zeros.
    """
    return max(1, 32 * doublings(n) + -(-n // (FIRST << doublings(n))))


def moved(shape: Shape) -> dict[str, int]:
    """Bytes that a call moves, by what they are; the table of pages, 4 bytes a page, is left out.

    The partials are counted as they are written and as they are read: m, l and acc in float32 per split and query row,
    4 bytes of tag per program. L2 may keep them, so that their cost is an upper bound.
    """
    B, M, H, H_kv, D = len(shape.lengths), shape.new_tokens, shape.heads, shape.n_kv, shape.head_dim
    item, rows = ITEMSIZE[shape.dtype], sum(min(M, n) for n in shape.lengths)
    scale, q_item = (4, 2) if shape.dtype == "int8" else (0, item)
    parts = sum(splits(n) for n in shape.lengths if splits(n) > 1)
    partials = 4 * parts * (H * M * (D + 2) + shape.columns)
    return {
        "kv": 2 * H_kv * D * item * sum(shape.lengths),
        "scales": 2 * H_kv * scale * sum(shape.lengths),
        "q": B * M * H * D * q_item,
        "out": B * M * H * D * q_item,
        "lengths": 4 * B,
        "append": 2 * H_kv * (D * item + scale) * rows if shape.append else 0,
        "partials_written": partials,
        "partials_read": partials,
    }


def instructions(shape: Shape) -> float:
    """Warp instructions of a call: the main loop by tokens, columns and head_dim, the epilogue by live programs."""
    loop = shape.engine.instructions[shape.dtype] * shape.head_dim / 64
    live = sum(splits(n) for n in shape.lengths)
    return shape.columns * (loop * sum(shape.lengths) + EPILOGUE * live)
