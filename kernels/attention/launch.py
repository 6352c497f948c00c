"""From a call's tensors to its kernel launches: which engine, which tile, which grid.

The operator runs what `launches` gives, and kernels/aot/ compiles it without a GPU.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backend import interpreting
from ..requires_triton import triton
from .append import append_rows
from .arguments import Cache, Inputs, KernelConfig, New, Options, Query, Result, Tuning
from .combine import combine_splits
from .mma import attend_mma
from .simt import attend_simt
from .workspace import SPLIT_LEN, Workspace, accumulator, max_splits

ENGINES = {"simt": attend_simt, "mma": attend_mma}


class Launch(NamedTuple):
    """One kernel launch, complete: `kernel[grid](**arguments, **options)`."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


def choose_engine(dtype: torch.dtype, int8: bool, queries: int, D: int, capability: tuple[int, int] = (9, 0)) -> str:
    """The engine for queries of `dtype`, so many to a KV head.

    The tensor cores multiply 16 bits, in rows of 16: that pays for several queries, or for keys of 8 bits.
    float32 and float64 keep their precision only on the float units; neither head_dim above 128 nor a GPU before
    sm_80 (to which Triton gives no tensor cores) has room for a tile.
    """
    takes = dtype in (torch.float16, torch.bfloat16) and D <= 128 and capability >= (8, 0)
    return "mma" if takes and (int8 or queries > 1) else "simt"


def throughput_split_len(programs: int, T: int) -> int:
    """Slots of the first splits, where a row's bits may depend on its batch: long ones, if the batch fills the GPU."""
    split_len, enough = SPLIT_LEN, 4 * 132 * 16  # four rounds of what the SMs of an H100 hold
    while split_len < 4096 and programs * max_splits(T, 2 * split_len) >= enough:
        split_len *= 2
    return split_len


