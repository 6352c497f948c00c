"""A path whose Triton kernels take 16 bits alone, made one that answers in float64: by the PTX machine's shadows."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ....kernels import ptx

DOUBT = (("?", 0),)  # NaN for what a shadow does not follow
UNMARKED = ("cp.async.bulk", "cp.reduce", "wgmma", "tcgen05", "ld")  # nor marks so


def shadowed(path: Callable[..., Any], dtype: str = "bfloat16", target: str = "sm_90") -> Callable[[str], Any]:
    """path(dtype), which launches Triton kernels on CPU tensors, as f(dtype) for the judge.

    f(dtype) runs it on the PTX machine. f("float64") runs it in `dtype` too, every register with the value that it
    would have in float64, and gives those of the tensor that it returns: what the kernels compute if nothing rounds,
    for these inputs and the branches that they take. NotImplementedError for any other dtype, where no kernel stored
    what is returned, and where it depends on what a shadow does not follow.
    """

    def run(asked: str) -> Any:
        if asked == dtype:
            with ptx.route(target):
                return path(dtype)
        if asked != "float64":
            raise NotImplementedError(f"it runs in {dtype} alone, and by its shadow in float64")
        found, lost = followed(path, dtype, target)
        unmarked = sorted(opcode for opcode in lost if opcode.startswith(UNMARKED))
        doubtful = lost and np.isnan(followed(path, dtype, target, DOUBT)[0]).sum() > np.isnan(found).sum()
        if unmarked or doubtful:
            older = "; ask by the code for sm_80, which has none" if unmarked and target != "sm_80" else ""
            raise NotImplementedError(f"its shadow does not follow {', '.join(unmarked or sorted(lost))}{older}")
        return found

    return run


def followed(path: Callable[..., Any], dtype: str, target: str, rounding: Any = ()) -> tuple[np.ndarray, set[str]]:
    """What a path returns, in float64, and the opcodes on the way that are not followed."""
    lost: set[str] = set()
    with ptx.route(target, shadow="float64", rounding=rounding, each=lambda r: lost.update(*r.shadow.lost.values())):
        found = ptx.shadow_of(path(dtype))
    if found is None:
        raise NotImplementedError("no kernel stored what it returns: return the tensor that the last kernel wrote")
    return found, lost
