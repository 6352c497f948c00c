"""Attention over one part of the context and over another -> attention over both: for prefixes that sequences share.

A prefix that B sequences have in common is stored once, and read once for up to 16 of them: their queries become the
tokens of a single sequence. Each sequence adds its own suffix.

    q                                             # (B, H, D), prefix_k (1, H_kv, P, D), k (B, H_kv, T, D)
    o, lse = decode_attention(q[None], prefix_k, prefix_v, P, causal=False, return_lse=True)
    o, lse = merge_state(o[0], lse[0], *decode_attention(q, k, v, lengths, return_lse=True))
"""

import torch
from torch import Tensor

from ..backend import check_device, interpreting
from ..requires_triton import tl, triton
from .checks import DTYPES, describe
from .workspace import accumulator

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def merge_rows(o_a, lse_a, o_b, lse_b, o, lse, n, D: tl.constexpr, D_POW2: tl.constexpr, BLOCK_M: tl.constexpr):
    """Program i merges rows i * BLOCK_M .. of n: o_a, o_b, o (n, D), lse_a, lse_b, lse (n,)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_row = row < n
    a = tl.load(lse_a + row, mask=is_row, other=0.0)
    b = tl.load(lse_b + row, mask=is_row, other=0.0)
    a = tl.where(a == float("inf"), float("-inf"), a)  # flash-attn 2's lse of a part that saw nothing
    b = tl.where(b == float("inf"), float("-inf"), b)
    m = tl.maximum(a, b)
    m = tl.where(m == float("-inf"), 0.0, m)  # nothing on either side: -inf - -inf would be NaN
    p_a = tl.exp2((a - m) * LOG2E)
    p_b = tl.exp2((b - m) * LOG2E)
    l = p_a + p_b
    total = tl.where(l == 0, 1.0, l)
    tl.store(lse + row, tl.where(l == 0, float("-inf"), m + tl.log2(total) / LOG2E), mask=is_row)
    d = tl.arange(0, D_POW2)[None, :]
    at, wanted = row[:, None] * D + d, is_row[:, None] & (d < D)
    saw_a, saw_b = (a != float("-inf"))[:, None], (b != float("-inf"))[:, None]  # what saw nothing may hold anything
    x_a = tl.load(o_a + at, mask=wanted & saw_a, other=0.0).to(a.dtype)
    x_b = tl.load(o_b + at, mask=wanted & saw_b, other=0.0).to(a.dtype)
    tl.store(o + at, (p_a[:, None] * x_a + p_b[:, None] * x_b) / total[:, None], mask=wanted)


@torch.library.custom_op("kvproof::merge_state", mutates_args=())
def _merge(o_a: Tensor, lse_a: Tensor, o_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    check_device(o_a.device)
    o_a, lse_a, o_b, lse_b = (x.contiguous() for x in (o_a, lse_a, o_b, lse_b))
    # The interpreter's stores truncate to 16 bits, where a GPU's round to nearest: there, torch rounds.
    o = torch.empty_like(o_a, dtype=lse_a.dtype if interpreting() else o_a.dtype)
    lse = torch.empty_like(lse_a)
    if o.numel():
        D = o.shape[-1]
        D_POW2 = triton.next_power_of_2(D)
        rows = max(1, 512 // D_POW2)
        grid = (triton.cdiv(lse.numel(), rows),)
        with torch.cuda.device_of(o):  # Triton launches on the current GPU, whichever the tensors are on
            # Not fused: a multiplication contracted with the sum would round one side's part and not the other's.
            compiling = {"D": D, "D_POW2": D_POW2, "BLOCK_M": rows, "num_warps": 1, "enable_fp_fusion": False}
            merge_rows[grid](o_a, lse_a, o_b, lse_b, o, lse, lse.numel(), **compiling)
    return o.to(o_a.dtype), lse


@_merge.register_fake
def _(o_a, lse_a, o_b, lse_b):
    return torch.empty(o_a.shape, dtype=o_a.dtype, device=o_a.device), torch.empty(
        lse_a.shape, dtype=lse_a.dtype, device=lse_a.device
    )


def merge_state(o_a: Tensor, lse_a: Tensor, o_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the attention of the same queries over two parts of a context, which share no slot.

    o_a, o_b      (..., D)  float16 | bfloat16 | float32 | float64, any strides, the same shape
    lse_a, lse_b  (...)  float32 (float64 for float64): natural log of each part's sum of exponentials, as
                  `decode_attention(..., return_lse=True)` gives it; -inf where nothing was seen, or +inf, as
                  flash-attn 2 has it
    returns       o (..., D) in o_a's dtype and lse (...), new and contiguous. Sums are float32, float64 for float64.
                  Traffic: 3 * numel(o) * itemsize + 3 * numel(lse) * 4 bytes.

    Swapping the parts changes no bit. A part that saw nothing leaves the other as it is, whatever its o holds; two of
    them give zeros and -inf. NaN in what was seen gives NaN. In 16 bits each part was rounded before, and their sum is
    rounded again.
    Raises ValueError if shapes, dtypes or devices disagree; BackendError if kernels cannot run on the device.
    Source: Milakov & Gimelshein 2018 (arXiv:1805.02867), section 3.1, the reduction of two partial results.
    """
    if o_a.dtype not in DTYPES or o_a.dim() < 1 or 0 in o_a.shape[-1:]:
        raise ValueError(f"o_a is {describe(o_a)}; it must be (..., D) in one of float16, bfloat16, float32, float64")
    kept = accumulator(o_a.dtype)
    wanted = {"o_b": (o_b, o_a.shape, o_a.dtype), "lse_a": (lse_a, o_a.shape[:-1], kept)}
    wanted["lse_b"] = (lse_b, o_a.shape[:-1], kept)
    for name, (x, shape, dtype) in wanted.items():
        if (x.shape, x.dtype, x.device) != (shape, dtype, o_a.device):
            raise ValueError(
                f"o_a is {describe(o_a)}, {name} {describe(x)}; {name} must be {dtype} {list(shape)} on "
                f"{o_a.device}; pass both results of the same queries, and their lse as it was returned"
            )
    return _merge(o_a, lse_a, o_b, lse_b)
