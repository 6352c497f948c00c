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
from .planes import halves, paired

Numbers = tuple[tuple[float, ...], frozenset[float]]

# What Triton's own lowering puts in, as that of tl.exp and tl.log.
EVIDENT = (math.log2(math.e), math.log(2), math.log2(10), math.log10(2))
SHORT = {x * sign for x in (0.0, 0.5, 1.0, 2.0) for sign in (1, -1)}
DTYPES = {"fp16": "f16", "bf16": "bf16", "fp32": "f32"}  # as Triton calls what is rounded to
_known: dict[str, Numbers] = {}


def meant(bits: int, kind: str, numbers: tuple[float, ...] | None = ()) -> tuple[Any, set[float]]:
    """What an immediate of a format stands for: the number, or pair, (1, 1), and those of `numbers` that it may be.

    None in its place if several are, or if a float32 looks rounded, and none is. Numbers of few digits are themselves,
    and so is any if `numbers` is None.
    """
    word = np.full((1, 1), bits & ((1 << BITS[kind]) - 1), f"u{BITS[kind] // 8}")
    if kind in HALF:
        (low, one), (high, two) = (meant(int(x[0, 0]), HALF[kind], numbers) for x in halves(word))
        return None if low is None or high is None else paired(low, high), one | two
    own = float(exact(word, kind)[0, 0])
    with np.errstate(all="ignore"):
        fits = [{x for x in some for y in (x, -x) if encode(np.full((1, 1), y), kind)[0, 0] == word[0, 0]}
                for some in (numbers or (), EVIDENT if kind == "f32" else ())]  # fmt: skip
    if numbers is None or not math.isfinite(own) or own in SHORT:
        return exact(word, kind), set()
    found = fits[0] or fits[1]
    if len({abs(x) for x in found}) == 1:
        return np.full((1, 1), math.copysign(next(iter(found)), own)), fits[0]
    sure = not found and (kind != "f32" or not bits & 0xFFF)
    return exact(word, kind) if sure else None, fits[0]


@contextmanager
def heard(found: dict[float, bool]) -> Iterator[None]:
    """Inside, the floats that Triton makes constants of are noted, and whether it rounds them."""
    usual = TritonSemantic.scalar_constant

    def scalar_constant(self, value, dtype):
        if isinstance(value, float) and math.isfinite(value):
            rounds = dtype.name in DTYPES and exact(encode(np.full(1, value), DTYPES[dtype.name]), DTYPES[dtype.name])
            found[value] = found.get(value, False) or bool(rounds is not False and rounds[0] != value)
        return usual(self, value, dtype)

    TritonSemantic.scalar_constant = scalar_constant
    try:
        yield
    finally:
        TritonSemantic.scalar_constant = usual


def numbers(kernel: Any) -> Numbers:
    """The floats of a CompiledKernel's Python, and which are rounded: translates its source once more."""
    if kernel.hash not in _known:
        backend: Any = make_backend(kernel.metadata.target)
        context, found = ir.context(), {}
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
        _known[kernel.hash] = tuple(sorted(found)), frozenset(x for x, rounds in found.items() if rounds)
    return _known[kernel.hash]


def pointers(arguments: list[tuple[str, Any]]) -> tuple[str, ...]:
    """What each argument of a launch points at, as PTX calls it; "" where that is no float."""
    kinds = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}
    return tuple(kinds.get(str(getattr(x, "dtype", "")).removeprefix("torch."), "") for _, x in arguments)
