"""Bugs of a decode step: where the new token stands, what is written, what the attention reads and gives."""

import torch

from .planting import correct_step, decoding_at, in_decode, planting, seen, torch_fault, with_lengths

EMBED, ATTENTION = (None, "embed"), (0, "attention")


def blank(cache, layer, slots, k):
    """Zeros in the claimed slot, so that what is not written there is the same in every run."""
    cache.write(layer, slots, torch.zeros_like(k), torch.zeros_like(k))


@torch_fault("microsoft/onnxruntime-genai/pull/2354", EMBED)
def positions_off_by_one(model):
    """a new token takes the length after its append"""
    return decoding_at(lambda slots: slots + 1)(model)


@torch_fault("jundot/omlx/pull/2363", EMBED, closest=True)
def positions_behind(model):
    """a new token takes the position of the one before it"""
    return decoding_at(lambda slots: slots - 1)(model)


@torch_fault("Blaizzy/mlx-vlm/issues/1983", EMBED)
def positions_zero(model):
    """every new token stands at position 0"""
    return decoding_at(torch.zeros_like)(model)


@torch_fault("Comfy-Org/ComfyUI/pull/15698", EMBED)
def positions_of_the_longest(model):
    """every new token takes the longest sequence's position; invisible when all are equally long"""
    return decoding_at(lambda slots: slots.max().expand_as(slots))(model)


@planting(in_decode, "microsoft/onnxruntime-genai/pull/2354", ATTENTION, closest=True)
def write_slot_early(q, k, v, cache, layer, slots, attend):
    """a new row is written over the one before it"""
    blank(cache, layer, slots, k)
    cache.write(layer, slots - 1, k, v)
    return attend(q, cache, layer)


@planting(in_decode, "vllm-project/flash-attention/pull/148", ATTENTION, closest=True)
def stale_slot(q, k, v, cache, layer, slots, attend):
    """in the first layer new rows are lost, and the slots keep what they had"""
    if layer:
        return correct_step(q, k, v, cache, layer, slots, attend)
    blank(cache, layer, slots, k)
    return attend(q, cache, layer)


@planting(in_decode, "lablup/mlxcel/issues/831", ATTENTION)
def read_before_write(q, k, v, cache, layer, slots, attend):
    """the attention is not ordered after the append"""
    blank(cache, layer, slots, k)
    o = attend(q, cache, layer)
    cache.write(layer, slots, k, v)
    return o


def reading(view):
    """The decode step whose attention reads view(cache, layer) in the cache's place."""

    def step(q, k, v, cache, layer, slots, attend):
        cache.write(layer, slots, k, v)
        return attend(q, view(cache, layer), layer)

    return in_decode(step)


@torch_fault("pytorch/executorch/pull/2689", ATTENTION)
def lengths_not_advanced(model):
    """the new token's own slot is not read; a sequence of one slot reads that"""
    return reading(lambda cache, layer: with_lengths(cache, [max(n - 1, 1) for n in cache.host_lengths]))(model)


@torch_fault("paiml/aprender/pull/2030", ATTENTION, closest=True)
def length_of_the_shortest(model):
    """one length for the whole batch, the shortest's; invisible when all are equally long"""
    return reading(lambda cache, layer: with_lengths(cache, [min(cache.host_lengths)] * cache.batch))(model)


@torch_fault("OpenNMT/OpenNMT-py/pull/2532", ATTENTION)
def length_of_the_longest(model):
    """every sequence attends as far as the longest, into its padding; invisible when all are equally long"""

    def view(cache, layer):
        for a in (cache.k[layer], cache.v[layer]):  # whatever padding held, here it is the first live row
            for b, n in enumerate(cache.host_lengths):
                a[b, :, n:] = a[b, :, :1]
        return with_lengths(cache, [max(cache.host_lengths)] * cache.batch)

    return reading(view)(model)