def tuning(
    D: int, itemsize: int, engine: str, plain: bool, int8: bool = False, windowed: bool = False,
    capability: tuple[int, int] = (9, 0),
) -> Tuning:  # fmt: skip
    """The sizes of a program. None depends on the batch, which may not change a row's bits.

    A program is one warp: no thread waits for another warp anywhere, and many programs fit. In simt the warp loads
    whole rows, 16 bytes a lane, UNROLL of them per lane at once. float64 exists to be judged, under emulators whose
    time goes by blocks: it takes larger ones. The caps on registers are those at which nothing spills: with 64 an SM
    of 64 warps holds 32 programs. They change no bit of a result.
    """
    D_POW2 = triton.next_power_of_2(D)
    if engine == "mma":
        # Loads ahead in the loop over edges take registers, or spill. They pay where it is the main one, as with a
        # window, and on newer GPUs at head_dim 128, where they shorten the main loop, too.
        edge = 2 if windowed or int8 or (D_POW2 == 128 and capability >= (9, 0)) else 1
        cap = 208 if D_POW2 == 128 else 136 if plain and D_POW2 == 64 and capability == (9, 0) else 168
        return Tuning(
            D_POW2=max(D_POW2, 16), BLOCK_M=16, BLOCK_N=32 if D_POW2 <= 64 and not int8 else 16, UNROLL=1, STAGES=2,
            EDGE_STAGES=edge, WARPS=2 if int8 and D_POW2 > 64 else 1, REGISTERS=cap if edge == 1 else None,
        )  # fmt: skip
    capped = plain and D_POW2 == 64 and itemsize < 8 and (8, 0) <= capability < (10, 0)
    return Tuning(
        D_POW2=D_POW2, BLOCK_M=1, BLOCK_N=max(1, 512 // (D_POW2 * itemsize)), UNROLL=8 if itemsize == 8 else 4,
        REGISTERS=64 if capped else None,
    )  # fmt: skip


def strides(x: Tensor) -> tuple[int, ...]:
    """Strides of all axes but the last. An axis of one element has none: 0 keeps 16-byte alignment in sight."""
    return strides_of(x.shape, x.stride())


@lru_cache(maxsize=256)
def strides_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([0 if n == 1 else stride for n, stride in zip(shape[:-1], strides[:-1], strict=True)])


def aligned(*tensors: Tensor | None) -> bool:
    """Whether every row of these begins at a multiple of 16 bytes."""
    given = [x for x in tensors if x is not None]
    return not any(n * x.itemsize % 16 for x in given for n in (x.storage_offset(), *strides(x)))


def config(x: Inputs, options: Options, capability: tuple[int, int]) -> KernelConfig:
    """What the kernels of a call are compiled for, on a GPU of this compute capability."""
    steps = x.k.stride(2), x.v.stride(2), 0 if x.k_scale is None else x.k_scale.stride(2)
    page = None if x.block_table is None else x.k.shape[2]
    known = x.q.dtype, steps, page, x.int8, x.alibi_slopes is not None, aligned(x.k, x.v, x.k_new, x.v_new)
    return config_of(x.q.shape[1:], x.k.shape[1], *known, interpreting(), capability, *options)


@lru_cache(maxsize=256, typed=True)  # to Triton an option of 1 is another than one of 1.0
def config_of(
    q: tuple[int, ...], H_KV: int, dtype: torch.dtype, steps: tuple[int, int, int], page: int | None, int8: bool,
    slopes: bool, all_aligned: bool, upcast: bool, capability: tuple[int, int], *options: Any,
) -> KernelConfig:  # fmt: skip
    """The same for queries of a shape (M, H, D); steps: from slot to slot, of k, v and scales."""
    (M, _, D), G, o = q, q[1] // H_KV, Options(*options)
    plain = not int8 and (o.window, o.softcap, slopes) == (None, None, False)
    plain = plain and (G < 16 if o.engine == "mma" else M * G == 1)
    sizes = tuning(D, dtype.itemsize, o.engine, plain, int8, o.window is not None, capability)
    return KernelConfig(
        D=D, G=G, H_KV=H_KV, ONE_TOKEN=M == 1, STRIDE_KT=steps[0], STRIDE_VT=steps[1], STRIDE_ST=steps[2],
        PAGE=page, INT8=int8, ALIGNED=all_aligned,
        SCALE=o.scale, CAUSAL=o.causal, WINDOW=o.window, SINKS=o.sinks, SOFTCAP=o.softcap,
        LOWEST=torch.finfo(accumulator(dtype)).min, UPCAST=upcast, FUSED=o.fused, SPLIT_LEN=o.split_len, **vars(sizes),
    )  # fmt: skip


def launches(
    x: Inputs, options: Options, result: Result, partials: Workspace, ticket: int = 1,
    capability: tuple[int, int] = (9, 0),
) -> list[Launch]:  # fmt: skip
    """Every launch of one call: one if fused, else append, attend and combine as needed.

    ticket      what this launch's partials are known by in the workspace
    capability  of the GPU: what registers suffice there
    """
    (B, M, H, _), T, S = x.q.shape, x.capacity, max_splits(x.capacity, options.split_len)
    CFG = config(x, options, capability)
    scales = [0, 0] if x.k_scale is None else strides(x.k_scale.unsqueeze(-1))[:2]
    table = 0 if x.block_table is None else x.block_table.stride(0)
    kv = (x.k, x.v, x.k_scale, x.v_scale, x.block_table)
    cache = Cache(*kv, *strides(x.k)[:2], *strides(x.v)[:2], *scales, tb=table)
    new = None
    if x.k_new is not None and x.v_new is not None:
        new = New(x.k_new, x.v_new, *strides(x.k_new), *strides(x.v_new))
    shared = {"lengths": x.lengths, "T": T, "M": M, "CFG": CFG}
    slopes_b = x.alibi_slopes.stride(0) if x.alibi_slopes is not None and x.alibi_slopes.dim() == 2 else 0
    arguments = {
        "q": Query(x.q, *strides(x.q)), "cache": cache, "new": new if CFG.FUSED else None, "slopes": x.alibi_slopes,
        "slopes_b": slopes_b, "result": result, "partials": partials, "ticket": ticket, **shared,
    }  # fmt: skip
    programs = H * M if options.engine == "simt" else CFG.H_KV * -(-x.queries // CFG.BLOCK_M)
    attend = Launch(ENGINES[options.engine], (S, programs, B), arguments, CFG.options())
    if CFG.FUSED:
        return [attend]
    few = {"num_warps": 1, "enable_fp_fusion": False}
    append = Launch(append_rows, (M, CFG.H_KV, B), {"cache": cache, "new": new, **shared}, few)
    merging = {"result": result, "partials": partials, "S": S, **shared}
    combine = Launch(combine_splits, (x.queries, CFG.H_KV, B), merging, few)
    return [*([append] if new else []), attend, *([combine] if S > 1 else [])]
