"""From a call's tensors to its kernel launches: which engine, which tile, which grid.

The launcher runs what `launches` gives and targets.py compiles it without a GPU.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backend import interpreting
from ..requires_triton import triton
from .append import append_rows
from .arguments import Cache, How, New, Query, Result
from .combine import combine_splits
from .mma import attend_tensor
from .simt import attend_vector
from .workspace import FIRST, Workspace, max_splits

ENGINES = ("vector", "tensor")


class Options(NamedTuple):
    """What a call chooses beside its tensors; each value compiles its own kernel."""

    scale: float
    window: int | None = None
    sinks: int = 0
    softcap: float | None = None
    causal: bool = True
    fused: bool = True
    engine: str = "vector"
    first: int = FIRST  # slots of the first splits
    capability: tuple[int, int] = (9, 0)  # of the GPU: what registers suffice there


class Launch(NamedTuple):
    """One kernel launch, complete: `kernel[grid](**arguments, **options)`."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


def choose_engine(dtype: torch.dtype, int8: bool, queries: int, D: int, capability: tuple[int, int] = (9, 0)) -> str:
    """The engine for queries of `dtype`, so many to a KV head.

    The tensor cores multiply 16 bits, in rows of 16: it takes several queries, or 8 bits, to make that worth while.
    float32 and float64 keep their precision only on the vector engine; neither head_dim above 128 nor a GPU before
    sm_80 (to which Triton gives no tensor cores) has room for a tile.
    """
    takes = dtype in (torch.float16, torch.bfloat16) and D <= 128 and capability >= (8, 0)
    return "tensor" if takes and (int8 or queries > 1) else "vector"


def throughput_first(programs: int, T: int) -> int:
    """Slots of the first splits, where a row's bits may depend on its batch: long ones, if the batch fills the GPU."""
    first, enough = FIRST, 4 * 132 * 16  # four rounds of what the SMs of an H100 hold
    while first < 4096 and programs * max_splits(T, 2 * first) >= enough:
        first *= 2
    return first


