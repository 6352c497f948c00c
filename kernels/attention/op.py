"""The decode step's attention, as a function and as two operators of torch.

One launch per call: it appends the new rows, attends to the cache where it lies, and combines the splits. Two engines
do it, vector_engine.py and tensor_engine.py; each is read beside its twin of the same name in reference/.
"""

import itertools
import sys
from types import ModuleType

import torch
from torch import Tensor

from ..aot.gates import check_compiled
from ..backend import check_device, interpreting
from .checks import check_inputs, check_options, check_out, check_pages, check_slots, check_span
from .launch import ENGINES, Options, choose_engine, launches, slots_of, throughput_first
from .workspace import FIRST, Workspace, fitting_workspace

_tickets = itertools.count(1)  # one per launch of this process: what a part in a workspace is known by


def launch(
    q, k, v, lengths, k_new, v_new, block_table, k_scale, v_scale, slopes, scale, window, sinks, softcap, causal, fused,
    engine, first, out, lse, m, l, acc, begun, done, counters, fault,
) -> None:  # fmt: skip
    """Run the kernels; the body of both operators."""
    T = slots_of(k, block_table)
    check_device(q.device)
    check_slots(lengths, T)
    if block_table is not None:
        behind_window = None if window is None or sinks else lengths - q.shape[1] - window + 1
        check_pages(block_table, lengths, k.shape[0], k.shape[2], behind_window)
    if out.numel() == 0:
        return
    # The interpreter's stores truncate to 16 bits, where a GPU's round to nearest: there, torch rounds.
    truncates = interpreting() and out.element_size() == 2
    o = torch.empty_like(out, dtype=torch.float32) if truncates else out
    parts = Workspace(m, l, acc, begun, done, counters, fault)
    capability = capability_of(q)
    options = Options(scale, window, sinks, softcap, causal, fused, engine, first, capability)
    ticket = next(_tickets) % 0x7FFFFFFF + 1
    tensors = (q, k, v, lengths, k_new, v_new, block_table, k_scale, v_scale, slopes, o, lse)
    with torch.cuda.device_of(q):  # Triton launches on the current GPU, whichever the tensors are on
        for work in launches(*tensors, parts, options, ticket):
            compiled = work.kernel[work.grid](**work.arguments, **work.options)
            if q.is_cuda:
                check_compiled(compiled, work, 10 * capability[0] + capability[1])
    if truncates:
        out.copy_(o)


def _launch_on_cpu(*args) -> None:
    """`launch`, hidden from torch._dynamo only once something has imported that, which takes more than a second."""
    (torch.compiler.disable(launch) if "torch._dynamo" in sys.modules else launch)(*args)


def _register(name: str, appends: bool):
    """The operator that reads the cache, or the one that writes to it as well: a schema tells what is mutated."""
    schema = (
        f"(Tensor q, Tensor{'(a!)' if appends else ''} k, Tensor{'(b!)' if appends else ''} v, Tensor lengths, "
        "Tensor? k_new, Tensor? v_new, Tensor? block_table, "
        f"Tensor{'(c!)' if appends else ''}? k_scale, Tensor{'(d!)' if appends else ''}? v_scale, Tensor? slopes, "
        "float scale, int? window, int sinks, float? softcap, bool causal, bool fused, str engine, int first, "
        "Tensor(e!) out, Tensor(f!)? lse, Tensor(g!) m, Tensor(h!) l, Tensor(i!) acc, Tensor(j!) begun, "
        "Tensor(k!) done, Tensor(l!) counters, Tensor(m!) fault) -> ()"
    )
    cache = ("k", "v", "k_scale", "v_scale") if appends else ()
    mutated = (*cache, "out", "lse", *Workspace._fields)
    op = torch.library.custom_op(f"kvproof::{name}", launch, mutates_args=mutated, schema=schema)
    op.register_fake(lambda *args: None)
    torch.library.impl(f"kvproof::{name}", "CPU", _launch_on_cpu)
    return op


