"""Equal scores among which torch.topk chooses as it likes, one way for a whole sequence and another for its last token.

A sparse attention that keeps the k best keys scores them by sums of ReLUs, of which several are exactly 0 where there
are few heads. Which of them it keeps is nobody's bug. So a difference is judged again with such ties going to the
earliest, in both paths alike.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class TiesToTheFirst(TorchDispatchMode):
    """torch.topk takes the earliest of equal numbers while this is open.

    tied  rows seen so far in which the last number chosen equals the first one left
    """

    def __init__(self) -> None:
        super().__init__()
        self.tied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.topk.default:
            return func(*args, **(kwargs or {}))
        x, k, dim, largest = topk_arguments(*args, **(kwargs or {}))
        order = x.sort(dim=dim, descending=largest, stable=True)
        if 0 < k < x.shape[dim]:
            last, left = (order.values.select(dim, i) for i in (k - 1, k))
            self.tied += int(((last == left) & last.isfinite()).sum())
        return order.values.narrow(dim, 0, k).contiguous(), order.indices.narrow(dim, 0, k).contiguous()


def topk_arguments(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple:
    return x, k, dim, largest
