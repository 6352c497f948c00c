"""What a float in a kernel's code was rounded from: Triton rounds the numbers of Python before anybody sees them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton._C.libtriton import ir
from triton.compiler import make_backend
from triton.language.semantic import TritonSemantic

from ..floats import encode
from ..opcode import BITS
from .formats import HALF, exact

# What Triton's own lowering puts in, as that of tl.exp and tl.log.
EVIDENT = (math.log2(math.e), math.log(2), math.log2(10), math.log10(2))
_known: dict[str, tuple[float, ...]] = {}


def meant(bits: int, kind: str, numbers: tuple[float, ...] = ()) -> np.ndarray:
    """The number, or pair, that an immediate of a format stands for: (1, 1); of `numbers` the one that rounds to it."""
    word = np.full((1, 1), bits & ((1 << BITS[kind]) - 1), f"u{BITS[kind] // 8}")
    if kind not in HALF:
        for x in (*numbers, *(EVIDENT if kind == "f32" else ())):
            for number in (x, -x):
                if encode(np.full((1, 1), number), kind)[0, 0] == word[0, 0]:
                    return np.full((1, 1), number)
    return exact(word, kind)


@contextmanager
def heard(found: set[float]) -> Iterator[None]:
    """Inside, the floats that Triton makes constants of are noted."""
    usual = TritonSemantic.scalar_constant

    def scalar_constant(self, value, dtype):
        if isinstance(value, float) and math.isfinite(value):
            found.add(value)
        return usual(self, value, dtype)

    TritonSemantic.scalar_constant = scalar_constant
    try:
        yield
    finally:
        TritonSemantic.scalar_constant = usual


def numbers(kernel: Any) -> tuple[float, ...]:
    """The floats of a CompiledKernel's Python, before rounding: its source is translated to Triton's IR once more."""
    if kernel.hash not in _known:
        backend: Any = make_backend(kernel.metadata.target)
        context, found = ir.context(), set()
        ir.load_dialects(context)
        backend.load_dialects(context)
        facts = kernel.metadata._asdict()
        options = backend.parse_options(facts)
        with heard(found):
            kernel.src.make_ir(
                kernel.metadata.target,
                options,
                backend.get_codegen_implementation(options),
                backend.get_module_map(),
                context,
            )
        _known[kernel.hash] = tuple(sorted(found))
    return _known[kernel.hash]


def pointers(arguments: list[tuple[str, Any]]) -> tuple[str, ...]:
    """What each argument of a launch points at, as PTX calls it; "" where that is no float."""
    kinds = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}
    return tuple(kinds.get(str(getattr(x, "dtype", "")).removeprefix("torch."), "") for _, x in arguments)
