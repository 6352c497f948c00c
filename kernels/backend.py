"""How the kernels run on this machine: compiled for its GPU, or under Triton's interpreter where there is none.

Triton decides once, when it is imported: with TRITON_INTERPRET=1 in the environment every `@triton.jit` function of the
process is interpreted, without it every one is compiled. So importing a module here sets nothing; an entry point (a
command line, a conftest) calls `use_interpreter()` first.
"""

import os
import sys

HOW_TO_INTERPRET = (
    "set TRITON_INTERPRET=1 before Python starts, or call kvproof.kernels.backend.use_interpreter() before anything "
    "imports triton (torch.compile and transformers do)"
)


class BackendError(ValueError):
    """The kernels cannot run where they are asked to; the message says what to do."""


def interpreting() -> bool:
    """Whether Triton interprets in this process; before Triton is imported, whether it will."""
    language = sys.modules.get("triton.language")
    if language is None:
        return os.environ.get("TRITON_INTERPRET") == "1"
    # The environment may have changed since the import; what tl.sum became tells what was decided.
    return type(language.sum).__name__ == "InterpretedFunction"


def use_interpreter() -> None:
    """Have the kernels of this process interpreted, so that they run on CPU tensors.

    Raises BackendError if Triton is already imported and compiles.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    if not interpreting():
        del os.environ["TRITON_INTERPRET"]
        raise BackendError(f"triton is already imported and compiles in this process; {HOW_TO_INTERPRET}")


def check_device(device) -> None:
    """Raise BackendError unless kernels launched on `device` (a torch.device) can run in this process."""
    if device.type != "cuda" and not interpreting():
        raise BackendError(
            f"the tensors are on {device} and the kernels are compiled for a GPU; move them to cuda, use "
            f'impl="sdpa", or run the kernels under Triton\'s interpreter: {HOW_TO_INTERPRET}'
        )
    if device.type not in ("cuda", "cpu"):
        raise BackendError(f'the tensors are on {device}; the kernels run on cuda and cpu; use impl="sdpa"')
