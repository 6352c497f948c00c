"""Another target for a kernel with instructions that the machine does not execute."""

import re
from typing import Any

from .assemble import assemble
from .compile import compile
from .errors import UnknownOpcode
from .limits import check_program

ELSEWHERE = ("sm_80", "sm_89", "sm_120", "sm_90", "sm_86", "sm_100")  # the plainest instructions first
# What only some targets have.
FEATURES = re.compile(r"(ld|st)matrix\.|mma\.|wgmma\.|tcgen05\.|cp\.(reduce\.)?async\.bulk|multimem\.")


def explain(error: UnknownOpcode, kernel: Any, args: tuple, kwargs: dict[str, Any], target: str) -> None:
    """End the error's message with what to do: the first other target that the machine can run this launch for."""
    if not FEATURES.match(error.opcode or ""):
        return  # no feature of a target's, but an instruction that some assembly asks for
    if type(kernel).__name__ == "GluonJITFunction":
        return  # written for some GPUs; compiled for another, LLVM ends the process
    tried = [other for other in ELSEWHERE if other != target]
    fits = next((other for other in tried if runs(kernel, args, kwargs, other)), None)
    advice = f"none of {', '.join(tried)} runs it either: load through plain pointers, not descriptors"
    if fits:
        advice = f"take target={fits!r}, for which Triton compiles this launch to what the machine executes"
    error.args = (f"{error}; {advice}", *error.args[1:])


def runs(kernel: Any, args: tuple, kwargs: dict[str, Any], target: str) -> bool:
    """Whether a launch compiles for a target, fits it, and has no instruction that the machine does not execute."""
    try:
        compiled = compile(kernel, args, kwargs, target)
        check_program(compiled.name, int(target[3:]), compiled.num_warps, compiled.shared)
        assemble(compiled.ptx)
    except Exception:  # Triton's own errors are of any kind
        return False
    return True
