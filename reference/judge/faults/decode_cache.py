"""Wrong decode attention in its caches: pages, 8 bits, rows appended; and in what it hands on, ALiBi and lse."""

import math

import numpy as np

from ...cache import quantise
from ..features import append, place, plain_cache
from ..rounding import rows
from .decode_op import attend, decode_op, load, op_fault, store

SPLIT = 128  # slots that a fault in merging handles at a time


def load_with_new(k, v, lengths, k_new, v_new, **cache):
    """The plain cache as it should be: new rows come from the input, whatever has been stored."""
    k, v = k.copy(), v.copy()
    scales = {name: x.copy() for name in ("k_scale", "v_scale") if (x := cache[name]) is not None}
    store(k, v, lengths, k_new, v_new, **(cache | scales))
    return plain_cache(k, v, **(cache | scales))


def storing(wrong):
    """`decode_op` whose output is right and whose cache holds what wrong(k, v, lengths, k_new, v_new, **cache) did."""

    def step(k, v, lengths, k_new, v_new, **cache):
        if k_new is not None:
            wrong(k, v, lengths, *(x if x.ndim == 4 else x[:, None] for x in (k_new, v_new)), **cache)

    return lambda *call, **asked: decode_op(*call, **asked, store=step, load=load_with_new)


@op_fault("sgl-project/sglang/pull/31218", closest=True)
def page_offset(*call, **asked):
    """a slot is looked for one place too early within its page; invisible without pages"""

    def early(k, v, *new, **cache):
        if cache["block_table"] is not None:
            before = np.maximum(np.arange(k.shape[2]) - 1, 0)
            k, v = k[:, :, before], v[:, :, before]
            cache |= {name: x[:, :, before] for name in ("k_scale", "v_scale") if (x := cache[name]) is not None}
        return load(k, v, *new, **cache)

    return decode_op(*call, **asked, load=early)


@op_fault()
def page_of_the_first(*call, **asked):
    """every sequence looks its pages up in the first one's row of the block table; invisible without pages, and in a
    batch of one"""

    def first(*call, block_table, **cache):
        table = block_table if block_table is None else np.broadcast_to(block_table[:1], block_table.shape)
        return load(*call, block_table=table, **cache)

    return decode_op(*call, **asked, load=first)


@op_fault("vllm-project/vllm/issues/49716", closest=True)
def scale_of_the_neighbour(*call, **asked):
    """a row is read under the scale of the slot before it; invisible without 8 bits"""

    def shifted(*call, k_scale, v_scale, **cache):
        if k_scale is not None:
            before = np.maximum(np.arange(k_scale.shape[2]) - 1, 0)
            k_scale, v_scale = k_scale[:, :, before], v_scale[:, :, before]
        return load(*call, k_scale=k_scale, v_scale=v_scale, **cache)

    return decode_op(*call, **asked, load=shifted)


@op_fault()
def scale_of_k_for_v(*call, **asked):
    """values are read under the keys' scales; invisible without 8 bits"""
    return decode_op(*call, **asked, load=lambda *call, **cache: load(*call, **(cache | {"v_scale": cache["k_scale"]})))


@op_fault()
def row_unquantised(*call, **asked):
    """the new row is attended as it came, not as the 8-bit cache gives it back; invisible without 8 bits, and without
    append"""

    def exact(k, v, lengths, k_new, v_new, **cache):
        k, v = load(k, v, lengths, k_new, v_new, **cache)
        if k_new is not None:
            append(k, v, lengths, k_new, v_new)
        return k, v

    return decode_op(*call, **asked, load=exact)


@op_fault()
def row_truncated(*call, **asked):
    """a new row's digits are cut off instead of rounded; invisible without 8 bits, and without append"""

    def cut(k, v, lengths, k_new, v_new, **cache):
        append(k, v, lengths, k_new, v_new, **cache)
        B, M = k_new.shape[:2]
        for b, i in np.ndindex(B, M):
            if cache["k_scale"] is not None and (p := lengths[b] - M + i) >= 0:
                row = k_new[b, i].astype(np.float32)
                at = place(b, p, k, cache["block_table"])
                k[at] = np.trunc(row / quantise(row)[1][:, None])

    return storing(cut)(*call, **asked)


@op_fault()
def append_late(*call, **asked):
    """new rows land one slot late, the last one nowhere if the cache is full; invisible without append"""

    def late(k, v, lengths, k_new, v_new, **cache):
        table, M = cache["block_table"], k_new.shape[1]
        T = k.shape[2] if table is None else k.shape[2] * table.shape[1]
        for b, n in enumerate(lengths):
            fits = min(M, T - n + M - 1)
            one = {"block_table": table if table is None else table[b : b + 1]}
            one |= {name: cache[name] for name in ("k_scale", "v_scale")}
            part = slice(None) if table is not None else slice(b, b + 1)
            if table is None:
                one |= {name: x[part] for name in ("k_scale", "v_scale") if (x := cache[name]) is not None}
            new = (x[b : b + 1, :fits] for x in (k_new, v_new))
            append(k[part], v[part], [n + 1 - M + fits], *new, **one)

    return storing(late)(*call, **asked)


