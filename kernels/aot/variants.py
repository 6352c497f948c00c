"""What ships: the variants of the kernels that are compiled for every target and held to their gates.

A call whose heads, pages or features differ compiles another kernel, of the same source and by the same choices.
"""

from typing import Any, NamedTuple

import torch

from ..attention.launch import Launch, Options, choose_engine, launches
from ..attention.workspace import FIRST, workspace


class Variant(NamedTuple):
    """A call of decode_attention, by what it compiles for."""

    dtype: torch.dtype = torch.float16
    D: int = 64
    G: int = 1  # query heads per KV head
    M: int = 1
    append: bool = True
    page: int | None = None
    int8: bool = False
    window: int | None = None
    sinks: int = 0
    softcap: float | None = None
    alibi: bool = False
    lse: bool = False
    causal: bool = True
    first: int = FIRST


bf16, fp32, fp64 = torch.bfloat16, torch.float32, torch.float64
VARIANTS = {
    "vector-fp16": Variant(),
    "vector-bf16": Variant(bf16),
    "vector-fp32": Variant(fp32),
    "vector-fp64": Variant(fp64),
    "vector-fp16-d32": Variant(D=32),
    "vector-fp16-d128": Variant(D=128),
    "vector-fp16-paged": Variant(page=16),
    "vector-fp16-window": Variant(window=1024, sinks=4),
    "vector-fp16-softcap-alibi": Variant(softcap=30.0, alibi=True),
    "vector-fp16-prefix": Variant(append=False, lse=True, causal=False),
    "vector-fp16-throughput": Variant(first=512),
    "vector-fp32-grouped": Variant(fp32, G=4),
    "tensor-fp16": Variant(G=4),
    "tensor-bf16": Variant(bf16, G=4),
    "tensor-fp16-d128": Variant(D=128, G=4),
    "tensor-bf16-d128": Variant(bf16, D=128, G=4),
    "tensor-fp16-mqa": Variant(G=16),
    "tensor-fp16-paged": Variant(G=4, page=16),
    "tensor-int8": Variant(int8=True),
    "tensor-int8-grouped": Variant(G=4, int8=True, page=16),
    "tensor-fp16-tokens": Variant(M=16),
    "tensor-bf16-paged-tokens": Variant(bf16, G=4, M=4, page=64),
    "tensor-fp16-window": Variant(G=4, window=1024, sinks=4),
    "tensor-fp16-softcap-alibi": Variant(G=4, softcap=30.0, alibi=True, lse=True),
}


def launches_of(
    variant: Variant,
    sm: int = 90,
    *,
    B: int = 2,
    H_kv: int = 4,
    T: int = 8192,
    fused: bool = True,
    device: str = "meta",
) -> list[Launch]:
    """The launches of a variant for a GPU of compute capability sm / 10, over lengths of T slots.

    Tensors of device "meta" have no memory; others hold zeros, and pages in order.
    """
    x, (D, M, H) = variant, (variant.D, variant.M, variant.G * H_kv)

    def make(*shape: int, dtype: torch.dtype = x.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    rows = (B, H_kv, T) if x.page is None else (B * T // x.page, H_kv, x.page)
    k, v = (make(*rows, D, dtype=torch.int8 if x.int8 else x.dtype) for _ in range(2))
    k_scale, v_scale = (make(*rows, dtype=torch.float32) if x.int8 else None for _ in range(2))
    k_new, v_new = (make(B, M, H_kv, D) if x.append else None for _ in range(2))
    lengths = torch.full((B,), T, dtype=torch.int32, device=device)
    table = None
    if x.page is not None:
        table = torch.arange(B * T // x.page, dtype=torch.int32, device=device).view(B, -1)
    slopes = make(H, dtype=torch.float32) if x.alibi else None
    lse = make(B, M, H, dtype=torch.float32) if x.lse else None
    engine = choose_engine(x.dtype, x.int8, x.G * M, D, (sm // 10, sm % 10))
    options = Options(
        D**-0.5, x.window, x.sinks, x.softcap, x.causal, fused, engine, x.first, (sm // 10, sm % 10)
    )  # fmt: skip
    parts = workspace(B, H, T, D, x.dtype, device, M)
    q, out = make(B, M, H, D), make(B, M, H, D)
    return launches(q, k, v, lengths, k_new, v_new, table, k_scale, v_scale, slopes, out, lse, parts, options)


def kind(launch: Launch) -> tuple[Any, ...]:
    """What must be alike for two launches' machine code to be comparable."""
    x, how = launch.arguments, launch.arguments["HOW"]
    features = (how.WINDOW is None, how.SINKS > 0, how.SOFTCAP is None, how.INT8, how.FUSED, how.CAUSAL, how.ONE)
    pages = None if how.PAGE is None else how.PAGE % (how.R * how.ROWS) == 0
    rows = (how.KT, how.VT, how.ALIGNED, pages)
    given = tuple(x.get(name) is None for name in ("new", "slopes"))
    result = x["result"]
    return (launch.kernel.__name__, result.out.dtype, how.D, how.G, *rows, result.lse is None, *features, *given)
