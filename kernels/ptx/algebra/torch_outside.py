"""Arithmetic that a launcher does in torch between its kernels: real arithmetic, on what is payloads.

Seen are calls of torch's operators. What NumPy computes, `numpy()` and `tolist()` among it, and Python with numbers
that it got so, is not watched.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .outside import BOTH, Outside

# They move or make floats, and compute none unless the types differ.
MOVES = (
    "alias arange as_strided bernoulli cat clone contiguous copy copy_ detach diagonal empty empty_like empty_permuted "
    "empty_strided expand fill fill_ flatten flip full full_like gather index index_copy index_copy_ index_put "
    "index_put_ index_select lift_fresh masked_fill masked_fill_ masked_scatter movedim narrow new_empty "
    "new_empty_strided new_full new_ones new_zeros normal_ ones ones_like permute rand randn repeat reshape "
    "resize_ roll scalar_tensor scatter scatter_ select select_scatter slice slice_scatter split split_with_sizes "
    "squeeze stack t take transpose unbind unfold uniform_ unsqueeze view where zero_ zeros zeros_like "
    "_unsafe_view _reshape_alias set_"
)
MIXES = "cat copy_ stack where"  # they convert whole numbers, too; other whole numbers here are indices
WHY = "is torch's own arithmetic: do it in a kernel, or in ring"
CONVERTS = "converts numbers, not payloads: do it in a kernel, or in ring"
READS = "takes the bits of a payload for a number: what the launcher makes of it is no ring's"


@contextmanager
def watching_torch(found: list[Outside]) -> Iterator[None]:
    """Inside, float arithmetic of torch's is counted; afterwards it is added to the list."""
    if "torch" not in sys.modules:
        yield
        return
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    counts: Counter[tuple[str, str]] = Counter()

    class Watch(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # else torch imports its compiler, for seconds, to keep it from compiling the function below

        def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            result = func(*args, **(kwargs or {}))
            space, _, name = func._schema.name.rpartition("::")
            tensors = [x for x in tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
            kinds = {x.dtype for x in tensors if x.is_floating_point()}
            if space == "aten" and kinds and (found := judged(name, kinds, {x.dtype for x in tensors} - {torch.bool})):
                counts[found] += 1
            return result

    with Watch():
        yield
    found += [Outside(f"torch.{name}", BOTH, why, "", "", n) for (name, why), n in counts.items()]


def judged(name: str, floats: set, dtypes: set) -> tuple[str, str] | None:
    """An operator that computes on floats, and why that is outside the ring; None for one that moves them.

    floats, dtypes  the dtypes of its tensors, and of its result: the floats', and all but bool
    """
    if name == "_local_scalar_dense":
        return "Tensor.item", READS
    if name == "_to_copy" or name in MOVES.split():
        mixed = len(dtypes if name in ("_to_copy", *MIXES.split()) else floats) > 1
        return (name, CONVERTS) if mixed else None
    return name, WHY
