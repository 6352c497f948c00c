"""The ring's arithmetic in Python: write a formula once, and hold a kernel to it bit for bit.

    from kvproof.kernels.ptx.algebra import ring

    @ring.formula
    def softmax(x, out):
        e = ring.exp(x - ring.max(x, -1, keepdims=True))
        out[...] = e / ring.sum(e, -1, keepdims=True)

`same_algebra` calls a formula with its arrays of floats as `Array`s, which compute as fpsan makes a kernel compute:
+ - * / are those of the ring, a product needs no order, and nothing is rounded. Numbers become floats of the other
side's dtype first. Arrays of different dtypes do not mix: say `x.to("float32")` where the kernel converts. See
embedding.py for what each operation is.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from . import embedding
from .embedding import FORMATS, WRAPS, embed, signed, unembed

MARK = "_is_a_formula_of_the_ring"


def formula(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function of `Array`s as a side of `same_algebra`. Returns it."""
    setattr(function, MARK, True)
    return function


def is_formula(value: Any) -> bool:
    return bool(getattr(value, MARK, False))


def known(dtype: Any) -> str:
    """A dtype of the ring's. Raises TypeError for another, which may be torch's or NumPy's own object."""
    if dtype not in FORMATS:
        raise TypeError(f"the ring has no {dtype}; it has, by name, {', '.join(FORMATS)}")
    return dtype


