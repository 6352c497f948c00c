"""Attention of one decode step on a GPU, in three Triton kernels: append, attend, combine.

Read it beside its NumPy twin, reference/decode.py, which explains the algorithm and its terms: steps of the same number
have the same words. What only the GPU needs has no number. As in GPT-2, each query head has keys and values of its own.

Triton in short. `kernel[grid](arguments)` starts one program for each point of the grid, in any order; `program_id`
says which point a program is. A program computes with tiles, arrays whose sizes are powers of two and fixed when the
kernel is compiled, as are all names in capitals (tl.constexpr): for another value Triton compiles another kernel. So
rows of D numbers are padded to D_POW2, and masks keep loads and stores within D. A tensor arrives as a pointer to its
first element: k[b, h, t, d] is at k + b * stride_kb + h * stride_kh + t * STRIDE_KT + d. A stride is the distance, in
elements, between neighbours along one axis, so a cache of any layout is read in place. Offsets are computed in int64:
a cache may have more than 2^31 elements.
"""

# Triton calls these with other types than their annotations name, which pyright cannot follow.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportAssignmentType=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl

SPLIT_LEN = tl.constexpr(128)  # slots of a split
CHUNK = tl.constexpr(8)  # splits combined at a time
LOG2E = tl.constexpr(1.4426950408889634)  # log2(e): exp(x) = exp2(x * LOG2E), and the hardware has exp2 only
LOWEST = tl.constexpr(-3.0e38)  # where a maximum starts: below every score, but finite, since -inf - -inf is NaN


