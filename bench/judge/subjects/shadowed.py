"""A path whose Triton kernels take 16 bits alone, made one that answers in float64: by the PTX machine's shadows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ....kernels import ptx

# How far a right kernel's shadow may be from the formula, in units of the largest number: 4 roundings to float32. The
# shadow itself is right to 1e-15, and most of our kernels' to that; what is float32 by intent is not: the stored scale
# of an int8 cache (6.4e-9), the numbers of a kernel's own polynomial, as of tanh (1.1e-10), a table. The faintest
# planted bug, a wrong GELU, is 600 times as large.
SHADOW_GATE = 2.0**-22
DOUBT = (("?", 0),)  # NaN for what a shadow does not follow
# Of torch's operators: what moves numbers and rounds none, and what asks for a tensor's shape alone.
MOVES = ("_to_copy", "copy_", "clone", "cat", "stack", "index", "index_select", "gather", "constant_pad_nd", "where")
SHAPES = ("_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "resize_", "set_")
FILLS = ("copy_", "fill_", "zero_", "normal_", "uniform_")  # read nothing of what they write to


def shadowed(path: Callable[..., Any], dtype: str = "bfloat16", target: str = "sm_90") -> Callable[[str], Any]:
    """path(dtype), which launches Triton kernels on CPU tensors, as f(dtype) for the judge.

    f(dtype) runs it on the PTX machine. f("float64") runs it in `dtype` too, every register with the value that it
    would have in float64, and gives those of the tensor that it returns: what the kernels compute if nothing rounds,
    for these inputs and the branches that they take. NotImplementedError for any other dtype, where no kernel stored
    what is returned, where torch computed what a kernel reads, where rounding decided a choice, and where the result
    depends on what a shadow does not follow. What NumPy computes in between is not watched.
    """

    def run(asked: str) -> Any:
        if asked == dtype:
            with ptx.route(target):
                return path(dtype)
        if asked != "float64":
            raise NotImplementedError(f"it runs in {dtype} alone, and by its shadow in float64")
        found, lost, unmarked, choices = followed(path, dtype, target)
        if choices:
            raise NotImplementedError(f"rounding decided a choice at {', '.join(sorted(choices))}")
        doubtful: Any = lost and followed(path, dtype, target, DOUBT)
        if unmarked or (doubtful and (doubtful[3] or np.isnan(doubtful[0]).sum() > np.isnan(found).sum())):
            beside = any(x.startswith(("cp.", "wgmma", "tcgen05")) for x in unmarked)
            older = "; ask by the code for sm_80, which has none" if beside and target != "sm_80" else ""
            raise NotImplementedError(f"its shadow does not follow {', '.join(sorted(unmarked or lost))}{older}")
        return found

    return run


def followed(
    path: Callable[..., Any], dtype: str, target: str, rounding: Any = ()
) -> tuple[np.ndarray, set[str], set[str], set[str]]:
    """What a path returns, in float64; the opcodes that are not followed; those that DOUBT does not show; choices."""
    lost, unmarked, choices = set[str](), set[str](), set[str]()
    between = Between()

    def each(report: Any) -> None:
        lost.update(*report.shadow.lost.values())
        unmarked.update(report.shadow.unmarked)
        choices.update(f"{file}:{n} ({', '.join(sorted(x))})" for (file, n), x in report.shadow.choices.items())
        between.launched(report)

    with ptx.route(target, shadow="float64", rounding=rounding, each=each):
        with between:
            given = path(dtype)
        found = ptx.shadow_of(given)
    if between.told:
        raise NotImplementedError(f"its shadow does not follow torch: {'; '.join(sorted(between.told))}")
    if found is None:
        raise NotImplementedError("no kernel stored what it returns: return the tensor that the last kernel wrote")
    return found, lost, unmarked, choices


class Between(TorchDispatchMode):
    """Inside, torch's operators are watched: a kernel that reads what one has computed is told.

    told  what was seen of that, in words
    """

    def __init__(self):
        super().__init__()
        self.told: set[str] = set()
        self.stored: list[tuple[int, int]] = []  # bytes that kernels have written, from and up to
        self.computed: list[tuple[str, torch.Tensor]] = []  # by an operator; kept, so that no other gets their memory

    def launched(self, report: Any) -> None:
        for name, span in report.shadow.read.items():
            self.told |= {f"{name} of {report.name} comes from {op}" for op, x in self.computed if meet(span, x)}
        self.stored += report.stored_to.values()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        read = tensors[name in FILLS :] if not name.endswith(SHAPES) else []
        made = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        homes = {x.untyped_storage().data_ptr() for x in tensors}
        written = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
        new = [x for x in made if written or x.untyped_storage().data_ptr() not in homes]
        of_torch = any(meet(span_of(y), x) for x in read for _, y in self.computed)
        of_kernels = any(meet(span, x) for x in read for span in self.stored)
        if not made and (of_torch or (of_kernels and any(x.is_floating_point() for x in read))):
            self.told.add(f"{name} looks at a kernel's numbers")
        rounds = name not in MOVES and any(x.is_floating_point() for x in read)
        new = [x for x in new if x.device.type == "cpu"]
        ours = of_torch or of_kernels
        self.computed += [(name, x) for x in new if ours or (rounds and x.is_floating_point())]
        return found


def span_of(x: torch.Tensor) -> tuple[int, int]:
    """The first byte of a tensor's memory, and one past the last."""
    memory = x.untyped_storage()
    return memory.data_ptr(), memory.data_ptr() + memory.nbytes()


def meet(span: tuple[int, int], x: torch.Tensor) -> bool:
    low, high = span_of(x)
    return span[0] < high and low < span[1]