class Array:
    """Floats by their bits, which compute as fpsan does.

    bits   unsigned ints of the dtype's width; an Array over a caller's memory writes to it by `x[...] = y`, `x += y`
    dtype  a name in FORMATS
    """

    __array_ufunc__ = None  # NumPy's numbers and arrays leave the operators to us

    def __init__(self, bits: np.ndarray, dtype: str):
        self.bits, self.dtype = bits, known(dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    @property
    def ndim(self) -> int:
        return self.bits.ndim

    @property
    def payload(self) -> np.ndarray:
        return embed(self.bits, self.dtype)

    def __len__(self) -> int:
        return len(self.bits)

    def __repr__(self) -> str:
        return f"ring.Array({self.dtype}, {self.shape}, payload={self.payload!r})"

    def __getitem__(self, at: Any) -> "Array":
        return Array(np.asarray(self.bits[at]), self.dtype)

    def __setitem__(self, at: Any, value: Any) -> None:
        self.bits[at] = self._other(value).bits

    def to(self, dtype: str) -> "Array":
        """Another dtype: payloads, not numbers, are kept."""
        return of(embedding.cast(self.payload, FORMATS[known(dtype)][0]), dtype)

    def reshape(self, *shape: Any) -> "Array":
        return Array(self.bits.reshape(*shape), self.dtype)

    def swapaxes(self, one: int, other: int) -> "Array":
        return Array(self.bits.swapaxes(one, other), self.dtype)

    @property
    def T(self) -> "Array":
        return Array(self.bits.T, self.dtype)

    def _other(self, value: Any) -> "Array":
        if not isinstance(value, Array):
            if np.ndim(value) or hasattr(value, "data_ptr"):
                raise TypeError(f"a {type(value).__name__} meets an Array; take it into the ring first: ring.array(it)")
            return full((), value, self.dtype)
        if value.dtype != self.dtype:
            raise TypeError(f"{self.dtype} meets {value.dtype}; convert one as the kernel does, x.to({self.dtype!r})")
        return value

    @WRAPS
    def _with(self, operation: Callable, other: Any, swapped: bool = False) -> "Array":
        one, two = self.payload, self._other(other).payload
        return of(operation(*((two, one) if swapped else (one, two))), self.dtype)

    def __add__(self, other: Any) -> "Array":
        return self._with(np.add, other)

    def __sub__(self, other: Any) -> "Array":
        return self._with(np.subtract, other)

    def __rsub__(self, other: Any) -> "Array":
        return self._with(np.subtract, other, swapped=True)

    def __mul__(self, other: Any) -> "Array":
        return self._with(np.multiply, other)

    def __truediv__(self, other: Any) -> "Array":
        return self._with(_divide, other)

    def __rtruediv__(self, other: Any) -> "Array":
        return self._with(_divide, other, swapped=True)

    def __mod__(self, other: Any) -> "Array":
        return self._with(embedding.remainder, other)

    @WRAPS
    def __neg__(self) -> "Array":
        return of(-self.payload, self.dtype)

    def __matmul__(self, other: "Array") -> "Array":
        return dot(self, other)

    __radd__, __rmul__ = __add__, __mul__

    @staticmethod
    def _in_place(operation: Callable) -> Callable[["Array", Any], "Array"]:
        """As NumPy and torch do."""

        def become(self, other):
            self[...] = operation(self, other)
            return self

        return become

    __iadd__, __isub__, __imul__ = _in_place(__add__), _in_place(__sub__), _in_place(__mul__)
    __itruediv__, __imod__ = _in_place(__truediv__), _in_place(__mod__)

    def _compared(self, other: Any) -> NoReturn:
        raise TypeError(
            "the ring compares no floats: a payload is no number. Choose by ints or bools, as of positions, "
            "ring.where(i < n, x, y); ring.maximum and ring.minimum go by payloads; for bits compare x.bits"
        )

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _compared

    def __bool__(self) -> bool:
        raise TypeError("an Array is neither true nor false: a payload is no number. Ask for its len() or its shape")


def _divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * embedding.reciprocal(y)


def of(payload: np.ndarray, dtype: str) -> Array:
    """The Array of payloads."""
    return Array(unembed(np.asarray(payload), dtype), dtype)


def array(values: Any, dtype: str | None = None) -> Array:
    """An Array over the memory of a NumPy array or torch tensor of floats, or of numbers converted to a dtype."""
    if isinstance(values, Array):
        return values if dtype is None else values.to(dtype)
    if hasattr(values, "data_ptr"):
        import torch

        words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        name = str(values.dtype).removeprefix("torch.")
        bits = values.detach().view(words[values.element_size()]).numpy()
    else:
        values = np.asarray(values) if dtype is None else np.asarray(values, _numpy(dtype))
        name, bits = values.dtype.name, values
    found = Array(bits.view(f"u{bits.itemsize}"), name)
    return found if dtype in (None, name) else found.to(dtype)


def full(shape: Any, value: float, dtype: str) -> Array:
    """A number, rounded to the dtype as compilers do, then taken into the ring."""
    return Array(np.broadcast_to(_bits(float(value), dtype), shape).copy(), dtype)


def zeros(shape: Any, dtype: str) -> Array:
    return full(shape, 0.0, dtype)


def _numpy(dtype: str) -> Any:
    if known(dtype) not in ("float16", "float32", "float64"):
        raise TypeError(f"NumPy has no {dtype}; make a torch tensor of it, and ring.array of that")
    return np.dtype(dtype)


def _bits(value: float, dtype: str) -> np.ndarray:
    if known(dtype) in ("float16", "float32", "float64"):
        return np.array(value, dtype).view(f"u{FORMATS[dtype][0] // 8}")
    import torch

    return array(torch.tensor(value, dtype=getattr(torch, dtype))).bits


def exp(x: Array) -> Array:
    return of(embedding.exp(x.payload), x.dtype)


def exp2(x: Array) -> Array:
    return of(embedding.exp2(x.payload), x.dtype)


def cos(x: Array) -> Array:
    return of(embedding.cos_sin(x.payload)[0], x.dtype)


def sin(x: Array) -> Array:
    return of(embedding.cos_sin(x.payload)[1], x.dtype)


def unary(name: str, x: Array) -> Array:
    """log, log2, sqrt, rsqrt, erf, floor, ceil, sqrt_rn: one-to-one, with no algebra. Raises ValueError for others."""
    if name not in embedding.TAGGED:
        raise ValueError(f"the ring has no {name} of one number; it has {', '.join(embedding.TAGGED)}")
    return of(embedding.tagged(x.payload, name), x.dtype)


def maximum(x: Array, y: Any) -> Array:
    """By the order of signed payloads, not of numbers; so `minimum`, `max` and `min`."""
    return x._with(lambda a, b: np.maximum(signed(a), signed(b)).view(a.dtype), y)


def minimum(x: Array, y: Any) -> Array:
    return x._with(lambda a, b: np.minimum(signed(a), signed(b)).view(a.dtype), y)


def where(condition: Any, x: Array, y: Any) -> Array:
    """Chosen by bools: comparisons of floats are none of the ring's."""
    if isinstance(condition, Array):
        x._compared(condition)
    return Array(np.where(condition, x.bits, x._other(y).bits), x.dtype)


def sum(x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    payload = x.payload
    return of(payload.sum(axis, payload.dtype, keepdims=keepdims), x.dtype)


def max(x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    payload = x.payload
    return of(np.asarray(signed(payload).max(axis, keepdims=keepdims)).view(payload.dtype), x.dtype)


def min(x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    payload = x.payload
    return of(np.asarray(signed(payload).min(axis, keepdims=keepdims)).view(payload.dtype), x.dtype)


def dot(x: Array, y: Array, dtype: str | None = None) -> Array:
    """As tl.dot: products and sums in `dtype`, which is at least float32 if None."""
    dtype = dtype or ("float64" if "float64" in (x.dtype, y.dtype) else "float32")
    return of(x.to(dtype).payload @ y.to(dtype).payload, dtype)
