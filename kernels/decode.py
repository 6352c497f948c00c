"""Attention of one decode step on a GPU, in three Triton kernels: append, attend, combine.

Read it beside its NumPy twin, reference/decode.py, which explains the algorithm and its terms. A step has the same
number and title in both files; code that only the GPU needs has no number. As in GPT-2, each query head has keys and
values of its own (no grouped-query attention).

Triton in short. `kernel[grid](arguments)` starts one program for each point of the grid, in any order; `program_id`
gives its point. A program computes with tiles: arrays whose sizes are powers of two, fixed when the kernel is compiled.
All kernel parameters in capitals (tl.constexpr) are fixed then, too: for another value Triton compiles another kernel.
Rows of D numbers are padded to D_POW2, and masks keep loads and stores within D. A tensor arrives as a pointer to its
first element: k[b, h, t, d] is at k + b * stride_kb + h * stride_kh + t * STRIDE_KT + d; with pages, b is the page and
t the slot in it. A stride is the distance, in elements, between neighbours along one axis, so a cache of any layout is
read in place. Offsets are computed in int64: a cache may have more than 2^31 elements.
"""

# Triton passes other types than the annotations say, which pyright cannot follow.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportAssignmentType=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl

SPLIT_LEN = tl.constexpr(128)  # slots of a split: fixed, so a query's bits do not depend on other sequences
CHUNK = tl.constexpr(8)  # splits combined at a time: sizes are fixed, the number of splits is not
LOG2E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x * LOG2E); GPU hardware computes exp2 directly
LOWEST = tl.constexpr(-3.0e38)  # initial running max: below usual scores, but finite, since -inf - -inf is NaN


