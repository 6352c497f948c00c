"""The Triton kernel's twin: the same splits, blocks and numbered steps, slow and plain.

It explains, it does not judge: sharing the kernel's ideas, it would share its mistakes. The judge is the plain formula,
`attention` in judge/rounding.py. The kernel's programs are the iterations of a loop here, its tiles are arrays. The
steps start in one of the engines' files and end in combine.py; kernels/attention/arguments.py describes the arguments.
"""

from types import SimpleNamespace

import numpy as np

from .mma import attend_mma
from .simt import attend_simt
from .steps import SPLIT_LEN


def decode_attention(
    q, k, v, lengths, scale=None, return_lse=False, *, k_new=None, v_new=None, block_table=None, k_scale=None,
    v_scale=None, window=None, softcap=None, alibi_slopes=None, sinks=0, causal=True, engine=None, order=None,
):  # fmt: skip
    """Append the new tokens' rows, and let the tokens attend to everything cached: softmax(q k^T * scale) v.

    q             (B, H, D), or (B, M, H, D) for M new tokens: float16 | bfloat16 (ml_dtypes) | float32 | float64
    k, v          (B, H_kv, T, D) of q's dtype, or int8 with k_scale, v_scale (B, H_kv, T) float32: value = int8 * scale
                  With block_table (B, max_pages): pages (P, H_kv, page, D) and scales (P, H_kv, page)
    lengths       (B,) visible slots, 0 <= lengths[b] <= T, the new tokens' among them; no later slot is ever read
    k_new, v_new  (B, H_kv, D) or (B, M, H_kv, D): row i is written to slot lengths - M + i, in place
    window        a token sees so many slots, its own the last, and the first `sinks`; causal=False: all of its sequence
    softcap       s -> softcap * tanh(s / softcap), then alibi_slopes (H,) or (B, H): s -> s - slope * |slot - position|
    engine        "simt" | "mma" (16-bit q only), or None: the kernel's own choice
    order         seed that shuffles the programs, whose order must not matter
    returns       o in q's shape and dtype, summed in float32 (float64 for float64), and with return_lse the scores'
                  log-sum-exp, (B, H) or (B, M, H). A token that sees nothing gets zeros and -inf.

    Raises ValueError if a length leaves 0..T or the engine does not take q. Sources: kernels/attention/.
    """
    q_new = q if q.ndim == 4 else q[:, None]
    k_new, v_new = (x if x is None or x.ndim == 4 else x[:, None] for x in (k_new, v_new))
    B, M, H, D = q_new.shape
    H_kv, G, T = k.shape[1], H // k.shape[1], k.shape[2] * (1 if block_table is None else block_table.shape[1])
    if not all(0 <= n <= T for n in lengths):
        raise ValueError(f"lengths are {list(lengths)}; the cache has {T} slots, so each must be 0..{T}")
    if engine is None:  # tensor cores multiply 16 bits, and pay where several queries share a key or keys have 8 bits
        engine = "mma" if q.dtype.itemsize == 2 and D <= 128 and (G * M > 1 or k.dtype == np.int8) else "simt"
    if engine not in ("simt", "mma") or (engine == "mma" and q.dtype.itemsize != 2):
        raise ValueError(f'engine is {engine!r}, q {q.dtype}; "simt" takes every dtype, "mma" float16 and bfloat16')
    attend, BLOCK_M, UNROLL, BLOCK_N = (attend_mma, 16, 1, 32) if engine == "mma" else (attend_simt, 1, 4, 16)
    S, P = max(-(-T // SPLIT_LEN), 1), H_kv * -(-G * M // BLOCK_M)
    CFG = SimpleNamespace(
        G=G, SCALE=D**-0.5 if scale is None else scale, CAUSAL=causal, WINDOW=window, SINKS=sinks, SOFTCAP=softcap,
        INT8=k_scale is not None, DTYPE=q.dtype, BLOCK_M=BLOCK_M, UNROLL=UNROLL, BLOCK_N=BLOCK_N,
        SPLIT_LEN=SPLIT_LEN, CHUNK=8, S=S,
    )  # fmt: skip
    ACC = np.dtype(np.float64 if q.dtype == np.float64 else np.float32)
    cache = SimpleNamespace(k=k, v=v, k_scale=k_scale, v_scale=v_scale, table=block_table)
    new = SimpleNamespace(k=k_new, v=v_new)
    result = SimpleNamespace(out=np.full(q_new.shape, np.nan, q.dtype), lse=np.full((B, M, H), np.nan, ACC))
    part = np.full((B, M, H, S, 2 + D), np.nan, ACC)
    partials = SimpleNamespace(m=part[..., 0], l=part[..., 1], acc=part[..., 2:], counters=np.zeros((B, P), int))
    slopes = np.broadcast_to(0 if alibi_slopes is None else alibi_slopes, (B, H)).astype(ACC)
    grid = list(np.ndindex(S, P, B))
    for split, program, b in grid if order is None else np.random.default_rng(order).permutation(grid).tolist():
        attend(split, program, b, q_new, cache, new, lengths, slopes, result, partials, CFG)
    o, lse = result.out.reshape(q.shape), result.lse.reshape(q.shape[:-1])
    return (o, lse) if return_lse else o
