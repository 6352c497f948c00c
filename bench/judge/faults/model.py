"""Bugs of the model itself, with a cache and without: only an oracle sees them."""

import torch

from ....reference.judge.faults import ORACLE
from .planting import torch_fault


@torch_fault("apple/coremltools/pull/2863", (0, "mlp"), ORACLE)
def other_gelu(model):
    """the exact GELU for the tanh one, or the other way round"""
    other = {"tanh": "none", "none": "tanh"}
    return [(vars(block.mlp), "approximate", other[block.mlp.approximate]) for block in model.blocks]


@torch_fault("huggingface/candle/pull/271", (0, "ln_1"), ORACLE)
def other_eps(model):
    """LayerNorm's eps ten times too small"""
    norms = [model.ln_f, *(norm for block in model.blocks for norm in (block.ln_1, block.ln_2))]
    return [(vars(norm), "eps", norm.eps / 10) for norm in norms]


@torch_fault("AutoGPTQ/AutoGPTQ/pull/139", (0, "c_proj"), ORACLE, closest=True)
def c_proj_untransposed(model):
    """a square (out, in) weight loaded as (in, out)"""
    convs = [block.attn.c_proj for block in model.blocks]
    turned = [(conv, conv.weight.detach().mT.contiguous()) for conv in convs]
    if model.weights:
        return [(conv._buffers, "weight", weight) for conv, weight in turned]
    return [(conv._parameters, "weight", torch.nn.Parameter(weight)) for conv, weight in turned]


@torch_fault("sbryngelson/ANEForge/pull/253", (0, "c_attn"), ORACLE)
def qkv_bias_dropped(model):
    """the loader knows the projections' weights only"""
    convs = [block.attn.c_attn for block in model.blocks]
    return [(conv._parameters, "bias", torch.nn.Parameter(torch.zeros_like(conv.bias))) for conv in convs]


@torch_fault("EleutherAI/gpt-neox/pull/650", (None, "embed"), ORACLE)
def position_offset(model):
    """the position table starts two rows later, as another family's does"""
    return [(model.wpe._parameters, "weight", torch.nn.Parameter(model.wpe.weight.detach().roll(-2, dims=0)))]
