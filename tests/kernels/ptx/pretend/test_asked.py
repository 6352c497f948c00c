"""What public launchers asked of a pretended GPU: libraries that keep answers, odd devices, custom operators."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import custom_op, wrap_triton
from torch.utils._triton import has_triton

from kvproof.kernels import ptx


@triton.jit
def doubled(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, 2 * tl.load(x + at, mask=at < n), mask=at < n)


@custom_op("kvproof_tests::doubled", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    wrap_triton(doubled)[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), 64)
    return out


def test_a_kernel_within_a_custom_operator_is_launched():
    """torchao: wrap_triton launches by a higher-order operator, which torch's modes must say they take."""
    with ptx.route(pretend=True) as reports:
        assert twice(torch.arange(100.0)).tolist() == [2.0 * n for n in range(100)]
    assert len(reports) == 1


def test_torch_forgets_that_it_found_no_gpu_and_that_it_found_one():
    """torchao: has_triton() keeps its first answer for the whole process."""
    before = has_triton()
    with ptx.route(pretend=True):
        assert has_triton()
        with ptx.route(pretend=True):
            assert has_triton()
    assert has_triton() == before


def test_what_names_no_device_is_the_current_one():
    """FlagAttention passes torch.cuda.device_of(q), FlagGems a tuple; torch takes either for the current device."""
    with ptx.route("sm_90", pretend=True):
        x = torch.ones(1, device="cuda")
        devices: list[Any] = [torch.cuda.device_of(x), torch.cuda.device(0), (0, 1, 2), None, 0, "cuda", x.device]
        for device in devices:
            assert torch.cuda.get_device_capability(device) == (9, 0)
            assert torch.cuda.get_device_properties(device).multi_processor_count == 132
