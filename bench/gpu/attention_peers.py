"""The decode attentions that bench/gpu/attention.py times against each other, ours first, behind one face.

Each peer is a function `prepare(problem) -> call`: it lays the cache out as its library likes it, builds its plan and
compiles, none of which is timed, and returns a function of no arguments that computes o, (B, H, D). It raises Absent,
with the reason in words, where it is not installed or does not run on this GPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

Call = Callable[[], Tensor]
PAGE = 16  # slots of a FlashInfer page; vLLM's and SGLang's serving default
FLASHINFER_PLAN = 128 * 2**20  # bytes of scratch, as its documentation allocates


class Absent(Exception):
    """This peer cannot take part; the message says why."""


@dataclass(frozen=True)
class Shape:
    """B sequences of T cached tokens, H heads of D; every slot is live."""

    B: int
    T: int
    H: int
    D: int
    dtype: str

    @property
    def key(self) -> str:
        return f"{self.dtype} B{self.B} T{self.T} H{self.H} D{self.D}"

    @property
    def cache_bytes(self) -> int:
        """Of K and V together."""
        return 2 * self.B * self.H * self.T * self.D * getattr(torch, self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """That one call must move: K and V once, q in, o out, the lengths."""
        return self.cache_bytes + 2 * self.B * self.H * self.D * getattr(torch, self.dtype).itemsize + 4 * self.B


class Problem(NamedTuple):
    """q (B, H, D), k and v (B, H, T, D) contiguous, lengths (B,) int32, all T, on one device."""

    q: Tensor
    k: Tensor
    v: Tensor
    lengths: Tensor


def draw(shape: Shape, device: torch.device) -> Problem:
    """Random numbers, the same on every run; every other head finds a needle in its last slot, k = 4 q."""
    rng, dtype = torch.Generator(device).manual_seed(0), getattr(torch, shape.dtype)
    q = torch.randn(shape.B, shape.H, shape.D, generator=rng, device=device, dtype=dtype)
    k, v = (
        torch.randn(shape.B, shape.H, shape.T, shape.D, generator=rng, device=device, dtype=dtype) for _ in range(2)
    )
    k[:, ::2, -1] = 4 * q[:, ::2]
    return Problem(q, k, v, torch.full((shape.B,), shape.T, dtype=torch.int32, device=device))


def kernel(problem: Problem) -> Call:
    """Ours, reading the cache in place; its workspace is made once, as the cache of a model would."""
    from ...kernels.attention import decode_attention, make_workspace

    q, k, v, lengths = problem
    B, H, T, D = k.shape
    partials, out = make_workspace(B, H, T, D, k.dtype, k.device), torch.full_like(q, math.nan)
    return lambda: cast(Tensor, decode_attention(q, k, v, lengths, workspace=partials, out=out))


def sdpa(problem: Problem) -> Call:
    """torch's, by whichever backend it chooses; no mask, since all slots are live."""
    q, k, v, _ = problem
    return lambda: F.scaled_dot_product_attention(q[:, :, None], k, v)[:, :, 0]


def flex(problem: Problem) -> Call:
    """FlexAttention without a mask, compiled for this shape alone; on a CPU it runs uncompiled."""
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v, _ = problem
    run = flex_attention
    if q.is_cuda:
        torch.compiler.reset()  # else a new shape counts as one recompilation too many, and runs uncompiled
        run = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return lambda: run(q[:, :, None], k, v)[:, :, 0]  # pyright: ignore[reportCallIssue, reportIndexIssue]


def flash_attn(problem: Problem) -> Call:
    """flash_attn_with_kvcache, on the (B, T, H, D) layout it is written for."""
    q, k, v, lengths = problem
    needs_gpu(q.device, (8, 0))
    try:
        from flash_attn import flash_attn_with_kvcache
    except ImportError as error:
        raise Absent(f"flash-attn is not installed ({error})") from error
    k, v = (x.transpose(1, 2).contiguous() for x in (k, v))
    return lambda: flash_attn_with_kvcache(q[:, None], k, v, cache_seqlens=lengths)[:, 0]


def flashinfer(problem: Problem) -> Call:
    """FlashInfer's batch decode on pages of 16 slots; its plan, made once a step for all layers, is not timed."""
    q, k, v, _ = problem
    needs_gpu(q.device, (7, 5))
    try:
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper
    except ImportError as error:
        raise Absent(f"flashinfer is not installed ({error})") from error
    B, H, T, D = k.shape
    if T % PAGE:
        raise Absent(f"{T} slots do not fill pages of {PAGE}")
    k, v = (x.transpose(1, 2).reshape(B * T // PAGE, PAGE, H, D) for x in (k, v))
    wrapper = BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(FLASHINFER_PLAN, dtype=torch.uint8, device=q.device), "NHD"
    )
    whole = {"dtype": torch.int32, "device": q.device}
    pages = torch.arange(B * T // PAGE, **whole)
    starts = torch.arange(0, B * T // PAGE + 1, T // PAGE, **whole)
    last = torch.full((B,), PAGE, **whole)
    wrapper.plan(starts, pages, last, H, H, D, PAGE, q_data_type=q.dtype, kv_data_type=k.dtype)
    return lambda: wrapper.run(q, (k, v))


def needs_gpu(device: torch.device, capability: tuple[int, int]) -> None:
    """Raise Absent unless the device is a CUDA GPU of at least this compute capability."""
    if device.type != "cuda":
        raise Absent("it needs a CUDA GPU")
    if torch.cuda.get_device_capability(device) < capability:
        raise Absent(f"it needs compute capability {capability[0]}.{capability[1]} or later")


class Peer(NamedTuple):
    """How to prepare it, the package that computes, and whether the weights are rounded to 16 bits on the way."""

    prepare: Callable[[Problem], Call]
    package: str
    rounds_inside: bool


PEERS = {
    "kernel": Peer(kernel, "kvproof", rounds_inside=False),
    "sdpa": Peer(sdpa, "torch", rounds_inside=True),
    "flex": Peer(flex, "torch", rounds_inside=True),
    "flash-attn": Peer(flash_attn, "flash-attn", rounds_inside=True),
    "flashinfer": Peer(flashinfer, "flashinfer-python", rounds_inside=True),
}
