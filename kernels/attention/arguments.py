"""What a call of decode attention consists of, each name once: its tensors, its options, and what its kernels get.

`Inputs`, `Options`, `Result` and `Workspace` are the arguments of torch's operators, whose schemas come from these
fields, in this order. The kernels take `Query`, `Cache`, `New`, `Result`, `Workspace` and a `KernelConfig`, and read
`cache.k`, `CFG.PAGE`; Triton passes a tuple's tensors and numbers one by one. Strides count elements; they are b
(sequence, or page), m (new token), h (head) and t (slot, or row of a page).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from .workspace import SPLIT_LEN

LOG2E = math.log2(math.e)


class Inputs(NamedTuple):
    """The tensors that a call reads and appends to, as `decode_attention` describes them; None for what is not used."""

    q: Tensor  # (B, M, H, D)
    k: Tensor
    v: Tensor
    lengths: Tensor
    k_new: Tensor | None = None  # (B, M, H_kv, D)
    v_new: Tensor | None = None
    block_table: Tensor | None = None
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None
    alibi_slopes: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Slots that a sequence may have in the cache, contiguous or in pages."""
        return self.k.shape[2] * (1 if self.block_table is None else self.block_table.shape[1])

    @property
    def int8(self) -> bool:
        return self.k_scale is not None

    @property
    def queries(self) -> int:
        """Query rows that share a KV head: of its group and of all new tokens."""
        return self.q.shape[1] * self.q.shape[2] // self.k.shape[1]


class Options(NamedTuple):
    """What a call chooses beside its tensors; each value compiles its own kernel."""

    scale: float
    window: int | None = None
    sinks: int = 0
    softcap: float | None = None
    causal: bool = True
    fused: bool = True
    engine: str = "simt"
    split_len: int = SPLIT_LEN


class Result(NamedTuple):
    """out (B, M, H, D) and lse (B, M, H), contiguous."""

    out: Tensor
    lse: Tensor | None


class Query(NamedTuple):
    """q (B, M, H, D)."""

    q: Any
    b: int
    m: int
    h: int


class Cache(NamedTuple):
    """k and v (B, H_kv, T, D), or pages (P, H_kv, page, D) and the table that locates a slot."""

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


@dataclass(frozen=True)
class Facts:
    """What the call's tensors are and what is asked of them."""

    D: int
    G: int  # query heads per KV head
    H_KV: int
    ONE_TOKEN: bool  # one new token per sequence
    STRIDE_KT: int
    STRIDE_VT: int
    STRIDE_ST: int  # of both scales
    PAGE: int | None  # slots in a page; None for a contiguous cache
    INT8: bool
    ALIGNED: bool  # all rows begin at multiples of 16 bytes
    SCALE: float
    CAUSAL: bool
    WINDOW: int | None
    SINKS: int
    SOFTCAP: float | None
    LOWEST: float  # below every score, and finite
    UPCAST: bool  # products in float32: Triton's interpreter gets those of bfloat16 wrong


@dataclass(frozen=True)
class Choices:
    """How the work is cut into launches and programs; the engine, the third choice, is a kernel of its own."""

    FUSED: bool  # the last program to arrive combines, instead of a launch of its own
    SPLIT_LEN: int  # slots of the first splits


@dataclass(frozen=True)
class Tuning:
    """The sizes of a program. BLOCK_N and UNROLL decide the order of sums, hence bits; the rest decides time alone."""

    D_POW2: int  # columns of a tile: head_dim, and what pads it
    BLOCK_M: int  # query rows of a program
    BLOCK_N: int  # slots of a tile; in simt each of them keeps sums of its own
    UNROLL: int  # tiles of a block, which is what an iteration of the loop attends to
    STAGES: int = 1  # blocks that are loaded at once, of those that need no mask
    EDGE_STAGES: int = 1  # and of those at the edges, whose loads take registers where they are not wanted
    CHUNK: int = 8  # splits combined at a time; more of them would take all registers
    WARPS: int = 1
    REGISTERS: int | None = None  # that a thread may have; None leaves it to the compiler

    def options(self) -> dict[str, Any]:
        """Triton's options of the launch."""
        capped = {} if self.REGISTERS is None else {"maxnreg": self.REGISTERS}
        return {"num_warps": self.WARPS, "enable_fp_fusion": False, **capped}


@dataclass(frozen=True)
class KernelConfig(Tuning, Choices, Facts):
    """What a kernel is compiled for, its `CFG`. Each difference is another kernel; none depends on the batch."""

    LOG2E: float = LOG2E