@triton.jit
def rows_at(
    x, b, h, slot, live, block_table, stride_tb, stride_b, stride_h,
    STRIDE_T: tl.constexpr, PAGE: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Pointers into the cache x: to the row of head h in one slot of sequence b, or in each of a tile of slots.

    PAGE is the number of slots in a page. A contiguous cache (PAGE is None) is like one page per sequence, so stride_b
    is the stride from page to page, or from sequence to sequence. ALIGN, if not None: every row begins at a multiple of
    so many elements, 16 bytes. With this hint each thread loads 16 bytes at once, the most there is, and Triton spreads
    rows over threads in the same way whatever the strides: sums over a row have one order, and so the same bits.
    """
    if PAGE is None:
        page, row = b, slot
    else:
        page = tl.load(block_table + b * stride_tb + slot // PAGE, mask=live, other=0).to(tl.int64)
        row = slot % PAGE
    start = page * stride_b + h * stride_h
    if ALIGN is not None:
        start = tl.multiple_of(start, ALIGN)
    return x + start + row.to(tl.int64) * STRIDE_T


@triton.jit
def append(
    x, new, lengths, block_table, stride_xb, stride_xh, stride_nb, stride_nh, stride_tb,
    STRIDE_XT: tl.constexpr, PAGE: tl.constexpr, ALIGN: tl.constexpr, D: tl.constexpr, D_POW2: tl.constexpr,
):  # fmt: skip
    """Program (h, b) writes the new row, new[b, h], to the sequence's last slot in the cache x (of keys or values)."""
    h, b = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = tl.load(lengths + b) - 1
    if slot >= 0:
        at = rows_at(x, b, h, slot, True, block_table, stride_tb, stride_xb, stride_xh, STRIDE_XT, PAGE, ALIGN)
        d = tl.arange(0, D_POW2)
        row = tl.load(new + b * stride_nb + h * stride_nh + d, mask=d < D)
        tl.store(at + d, row, mask=d < D)


@triton.jit
def attend(
    q, k, v, lengths, block_table, part_m, part_l, part_acc,
    stride_qb, stride_qh, stride_kb, stride_kh, stride_vb, stride_vh, stride_tb,
    STRIDE_KT: tl.constexpr, STRIDE_VT: tl.constexpr, PAGE: tl.constexpr, ALIGN: tl.constexpr,
    D: tl.constexpr, D_POW2: tl.constexpr, UNROLL: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Program (split, h, b) lets q[b, h] attend to the slots of one split, UNROLL tiles of BLOCK_N slots at a time.

    Unrolled, the loads of all tiles are under way before the first has arrived. q carries both factors of the scores.
    """
    split, h, b = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    ACC: tl.constexpr = part_acc.dtype.element_ty  # what sums are kept in: float32, or float64 for float64
    # 1. the slots of this split
    lo, hi = split * SPLIT_LEN, tl.minimum((split + 1) * SPLIT_LEN, tl.load(lengths + b))
    if lo >= hi:
        return  # the grid has a program for every split of the cache: the host need not know the lengths
    d = tl.arange(0, D_POW2)
    qh = tl.load(q + b * stride_qb + h * stride_qh + d, mask=d < D, other=0.0).to(ACC) * (D**-0.5 * LOG2E)
    m, l, acc = tl.full([BLOCK_N], LOWEST, ACC), tl.zeros([BLOCK_N], ACC), tl.zeros([BLOCK_N, D_POW2], ACC)
    for start in range(lo, hi, UNROLL * BLOCK_N):
        m_new, s, vb = m, (), ()  # s and vb get a tile from each turn of static_range, a loop that Triton unrolls
        for r in tl.static_range(UNROLL):
            # 2. the rows of this block
            slot = start + r * BLOCK_N + tl.arange(0, BLOCK_N)
            live = slot < hi
            at_k = rows_at(k, b, h, slot, live, block_table, stride_tb, stride_kb, stride_kh, STRIDE_KT, PAGE, ALIGN)
            at_v = rows_at(v, b, h, slot, live, block_table, stride_tb, stride_vb, stride_vh, STRIDE_VT, PAGE, ALIGN)
            mask = live[:, None] & (d[None, :] < D)  # slots from hi on are not read: they may hold anything, NaN too
            kb = tl.load(at_k[:, None] + d[None, :], mask=mask, other=0.0).to(ACC)  # (BLOCK_N, D_POW2)
            vb += (tl.load(at_v[:, None] + d[None, :], mask=mask, other=0.0),)
            # 3. scores of this block, as powers of two
            s += (tl.where(live, tl.sum(kb * qh[None, :], 1), float("-inf")),)
        # 4. new max; shrink the past
        for r in tl.static_range(UNROLL):
            m_new = tl.maximum(m_new, s[r])
        a, m = tl.exp2(m - m_new), m_new
        l, acc = l * a, acc * a[:, None]
        # 5. add the weights, and the values they weigh
        for r in tl.static_range(UNROLL):
            p = tl.exp2(s[r] - m)
            l += p
            acc = tl.fma(p[:, None], vb[r].to(ACC), acc)  # p * v + acc, rounded once
    # 6. merge the rows
    a, m = tl.exp2(m - tl.max(m, 0)), tl.max(m, 0)
    l, acc = tl.sum(l * a, 0), tl.sum(acc * a[:, None], 0)
    # 7. store this split's sums
    at = (b * tl.num_programs(1) + h) * tl.num_programs(0) + split
    tl.store(part_m + at, m)
    tl.store(part_l + at, l)
    tl.store(part_acc + at * D + d, acc, mask=d < D)


@triton.jit(do_not_specialize=["splits"])  # else Triton compiles another kernel for multiples of 16
def combine(part_m, part_l, part_acc, lengths, out, splits, D: tl.constexpr, D_POW2: tl.constexpr):
    """Program (h, b) combines the splits of q[b, h] into its attention, CHUNK of them at a time, in their order."""
    h, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    ACC: tl.constexpr = part_acc.dtype.element_ty
    query, d = b * tl.num_programs(0) + h, tl.arange(0, D_POW2)
    used = tl.cdiv(tl.load(lengths + b), SPLIT_LEN)  # the splits whose sums step 7 stored: the first ones
    m, l, acc = tl.full([], LOWEST, ACC), tl.zeros([], ACC), tl.zeros([D_POW2], ACC)
    for first in range(0, used, CHUNK):
        # 8. the splits of this chunk
        split = first + tl.arange(0, CHUNK)
        live, at = split < used, query * splits + split
        mc = tl.load(part_m + at, mask=live, other=float("-inf"))
        lc = tl.load(part_l + at, mask=live, other=0.0)
        accc = tl.load(part_acc + at[:, None] * D + d[None, :], mask=live[:, None] & (d[None, :] < D), other=0.0)
        # 9. new max; shrink the past
        m_new = tl.maximum(m, tl.max(mc, 0))
        a, m = tl.exp2(m - m_new), m_new
        l, acc = l * a, acc * a
        # 10. add the splits
        p = tl.exp2(mc - m)
        l += tl.sum(p * lc, 0)
        acc += tl.sum(p[:, None] * accc, 0)
    tl.store(out + query * D + d, acc / tl.where(l == 0, 1.0, l), mask=d < D)  # no slot in use: zeros


def check(q, k, v, lengths, k_new, v_new, block_table):
    """Raise ValueError unless the tensors are what `decode_attention` takes: what came, what fits, what to do."""
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    if q.dim() != 3 or k.dim() != 4 or q.dtype not in dtypes or not 1 <= q.shape[-1] <= 256:
        raise ValueError(
            f"q is {q.dtype} {list(q.shape)}, k {list(k.shape)}; q must be (B, H, D), D from 1 to 256, in float64, "
            "float32, float16 or bfloat16, and k (B, H, T, D); pass a (B, T, H, D) cache as k.transpose(1, 2)"
        )
    if (k_new is None) != (v_new is None):
        raise ValueError("of k_new and v_new one is None; pass both, to append a row, or neither")
    B, H, D = q.shape
    T = k.shape[2] if block_table is None else k.shape[2] * block_table.shape[-1]
    cache = (B if block_table is None else k.shape[0], H, k.shape[2], D)
    fits = {
        "q": (q, (B, H, D), q.dtype), "k": (k, cache, q.dtype), "v": (v, cache, q.dtype),
        "lengths": (lengths, (B,), torch.int32), "k_new": (k_new, (B, H, D), q.dtype),
        "v_new": (v_new, (B, H, D), q.dtype), "block_table": (block_table, (B, T // max(k.shape[2], 1)), torch.int32),
    }  # fmt: skip
    for name, (x, shape, dtype) in fits.items():
        if x is not None and (tuple(x.shape), x.dtype, x.device) != (shape, dtype, q.device):
            raise ValueError(
                f"{name} is {x.dtype} {list(x.shape)} on {x.device}; with q {q.dtype} {list(q.shape)} on {q.device} it "
                f"must be {dtype} {list(shape)} on {q.device}"
            )
        if x is not None and x.shape[-1] > 1 and x.stride(-1) != 1:
            raise ValueError(f"{name} has strides {x.stride()}; the last must be 1; pass {name}.contiguous()")
    if lengths.is_cpu and ((lengths < 0) | (lengths > T)).any():  # to look at a GPU's would be to wait for it
        raise ValueError(f"lengths are {lengths.tolist()}; the cache has {T} slots, so each must be from 0 to {T}")


def strides(x):
    """Strides of the first two axes; 0 for an axis of one element, which is never stepped along: torch may have any
    number there, and one that is no multiple of 16 bytes would cost the alignment."""
    return [0 if n == 1 else stride for n, stride in zip(x.shape[:2], x.stride()[:2], strict=True)]


def decode_attention(q, k, v, lengths, k_new=None, v_new=None, block_table=None):
    """Append each sequence's new row to the cache, if given, and let its query attend: softmax(q k^T / sqrt(D)) v.

    q             (B, H, D)     queries of B sequences in H heads: float64 | float32 | float16 | bfloat16; 1 <= D <= 256
    k, v          (B, H, T, D)  the cache, T slots per sequence, in q's dtype; with block_table pages (P, H, page, D)
    lengths       (B,) int32    slots in use, the new token's included: 0 <= lengths[b] <= T, else ValueError. Those of
                                a GPU are not checked, for that would wait for it: there a wrong one reads other memory
    k_new, v_new  (B, H, D)     rows to write to slot lengths[b] - 1 of k and v; None if they are there already
    block_table   (B, N) int32  slot t of sequence b is row t % page of page block_table[b, t // page]; T = N * page
    returns       (B, H, D)     in q's dtype, zeros for a length of 0; sums are float32, or float64 for float64

    The last axis of each tensor has stride 1, other strides are free. Slots past the length, and entries of the block
    table for them, may hold anything. Raises ValueError for tensors that do not fit each other. The tensors are on a
    CUDA GPU, or on the CPU where an emulator takes the launches (kvproof.kernels.ptx.route).
    """
    check(q, k, v, lengths, k_new, v_new, block_table)
    B, H, D = q.shape
    PAGE, stride_tb, T = None, 0, k.shape[2]
    if block_table is not None:
        PAGE, stride_tb, T = k.shape[2], block_table.stride(0), k.shape[2] * block_table.shape[1]
    S, D_POW2, size = max(triton.cdiv(T, SPLIT_LEN.value), 1), triton.next_power_of_2(D), q.element_size()
    starts = [k.data_ptr(), v.data_ptr(), *(n * size for x in (k, v) for n in (*strides(x), x.stride(2)))]  # bytes
    ALIGN = 16 // size if all(n % 16 == 0 for n in starts) else None
    # A program is one warp (num_warps=1), 32 threads in step: no barrier is needed. With 16 bytes each they load 512 at
    # once, BLOCK_N rows. float64 is for checks in emulators, whose time depends on the number of blocks: make it small.
    UNROLL, BLOCK_N = 8 if size == 8 else 4, max(1, 512 // (D_POW2 * size))
    # Without fp_fusion every product and every sum is rounded by itself, and only tl.fma rounds both at once. With it,
    # the compiler chooses in each kernel anew, and two kernels of the same formula differ in their last bits.
    options = {"num_warps": 1, "enable_fp_fusion": False}
    out, ACC = q.new_empty(B, H, D), torch.promote_types(q.dtype, torch.float32)
    partials = [q.new_empty(B * H * S * n, dtype=ACC) for n in (1, 1, D)]
    with torch.cuda.device_of(q):  # Triton launches on the current GPU; each launch sees what earlier ones stored
        for x, new in ((k, k_new), (v, v_new)) if k_new is not None else ():
            layout = (*strides(x), *strides(new), stride_tb, x.stride(2), PAGE, ALIGN)
            append[H, B](x, new, lengths, block_table, *layout, D, D_POW2, **options)
        layout = (*strides(q), *strides(k), *strides(v), stride_tb, k.stride(2), v.stride(2), PAGE, ALIGN)
        attend[S, H, B](q, k, v, lengths, block_table, *partials, *layout, D, D_POW2, UNROLL, BLOCK_N, **options)
        combine[H, B](*partials, lengths, out, S, D, D_POW2, **options)
    return out
