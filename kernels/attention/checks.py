"""What decode attention takes: each check names what came, what fits and what to do."""

import torch
from torch import Tensor

from .arguments import Inputs, Options
from .workspace import doublings

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_HEAD_DIM = 256
MAX_NEW = 16
MAX_GRID = 65535  # CUDA's limit on the second and third axis of a grid


def describe(x: Tensor) -> str:
    return f"{x.dtype} {list(x.shape)} on {x.device}"


def check_inputs(x: Inputs) -> None:
    """Raise ValueError unless q (B, M, H, D) and the other tensors belong together."""
    q, k, v, pages = x.q, x.k, x.v, x.block_table is not None
    layout = "(pages, H_kv, page, D)" if pages else "(B, H_kv, T, D)"
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape or q.shape[3] != k.shape[3] or 0 in k.shape[1:2]:
        raise ValueError(
            f"q is {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}; they must be (B, H, D) or (B, M, H, D), and "
            f"twice {layout} with the same D; pass a (B, T, H_kv, D) cache as k.transpose(1, 2)"
        )
    B, M, H, D = q.shape
    H_kv = k.shape[1]
    if H % H_kv or (k.shape[0] != B and not pages):
        raise ValueError(
            f"q has B={B}, H={H}, k is {list(k.shape)}; a cache is {layout}, and H must be a multiple of H_kv: each "
            "KV head serves as many query heads"
        )
    if not 1 <= M <= MAX_NEW:
        raise ValueError(f"q has {M} new tokens per sequence; 1..{MAX_NEW} fit one call; pass them in several")
    if not 1 <= D <= MAX_HEAD_DIM:
        raise ValueError(f'k has head_dim {D}; the kernel takes 1..{MAX_HEAD_DIM}; use impl="sdpa"')
    if max(B, H * M) > MAX_GRID:
        raise ValueError(f"q has B={B}, H * M={H * M}; the kernel takes up to {MAX_GRID} of each; split the batch")
    check_dtypes(x)
    new, scales = ((B, M, H_kv, D), q.dtype), (k.shape[:3], torch.float32)
    shapes: dict[str, tuple] = {"lengths": ((B,), torch.int32), "block_table": (None, torch.int32)}
    shapes |= {"k_new": new, "v_new": new, "k_scale": scales, "v_scale": scales}
    for name, (shape, dtype) in shapes.items():
        t = getattr(x, name)
        if t is not None and (t.dtype != dtype or (shape is not None and t.shape != shape)):
            raise ValueError(f"{name} is {describe(t)}; it must be {dtype} {list(shape or ())}".rstrip(" []"))
    if x.block_table is not None and (x.block_table.dim() != 2 or x.block_table.shape[0] != B):
        raise ValueError(f"block_table is {describe(x.block_table)}; it must be int32 [{B}, pages of a sequence]")
    check_memory(x)


def check_dtypes(x: Inputs) -> None:
    """Raise ValueError unless the cache has q's dtype, or is int8 with scales."""
    q, k, v, k_new, v_new, k_scale, v_scale = x.q, x.k, x.v, x.k_new, x.v_new, x.k_scale, x.v_scale
    int8 = k.dtype == torch.int8
    if q.dtype not in DTYPES or k.dtype != v.dtype or not (int8 or k.dtype == q.dtype):
        raise ValueError(
            f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; all must be the same one of float16, bfloat16, float32, "
            "float64, or k and v int8; convert q to the cache's dtype"
        )
    if int8 != (k_scale is not None) or int8 != (v_scale is not None):
        raise ValueError(f"the cache is {k.dtype}; an int8 cache needs k_scale and v_scale, others have none")
    if (k_new is None) != (v_new is None):
        raise ValueError("of k_new and v_new one came; pass both, to append, or neither")