@triton.jit
def rows_at(
    x, b, h, slot, live, block_table, stride_tb, stride_page, stride_h,
    STRIDE_T: tl.constexpr, PAGE: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Pointers into the cache x: to the rows of sequence b, head h, at slot (an integer, or a tile of them).

    PAGE is the number of slots in a page; a cache without a block table (PAGE is None) is one page per sequence. ALIGN,
    if not None, is 16 bytes in elements, and every row begins at a multiple of it. At a launch Triton sees whether the
    address x is such a multiple, and STRIDE_T is a constant; it cannot know this of `offset`, so the hint says so. Then
    each thread loads up to 16 bytes at once, and Triton spreads rows over threads in one way. So sums over a row have
    one order, and the same bits, in every aligned cache, paged or not.
    """
    if PAGE is None:
        page, slot_in_page = b, slot
    else:
        page = tl.load(block_table + b * stride_tb + slot // PAGE, mask=live, other=0).to(tl.int64)
        slot_in_page = slot % PAGE
    offset = page * stride_page + h * stride_h
    if ALIGN is not None:
        offset = tl.multiple_of(offset, ALIGN)
    return x + offset + slot_in_page.to(tl.int64) * STRIDE_T


@triton.jit
def append(
    x, new, lengths, block_table, stride_xb, stride_xh, stride_nb, stride_nh, stride_tb,
    STRIDE_XT: tl.constexpr, PAGE: tl.constexpr, ALIGN: tl.constexpr, D: tl.constexpr, D_POW2: tl.constexpr,
):  # fmt: skip
    """Program (h, b) writes the new row, new[b, h], to the sequence's last slot in use, in the cache x."""
    h, b = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = tl.load(lengths + b) - 1
    if slot >= 0:
        live = True  # the mask that rows_at needs: this slot is in use
        at = rows_at(x, b, h, slot, live, block_table, stride_tb, stride_xb, stride_xh, STRIDE_XT, PAGE, ALIGN)
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
    """Program (split, h, b) lets q[b, h] attend to the slots of one split.

    It takes a block of UNROLL tiles of BLOCK_N slots at a time. Triton unrolls the loops over a block's tiles
    (static_range), so that the compiler can start the loads of several tiles before it needs the first.
    """
    split, h, b = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    ACC: tl.constexpr = part_acc.dtype.element_ty  # dtype of all sums: float64 if q is float64, else float32
    # 1. the slots of this split
    lo, hi = split * SPLIT_LEN, tl.minimum((split + 1) * SPLIT_LEN, tl.load(lengths + b))
    if lo >= hi:
        return  # the grid has a program for every split of the cache, so the CPU need not read the lengths
    d = tl.arange(0, D_POW2)
    qh = tl.load(q + b * stride_qb + h * stride_qh + d, mask=d < D, other=0.0).to(ACC) * (D**-0.5 * LOG2E)
    # The dot product of qh and a key is score * LOG2E. There are BLOCK_N running sums, as in the twin.
    m, l, acc = tl.full([BLOCK_N], LOWEST, ACC), tl.zeros([BLOCK_N], ACC), tl.zeros([BLOCK_N, D_POW2], ACC)
    for start in range(lo, hi, UNROLL * BLOCK_N):
        m_new, s, vb = m, (), ()  # each turn of static_range adds a tile to vb and its BLOCK_N scores to s
        for r in tl.static_range(UNROLL):
            # 2. the keys and values of this block
            slot = start + r * BLOCK_N + tl.arange(0, BLOCK_N)
            live = slot < hi  # only live slots are read: others are not in use, or belong to another split
            at_k = rows_at(k, b, h, slot, live, block_table, stride_tb, stride_kb, stride_kh, STRIDE_KT, PAGE, ALIGN)
            at_v = rows_at(v, b, h, slot, live, block_table, stride_tb, stride_vb, stride_vh, STRIDE_VT, PAGE, ALIGN)
            mask = live[:, None] & (d[None, :] < D)
            kb = tl.load(at_k[:, None] + d[None, :], mask=mask, other=0.0).to(ACC)  # (BLOCK_N, D_POW2)
            vb += (tl.load(at_v[:, None] + d[None, :], mask=mask, other=0.0),)
            # 3. scores of this block, as exponents of 2
            s += (tl.where(live, tl.sum(kb * qh[None, :], 1), float("-inf")),)
        # 4. new max; shrink the past
        for r in tl.static_range(UNROLL):
            m_new = tl.maximum(m_new, s[r])
        a, m = tl.exp2(m - m_new), m_new  # a is the factor that shrinks the past
        l, acc = l * a, acc * a[:, None]
        # 5. add the weights, and the values they weigh
        for r in tl.static_range(UNROLL):
            p = tl.exp2(s[r] - m)
            l += p
            acc = tl.fma(p[:, None], vb[r].to(ACC), acc)  # product and sum are rounded together
    # 6. merge the BLOCK_N sums
    m_new = tl.max(m, 0)
    a, m = tl.exp2(m - m_new), m_new
    l, acc = tl.sum(l * a, 0), tl.sum(acc * a[:, None], 0)  # (), (D_POW2,)
    # 7. store this split's sums
    index = (b * tl.num_programs(1) + h) * tl.num_programs(0) + split  # of (B, H, splits): the grid is (splits, H, B)
    tl.store(part_m + index, m)
    tl.store(part_l + index, l)
    tl.store(part_acc + index * D + d, acc, mask=d < D)


@triton.jit(do_not_specialize=["splits"])  # else Triton compiles other kernels for 1 and for multiples of 16
def combine(part_m, part_l, part_acc, lengths, out, splits, D: tl.constexpr, D_POW2: tl.constexpr):
    """Program (h, b) combines the splits of q[b, h] into its attention, CHUNK of them at a time, in their order."""
    h, b = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    ACC: tl.constexpr = part_acc.dtype.element_ty
    query, d = b * tl.num_programs(0) + h, tl.arange(0, D_POW2)
    used = tl.cdiv(tl.load(lengths + b), SPLIT_LEN)  # how many splits step 7 stored: they come first
    m, l, acc = tl.full([], LOWEST, ACC), tl.zeros([], ACC), tl.zeros([D_POW2], ACC)
    for first in range(0, used, CHUNK):
        # 8. the splits of this chunk
        split = first + tl.arange(0, CHUNK)
        live, index = split < used, query * splits + split
        mask = live[:, None] & (d[None, :] < D)
        m_chunk = tl.load(part_m + index, mask=live, other=float("-inf"))
        l_chunk = tl.load(part_l + index, mask=live, other=0.0)
        acc_chunk = tl.load(part_acc + index[:, None] * D + d[None, :], mask=mask, other=0.0)
        # 9. new max; shrink the past
        m_new = tl.maximum(m, tl.max(m_chunk, 0))
        a, m = tl.exp2(m - m_new), m_new
        l, acc = l * a, acc * a
        # 10. add the splits
        p = tl.exp2(m_chunk - m)
        l += tl.sum(p * l_chunk, 0)
        acc += tl.sum(p[:, None] * acc_chunk, 0)
    tl.store(out + query * D + d, acc / tl.where(l == 0, 1.0, l), mask=d < D)  # a length of 0 gives zeros


def check(q, k, v, lengths, k_new, v_new, block_table):
    """Raise ValueError for tensors that `decode_attention` does not take."""
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    if q.dim() != 3 or k.dim() != 4 or q.dtype not in dtypes or not 1 <= q.shape[2] <= 256 or max(q.shape) > 65535:
        raise ValueError(
            f"q is {q.dtype} {list(q.shape)}, k {list(k.shape)}; q must be (B, H, D) in float64, float32, float16 or "
            "bfloat16, D from 1 to 256, B and H up to 65535 (a CUDA grid's limit), and k (B, H, T, D)"
        )
    if (k_new is None) != (v_new is None):
        raise ValueError("only one of k_new and v_new is given; pass both, to append a row, or neither")
    (B, H, D), PAGE = q.shape, k.shape[2]
    pages, N = (B, 1) if block_table is None else (len(k), sum(block_table.shape[1:]))  # any shape comes to the check
    T = N * PAGE
    expected = {
        "k": (k, (pages, H, PAGE, D), q.dtype), "v": (v, (pages, H, PAGE, D), q.dtype), "q": (q, (B, H, D), q.dtype),
        "lengths": (lengths, (B,), torch.int32), "k_new": (k_new, (B, H, D), q.dtype),
        "v_new": (v_new, (B, H, D), q.dtype), "block_table": (block_table, (B, N), torch.int32),
    }  # fmt: skip
    for name, (x, shape, dtype) in expected.items():
        if x is not None and (tuple(x.shape), x.dtype, x.device) != (shape, dtype, q.device):
            raise ValueError(
                f"{name} is {x.dtype} {list(x.shape)} on {x.device}; with q {q.dtype} {list(q.shape)} on {q.device} it "
                f"must be {dtype} {list(shape)} on {q.device}"
                + "; pass (B, T, H, D) as x.transpose(1, 2)"
                * (name in "kv")
            )
        if x is not None and x.shape[-1] > 1 and x.stride(-1) != 1:
            raise ValueError(f"{name} has strides {x.stride()}; the last must be 1; store it with that axis last")
    if block_table is not None and PAGE == 0:
        raise ValueError(f"k is {list(k.shape)}: pages of 0 slots; pass pages of 1 slot or more")
    if lengths.is_cpu and ((lengths < 0) | (lengths > T)).any():  # reading a GPU's would stall until it is done
        raise ValueError(f"lengths are {lengths.tolist()}; the cache has {T} slots, so each must be from 0 to {T}")


def strides(x):
    """Strides of all axes but the last; 0 for an axis of size 1, for which torch may report any number: no step is
    taken along it, so that number must not spoil the alignment."""
    return [0 if n == 1 else stride for n, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True)]