@torch_fault("meta-pytorch/torchtune/pull/21", ATTENTION)
def v_from_k(model):
    """values loaded through K's pointer"""
    return reading(lambda cache, layer: seen(cache, v=cache.k))(model)


@torch_fault("vllm-project/vllm-ascend/pull/11791", (1, "attention"), closest=True)
def layer_index_lost(model):
    """the attention reads layer 0's cache in every layer; invisible in a model of one layer"""
    L = len(model.blocks)
    return reading(lambda cache, layer: seen(cache, k=cache.k[:1] * L, v=cache.v[:1] * L))(model)


@planting(in_decode, "Dao-AILab/flash-attention/issues/1745", ATTENTION)
def dead_slots_weighed(q, k, v, cache, layer, slots, attend):
    """dead slots get the weight 0, and 0·NaN is NaN: they are poisoned here, which no right path notices; invisible in
    a full cache"""
    o = correct_step(q, k, v, cache, layer, slots, attend)
    for b, n in enumerate(cache.host_lengths):
        cache.v[layer][b, :, n:] = float("nan")
        o[b] += (0 * cache.v[layer][b, :, n:]).sum(1)
    return o


def asking(change):
    """The decode step whose attention is asked change(q) and whose answer is put back by change(o, back=True)."""

    def step(q, k, v, cache, layer, slots, attend):
        cache.write(layer, slots, k, v)
        return change(attend(change(q, False).contiguous(), cache, layer), True).contiguous()

    return in_decode(step)


@torch_fault("onnx/onnx/pull/7274", ATTENTION, closest=True)
def heads_permuted(model):
    """head h reads head h + 1; invisible at H = 1"""
    return asking(lambda a, back: a.roll(-1 if back else 1, dims=1))(model)


@torch_fault("huggingface/transformers/issues/46612", ATTENTION)
def rows_mixed(model):
    """the batch was reordered and the cache was not: a sequence reads the next one's; invisible at B = 1"""
    return asking(lambda a, back: a.roll(-1 if back else 1, dims=0))(model)


@torch_fault("AI-Hypercomputer/maxtext/issues/3138", ATTENTION)
def scale_twice(model):
    """the query is scaled before a kernel that scales it again; invisible at D = 1"""
    return asking(lambda a, back: a if back else a * a.shape[-1] ** -0.5)(model)


@torch_fault("FrancescoSaverioZuppichini/ViT/issues/2", ATTENTION, closest=True)
def no_scale(model):
    """scores not divided by √D; invisible at D = 1"""
    return asking(lambda a, back: a if back else a * a.shape[-1] ** 0.5)(model)


@planting(in_decode, "ikawrakow/ik_llama.cpp/pull/2144", ATTENTION)
def half_sums(q, k, v, cache, layer, slots, attend):
    """scores, weights and sums in float16; invisible in a float16 model"""
    cache.write(layer, slots, k, v)
    rows = []
    for b, n in enumerate(cache.host_lengths):
        k, v = (a[layer][b, :, :n].half() for a in (cache.k, cache.v))  # (H, n, D)
        s = (k @ (q[b] * q.shape[-1] ** -0.5).half()[..., None])[..., 0]  # (H, n)
        rows.append((torch.softmax(s, -1)[:, None] @ v)[:, 0])
    return torch.stack(rows).to(q)


@planting(in_decode, "apple/axlearn/pull/1049", ATTENTION)
def cache_narrowed(q, k, v, cache, layer, slots, attend):
    """new rows are rounded to bfloat16; invisible in a bfloat16 model"""
    return correct_step(q, k.bfloat16().to(k), v.bfloat16().to(v), cache, layer, slots, attend)


@torch_fault("lucidrains/audiolm-pytorch/pull/265", ATTENTION)
def attention_output_lost(model):
    """a decode step computes the attention and does not use it"""
    return asking(lambda a, back: torch.zeros_like(a) if back else a)(model)
