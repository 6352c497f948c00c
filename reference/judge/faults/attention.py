"""Wrong decode attention: what is read, by whom and under which scale."""

import numpy as np

from .base import decode, fault, masked

BLOCK = 16  # slots that a blocked fault handles at a time
MOST_BLOCKS = 2  # that `blocks_capped` can hold
PLACE = (0, "attention")  # in a model that decodes with the op


@fault("attention", "FrancescoSaverioZuppichini/ViT/issues/2", PLACE, closest=True)
def no_scale(q, k, v, lengths, scale=None):
    """scores not divided by √D; invisible at D = 1"""
    return decode(q, k, v, lengths, scale=1.0)


@fault("attention", "FrancescoSaverioZuppichini/ViT/issues/2", PLACE)
def scale_after_softmax(q, k, v, lengths, scale=None):
    """the weights divided by √D instead of the scores; invisible at D = 1"""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (decode(q, k, v, lengths, scale=1.0) * scale).astype(q.dtype)


@fault("attention", "AI-Hypercomputer/maxtext/issues/3138", PLACE)
def scale_twice(q, k, v, lengths, scale=None):
    """the query is scaled before a kernel that scales it again; invisible at D = 1"""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return decode(q, k, v, lengths, scale * scale)


@fault("attention", "karpathy/ng-video-lecture/pull/6", PLACE)
def scale_of_the_width(q, k, v, lengths, scale=None):
    """1/√n_embd for 1/√head_dim; invisible at H = 1"""
    return decode(q, k, v, lengths, (q.shape[1] * q.shape[2]) ** -0.5)


@fault("attention", "BobMcDear/attorch/issues/14", PLACE)
def scale_literal(q, k, v, lengths, scale=None):
    """a scale of 0.5 written into the call; invisible at D = 4"""
    return decode(q, k, v, lengths, scale=0.5)


@fault("attention", "pytorch/executorch/pull/2689", PLACE)
def length_short(q, k, v, lengths, scale=None):
    """the new token's own slot is not read"""
    return decode(q, k, v, np.maximum(lengths - 1, 0), scale)


@fault("attention", "GeeeekExplorer/nano-vllm/pull/213", PLACE, closest=True)
def length_long(q, k, v, lengths, scale=None):
    """one dead slot is read; invisible when the cache is full"""
    return decode(q, k, v, np.minimum(lengths + 1, k.shape[2]), scale)


@fault("attention", "OpenNMT/OpenNMT-py/pull/2532", PLACE)
def length_of_the_longest(q, k, v, lengths, scale=None):
    """every sequence attends as far as the longest, into its padding; invisible when all are equally long"""
    return decode(q, k, v, np.full_like(lengths, max(lengths)), scale)


@fault("attention", "Comfy-Org/ComfyUI/pull/15698", PLACE, closest=True)
def length_of_the_first(q, k, v, lengths, scale=None):
    """one length for the whole batch, the first sequence's; invisible when all are equally long"""
    return decode(q, k, v, np.full_like(lengths, lengths[0]), scale)