def decode_attention(q, k, v, lengths, k_new=None, v_new=None, block_table=None):
    """Append each sequence's new row to the cache, if given, and let its query attend: softmax(q k^T / sqrt(D)) v.

    q             (B, H, D)     queries of B sequences in H heads: float64 | float32 | float16 | bfloat16; 1 <= D <= 256
    k, v          (B, H, T, D)  the cache, in q's dtype, changed in place if rows are appended; with block_table
                                (P, H, PAGE, D)
    lengths       (B,) int32    slots in use, the new token's included: 0 <= lengths[b] <= T, else ValueError. Lengths
                                on a GPU are not checked, which would stall: one above T there reads and overwrites
                                other memory
    k_new, v_new  (B, H, D)     rows to write to slot lengths[b] - 1 of k and v, if that is 0 or more; None: nothing
    block_table   (B, N) int32  slot t of sequence b is slot t % PAGE of page block_table[b, t // PAGE]; T = N * PAGE
    returns       (B, H, D)     in q's dtype, zeros for a length of 0; sums are float32, or float64 for float64

    No two sequences may append to the same slot, nor one attend to a slot to which another appends: a GPU appends
    for all of them first. The last axis of each tensor has stride 1 (or size 1), other strides are free. Slots past
    the length, and entries of the block table for them, may hold anything. Raises ValueError for tensors that do
    not fit. The tensors are on a CUDA GPU, or on the CPU under this project's GPU emulator, which runs the compiled
    kernels in NumPy (`kvproof.kernels.backend.without_gpu`).
    """
    check(q, k, v, lengths, k_new, v_new, block_table)
    B, H, D = q.shape
    PAGE, stride_tb, T = None, 0, k.shape[2]
    if block_table is not None:
        PAGE, stride_tb, T = k.shape[2], block_table.stride(0), k.shape[2] * block_table.shape[1]
    splits, D_POW2 = max(triton.cdiv(T, SPLIT_LEN.value), 1), triton.next_power_of_2(D)
    itemsize = q.element_size()
    distances = [stride * itemsize for x in (k, v) for stride in strides(x)]  # in bytes, as addresses are
    aligned = all(n % 16 == 0 for n in (k.data_ptr(), v.data_ptr(), *distances))
    ALIGN = 16 // itemsize if aligned else None
    # A program is one warp, 32 threads, so it needs no barrier between warps. If aligned, the threads load 16 bytes
    # each, 512 at once: BLOCK_N rows; a longer row takes several loads. float64 is for checks in the emulator,
    # whose run time grows with the number of loop passes, so it takes 8 tiles per pass instead of 4.
    UNROLL, BLOCK_N = 8 if itemsize == 8 else 4, max(1, 512 // (D_POW2 * itemsize))
    # Without fp_fusion every product and every sum is rounded by itself, and only tl.fma rounds both together. With it
    # the compiler would choose in each kernel, and the paged and the contiguous one could differ in their last bits.
    options = {"num_warps": 1, "enable_fp_fusion": False}
    out, ACC = q.new_empty(B, H, D), torch.promote_types(q.dtype, torch.float32)
    partials = [q.new_empty(B * H * splits * n, dtype=ACC) for n in (1, 1, D)]  # part_m, part_l, part_acc
    with torch.cuda.device_of(q):  # Triton launches on the current GPU; each launch sees what earlier ones stored
        if k_new is not None:
            for x, new in ((k, k_new), (v, v_new)):
                layout = (*strides(x)[:2], *strides(new), stride_tb, strides(x)[2], PAGE, ALIGN)
                append[H, B](x, new, lengths, block_table, *layout, D, D_POW2, **options)
        layout = (*strides(q), *strides(k)[:2], *strides(v)[:2], stride_tb, strides(k)[2], strides(v)[2], PAGE, ALIGN)
        attend[splits, H, B](q, k, v, lengths, block_table, *partials, *layout, D, D_POW2, UNROLL, BLOCK_N, **options)
        combine[H, B](*partials, lengths, out, splits, D, D_POW2, **options)
    return out
