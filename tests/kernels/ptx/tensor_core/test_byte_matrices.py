"""ldmatrix of 8-bit elements, turned on the way: what sm_100 and sm_120 load a row-major B of few columns with."""

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx.assemble import assemble
from kvproof.kernels.ptx.errors import UnknownOpcode


@triton.jit
def product(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    tl.store(c + m * N + n, tl.dot(tl.load(a + m * K + k[None, :]), tl.load(b + k[:, None] * N + n)))


def small(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Whole numbers that 8 bits hold, as floats of 3 bits of mantissa, too."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize(("target", "M"), [("sm_100", 32), ("sm_120", 128)])
def test_a_product_whose_b_is_turned_on_the_way_from_shared_memory(dtype, target, M):
    a, b = small((M, 64), dtype, 0), small((64, 8), dtype, 1)
    c: Any = torch.zeros(M, 8, dtype=torch.int32 if dtype is torch.int8 else torch.float32)
    report = ptx.run(product, 1, a, b, c, M, 8, 64, target=target)
    assert "ldmatrix.sync.aligned.m16n16.x2.trans.shared.b8" in report.asm["ptx"]
    assert torch.equal(c.double(), a.double() @ b.double())


TEXT = """.version 8.6
.target sm_100a
.address_size 64
.visible .entry kernel()
{{
.reg .b32 %r<5>;
{};
ret;
}}
"""


@pytest.mark.parametrize("opcode", [
    "ldmatrix.sync.aligned.m16n16.x2.shared.b8", "ldmatrix.sync.aligned.m16n16.x4.trans.shared.b8",
    "ldmatrix.sync.aligned.m8n8.x2.shared.b8", "ldmatrix.sync.aligned.m8n16.x2.shared.b8x16.b4x16_p64",
])  # fmt: skip
def test_other_forms_are_refused_by_name(opcode):
    with pytest.raises(UnknownOpcode, match=f"does not execute {opcode}: its table has other forms of it"):
        assemble(TEXT.format(f"{opcode} {{%r1, %r2}}, [%r3]"))