@fault("attention", "flagos-ai/FlagAttention/issues/45", PLACE)
def strides_swapped(q, k, v, lengths, scale=None):
    """V read by K's strides; invisible when both share a layout"""
    # Past the end of V's memory the address wraps, where a GPU would read on.
    owner = v
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    memory = owner.ravel(order="K")
    start = (v.__array_interface__["data"][0] - memory.__array_interface__["data"][0]) // v.itemsize
    address = sum(i * (stride // k.itemsize) for i, stride in zip(np.indices(v.shape), k.strides, strict=True))
    return decode(q, k, memory[(start + address) % memory.size], lengths, scale)


@fault("attention", "meta-pytorch/torchtune/pull/21", PLACE)
def v_from_k(q, k, v, lengths, scale=None):
    """values loaded through K's pointer"""
    return decode(q, k, k, lengths, scale)


@fault("attention", "BobMcDear/attorch/issues/14", PLACE)
def head_zero(q, k, v, lengths, scale=None):
    """the head index is lost, every head reads head 0; invisible at H = 1"""
    return decode(q, np.broadcast_to(k[:, :1], k.shape), np.broadcast_to(v[:, :1], v.shape), lengths, scale)


@fault("attention", "tenstorrent/tt-metal/issues/54413", PLACE, closest=True)
def head_next(q, k, v, lengths, scale=None):
    """head h reads head h + 1; invisible at H = 1"""
    return decode(q, np.roll(k, -1, axis=1), np.roll(v, -1, axis=1), lengths, scale)


@fault("attention", "onnx/onnx/pull/7274", PLACE)
def heads_tiled(q, k, v, lengths, scale=None):
    """heads of K and V in the order of a tile where the queries' are interleaved; invisible at H = 1 and 2"""
    H = q.shape[1]
    order = [*range(0, H, 2), *range(1, H, 2)]
    return decode(q, k[:, order], v[:, order], lengths, scale)


@fault("attention", "BobMcDear/attorch/issues/14", PLACE)
def batch_lost(q, k, v, lengths, scale=None):
    """every sequence reads the first one's keys and values; invisible at B = 1"""
    return decode(q, np.broadcast_to(k[:1], k.shape), np.broadcast_to(v[:1], v.shape), lengths, scale)


@fault("attention", "PetrochukM/PyTorch-NLP/issues/2", PLACE)
def softmax_over_queries(q, k, v, lengths, scale=None):
    """softmax over the axis of the one query, which makes every weight 1; invisible in a sequence of one slot"""
    return decode(q, k, v, lengths, scale, attend=lambda q, k, v, scale: v.sum(1, keepdims=True))


@fault("attention", "pytorch/pytorch/issues/103082", PLACE)
def mask_top_left(q, k, v, lengths, scale=None):
    """the causal mask of one query and n keys aligned at the top left, so that it sees slot 0 alone; invisible in a
    sequence of one slot"""
    return decode(q, k, v, lengths, scale, attend=lambda q, k, v, scale: masked(np.tri)(q, k, v))


@fault("attention", "intel/sycl-tla/pull/489", PLACE, closest=True)
def tail_dropped(q, k, v, lengths, scale=None):
    """the last, partial block is skipped; invisible at whole blocks"""
    return decode(q, k, v, lengths // BLOCK * BLOCK, scale)


@fault("attention", "hw-native-sys/simpler/pull/72", PLACE)
def tail_unmasked(q, k, v, lengths, scale=None):
    """the last block is read whole; invisible at whole blocks"""
    return decode(q, k, v, np.minimum(-(-lengths // BLOCK) * BLOCK, k.shape[2]), scale)


@fault("attention", "flashinfer-ai/flashinfer/pull/5090", PLACE)
def tail_of_zeros(q, k, v, lengths, scale=None):
    """the last block is filled up with zeros, whose score of 0 weighs exp(0); invisible at whole blocks"""
    k, v = (np.pad(a, [(0, 0), (0, 0), (0, BLOCK), (0, 0)]) for a in (k, v))
    for b, n in enumerate(lengths):
        k[b, :, n:] = v[b, :, n:] = 0
    return decode(q, k, v, -(-lengths // BLOCK) * BLOCK, scale)


@fault("attention", "linkedin/Liger-Kernel/pull/1344", PLACE)
def blocks_capped(q, k, v, lengths, scale=None):
    """blocks past the most that were foreseen are dropped; invisible in short sequences"""
    return decode(q, k, v, np.minimum(lengths, MOST_BLOCKS * BLOCK), scale)


@fault("attention", "vllm-project/vllm/pull/47671", PLACE)
def offset_overflow(q, k, v, lengths, scale=None):
    """element offsets overflow int32 (in miniature: they wrap at half of the memory); invisible in small caches"""
    k, v = (a.reshape(-1)[np.arange(a.size).reshape(a.shape) % -(-a.size // 2)] for a in (k, v))
    return decode(q, k, v, lengths, scale)


@fault("attention", "Dao-AILab/flash-attention/issues/1745", PLACE)
def masked_not_zeroed(q, k, v, lengths, scale=None):
    """dead slots get the weight 0, and 0·NaN is NaN; invisible unless one holds NaN or infinity"""
    dead = np.arange(k.shape[2]) >= np.asarray(lengths)[:, None]  # (B, T)
    o = decode(q, k, v, lengths, scale).astype(np.float64)
    unused = np.where(dead[:, None, :, None], v.astype(np.float64), 0)  # (B, H, T, D)
    return (o + (0 * unused).sum(2)).astype(q.dtype)