@op_fault("1bit-MONSTER/1bit-MONSTER/issues/686")
def append_first_only(*call, **asked):
    """of several new rows only the first is kept; invisible without append, and at one token"""

    def first(k, v, lengths, k_new, v_new, **cache):
        append(k, v, np.asarray(lengths) - k_new.shape[1] + 1, k_new[:, :1], v_new[:, :1], **cache)

    return storing(first)(*call, **asked)


@op_fault()
def append_clamped(*call, **asked):
    """a new row that has no slot overwrites slot 0; invisible without append, and where every token has a position"""

    def clamped(k, v, lengths, k_new, v_new, **cache):
        append(k, v, lengths, k_new, v_new, **cache)
        for b, n in enumerate(lengths):
            if n < k_new.shape[1]:
                ones = np.where(np.arange(len(lengths)) == b, 1, 0)  # slot 0 of this sequence, nothing of the others
                append(k, v, ones, k_new[:, -1 - n : k_new.shape[1] - n], v_new[:, :1], **cache)

    return storing(clamped)(*call, **asked)


@op_fault("meta-pytorch/attention-gym/pull/86")
def alibi_sign(*call, alibi_slopes=None, **asked):
    """the bias grows with the distance; invisible without ALiBi"""
    return decode_op(*call, alibi_slopes=alibi_slopes if alibi_slopes is None else -alibi_slopes, **asked)


@op_fault("keras-team/keras-hub/pull/2977")
def alibi_over_the_queries(q, *call, alibi_slopes=None, **asked):
    """the bias is built over the new tokens, of which there is one, and so is 0; invisible without ALiBi, and with
    several tokens"""
    lone = q.ndim == 3 or q.shape[1] == 1
    return decode_op(q, *call, alibi_slopes=None if lone else alibi_slopes, **asked)


@op_fault("vllm-project/vllm/pull/945")
def alibi_from_the_length(*call, **asked):
    """distances count from the slot after the last one, which shifts all scores alike, so that only lse tells;
    invisible without ALiBi"""

    def shifted(q, k, v, lengths, **asked):
        o, lse = attend(q, k, v, lengths, **asked)
        after = np.arange(q.shape[1] if q.ndim == 4 else 1, 0, -1)[None, :, None]  # slots from the token to there
        slopes = np.broadcast_to(asked["alibi_slopes"], (len(q), q.shape[-2]))[:, None]
        return o, lse - (slopes * after).reshape(lse.shape)

    return decode_op(*call, **asked, attend=shifted if "alibi_slopes" in asked else attend)


@op_fault()
def alibi_of_the_kv_head(q, k, *call, alibi_slopes=None, **asked):
    """slopes are looked up by KV head; invisible without ALiBi, and at one query head each"""
    heads = np.arange(q.shape[-2]) // (q.shape[-2] // k.shape[1])
    slopes = alibi_slopes if alibi_slopes is None else alibi_slopes[..., heads]
    return decode_op(q, k, *call, alibi_slopes=slopes, **asked)


@op_fault("pytorch/pytorch/issues/181645")
def lse_off_by_log_two(*call, **asked):
    """lse is handed out in base 2"""
    o, lse = decode_op(*call, **asked)
    return o, lse / lse.dtype.type(math.log(2))


@op_fault()
def lse_of_nothing(*call, **asked):
    """a token that sees no slot gets the lse 0; invisible where every token has a position"""
    o, lse = decode_op(*call, **asked)
    return o, np.where(np.isneginf(lse), lse.dtype.type(0), lse)


def in_splits(weigh):
    """`attend` merged from splits of SPLIT slots, weighed by weigh(their lse)."""

    def merged(q, k, v, lengths, **asked):
        o, lse = attend(q, k, v, lengths, **asked)
        for at, row in rows(q, k, v, lengths, **asked):
            cuts = range(SPLIT, len(row.p), SPLIT)
            parts = list(zip(np.split(row.p, cuts), np.split(row.v, cuts), strict=True))
            shares = np.array([max(p.sum(), 1e-300) for p, _ in parts])
            w = weigh(row.lse + np.log(shares))
            o[at] = (w / w.sum()) @ (np.stack([p @ x for p, x in parts]) / shares[:, None])
        return o, lse

    return merged


@op_fault()
def merge_without_rescale(*call, **asked):
    """splits are merged by their mean, as if all were as heavy; invisible within one split"""
    return decode_op(*call, **asked, attend=in_splits(np.ones_like))


@op_fault("sgl-project/sglang/issues/33064")
def merge_in_base_two(*call, **asked):
    """splits with an lse in base e are merged in base 2; invisible within one split"""
    return decode_op(*call, **asked, attend=in_splits(lambda lse: 2.0 ** (lse - lse.max())))
