"""The memory in which the splits of a long context wait to be combined, and how many splits there are.

Nothing here needs Triton: a cache makes its workspace, and a table counts its bytes, where there is none.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SPLIT_LEN = 128  # slots of a split, at the beginning of the context


class WorkspaceFault(RuntimeError):
    """Two launches met in one workspace, or one found what an aborted launch had left there: its results are NaN."""


class Workspace(NamedTuple):
    """What the programs of one launch leave for the last of them. Launches that may overlap need one each.

    Each tensor has a storage of its own. Between launches the counters are 0, and nothing else means anything.
    """

    m: Tensor  # per query and split: running max, a power of two
    l: Tensor  # running sum of weights
    acc: Tensor  # running sum of weighted values, head_dim of them
    begun: Tensor  # int32, the ticket of the launch that began to write a part
    done: Tensor  # int32, the ticket of the launch that finished it; 0 once it is combined
    counters: Tensor  # int32, per program of a split: how many splits' programs have arrived
    fault: Tensor  # int32 (1,): not 0 once something was found that was not this launch's own

    def reset(self) -> None:
        """Make it usable again after a fault or an aborted launch."""
        for x in (self.begun, self.done, self.counters, self.fault):
            x.zero_()

    def check(self) -> None:
        """Raise WorkspaceFault if a launch found the workspace in disorder. Reads one number from the device."""
        if self.fault.item():
            raise WorkspaceFault(
                "a decode attention found its workspace in another launch's hands, or as an aborted launch had left "
                "it, and answered NaN; give launches that may overlap a workspace each, and call reset() on this one"
            )


def doublings(T: int, split_len: int = SPLIT_LEN) -> int:
    """How many times the last split of T slots is doubled, as `split_of` in steps.py counts."""
    return min(max((max(T - 1, 0) // (32 * split_len)).bit_length() - 1, 0), 5)


def max_splits(T: int, split_len: int = SPLIT_LEN) -> int:
    """The splits of T slots, the first 64 of `split_len`: see `split_start` in steps.py."""
    e = doublings(T, split_len)
    return max(T - 1, 0) // (split_len << e) + 32 * e + 1


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums over a cache of `dtype` are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sizes(B: int, H: int, T: int, D: int, M: int) -> tuple[int, ...]:
    """Elements of m, l, acc, begun, done, counters and fault."""
    queries, partials = B * M * H, B * M * H * max_splits(T)
    return partials, partials, partials * D, partials, partials, queries, 1


def make_workspace(
    B: int, H: int, T: int, D: int, dtype: torch.dtype, device: torch.device | str, M: int = 1
) -> Workspace:  # fmt: skip
    """Memory for B sequences of M new tokens, H query heads, caches of T slots, head_dim D and queries of `dtype`.

    A cache makes it once and passes it to every call, so that decode allocates nothing that grows with T. It takes
    4 * B * M * H * S * (D + 4) bytes, nearly twice that for float64, with S splits: T / 128 of them up to 8192 slots,
    224 at 262144. It serves smaller calls too.
    """
    sums = [accumulator(dtype)] * 3
    dtypes = [*sums, *[torch.int32] * 4]
    make = [torch.empty] * 3 + [torch.zeros] * 4
    return Workspace(
        *(f(n, dtype=t, device=device) for f, n, t in zip(make, sizes(B, H, T, D, M), dtypes, strict=True))
    )


def fitting_workspace(partials: Workspace | None, q: Tensor, T: int) -> Workspace:
    """`partials` if it has room for q (B, M, H, D) over T slots, or a new one if it is None; ValueError otherwise."""
    B, M, H, D = q.shape
    if partials is None:
        return make_workspace(B, H, T, D, q.dtype, q.device, M)
    needed = sizes(B, H, T, D, M)
    wide = all(x.numel() >= n for x, n in zip(partials, needed, strict=True))
    if not wide or partials.acc.dtype != accumulator(q.dtype) or partials.acc.device != q.device:
        raise ValueError(
            f"the workspace holds {partials.m.numel()} partials, {partials.acc.numel()} sums of {partials.acc.dtype} "
            f"on {partials.acc.device}; this call needs {needed[0]}, {needed[2]} of {accumulator(q.dtype)} on "
            f"{q.device}; make it with make_workspace({B}, {H}, {T}, {D}, {q.dtype}, device, M={M})"
        )
    return partials
