"""What a user hands over as a quantiser: a function, a class of caches, or two functions; and how it is judged."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ....reference.judge.formats.catalogue import named
from ....reference.judge.formats.format import Format
from ....reference.judge.formats.verdict import FormatVerdict, Parts, judge_format
from ..contract.user_errors import user_code
from .arrays import to_numpy, to_torch

ARRAYS = ("torch", "numpy")
SHAPES = "f(x) -> what is read back, a class with append(x) and read(), or something with quantise and dequantise"


def check_format(
    quantiser: Any,
    format: str | Format,
    dtype: Any = "float32",
    *,
    arrays: str = "torch",
    caches: bool = False,
    name: str = "",
    **options: Any,
) -> FormatVerdict:
    """The verdict on a quantiser.

    quantiser  f(x (B, H, T, D)) -> what is read back, x's shape; or a class of caches with append(x (B, H, M, D)) and
               read() -> (B, H, T, D); or an object with quantise(x) -> (codes, scales, …) and dequantise(codes, scales,
               …) -> x's shape, whose scales are judged too: floats, float8_e8m0fnu, or for e8m0 uint8 exponents + 127
    format     a name of catalogue.FORMATS, with changes as "int8-row,scale_dtype=float16"; or a Format
    dtype      of the numbers it is given: a name, or torch's or NumPy's dtype
    arrays     what it is given: "torch" tensors on the CPU, or "numpy" arrays
    caches     quantiser() makes an empty cache, though it is a function
    options    D, only, seed of judge_format

    Raises ValueError for words that are not known, and UserCodeError for what the quantiser raises but refusals.
    """
    if arrays not in ARRAYS:
        raise ValueError(f"arrays is {arrays!r}; it is {' or '.join(ARRAYS)}")
    f = named(format) if isinstance(format, str) else format
    wrap: Callable[[np.ndarray], Any] = to_torch if arrays == "torch" else np.copy
    dtype = dtype if isinstance(dtype, str) else dtype_name(dtype)
    name = name or getattr(quantiser, "__name__", type(quantiser).__name__)
    subject, state = as_subject(quantiser, wrap, name, caches)
    return judge_format(f, subject, dtype, state=state, **options)


def dtype_name(dtype: Any) -> str:
    """torch.bfloat16, np.float32 and the like by name."""
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else str(np.dtype(dtype))


def as_subject(quantiser: Any, wrap: Callable[[np.ndarray], Any], name: str, caches=False) -> tuple[Any, bool]:
    """The subject of judge_format, and whether it makes caches.  Raises ValueError for what is none."""
    if hasattr(quantiser, "quantise") and hasattr(quantiser, "dequantise"):
        return two_functions(quantiser, wrap, name), False
    if caches or (hasattr(quantiser, "append") and hasattr(quantiser, "read")):
        if not callable(quantiser):
            raise ValueError(f"{name} is one cache; give its class, or a function that makes an empty one")
        return (lambda: Wrapped(quantiser, wrap, name)), True
    if not callable(quantiser):
        raise ValueError(f"{name} is a {type(quantiser).__name__}; it must be {SHAPES}")

    def round_trip(x: np.ndarray) -> np.ndarray:
        with user_code(name):
            y = quantiser(wrap(x))
        return to_numpy(y)

    return round_trip, False


def two_functions(quantiser: Any, wrap: Callable[[np.ndarray], Any], name: str) -> Parts:
    """Both functions; the scales are shown as an array, and the user's own are handed on."""
    kept: dict[int, tuple] = {}

    def quantise(x: np.ndarray) -> tuple:
        with user_code(f"{name}.quantise"):
            own = quantiser.quantise(wrap(x))
        if not isinstance(own, (tuple, list)) or len(own) < 2:
            count = f" of {len(own)}" if isinstance(own, (tuple, list)) else ""
            raise ValueError(f"{name}.quantise gave a {type(own).__name__}{count}; it gives (codes, scales), or more")
        kept[0] = tuple(own)
        return to_numpy(own[0]), to_numpy(own[1])

    def dequantise(*_: np.ndarray) -> np.ndarray:
        with user_code(f"{name}.dequantise"):
            y = quantiser.dequantise(*kept[0])
        return to_numpy(y)

    return Parts(quantise, dequantise)


class Wrapped:
    """A cache of the user's that is given its kind of arrays."""

    def __init__(self, make: Callable[[], Any], wrap: Callable[[np.ndarray], Any], name: str):
        self.wrap, self.name = wrap, name
        with user_code(name):
            self.cache = make()

    def append(self, x: np.ndarray):
        with user_code(f"{self.name}.append"):
            self.cache.append(self.wrap(x))

    def read(self) -> np.ndarray:
        with user_code(f"{self.name}.read"):
            y = self.cache.read()
        return to_numpy(y)
