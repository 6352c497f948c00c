"""Triton's options of a launch: each is honoured, named as one without effect, or refused before anything runs.

Triton ignores some keywords and crashes on others. The options are those of the installed Triton.
"""

import re
import warnings
from typing import Any

from triton import knobs
from triton.backends.nvidia.compiler import CUDAOptions

from .errors import Refused
from .limits import THREADS, WARP, check_threads
from .settings import Settings, nearest, short, whole

DEFAULTS = {name: field.default for name, field in CUDAOptions.__dataclass_fields__.items()}
MODES = ("consan", "fpsan", "gsan", "iisan")  # of Triton 3.8
ELSEWHERE = {
    "arch": "the machine compiles for target=",
    "backend_name": "the machine runs what Triton compiles for CUDA",
    "max_num_imprecise_acc_default": "Triton overwrites it: pass max_num_imprecise_acc= to tl.dot",
    **dict.fromkeys(("device", "device_type"), "the machine takes the place of any device"),
    "stream": "the machine runs a launch at once, on no stream",
    "grid": "it stands in kernel[grid], or before the arguments of run",
    "warmup": "call kernel.warmup(..., grid=grid) within route",
}
LEAST = {"num_stages": 0, "maxnreg": 1, "ptx_version": 1}
IDLE = {
    "launch_cooperative_grid": "the machine runs all programs of any grid side by side, where a GPU refuses a grid of "
    "more than it holds at once",
    "launch_pdl": "the machine runs one launch after the other",
}


def check_options(kernel: Any, given: dict[str, Any], sm: int) -> str:
    """The instrumentation mode of a launch of `kernel` with these keywords; "" for none.

    Raises Refused for a keyword that is no parameter or option, or cannot be honoured; warns of one without effect.
    """
    # Triton takes a parameter that is called as an option for both.
    own = kernel.signature.parameters
    name, options = kernel.__name__, {k: v for k, v in given.items() if k in DEFAULTS or k not in own}
    for option, value in options.items():
        if option in ELSEWHERE and value != DEFAULTS.get(option, ...):
            raise Refused(f"{option}= came with a launch of {name}; {ELSEWHERE[option]}: leave it out")
        if option in Settings._fields:
            raise Refused(f"{option}= came with a launch of {name}; it is a machine setting: route({option}=...)")
        if option not in DEFAULTS:
            known = {*kernel.arg_names, *DEFAULTS, *Settings._fields} - {*ELSEWHERE, option}
            raise Refused(f"{option}= is no parameter of {name}, nor an option of its launch{nearest(option, known)}")
        if value is not None:  # which is the default, to Triton
            check_value(name, option, value)
    for option in IDLE:
        if options.get(option):
            warnings.warn(f"{option}= has no effect on {name} here: {IDLE[option]}", UserWarning, stacklevel=5)
    arch = getattr(knobs.runtime, "override_arch", None)
    if arch not in (None, f"sm{sm}"):
        raise Refused(f"TRITON_OVERRIDE_ARCH is {arch}, and the target sm_{sm}; unset it, and name the GPU by target=")
    # Triton overwrites the keyword by the knob, in silence.
    mode = options.get("instrumentation_mode") or getattr(knobs.compilation, "instrumentation_mode", "")
    check_mode(name, mode, sm)
    return mode


def check_value(name: str, option: str, value: Any) -> None:
    """Raise Refused for a value of an option that no launch can have."""
    default = DEFAULTS[option]
    if option == "num_warps" and whole(1)(value) and value & (value - 1) == 0:
        check_threads(name, value)
        return
    if option == "num_warps":
        words = f"a power of two from 1 to {THREADS // WARP}"
    elif option in ("num_ctas", "cluster_dims") and value != default:
        words = f"{default}, since the machine runs no thread block clusters: leave it out"
    elif option == "warp_size" and value != WARP:
        words = f"{WARP}: leave it out"
    elif isinstance(default, bool) and not isinstance(value, bool):
        words = "True or False"
    elif option in LEAST and not whole(LEAST[option])(value):
        words = f"a whole number from {LEAST[option]} on"
    elif option == "instrumentation_mode" and not isinstance(value, str):
        words = f"one of {', '.join(MODES)}"
    else:
        return
    raise Refused(f"{option} of {name} is {short(value)}; it must be {words}")


def check_mode(name: str, mode: str, sm: int) -> None:
    """Raise Refused for a sanitizer that does not exist, or that cannot run here."""
    for word in re.findall(r"\w+", mode):
        if word not in MODES:
            known = ", ".join(MODES)
            raise Refused(f"instrumentation_mode is {mode!r}, which Triton would ignore; the modes are {known}")
        if word == "gsan":
            raise Refused(
                f"{name} is to be instrumented with gsan, Triton's sanitizer of global memory, whose runtime keeps its "
                "state on a GPU; the machine finds races and reads out of bounds by itself: unset instrumentation_mode"
            )
        if word == "consan" and sm < 90:
            what = f"{name} is to be instrumented with consan, whose instructions sm_{sm} has not"
            raise Refused(f"{what}; take target='sm_90' or a newer GPU, or unset instrumentation_mode")
