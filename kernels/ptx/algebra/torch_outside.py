"""Arithmetic that a launcher does in torch between its kernels: real arithmetic, on what is payloads."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .outside import BOTH, Outside

# They move or make floats and compute none.
MOVES = (
    "alias arange as_strided bernoulli cat clone contiguous copy copy_ detach diagonal empty empty_like empty_permuted "
    "empty_strided expand fill fill_ flatten flip full full_like gather index index_copy index_copy_ index_put "
    "index_put_ index_select lift_fresh masked_fill masked_fill_ masked_scatter movedim narrow new_empty "
    "new_empty_strided new_full new_ones new_zeros normal_ ones ones_like permute rand randn repeat reshape "
    "resize_ roll scalar_tensor scatter scatter_ select select_scatter slice slice_scatter split split_with_sizes "
    "squeeze stack t take transpose unbind unfold uniform_ unsqueeze view where zero_ zeros zeros_like "
    "_unsafe_view _reshape_alias _local_scalar_dense set_"
)


@contextmanager
def watching_torch(found: list[Outside]) -> Iterator[None]:
    """Inside, float arithmetic of torch's is counted; afterwards it is added to the list."""
    if "torch" not in sys.modules:
        yield
        return
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: Counter[str] = Counter()

    class Watch(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # else torch imports its compiler, for seconds, to keep it from compiling the function below

        def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            result = func(*args, **(kwargs or {}))
            space, _, name = func._schema.name.rpartition("::")
            floats = [x for x in (*args, result) if isinstance(x, torch.Tensor) and x.is_floating_point()]
            copies = name == "_to_copy" and args[0].dtype == result.dtype
            if space == "aten" and floats and name not in MOVES.split() and not copies:
                counts[name] += 1
            return result

    with Watch():
        yield
    why = "is torch's own arithmetic: do it in a kernel, or in ring"
    found += [Outside(f"torch.{name}", BOTH, why, "", "", n) for name, n in counts.items()]