_attend = _register("decode_attention", appends=False)
_append = _register("append_attention", appends=True)


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    k_new: Tensor | None = None,
    v_new: Tensor | None = None,
    block_table: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    sinks: int = 0,
    causal: bool = True,
    return_lse: bool = False,
    fused: bool = True,
    batch_invariant: bool = True,
    engine: str | None = None,
    workspace: Workspace | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Let the new tokens of each sequence attend to everything cached so far: softmax(q k^T * scale) v.

    q          (B, H, D) or (B, M, H, D)  float16 | bfloat16 | float32 | float64, 1 <= D <= 256; 1 <= M <= 16 new tokens
    k, v       (B, H_kv, T, D)  q's dtype or int8, the last axis contiguous, others of any strides; read in place, never
               copied. Query head h reads KV head h // (H / H_kv). A cache (B, T, H_kv, D) is k.transpose(1, 2)
    lengths    (B,) int32  slots visible after this call's append, 0 <= lengths[b] <= T; slots from there on are never
               read; 0 gives zeros and lse = -inf. Token i of M stands at position lengths[b] - M + i, and sees the
               slots up to its own; before position 0 it sees nothing
    scale      of the scores; 1 / sqrt(D) if None
    k_new, v_new  (B, H_kv, D) or (B, M, H_kv, D)  rows to append at the tokens' positions; those slots are not read.
               The caller advances lengths. None if the rows are in the cache already
    block_table  (B, pages) int32  makes k, v pages (P, H_kv, page, D): slot t of sequence b is row t % page of page
               block_table[b, t // page]. Entries past the length are never looked at
    k_scale, v_scale  (B, H_kv, T), or (P, H_kv, page), float32  for int8: what a whole number in a row is worth.
               Appended rows are quantised by their largest number, and attended to as they read from the cache
    window, sinks  a token sees the last `window` slots up to its own, and the first `sinks`
    softcap    s -> softcap * tanh(s / softcap) of the scaled scores
    alibi_slopes  (H,) or (B, H) float32  s -> s - slope * distance, after softcap
    causal     False: every token sees all lengths[b] slots
    fused      False: append, attention and combination in launches of their own
    batch_invariant  False: splits may be cut longer for large batches, so that a row's bits depend on the batch
    engine     "vector" or "tensor"; None chooses, see `choose_engine`
    workspace  made once by `workspace(...)`, for launches that do not overlap; allocated by every call if None
    out        like q, contiguous, written and returned; allocated if None
    returns    like q and, with return_lse, the scores' log-sum-exp (B, H) or (B, M, H): natural log, float32. Sums are
               float32; all of it is float64 for float64. K and V are read once per 16 queries of a KV head, on the
               vector engine once per query.

    A query's bits do not depend on the batch, on the other tokens, or on the pages' order. Raises ValueError if shapes,
    dtypes, strides or devices do not fit, or if lengths or pages on the CPU are not the cache's (a GPU's are not read
    back: there such a length answers NaN, and such a page is read); BackendError if the kernels cannot run on the
    tensors' device. Scale, window, sinks, softcap and the strides of a slot are compiled in.
    Source: Milakov & Gimelshein 2018 (arXiv:1805.02867).
    """
    given, shape = q, q.shape
    if q.dim() == 3:
        q = q.unsqueeze(1)
        k_new = k_new if k_new is None else k_new.unsqueeze(1)
        v_new = v_new if v_new is None else v_new.unsqueeze(1)
    check_inputs(q, k, v, lengths, k_new, v_new, block_table, k_scale, v_scale)
    B, M, H, D = q.shape
    check_options(H, window, sinks, softcap, alibi_slopes, causal, B)
    T = slots_of(k, block_table)
    engine = check_engine(engine, q, k_scale is not None, M * H // k.shape[1])
    first = FIRST if batch_invariant else throughput_first(B * H * M, T)
    check_span(k, v, T, first)
    if out is None:
        out = torch.empty(shape, dtype=q.dtype, device=q.device)
    check_out(out, given)
    parts = fitting_workspace(workspace, q, T)
    lse = torch.empty(shape[:-1], dtype=parts.m.dtype, device=q.device) if return_lse else None
    options = (D**-0.5 if scale is None else float(scale), window, sinks, softcap, causal, fused, engine, first)
    op = _attend if k_new is None else _append
    op(
        q, k, v, lengths, k_new, v_new, block_table, k_scale, v_scale, alibi_slopes, *options,
        out.view(B, M, H, D), lse if lse is None else lse.view(B, M, H), *parts,
    )  # fmt: skip
    return (out, lse) if lse is not None else out


def capability_of(q: Tensor) -> tuple[int, int]:
    """The compute capability of q's GPU; without one, of that which the kernels are compiled for then."""
    return torch.cuda.get_device_capability(q.device) if q.is_cuda else (9, 0)


def check_engine(engine: str | None, q: Tensor, int8: bool, queries: int) -> str:
    """The engine asked for, or the one that fits; ValueError for one that cannot."""
    D = q.shape[-1]
    capability = capability_of(q)
    if engine is None:
        return choose_engine(q.dtype, int8, queries, D, capability)
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not known; choose one of {', '.join(ENGINES)}, or None")
    if engine == "tensor" and choose_engine(q.dtype, True, 2, D, capability) != "tensor":
        raise ValueError(
            f'engine "tensor" takes float16 and bfloat16 queries of head_dim up to 128 on GPUs from sm_80 on; q is '
            f'{q.dtype} with head_dim {D} on {q.device}; use "vector"'
        )
    return engine


class _Callable(ModuleType):
    """kvproof.kernels.attention.op is this module's name and the function's: calling it calls the function."""

    def __call__(self, *args, **kwargs):
        return decode_attention(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
