"""A kernel's cubin: the machine does not need it, so ptxas makes it once it is asked for: a tenth of compiling.

ptxas is asked at once about what is not Triton's own: Gluon, assembly in the kernel, options of ptxas.
"""

import threading
from collections.abc import Callable
from typing import Any

from triton.backends.compiler import Language
from triton.compiler.compiler import AsmDict, make_backend
from triton.runtime.cache import get_cache_manager


class Texts(AsmDict):
    """Triton's texts of a CompiledKernel, "ttir" to "ptx", and its "cubin", kept on disk. Raises PTXASError."""

    def __init__(self, out: Any):
        super().__init__(out.asm)
        self.facts = out.metadata._asdict(), out.src.language, out.hash, f"{out.src.name[:150]}.cubin"
        if not self["cubin"]:
            del self["cubin"]
        if out.src.language != Language.TRITON or "inline_asm" in self["ttgir"] or out.metadata.ptx_options:
            self["cubin"]

    def __missing__(self, name: str) -> Any:
        if name == "cubin":
            (facts, language, key, file), stages = self.facts, {}
            backend = make_backend(facts["target"])
            backend.add_stages(stages, backend.parse_options(facts), language)  # pyright: ignore[reportCallIssue]
            self[name] = stages[name](self["ptx"], facts)
            get_cache_manager(key).put(self[name], file)  # in place of the empty one
        return self[name] if name in self else super().__missing__(name)


def without_cubin() -> Callable[..., Any]:
    """Triton's hook at the stages of compiling, which leaves the cubin of what this thread compiles to Texts.

    It takes (backend, stages, options, language, capability), or nothing, for what tells such kernels from others.
    """
    ours = threading.get_ident()

    def hook(backend=None, stages: Any = None, *others: Any) -> tuple[str, str] | None:
        here = threading.get_ident() == ours
        if stages is None:
            return ("no cubin yet", "no cubin yet") if here else ("", "")
        if here and "cubin" in stages:
            stages["cubin"] = lambda ptx, facts: b""
        return None

    return hook
