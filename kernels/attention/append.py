"""The new rows: quantised where the cache is int8, and written to it, by the engines or in a launch of their own."""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from ..requires_triton import tl, triton
from .steps import Rows, at_head, locate, offset


@triton.jit
def quantise(x, AXIS: tl.constexpr):
    """Rows x along an axis -> whole numbers -127..127, still float32, and the scale of each row."""
    x = x.to(tl.float32)
    scale = tl.div_rn(tl.max(tl.abs(x), AXIS), 127.0)
    divisor = tl.expand_dims(tl.where(scale > 0, scale, 1.0), AXIS)
    return (tl.div_rn(x, tl.broadcast_to(divisor, x.shape)) + 12582912.0) - 12582912.0, scale  # 1.5 * 2^23: it rounds


@triton.jit
def new_rows(new, b, h, CFG: tl.constexpr):
    """Pointers to the first new row of KV head h."""
    k = new.k + offset(b, new.kb, new.k, CFG) + offset(h, new.kh, new.k, CFG)
    v = new.v + offset(b, new.vb, new.v, CFG) + offset(h, new.vh, new.v, CFG)
    return Rows(k, v, k, v)


@triton.jit
def store_row(at, scale_at, x, is_mine, CFG: tl.constexpr):
    """Copy a new row, at pointer x, to the cache."""
    d = tl.arange(0, CFG.D_POW2)
    row = tl.load(x + d, mask=is_mine & (d < CFG.D), other=0.0)
    if CFG.INT8:
        row, scale = quantise(row, 0)
        row = row.to(tl.int8)
        tl.store(scale_at, scale, mask=is_mine)
    tl.store(at + d, row, mask=is_mine & (d < CFG.D))


@triton.jit
def append_token(kv_ptrs, new_ptrs, new, token, is_mine, lo, slot, CFG: tl.constexpr):
    """Write the keys and values of one new token to its slot, if they are mine; kv_ptrs begin at slot lo."""
    at = locate(kv_ptrs, lo, slot - lo, is_mine, CFG)
    store_row(at.k, at.k_scale, new_ptrs.k + offset(token, new.km, new_ptrs.k, CFG), is_mine, CFG)
    store_row(at.v, at.v_scale, new_ptrs.v + offset(token, new.vm, new_ptrs.v, CFG), is_mine, CFG)


@triton.jit(do_not_specialize=["M"])
def append_rows(cache, new, lengths, T, M, CFG: tl.constexpr):
    """Program (token, h, b) writes one new token's key and value of KV head h."""
    token, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.load(lengths + b)
    slot = length - M + token
    if (length >= 0) & (length <= T) & (slot >= 0):
        kv_ptrs = at_head(cache, b, h, slot, CFG)
        append_token(kv_ptrs, new_rows(new, b, h, CFG), new, token, True, slot, slot, CFG)
