"""The decode step's attention, as a function and as two operators of torch.

One launch per call: it appends the new rows, attends to the cache where it lies, and combines the splits. Two engines
do it, simt.py and mma.py; each is read beside its twin of the same name in reference/attention/.
"""

import inspect
import itertools
import sys
import warnings
from functools import cache
from typing import Any, get_type_hints

import torch
from torch import Tensor

from ..backend import check_device, interpreting
from ..requires_triton import triton
from .arguments import Inputs, Options, Result
from .checks import check_inputs, check_offsets, check_options, check_out, check_pages, check_slots
from .dispatch import undispatched
from .launch import ENGINES, choose_engine, launches, throughput_split_len
from .workspace import SPLIT_LEN, Workspace, fitting_workspace

GROUPS = (Inputs, Options, Result, Workspace)  # whose fields, in a row, are the operators' arguments
_tickets = itertools.count(1)  # one per launch of this process: its partials carry it in the workspace
_spilling: set[str] = set()  # kernels that were warned of


def run(*arguments: Any) -> None:
    """Launch the kernels: the body of both operators, whose arguments are the fields of GROUPS in a row."""
    groups = []
    for group in GROUPS:
        n = len(group._fields)
        groups, arguments = [*groups, group(*arguments[:n])], arguments[n:]
    x, options, result, partials = groups
    check_device(x.q.device)
    check_slots(x.lengths, x.capacity)
    if x.block_table is not None:
        whole = options.window is None or options.sinks
        first = None if whole else x.lengths - x.q.shape[1] - options.window + 1
        check_pages(x.block_table, x.lengths, x.k.shape[0], x.k.shape[2], first)
    if result.out.numel() == 0:
        return
    # The interpreter's stores truncate to 16 bits, where a GPU's round to nearest: there, torch rounds.
    truncates = interpreting() and result.out.element_size() == 2
    out = torch.empty_like(result.out, dtype=torch.float32) if truncates else result.out
    ticket = next(_tickets) % 0x7FFFFFFF + 1
    with torch.cuda.device_of(x.q):  # Triton launches on the current GPU, whichever the tensors are on
        for launch in launches(x, options, Result(out, result.lse), partials, ticket, capability_of(x.q)):
            compiled = launch.kernel[launch.grid](**launch.arguments, **launch.options)
            if x.q.is_cuda:
                warn_of_spills(compiled, launch.kernel.__name__)
    if truncates:
        result.out.copy_(out)


def warn_of_spills(compiled: Any, name: str) -> None:
    """Warn, once for each kernel, if the GPU's driver loaded it with registers spilled to memory.

    compiled  Triton's CompiledKernel, as a launch returns it
    """
    if compiled.n_spills and compiled.hash not in _spilling:
        _spilling.add(compiled.hash)
        warnings.warn(
            f"{name} has {compiled.n_regs} registers and {compiled.n_spills} spills on this GPU. Results are the same, "
            f"times may not be: Triton {triton.__version__} brings its own compiler; see python -m kvproof.kernels.aot",
            RuntimeWarning,
            stacklevel=2,
        )


def _run_on_cpu(*arguments: Any) -> None:
    """`run`, hidden from torch._dynamo only once something has imported that, which takes more than a second."""
    (_hidden() if "torch._dynamo" in sys.modules else run)(*arguments)


@cache
def _hidden() -> Any:
    return torch.compiler.disable(run)


def _register(name: str, appends: bool):
    """The operator that reads the cache, or the one that writes to it as well: a schema lists what is mutated."""
    fields = {k: t for group in GROUPS for k, t in get_type_hints(group).items()}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(k, kind, annotation=t) for k, t in fields.items()]
    cache = ("k", "v", "k_scale", "v_scale") if appends else ()
    mutated = (*cache, *Result._fields, *Workspace._fields)
    run.__signature__ = inspect.Signature(parameters, return_annotation=None)  # pyright: ignore
    schema = torch.library.infer_schema(run, mutates_args=mutated).replace("SymInt", "int")  # ints are compiled in
    op = torch.library.custom_op(f"kvproof::{name}", run, mutates_args=mutated, schema=schema)
    op.register_fake(lambda *arguments: None)
    torch.library.impl(f"kvproof::{name}", "CPU", _run_on_cpu)
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
    k_scale, v_scale  (B, H_kv, T), or (P, H_kv, page), float32  of an int8 cache: a value is its number * its row's
               scale. Appended rows are quantised by their largest number, and attended to as the cache then holds them
    window, sinks  a token sees the last `window` slots up to its own, and the first `sinks`
    softcap    s -> softcap * tanh(s / softcap) of the scaled scores
    alibi_slopes  (H,) or (B, H) float32  s -> s - slope * distance, after softcap
    causal     False: every token sees all lengths[b] slots
    fused      False: append, attention and combination in launches of their own
    batch_invariant  False: splits may be cut longer for large batches, so that a row's bits depend on the batch
    engine     "simt" or "mma"; None chooses, see `choose_engine`
    workspace  made once by `make_workspace(...)`, for launches that do not overlap; allocated by every call if None
    out        like q, contiguous, written and returned; allocated if None
    returns    like q and, with return_lse, the scores' log-sum-exp (B, H) or (B, M, H): natural log, float32. Sums are
               float32; all of it is float64 for float64. K and V are read once per 16 queries of a KV head, in simt
               once per query.

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
    x = Inputs(q, k, v, lengths, k_new, v_new, block_table, k_scale, v_scale, alibi_slopes)
    check_inputs(x)
    B, M, H, D = q.shape
    engine = check_engine(engine, q, x.int8, x.queries)
    split_len = SPLIT_LEN if batch_invariant else throughput_split_len(B * H * M, x.capacity)
    options = Options(
        D**-0.5 if scale is None else float(scale), window, sinks, softcap, causal, fused, engine, split_len
    )
    check_options(x, options)
    check_offsets(x, split_len)
    if out is None:
        out = torch.empty(shape, dtype=q.dtype, device=q.device)
    check_out(out, given)
    partials = fitting_workspace(workspace, q, x.capacity)
    lse = torch.empty(shape[:-1], dtype=partials.m.dtype, device=q.device) if return_lse else None
    result = Result(out.view(B, M, H, D), lse if lse is None else lse.view(B, M, H))
    if undispatched([t for t in (*x, *result, *partials) if t is not None]):
        written = (*result, *partials) if k_new is None else (k, v, k_scale, v_scale, *result, *partials)
        torch.autograd.graph.increment_version([t for t in written if t is not None])
        _run_on_cpu(*x, *options, *result, *partials)
    else:
        op = _attend if k_new is None else _append
        op(*x, *options, *result, *partials)
    return out if lse is None else (out, lse)


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
    if engine == "mma" and choose_engine(q.dtype, True, 2, D, capability) != "mma":
        raise ValueError(
            f'engine "mma" takes float16 and bfloat16 queries of head_dim up to 128 on GPUs from sm_80 on; q is '
            f'{q.dtype} with head_dim {D} on {q.device}; use "simt"'
        )
    return engine
