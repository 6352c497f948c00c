"""Quantisers that round wrongly."""

import numpy as np

from .base import E2M1, FP8, absmax, blocks, fault, guarded, refuse_ragged, unblocked


@fault("int8-row", "vllm-project/vllm/pull/45361", "truncation", "wrap")
def store_truncates(x):
    """scaled values are clamped and stored as int8, and the store drops the fraction"""
    scale = absmax(x)
    return (np.trunc(np.clip(guarded(x, scale), -128, 127)) * scale).astype(x.dtype)


@fault("int8-row", "weicj/vLLM-2080Ti-Definitive/pull/109", "ties up")
def floor_of_half_more(x):
    """where no rounding instruction is found, floor(q + 0.5) stands in for it"""
    scale = absmax(x)
    return (np.clip(np.floor(guarded(x, scale).astype(np.float64) + 0.5), -127, 127) * scale).astype(x.dtype)


@fault("int8-row", "tenstorrent/tt-metal/issues/56525", "ties away")
def half_away_from_zero(x):
    """the instruction's mode called even rounds halves away from zero"""
    scale = absmax(x)
    q = guarded(x, scale).astype(np.float64)
    return (np.clip(np.sign(q) * np.floor(np.abs(q) + 0.5), -127, 127) * scale).astype(x.dtype)


@fault("int8-static", "huggingface/sentence-transformers/pull/3847", "wrap")
def cast_wraps(x):
    """values beyond the calibrated range are cast without a clip, and wrap"""
    scale = np.float32(2.0**-5)
    q = np.rint(np.nan_to_num(x.astype(np.float64) / scale, nan=0, posinf=0, neginf=0))
    return (np.clip(q, -(2**40), 2**40).astype(np.int64).astype(np.int8) * scale).astype(x.dtype)


@fault("fp8-row", "sgl-project/sglang/pull/40581", "ties away")
def mantissa_half_up(x):
    """a hand-written conversion adds the bit below the mantissa's last: ties go away from zero"""
    scale = absmax(x, 448)
    q = guarded(x, scale).astype(np.float64)
    with np.errstate(all="ignore"):
        exponent = np.maximum(np.floor(np.log2(np.abs(q))), -6)
    step = np.exp2(np.where(q == 0, -6, exponent) - 3)
    return (np.minimum(np.floor(np.abs(q) / step + 0.5) * step, 448) * np.sign(q) * scale).astype(x.dtype)


@fault("fp8-row", "FlashML-org/FreeToken/pull/103", "double rounding")
def cut_to_half_first(x):
    """float32 is cut to float16, then rounded to e4m3"""
    scale = absmax(x, 448)
    q = guarded(x, scale)
    mantissa, exponent = np.frexp(q.astype(np.float64))
    half = np.ldexp(np.trunc(np.ldexp(mantissa, 11)), exponent - 11)
    return (np.clip(half, -448, 448).astype(FP8).astype(np.float32) * scale).astype(x.dtype)


@fault("fp8-row", "triton-lang/triton/pull/2583", "double rounding")
def through_half(x):
    """float32 is rounded to float16, then to e4m3"""
    scale = absmax(x, 448)
    half = guarded(x, scale).astype(np.float16)
    return (np.clip(half, -448, 448).astype(FP8).astype(np.float32) * scale).astype(x.dtype)


@fault("fp8-unscaled", "uxlfoundation/oneDNN/pull/3675", "overflow")
def large_values_become_nan(x):
    """values beyond e4m3's largest become NaN"""
    return x.astype(np.float32).astype(FP8).astype(x.dtype)


@fault("fp8-row", "tile-ai/tilelang-metax/pull/140", "early saturation")
def top_binade_saturates(x):
    """exponent 15 is taken for the end of the range, as in a format with infinity: 256 and more become 448"""
    scale = absmax(x, 448)
    q = guarded(x, scale)
    code = np.clip(q, -448, 448).astype(FP8).astype(np.float32)
    return (np.where(np.abs(q) >= 256, np.sign(q) * 448, code) * scale).astype(x.dtype)


@fault("mxfp4", "ROCm/aiter/pull/3992", "ties away")
def every_boundary_rounds_up(x):
    """each interval of e2m1 starts at its middle, inclusive: all ties go away from zero"""
    refuse_ragged(x, 32)
    b = blocks(x.astype(np.float64), 32)
    with np.errstate(all="ignore"):
        scale = np.exp2(np.floor(np.log2(np.abs(b).max(-1, keepdims=True))) - 2)
    scale = np.where(np.isfinite(scale) & (scale > 0), np.maximum(scale, 2.0**-127), 2.0**-127)
    at = np.searchsorted((E2M1[1:] + E2M1[:-1]) / 2, np.abs(b / scale), side="right")
    return unblocked(np.sign(b) * E2M1[at] * scale, x)