def tile(
    D: int, itemsize: int, engine: str, plain: bool, int8: bool = False, windowed: bool = False,
    capability: tuple[int, int] = (9, 0),
) -> tuple[dict[str, int], dict[str, Any]]:  # fmt: skip
    """R, ROWS, TILE and stages of How, and Triton's options; the batch has no say: it may not change a row's bits.

    A program is one warp: no thread waits for another warp anywhere, and many programs fit. On the vector engine the
    warp loads whole rows, 16 bytes a lane, R of them per lane at once. float64 exists to be judged, under emulators
    whose time goes by blocks: it takes larger ones. The caps on registers are those at which nothing spills: with 64
    an SM of 64 warps holds 32 programs. They change no bit of a result.
    """
    D_POW2 = triton.next_power_of_2(D)
    if engine == "tensor":
        # Loads ahead in the loop over edges take registers, or spill. They pay where it is the main one, as with a
        # window, and on newer GPUs at head_dim 128, where they shorten the main loop, too.
        edge = 2 if windowed or int8 or (D_POW2 == 128 and capability >= (9, 0)) else 1
        cap = 208 if D_POW2 == 128 else 136 if plain and D_POW2 == 64 and capability == (9, 0) else 168
        shape = {"R": 1, "ROWS": 32 if D_POW2 <= 64 and not int8 else 16, "TILE": 16, "STAGES": 2, "EDGE_STAGES": edge}
        options = {"num_warps": 2 if int8 and D_POW2 > 64 else 1, "enable_fp_fusion": False}
        return shape, {**options, **({"maxnreg": cap} if edge == 1 else {})}
    shape = {"R": 8 if itemsize == 8 else 4, "ROWS": max(1, 512 // (D_POW2 * itemsize)), "TILE": 1}
    capped = plain and D_POW2 == 64 and itemsize < 8 and (8, 0) <= capability < (10, 0)
    return shape, {"num_warps": 1, "enable_fp_fusion": False, **({"maxnreg": 64} if capped else {})}


def strides(x: Tensor) -> list[int]:
    """Strides of all axes but the last. An axis of one element has none: 0 keeps 16-byte alignment in sight."""
    return [0 if n == 1 else stride for n, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True)]


def slots_of(k: Tensor, block_table: Tensor | None) -> int:
    """The slots that a sequence may have in a cache, contiguous or in pages."""
    return k.shape[2] if block_table is None else block_table.shape[1] * k.shape[2]


def aligned(*tensors: Tensor | None) -> bool:
    """Whether every row of these begins at a multiple of 16 bytes."""
    starts = [(x.storage_offset(), *strides(x)) for x in tensors if x is not None]
    sizes = [x.element_size() for x in tensors if x is not None]
    return all(n * size % 16 == 0 for numbers, size in zip(starts, sizes, strict=True) for n in numbers)


def launches(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, k_new: Tensor | None, v_new: Tensor | None,
    block_table: Tensor | None, k_scale: Tensor | None, v_scale: Tensor | None, slopes: Tensor | None,
    out: Tensor, lse: Tensor | None, parts: Workspace, options: Options, ticket: int = 1,
) -> list[Launch]:  # fmt: skip
    """Every launch of one call, q and out (B, M, H, D): one if fused, else append, attend and combine as needed."""
    B, M, H, D = q.shape
    H_KV, G = k.shape[1], H // k.shape[1]
    T = slots_of(k, block_table)
    int8, engine, S = k_scale is not None, options.engine, max_splits(T, options.first)
    plain = not int8 and (options.window, options.softcap, slopes) == (None, None, None)
    plain = plain and (G < 16 if engine == "tensor" else G * M == 1)
    shape, compiling = tile(D, q.element_size(), engine, plain, int8, options.window is not None, options.capability)
    how = How(
        D=D, D_POW2=max(triton.next_power_of_2(D), 16 if engine == "tensor" else 1), G=G, H_KV=H_KV,
        SCALE=options.scale, LOWEST=torch.finfo(parts.acc.dtype).min, KT=k.stride(2), VT=v.stride(2),
        ST=0 if k_scale is None else k_scale.stride(2), PAGE=None if block_table is None else k.shape[2], INT8=int8,
        ALIGNED=aligned(k, v, k_new, v_new), ONE=M == 1, CAUSAL=options.causal, WINDOW=options.window,
        SINKS=options.sinks, SOFTCAP=options.softcap, FIRST=options.first, UPCAST=interpreting(),
        FUSED=options.fused, **shape,
    )  # fmt: skip
    scales = [0, 0] if k_scale is None else strides(k_scale.unsqueeze(-1))[:2]
    table = 0 if block_table is None else block_table.stride(0)
    cache = Cache(k, v, k_scale, v_scale, block_table, *strides(k)[:2], *strides(v)[:2], *scales, tb=table)
    new = New(k_new, v_new, *strides(k_new), *strides(v_new)) if k_new is not None and v_new is not None else None
    programs = H * M if engine == "vector" else H_KV * -(-G * M // how.TILE)
    arguments = {
        "q": Query(q, *strides(q)), "cache": cache, "new": new if options.fused else None, "lengths": lengths,
        "slopes": slopes, "slopes_b": slopes.stride(0) if slopes is not None and slopes.dim() == 2 else 0,
        "result": Result(out, lse), "parts": parts, "T": T, "M": M, "ticket": ticket, "HOW": how,
    }  # fmt: skip
    attend = Launch(attend_vector if engine == "vector" else attend_tensor, (S, programs, B), arguments, compiling)
    if options.fused:
        return [attend]
    few = {"num_warps": 1, "enable_fp_fusion": False}
    shared = {"lengths": lengths, "T": T, "M": M, "HOW": how}
    append = Launch(append_rows, (M, H_KV, B), {"cache": cache, "new": new, **shared}, few)
    combine = {"result": arguments["result"], "parts": parts, "S": S, **shared}
    combines = [Launch(combine_splits, (G * M, H_KV, B), combine, few)]
    return [*[append][: int(new is not None)], attend, *combines[: int(S > 1)]]
