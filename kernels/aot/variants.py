"""What ships: the variants of the kernels that are compiled for every target and held to their gates.

A call whose heads, pages or features differ compiles another kernel, of the same source and by the same choices.
"""

from typing import Any, NamedTuple

import torch

from ..attention.arguments import Inputs, Options, Result
from ..attention.launch import Launch, choose_engine, launches
from ..attention.workspace import SPLIT_LEN, make_workspace


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
    split_len: int = SPLIT_LEN


bf16, fp32, fp64 = torch.bfloat16, torch.float32, torch.float64
VARIANTS = {
    "simt-fp16": Variant(),
    "simt-bf16": Variant(bf16),
    "simt-fp32": Variant(fp32),
    "simt-fp64": Variant(fp64),
    "simt-fp16-d32": Variant(D=32),
    "simt-fp16-d128": Variant(D=128),
    "simt-fp16-paged": Variant(page=16),
    "simt-fp16-window": Variant(window=1024, sinks=4),
    "simt-fp16-softcap-alibi": Variant(softcap=30.0, alibi=True),
    "simt-fp16-prefix": Variant(append=False, lse=True, causal=False),
    "simt-fp16-throughput": Variant(split_len=512),
    "simt-fp32-grouped": Variant(fp32, G=4),
    "mma-fp16": Variant(G=4),
    "mma-bf16": Variant(bf16, G=4),
    "mma-fp16-d128": Variant(D=128, G=4),
    "mma-bf16-d128": Variant(bf16, D=128, G=4),
    "mma-fp16-mqa": Variant(G=16),
    "mma-fp16-paged": Variant(G=4, page=16),
    "mma-int8": Variant(int8=True),
    "mma-int8-grouped": Variant(G=4, int8=True, page=16),
    "mma-fp16-tokens": Variant(M=16),
    "mma-bf16-paged-tokens": Variant(bf16, G=4, M=4, page=64),
    "mma-fp16-window": Variant(G=4, window=1024, sinks=4),
    "mma-fp16-softcap-alibi": Variant(G=4, softcap=30.0, alibi=True, lse=True),
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
    inputs = Inputs(make(B, M, H, D), k, v, torch.full((B,), T, dtype=torch.int32, device=device))
    if x.append:
        inputs = inputs._replace(k_new=make(B, M, H_kv, D), v_new=make(B, M, H_kv, D))
    if x.page is not None:
        pages = torch.arange(B * T // x.page, dtype=torch.int32, device=device)
        inputs = inputs._replace(block_table=pages.view(B, -1))
    if x.int8:
        inputs = inputs._replace(k_scale=make(*rows, dtype=torch.float32), v_scale=make(*rows, dtype=torch.float32))
    if x.alibi:
        inputs = inputs._replace(alibi_slopes=make(H, dtype=torch.float32))
    capability = (sm // 10, sm % 10)
    engine = choose_engine(x.dtype, x.int8, x.G * M, D, capability)
    options = Options(D**-0.5, x.window, x.sinks, x.softcap, x.causal, fused, engine, x.split_len)
    result = Result(make(B, M, H, D), make(B, M, H, dtype=torch.float32) if x.lse else None)
    partials = make_workspace(B, H, T, D, x.dtype, device, M)
    return launches(inputs, options, result, partials, capability=capability)


def kind(launch: Launch) -> tuple[Any, ...]:
    """What must be alike for two launches' machine code to be comparable."""
    x, cfg = launch.arguments, launch.arguments["CFG"]
    features = (cfg.WINDOW is None, cfg.SINKS > 0, cfg.SOFTCAP is None, cfg.INT8, cfg.FUSED, cfg.CAUSAL, cfg.ONE_TOKEN)
    pages = None if cfg.PAGE is None else cfg.PAGE % (cfg.UNROLL * cfg.BLOCK_N) == 0
    rows = (cfg.STRIDE_KT, cfg.STRIDE_VT, cfg.ALIGNED, pages)
    given = tuple(x.get(name) is None for name in ("new", "slopes"))
    result = x["result"]
    return (launch.kernel.__name__, result.out.dtype, cfg.D, cfg.G, *rows, result.lse is None, *features, *given)
