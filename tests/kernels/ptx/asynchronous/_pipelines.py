"""Kernels whose loads, products and stores run beside their threads, and what becomes of one that lacks a line.

Each is as Triton pipelines it for sm_90: wgmma over cp.async, tensor descriptors over mbarriers, stores by bulk copies.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from kvproof.kernels import ptx

from .._edited import edited


@triton.jit
def product(a, b, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c = a @ b, tiles loaded through plain pointers; row-major."""
    m, n = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    N = tl.num_programs(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        at = k + tl.arange(0, BK)
        acc = tl.dot(tl.load(a + m[:, None] * K + at[None, :]), tl.load(b + at[:, None] * N + n[None, :]), acc)
    tl.store(c + m[:, None] * N + n[None, :], acc.to(tl.float16))


@triton.jit
def persistent(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, APART: tl.constexpr):
    """c = a @ b.T by few programs over all tiles, through descriptors made in the kernel.

    APART: on sm_100, warps that load, warps that multiply and warps that store go their own ways.
    """
    A = tl.make_tensor_descriptor(a, [M, K], [K, 1], [BM, BK])
    B = tl.make_tensor_descriptor(b, [N, K], [K, 1], [BN, BK])
    C = tl.make_tensor_descriptor(c, [M, N], [N, 1], [BM, BN])
    tiles = tl.cdiv(M, BM) * tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True, warp_specialize=APART):
        m, n = tile // tl.cdiv(N, BN) * BM, tile % tl.cdiv(N, BN) * BN
        acc = tl.zeros((BM, BN), tl.float32)
        for k in range(0, K, BK):
            acc = tl.dot(A.load([m, k]), B.load([n, k]).T, acc)
        C.store([m, n], acc.to(tl.float16))


@triton.jit
def attend(Q, K, V, O, T, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """softmax(Q K') V, online, through descriptors of the host."""
    m = tl.program_id(0) * BM
    q = Q.load([m, 0])
    best, total, acc = (
        tl.full((BM,), -float("inf"), tl.float32),
        tl.zeros((BM,), tl.float32),
        tl.zeros((BM, D), tl.float32),
    )
    for n in range(0, T, BN):
        s = tl.dot(q, K.load([n, 0]).T) * 0.125
        new = tl.maximum(best, tl.max(s, 1))
        p, shrink = tl.exp(s - new[:, None]), tl.exp(best - new)
        total = total * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(tl.float16), V.load([n, 0]), acc * shrink[:, None])
        best = new
    O.store([m, 0], (acc / total[:, None]).to(tl.float16))


@triton.jit
def sums(X, out, N, BM: tl.constexpr, BN: tl.constexpr):
    """The sum of each row, its blocks read by the threads from where bulk copies put them."""
    total = tl.zeros((BM,), tl.float32)
    for n in tl.range(0, N, BN, num_stages=3):
        total += tl.sum(X.load([tl.program_id(0) * BM, n]).to(tl.float32), 1)
    tl.store(out + tl.program_id(0) * BM + tl.arange(0, BM), total)


class Case(NamedTuple):
    kernel: Any
    grid: tuple[int, ...]
    arguments: Callable[[], dict[str, Any]]  # anew for each launch
    result: str
    truth: torch.Tensor
    target: str = "sm_90"


def tiles(x: torch.Tensor, *block: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(x, list(block))


def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    a, b, v = torch.randn(128, 128).half(), torch.randn(128, 128).half(), torch.randn(128, 64).half()
    M = N = K = 128
    empty = lambda *shape: torch.full(shape, torch.nan, dtype=torch.float16)  # noqa: E731
    tile = {"BM": 64, "BN": 64, "BK": 32}
    wide = torch.randn(256, 256).half()
    q, k = a[:, :64].contiguous(), b[:, :64].contiguous()
    return {
        "product": Case(product, (2, 2), lambda: {"a": a, "b": b, "c": empty(M, N), "K": K, **tile}, "c", a @ b),
        "persistent": Case(
            persistent, (3,),
            lambda: {"a": a, "b": b, "c": empty(M, N), "M": M, "N": N, "K": K, **tile, "APART": False}, "c", a @ b.T,
        ),
        "apart": Case(
            persistent, (1,),
            lambda: {"a": wide, "b": wide[:128], "c": empty(256, 128), "M": 256, "N": 128, "K": 256,
                     "BM": 128, "BN": 128, "BK": 64, "APART": True},
            "c", wide @ wide[:128].T, "sm_100",
        ),
        "attend": Case(
            attend, (2,),
            lambda: {"Q": tiles(q, 64, 64), "K": tiles(k, 32, 64), "V": tiles(v, 32, 64),
                     "O": tiles(empty(128, 64), 64, 64), "T": 128, "D": 64, "BM": 64, "BN": 32},
            "O", torch.softmax(q.double() @ k.double().T * 0.125, 1) @ v.double(),
        ),
        "sums": Case(
            sums, (2,),
            lambda: {"X": tiles(a, 64, 32), "out": torch.full((128,), torch.nan), "N": N, "BM": 64, "BN": 32},
            "out", a.double().sum(1),
        ),
    }  # fmt: skip


def run(case: Case, edit: Callable[[str], str] | None = None, **settings: Any) -> tuple[torch.Tensor, Any]:
    """Launch a case, its PTX edited -> the result and the report."""
    arguments = case.arguments()
    with edited(edit or str):
        report = ptx.run(case.kernel, case.grid, target=case.target, **arguments, **settings)
    result = arguments[case.result]
    return getattr(result, "base", result), report


def right(case: Case, result: torch.Tensor) -> bool:
    """Whether a result is the truth, up to what float16 and the order of sums make of it."""
    return torch.allclose(result.double(), case.truth.double(), rtol=4e-3, atol=4e-3 * float(case.truth.abs().max()))


# What deleting means for each instruction that orders or waits, by the start of its opcode; $ stands for its line.
LINES = {
    "bar.sync": "", "fence.proxy.async": "", "wgmma.fence": "", "wgmma.commit_group": "", "wgmma.wait_group": "",
    "cp.async.commit_group": "", "cp.async.wait_group": "", "cp.async.bulk.commit_group": "",
    "cp.async.bulk.wait_group": "", "mbarrier.init": "", "mbarrier.arrive": "",
    "mbarrier.try_wait": "mov.pred complete, -1;", "fence.proxy.tensormap": "",
    "tensormap.cp_fenceproxy": "", "bar.warp.sync": "", "barrier.sync": "", "tcgen05.commit": "", "tcgen05.wait": "",
    "tcgen05.fence": "", "tcgen05.dealloc": "",
}  # fmt: skip


def deletions(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, opcode, text) of each mutant that lacks one ordering instruction."""
    lines = text.splitlines()
    for n, line in enumerate(lines):
        opcode = re.sub(r"^\s*(@!?%?\w+\s+)?", "", line)
        for start, instead in LINES.items():
            if opcode.startswith(start):
                yield n + 1, opcode.split()[0].rstrip(";"), "\n".join([*lines[:n], instead, *lines[n + 1 :]])
