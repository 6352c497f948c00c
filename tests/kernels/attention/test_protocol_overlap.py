"""Two launches on one workspace at once, which they may not be: each is exact, or the flag is up."""

import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.attention import Workspace, make_workspace
from kvproof.kernels.attention.simt import attend_simt

from ._protocol_calls import Call, rows_of


@triton.jit
def part_of(partials, late, B, counters, splits, D):
    """The partials as sequence late * B + b must see them, to lie where those of b lie."""
    c = late * B * counters
    at = c * splits
    m, l, acc = partials.m - at, partials.l - at, partials.acc - at * D
    return Workspace(m, l, acc, partials.begun - at, partials.done - at, partials.counters - c, partials.fault)


@triton.jit(do_not_specialize=["M", "ticket", "B"])
def two_launches(q, cache, new, lengths, slopes, slopes_b, result, partials, T, M, ticket, B, CFG: tl.constexpr):
    """Of sequences 0..2B, the first B are one launch's and the others another's, on the workspace of B."""
    late = tl.program_id(2) // B
    mine = part_of(partials, late, B, tl.num_programs(1), tl.num_programs(0), CFG.D)  # pyright: ignore
    attend_simt(q, cache, new, lengths, slopes, slopes_b, result, mine, T, M, ticket + late, CFG)


def interleaved(call: Call, seed: int) -> tuple[torch.Tensor, Workspace]:
    """The two launches' programs under one random schedule; sequences of one are as many as of the other."""
    B, M, H, D = call.q.shape
    partials = make_workspace(B // 2, H, call.T, D, call.q.dtype, "cpu", M)
    out, lse = torch.full_like(call.q, torch.nan), torch.full(call.q.shape[:3], torch.nan)
    ((_, grid, arguments, options),) = call.launches(partials, out, lse, 5)
    with ptx.route("sm_90", checks=False, seed=seed):
        two_launches[grid](**arguments, B=B // 2, **options)
    return torch.cat([out, lse[..., None]], -1), partials


def count_interleaved(call: Call, seeds) -> list[int]:
    """Rows that are exact, NaN, and neither; of the latter a launch may have some where it raises the flag."""
    counts = [0, 0, 0]
    for seed in seeds:
        found, partials = interleaved(call, seed)
        right, nan = rows_of(call, found)
        assert right.all() or partials.fault
        for i, x in enumerate((right, nan, ~right & ~nan)):
            counts[i] += int(x.sum())
    return counts


def test_two_interleaved_launches_are_exact_or_raise_the_flag():
    right, nan, neither = count_interleaved(Call("simt", [200, 129, 256, 300] * 2, 384), range(8))
    assert right + nan > 100
    assert neither <= 2  # the flag is up then, too: see count_interleaved


@pytest.mark.exhaustive
def test_two_interleaved_launches_under_a_thousand_schedules():
    """A part whose two writers interleave may look whole, once in hundreds of schedules; the flag is up then, too."""
    right, nan, neither = count_interleaved(Call("simt", [200] * 2, 256), range(1000))
    assert right > 0
    assert neither <= 0.005 * (right + nan)
