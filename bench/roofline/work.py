"""What one layer's decode attention does, counted: programs, bytes, warp instructions."""

from dataclasses import dataclass

from . import kernel

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}


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
        for name, most in (("head_dim", kernel.limits()["head_dim"]), ("new_tokens", kernel.limits()["new_tokens"])):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; the kernel takes 1..{most}")
        if self.slots < max(self.lengths):
            raise ValueError(f"capacity is {self.slots}, below a length of {max(self.lengths)}; give at least that")

    @property
    def n_kv(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def slots(self) -> int:
        return max(self.lengths) if self.capacity is None else self.capacity

    def program(self, sm: int) -> kernel.Program:
        """One program of the call on compute capability sm / 10."""
        call = kernel.Call(self.dtype, self.head_dim, self.heads // self.n_kv, self.new_tokens)
        return kernel.program(call, sm)

    def columns(self, sm: int) -> int:
        """Programs per split and sequence: for each KV head, one per `block_m` query rows."""
        return self.n_kv * -(-(self.heads // self.n_kv) * self.new_tokens // self.program(sm).block_m)


def moved(shape: Shape, sm: int) -> dict[str, int]:
    """Bytes that a call moves, by what they are; the table of pages, 4 bytes a page, is left out.

    kv_again is what the programs of one KV head read again after the first of them. The partials are counted as they
    are written and as they are read: m, l and acc in float32 per split and query row, two tags of 4 bytes per program.
    L2 may keep them, so that their cost is an upper bound.
    """
    B, M, H, H_kv, D = len(shape.lengths), shape.new_tokens, shape.heads, shape.n_kv, shape.head_dim
    item, rows, columns = ITEMSIZE[shape.dtype], sum(min(M, n) for n in shape.lengths), shape.columns(sm)
    scale, q_item = (4, 2) if shape.dtype == "int8" else (0, item)
    several = sum(kernel.splits(n) for n in shape.lengths if kernel.splits(n) > 1)
    partials = 4 * several * (H * M * (D + 2) + 2 * columns)
    kv, scales = (2 * H_kv * size * sum(shape.lengths) for size in (D * item, scale))
    return {
        "kv": kv,
        "scales": scales,
        "kv_again": (kv + scales) * (columns // H_kv - 1),
        "q": B * M * H * D * q_item,
        "out": B * M * H * D * q_item,
        "lengths": 4 * B,
        "append": 2 * H_kv * (D * item + scale) * rows if shape.append else 0,
        "partials_written": partials,
        "partials_read": partials,
    }


def instructions(shape: Shape, sm: int) -> float:
    """Warp instructions of a call: the main loop by slots and columns, the rest by live programs."""
    program = shape.program(sm)
    live = sum(map(kernel.splits, shape.lengths))
    return shape.columns(sm) * (program.loop * sum(shape.lengths) + program.beside * live)
