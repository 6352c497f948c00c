"""What the engines' kernels are given, by name: pointers with their strides, and all that is fixed when they compile.

A kernel takes these whole and reads `cache.k`, `HOW.PAGE`; Triton passes a tuple's tensors and numbers one by one.
Strides count elements; they are b (sequence, or page), m (new token), h (head) and t (slot, or row of a page).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

LOG2E = math.log2(math.e)


class Query(NamedTuple):
    """q (B, M, H, D)."""

    q: Any
    b: int
    m: int
    h: int


class Cache(NamedTuple):
    """k and v (B, H_kv, T, D), or pages (P, H_kv, page, D) and the table that says where a slot lies."""

    k: Any
    v: Any
    k_scale: Any  # of int8: (B, H_kv, T) or (P, H_kv, page), None of other dtypes
    v_scale: Any
    table: Any  # (B, pages of a sequence), None if contiguous
    kb: int
    kh: int
    vb: int
    vh: int
    sb: int  # of both scales
    sh: int
    tb: int


class New(NamedTuple):
    """The rows to append, k and v (B, M, H_kv, D)."""

    k: Any
    v: Any
    kb: int
    km: int
    kh: int
    vb: int
    vm: int
    vh: int


class Result(NamedTuple):
    """out (B, M, H, D) and lse (B, M, H), contiguous."""

    out: Any
    lse: Any  # or None


@dataclass(frozen=True)
class How:
    """What a kernel is compiled for. Each difference is a kernel of its own; none of them depends on the batch."""

    D: int
    D_POW2: int
    G: int  # query heads per KV head
    H_KV: int
    SCALE: float
    LOWEST: float  # below every score, and finite
    KT: int  # strides from slot to slot, of keys, values and scales
    VT: int
    ST: int
    PAGE: int | None  # slots in a page; None for a contiguous cache
    INT8: bool
    ALIGNED: bool  # all rows begin at multiples of 16 bytes
    CAUSAL: bool
    WINDOW: int | None
    SINKS: int
    SOFTCAP: float | None
    FIRST: int  # slots of the first splits
    UPCAST: bool  # products in float32: Triton's interpreter gets those of bfloat16 wrong
    FUSED: bool  # the last program to arrive combines, instead of a launch of its own
    TILE: int  # query rows of one program
    ONE: bool  # one new token per sequence
    ROWS: int  # vector: rows of a block that keep sums of their own. tensor: slots of one warp's slice
    R: int  # vector: slots of each such row in a block. tensor: slices, one a warp
    STAGES: int = 1  # tensor: blocks that are under way at once, whole ones
    EDGE_STAGES: int = 1  # and those at the edges, whose loads take registers where they are not wanted
    CHUNK: int = 8  # splits combined at a time; more of them would take all registers
    LOG2E: float = LOG2E
