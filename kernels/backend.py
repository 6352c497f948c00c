"""How the kernels run on this machine: compiled for its GPU; without one, on the PTX machine or interpreted.

Triton decides once, when it is imported: with TRITON_INTERPRET=1 in the environment every `@triton.jit` function of the
process is interpreted, without it every one is compiled. What is compiled runs on a GPU or, launched on CPU tensors
within `ptx.route()`, on the PTX machine. Importing a module here sets nothing; an entry point (a command line, a
conftest) says how it wants its kernels run: `with without_gpu("ptx"):`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BACKENDS = {"ptx": "PTX machine", "interpret": "interpreter"}  # without a GPU: name -> what it is called
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


@contextmanager
def without_gpu(backend: str = "ptx") -> Iterator[str]:
    """Inside, kernels launched on CPU tensors run on the PTX machine, or under Triton's interpreter; yields which.

    Where TRITON_INTERPRET is set the interpreter is what there is. That one stays for the rest of the process.
    Raises BackendError as `use_interpreter` does, ImportError where there is no Triton.
    """
    if backend == "interpret" or interpreting():
        use_interpreter()
        yield BACKENDS["interpret"]
    else:
        from .ptx import route

        with route(keep=1):
            yield BACKENDS["ptx"]


def check_device(device) -> None:
    """Raise BackendError unless kernels launched on `device` (a torch.device) can run in this process."""
    machine = sys.modules.get("kvproof.kernels.ptx.launch")
    if device.type != "cuda" and not interpreting() and not (machine and machine.routing()):
        raise BackendError(
            f"the tensors are on {device} and the kernels are compiled for a GPU; move them to cuda, use "
            'impl="sdpa", launch within `with kvproof.kernels.ptx.route():` to run them on the PTX machine, or run the '
            f"kernels under Triton's interpreter: {HOW_TO_INTERPRET}"
        )
    if device.type not in ("cuda", "cpu"):
        raise BackendError(f'the tensors are on {device}; the kernels run on cuda and cpu; use impl="sdpa"')