def check_memory(x: Inputs) -> None:
    """Raise ValueError unless all are on one device, with a contiguous last axis where that is head_dim."""
    for name, t in x._asdict().items():
        if t is None:
            continue
        if t.device != x.q.device:
            raise ValueError(f"q is on {x.q.device}, {name} on {t.device}; they must share one")
        if t.dim() and t.shape[-1] > 1 and t.stride(-1) != 1 and name not in ("k_scale", "v_scale"):
            raise ValueError(
                f"{name} has strides {list(t.stride())}; the last axis must be contiguous (stride 1); "
                f"store it with that axis last, or call {name}.contiguous()"
            )
    a, b = x.k_scale, x.v_scale
    if a is not None and b is not None and a.stride() != b.stride():
        raise ValueError(f"k_scale has strides {list(a.stride())}, v_scale {list(b.stride())}; they must be the same")


def check_options(x: Inputs, options: Options) -> None:
    """Raise ValueError for a window, sinks, softcap or slopes that mean nothing."""
    window, sinks, softcap, slopes = options.window, options.sinks, options.softcap, x.alibi_slopes
    B, _, H, _ = x.q.shape
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; it must be 1 slot or more, or None")
    if sinks < 0 or (sinks and window is None):
        raise ValueError(f"sinks is {sinks}, window {window}; sinks are the 0 or more first slots beside a window")
    if window is not None and not options.causal:
        raise ValueError("a window came with causal=False; a window ends at its own token: pass causal=True")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is {softcap}; it must be above 0, or None")
    if slopes is not None and (slopes.dtype != torch.float32 or slopes.shape not in ((H,), (B, H))):
        raise ValueError(f"alibi_slopes is {describe(slopes)}; it must be float32 [{H}] or [{B}, {H}]")


def check_slots(lengths: Tensor, T: int) -> None:
    """Raise ValueError if lengths, on the CPU, are not 0..T, the slots of the cache; a GPU's are not read back."""
    if lengths.device.type == "cpu" and not all(0 <= n <= T for n in lengths.tolist()):
        raise ValueError(f"lengths are {lengths.tolist()}; the cache has {T} slots, so each must be 0..{T}")


def check_pages(table: Tensor, lengths: Tensor, pages: int, page: int, first: Tensor | None = None) -> None:
    """Raise ValueError if a page that holds a visible slot is none of the cache's.

    table    (B, pages of a sequence) int32, on the CPU; a GPU's numbers are not read back
    lengths  (B,) slots of each sequence, within the table
    pages    number of pages of the cache, each of `page` slots
    first    (B,) first visible slot of each sequence; 0 if None
    """
    if "cpu" != table.device.type or "cpu" != lengths.device.type:
        return
    at = torch.arange(table.shape[1]) * page
    seen = at < lengths[:, None]
    if first is not None:
        seen &= at + page > first[:, None]
    wrong = (seen & ((table < 0) | (table >= pages))).nonzero()
    if len(wrong):
        b, i = wrong[0].tolist()
        raise ValueError(
            f"block_table[{b}, {i}] is {table[b, i]}; sequence {b} has {lengths[b]} slots, {page} to a page, and the "
            f"cache has pages 0..{pages - 1}; name a page for every slot up to the length"
        )


def check_offsets(x: Inputs, split_len: int) -> None:
    """Raise ValueError unless 32-bit offsets reach every slot of the longest split that the cache has."""
    slots = split_len << doublings(x.capacity, split_len)
    for name, t in (("k", x.k), ("v", x.v)):
        if t.stride(2) * slots >= 2**31:
            raise ValueError(
                f"{name} has {t.stride(2)} elements from one slot to the next, up to {slots} slots to a split; "
                "together they must stay below 2**31; lay the cache out as (B, H, T, D) or (B, T, H, D)"
            )


def check_out(out: Tensor, q: Tensor) -> None:
    """Raise ValueError unless `out` can take q's attention."""
    if (out.shape, out.dtype, out.device) != (q.shape, q.dtype, q.device) or not out.is_contiguous():
        raise ValueError(f"out is {describe(out)}, strides {list(out.stride())}; it must be contiguous {describe(q)}")
