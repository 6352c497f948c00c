"""Other projects' decode attention as their own launchers call it: each function of PEERS says what to call.

Their modules are found inside peer_stubs.sources only; the figures are bench/peers's.
"""

import importlib
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

PAGE = 16  # slots: vLLM's default
SMS = 132  # of an H100, which some launchers ask for
SERVED = {"alone": (1, 4), "full": (32, 12)}  # load -> the sequences and heads a heuristic sees


class Inputs(NamedTuple):
    """One decode step: q (1, H, D), k and v (1, H, n, D), lengths (1,) int32; all n slots are visible."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    lengths: torch.Tensor

    @property
    def sizes(self) -> tuple[int, int, int]:
        _, H, n, D = self.k.shape
        return H, n, D


class Call(NamedTuple):
    """What to call, and what of it was chosen here.

    attend         gives H * D values in any shape
    splits         of the context, those that have slots
    configuration  what the peer's launcher leaves to its caller or to an autotuner
    default        whether the peer takes it unasked
    """

    attend: Callable[[], torch.Tensor]
    splits: int
    configuration: str
    default: bool = True


def cdiv(a: int, b: int) -> int:
    return (a + b - 1) // b


def by_token(x: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """k and v as (n, H, D), one token after the other, as serving engines keep them."""
    return x.k[0].transpose(0, 1).contiguous(), x.v[0].transpose(0, 1).contiguous()


def paged(x: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """k and v as (pages, PAGE, H, D), shuffled, and the block table (1, pages) int32."""
    H, n, D = x.sizes
    order = torch.randperm(n // PAGE, generator=torch.Generator().manual_seed(0))
    place = torch.argsort(order)
    k, v = (t.view(-1, PAGE, H, D)[place].contiguous() for t in by_token(x))
    return k, v, order.int()[None]


def sglang(x: Inputs, load: str) -> Call:
    from kvproof.kernels import ptx

    decode = importlib.import_module("sglang.kernels.ops.attention.decode_attention")
    metadata = importlib.import_module("sglang.kernels.ops.attention.metadata")
    (H, n, D), (sequences, heads), most = x.sizes, SERVED[load], 8
    splits, lens = torch.zeros(sequences, dtype=torch.int32), torch.full((sequences,), n)
    served = (splits, lens, sequences, 1, heads, heads, most, SMS)
    ptx.run(metadata.get_num_kv_splits_triton, 1, *served, MAX_NUM_SEQ=256)  # once a step, for all layers: not counted
    splits, (k, v), o = splits[:1].clone(), by_token(x), torch.empty_like(x.q)
    parts, lse = torch.empty(1, H, most, D), torch.empty(1, H, most)
    indptr, indices = torch.tensor([0, n], dtype=torch.int32), torch.arange(n)

    def attend() -> torch.Tensor:
        decode.decode_attention_fwd(x.q, k, v, o, indptr, indices, parts, lse, splits, most, D**-0.5, 1.0, 1.0)
        return o

    used = int(splits)
    size = 32 * cdiv(cdiv(n, used), 32)
    return Call(attend, cdiv(n, size), f"num_kv_splits {used} of at most 8, by its scheduler kernel; page_size 1")


def vllm_decode(x: Inputs, load: str) -> Call:
    decode = importlib.import_module("vllm.v1.attention.ops.triton_decode_attention")
    H, n, D = x.sizes
    splits = min(1 << (max(1, n // 512) - 1).bit_length(), 2 * SMS)
    k, v, table = paged(x)
    o, lse, parts = torch.empty_like(x.q), torch.empty(1, H), torch.empty(1, H, splits, D + 1)

    def attend() -> torch.Tensor:
        decode.decode_attention_fwd(x.q, k, v, o, lse, table, x.lengths, parts, splits, D**-0.5, PAGE, is_mla=False)
        return o

    return Call(attend, splits, f"num_kv_splits {splits} as its caller, Triton MLA, has it; page_size {PAGE}")


def vllm_unified(x: Inputs, load: str) -> Call:
    unified = importlib.import_module("vllm.v1.attention.ops.triton_unified_attention")
    (H, n, D), (sequences, heads), segments = x.sizes, SERVED[load], 16
    k, v, table = paged(x)
    o, start = torch.empty_like(x.q), torch.tensor([0, 1], dtype=torch.int32)
    split = sequences <= 128 // heads  # the backend's seq_threshold_3D
    more: dict[str, Any] = {"seq_threshold_3D": 128 // heads, "num_par_softmax_segments": segments}
    more["softmax_segm_output"] = torch.empty(1, H, segments, D)
    more |= {f"softmax_segm_{name}": torch.empty(1, H, segments) for name in ("max", "expsum")}

    def attend() -> torch.Tensor:
        unified.unified_attention(
            x.q, k, v, o, start, 1, x.lengths, n, D**-0.5, True, (-1, -1), table, 0, None, None, None,
            **more if split else {},
        )  # fmt: skip
        return o

    slots = PAGE * cdiv(cdiv(n, PAGE), segments)
    live = cdiv(n, slots) if split else 1
    return Call(attend, live, "the 3D kernel, 16 segments" if split else "the 2D kernel, since the batch fills the GPU")


def mslk(x: Inputs, load: str, tuned: bool = False) -> Call:
    splitk = importlib.import_module("mslk.attention.fmha.triton_splitk")
    (_, n, D), (sequences, heads) = x.sizes, SERVED[load]
    splits = splitk.FwOp.get_split_k(sequences, 1, heads, n, 1, 0)
    bias = splitk.BlockDiagonalPaddedKeysMask()
    bias.q_seqinfo = SimpleNamespace(max_seqlen=1)
    bias.k_seqinfo = SimpleNamespace(max_seqlen=n, seqlen=x.lengths)
    k, v = by_token(x)
    q, k, v = x.q[:, None, None], k[None, :, None], v[None, :, None]
    flags = dict.fromkeys(("quantize_pv_to_fp8", "quantize_qk_to_fp8", "use_fp32_scales"), False)
    inputs = SimpleNamespace(query=q, key=k, value=v, attn_bias=bias, scale_float=D**-0.5, **flags)
    inputs.get_output_dtype, inputs.get_qkv_in_bmghk = lambda: q.dtype, lambda: (q, k, v)
    choices = {"NUM_WARPS": 1, "NUM_STAGES": 3} if tuned else {}
    operator = type("Operator", (splitk.FwOp,), {"SPLIT_K": splits, **choices})
    chosen = f"BLOCK_N 64, w{operator.NUM_WARPS} s{operator.NUM_STAGES}, no autotuning, a mask of padded keys"
    return Call(lambda: operator.apply(inputs, needs_gradient=False)[0], splits, chosen, not tuned)


def fla(x: Inputs, load: str, num_warps: int) -> Call:
    import triton

    decoding = importlib.import_module("fla.ops.attn.decoding")
    n = x.sizes[1]
    decoding.naive_attn_decoding_kernel.fn.configs = [triton.Config({}, num_warps=num_warps, num_stages=2)]
    (k, v), ends = by_token(x), torch.tensor([0, n])
    attend = partial(decoding.attn_decoding_one_step, x.q[None], k[None], v[None], cu_seqlens=ends)
    return Call(attend, 1, f"autotuned by time over w1, 2, 4 and s2..5: this is w{num_warps} s2")


def lightllm(x: Inputs, load: str) -> Call:
    flash = importlib.import_module("lightllm.models.llama.triton_kernel.flash_decoding")
    H, n, D = x.sizes
    k, v = by_token(x)
    requests = SimpleNamespace(req_to_token_indexs=torch.arange(n, dtype=torch.int32)[None])
    state = SimpleNamespace(batch_size=1, max_len_in_batch=n, req_manager=requests)
    state.b_req_idx, state.b_seq_len = torch.zeros(1, dtype=torch.int32), x.lengths

    def alloc(shape: Any, dtype: torch.dtype, device: Any) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    attend = partial(flash.token_decode_attention_flash_decoding, x.q, state, H, D, k, v, alloc_tensor_func=alloc)
    return Call(attend, cdiv(n, 256), "BLOCK_SEQ 256, w1: the launcher's own")


def aiter(x: Inputs, load: str) -> Call:
    import triton.language as tl

    decode = importlib.import_module("aiter.ops.triton.attention.pa_decode")
    (H, n, D), (sequences, heads) = x.sizes, SERVED[load]
    (k, v, table), o = paged(x), torch.empty_like(x.q)
    k, v = (t.transpose(1, 2).contiguous() for t in (k, v))  # (pages, H, PAGE, D)
    parts = cdiv(n, 1024)
    one = n <= 8192 and (parts == 1 or sequences * heads > 512)
    which = decode.paged_attn_decode_v1 if one else decode.paged_attn_decode_v2
    more = () if one else (parts,)

    def attend() -> torch.Tensor:
        which(o, x.q, k, v, table, x.lengths, n, tl.float16, H, D**-0.5, None, 1.0, 1.0, *more)
        return o

    return Call(attend, 1 if one else parts, f"v{1 if one else 2}, partitions of 1024, written for AMD's GPUs")


PEERS: dict[str, tuple[Callable[[Inputs, str], Call], tuple[str, ...]]] = {
    "SGLang": (sglang, ("alone", "full")),
    "vLLM decode": (vllm_decode, ("any",)),
    "vLLM unified": (vllm_unified, ("alone", "full")),
    "MSLK": (mslk, ("alone", "full")),
    "MSLK w1 s3": (partial(mslk, tuned=True), ("alone", "full")),
    **{f"FLA w{w}": (partial(fla, num_warps=w), ("any",)) for w in (1, 2, 4)},
    "lightllm": (lightllm, ("any",)),
    "aiter": (aiter, ("alone",)),
}
