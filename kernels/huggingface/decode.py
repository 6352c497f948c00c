"""One query per sequence over the model's cache where it lies: the code compiled for this CPU, or the Triton kernel."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..cpu import decode_attention as cpu
from ..cpu.machine_code import AttentionVariant, NoEngine, available
from .keywords import EAGER, Scores
from .masks import LiveSlots

IMPLS = ("auto", "numba", "triton")


def check_impl(impl: str) -> None:
    """Raise ValueError for an unknown impl, NoEngine if "numba" cannot run here."""
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLS)}")
    if impl == "numba" and (reason := available(AttentionVariant("float32", "float32"))):
        raise NoEngine(f'{reason.partition("; use impl=")[0]}; use impl="triton", or attn_implementation="sdpa"')


def decode(impl: str, query: Tensor, key: Tensor, value: Tensor, live: LiveSlots | None, scores: Scores) -> Tensor:
    """The attention of query (B, H, 1, D) over the live slots of the cache -> (B, 1, H, D_v).

    live   None if all slots are

    Raises ValueError for a position bias and for what the impl does not take.
    """
    if scores.position_bias is not None:
        raise ValueError(f"position_bias came in a decode step; the kernel adds no bias of tables to scores; {EAGER}")
    if impl == "auto":
        impl = "triton" if query.is_cuda else "numba"
    step = with_triton if impl == "triton" else with_numba
    q, sinks = query[:, :, 0], scores.sink_logits
    return step(q, key, value, live, scores, sinks if sinks is None or sinks.dim() == 1 else sinks[..., 0])[:, None]


def with_numba(q, k, v, live: LiveSlots | None, scores: Scores, sinks: Tensor | None) -> Tensor:
    """(B, H, D_v) by the code compiled for this CPU."""
    seen = {}
    if live is not None:
        table = live.table
        seen = {"lengths": live.lengths, **({"first": live.first} if table is None else {"slots": table})}
    return cpu.decode_attention(q, k, v, **seen, scale=scores.scale, softcap=scores.softcap, sink_logits=sinks)


def with_triton(q, k, v, live: LiveSlots | None, scores: Scores, sinks: Tensor | None) -> Tensor:
    """(B, H, D_v) by the Triton kernel: on a GPU compiled, on a CPU by the PTX machine.

    Where sequences begin at slots of their own, or some slots are hidden, each is a page, and a table names them.
    """
    from ..attention import decode_attention
    from ..backend import without_gpu

    if k.shape[3] != v.shape[3]:
        raise ValueError(
            f'k has head_dim {k.shape[3]}, v {v.shape[3]}; impl "triton" takes one; use impl="numba" or sdpa'
        )
    table = None
    if live is None:
        lengths = torch.full((len(q),), k.shape[2], dtype=torch.int32, device=q.device)
    else:
        lengths = live.lengths.int()
        if live.start is None:
            k, v, table = as_pages(k, v, slot_table(live, k.shape[2]))
        else:
            k, v = k[:, :, live.start :], v[:, :, live.start :]
    options: dict[str, Any] = {"scale": scores.scale, "softcap": scores.softcap, "block_table": table}
    with nullcontext() if q.is_cuda else without_gpu():
        out, lse = decode_attention(q, k, v, lengths, return_lse=True, **options)
    if sinks is None:
        return out
    # A sink takes exp(sink) of exp(lse) + exp(sink).
    return (out.to(lse.dtype) * torch.sigmoid(lse - sinks.to(lse.dtype))[..., None]).to(q.dtype)


def slot_table(live: LiveSlots, T: int) -> Tensor:
    """(B, T) slots, live ones first; what follows them may be any."""
    if live.table is not None:
        return live.table
    return (live.first[:, None] + torch.arange(T, device=live.first.device)).clamp(max=T - 1).int()


def as_pages(k: Tensor, v: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A cache (B, H_kv, T, D) as pages (P, H_kv, 1, D) of one slot, in place, and the pages of slots (B, N).

    Raises ValueError unless the sequences of k and of v are as many of their slots apart.
    """
    (B, H_kv, T, D), apart = k.shape, {x.stride(0) / x.stride(2) for x in (k, v)}
    if B == 1:
        apart = {T}
    (step, *others) = apart
    if others or step != int(step):
        raise ValueError(
            f"k has strides {list(k.stride())}, v {list(v.stride())}; where sequences begin at slots of their own, a "
            f'sequence must follow the last one by whole slots, as many in both; {EAGER}, or impl="numba"'
        )
    pages = (B - 1) * int(step) + T
    k, v = (x.as_strided((pages, H_kv, 1, D), (x.stride(2), x.stride(1), x.stride(2), 1)) for x in (k, v))
    return k, v, slots + torch.arange(B, device=slots.device, dtype=torch.int32)[:, None] * int(step)
