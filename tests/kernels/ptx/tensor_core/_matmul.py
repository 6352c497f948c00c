"""A matrix product in Triton, launched on arrays of any type and order, as compiled or with its PTX edited."""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.execute import Report, execute
from kvproof.kernels.ptx.launch import buffer

TF32 = ~0x1FFF  # the bits of a float32 that a tensor core looks at


@triton.jit
def matmul(a, b, c, K: tl.constexpr, sam, sak, sbk, sbn, N, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
           ACC: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    m, n = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), ACC)
    for k in tl.range(0, K, BK, num_stages=STAGES):  # pyright: ignore[reportGeneralTypeIssues]
        at = k + tl.arange(0, BK)
        x = tl.load(a + m[:, None] * sam + at[None, :] * sak)
        y = tl.load(b + at[:, None] * sbk + n[None, :] * sbn)
        acc = tl.dot(x, y, acc, input_precision=PRECISION)
    tl.store(c + m[:, None] * N + n[None, :], acc)


def draw(rng: torch.Generator, shape: tuple[int, int], dtype: torch.dtype, transposed: bool) -> torch.Tensor:
    """Random numbers; transposed, the first axis is the contiguous one."""
    rows, columns = shape[::-1] if transposed else shape
    if dtype in (torch.int8, torch.uint8):
        info = torch.iinfo(dtype)
        x = torch.randint(info.min, info.max + 1, (rows, columns), generator=rng, dtype=dtype)
    else:
        x = torch.randn(rows, columns, generator=rng).to(dtype)
    return x.T if transposed else x


class Product:
    """One launch of matmul and what it should give."""

    def __init__(self, dtype: torch.dtype, M=128, N=128, K=128, BM=64, BN=64, BK=64, *, ta=False, tb=False,
                 acc: Any = None, precision="tf32", stages=3, target="sm_90", **options):  # fmt: skip
        rng = torch.Generator().manual_seed(M + N + K)
        self.a, self.b = draw(rng, (M, K), dtype, ta), draw(rng, (K, N), dtype, tb)
        whole = dtype in (torch.int8, torch.uint8)
        acc = acc or (tl.int32 if whole else tl.float32)
        kind = {"int32": torch.int32, "fp32": torch.float32, "fp16": torch.float16, "fp64": torch.float64}[acc.name]
        self.c = torch.full((M, N), -1 if whole else float("nan"), dtype=kind)
        self.grid, self.target, self.tf32 = (
            (M // BM, N // BN, 1),
            target,
            dtype == torch.float32 and precision == "tf32",
        )
        strides = (*self.a.stride(), *self.b.stride())
        self.args = (self.a, self.b, self.c, K, *strides, N, BM, BN, BK, acc, precision, stages)
        self.options = options

    def run(self, **settings) -> Report:
        return ptx.run(matmul, self.grid, *self.args, target=self.target, **self.options, **settings)

    def edited(self, edit: Callable[[str], str], **settings) -> Report:
        """Launch what `edit` makes of the PTX, which must differ from it."""
        compiled = compile(matmul, self.args, self.options, self.target)
        text = edit(compiled.ptx)
        assert text != compiled.ptx
        arguments = [(name, buffer(name, x)) for name, x in compiled.arguments]
        settings |= {"name": "matmul", "target": self.target, "shared": compiled.shared}
        return execute(text, self.grid, arguments, num_warps=compiled.num_warps, **settings)

    def error(self) -> float:
        """The largest error of the result, relative to the sum of the products' magnitudes."""
        a, b = (self.seen(x) for x in (self.a, self.b))
        return float(((self.c.double() - a @ b).abs() / (a.abs() @ b.abs())).max())

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What a tensor core sees of an operand, in float64."""
        return (x.contiguous().view(torch.int32) & TF32).view(torch.float32).double() if self.tf32 else x.double()


def opcodes(report: Report, family: str) -> set[str]:
    return {i.opcode for i, _ in report.by_instruction if i.opcode.startswith(family)}
