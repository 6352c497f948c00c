"""The new rows written to the cache in a launch of its own: what `fused=False` does before it attends."""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

from ..requires_triton import tl, triton
from .steps import append_token, at_head, new_rows


@triton.jit(do_not_specialize=["M"])
def append_rows(cache, new, lengths, T, M, CFG: tl.constexpr):
    """Program (token, h, b) writes one new token's key and value of KV head h."""
    token, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.load(lengths + b)
    slot = length - M + token
    if (length >= 0) & (length <= T) & (slot >= 0):
        kv_ptrs = at_head(cache, b, h, slot, CFG)
        append_token(kv_ptrs, new_rows(new, b, h, CFG), new, token, True, slot, slot, CFG)
