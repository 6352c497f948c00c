"""Checks of a Python caller's arguments: each is converted or refused in one line, before anything is allocated."""

import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..reference.config import brief

IMPLS = ("naive", "eager", "sdpa", "triton", "numba")  # the keys of attention.DECODE_STEP; a test compares
WEIGHTS = ("int8",)  # what weights may be held in beside the model's dtype
KV_DTYPES = ("int8",)  # and what the rows of a cache


def check_impl(impl: Any, known: tuple[str, ...] = IMPLS) -> str:
    """impl, if it is one of those known; raises ValueError if not."""
    if not isinstance(impl, str) or impl not in known:
        raise ValueError(f"impl {brief(impl)} is not known; choose one of {', '.join(known)}")
    return impl


def check_weights(weights: Any) -> str | None:
    """weights, if it is None or one of WEIGHTS; raises ValueError if not."""
    if weights is not None and (not isinstance(weights, str) or weights not in WEIGHTS):
        raise refuse("weights", weights, f"one of {', '.join(WEIGHTS)}, or None for weights in the model's dtype")
    return weights


def check_kv_dtype(kv_dtype: Any) -> str | None:
    """kv_dtype, if it is None or one of KV_DTYPES; raises ValueError if not."""
    if kv_dtype is not None and (not isinstance(kv_dtype, str) or kv_dtype not in KV_DTYPES):
        raise refuse("kv_dtype", kv_dtype, f"one of {', '.join(KV_DTYPES)}, or None for rows in the model's dtype")
    return kv_dtype


def refuse(name: str, value: Any, fits: str) -> ValueError:
    """An error with what came and what fits."""
    return ValueError(f"{name} is {' '.join(brief(value).split())}; it must be {fits}")


def index_of(value: Any) -> int | None:
    """A whole number of Python, NumPy or torch as an int; None for anything else, such as True or 2.0."""
    if type(value) is int:
        return value
    if is_truth(value) or getattr(value, "ndim", 0) != 0:
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # RuntimeError: a tensor without a value, on the meta device
        return None


def is_truth(value: Any) -> bool:
    """Whether a value is a bool of Python, NumPy or torch."""
    return isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) == torch.bool


def whole(name: str, value: Any, fits: str = "a whole number", low: float = -math.inf, high: float = math.inf) -> int:
    """A whole number within low..high, of Python, NumPy or torch, as an int.  Raises ValueError with what fits."""
    found = index_of(value)
    if found is None or not low <= found <= high:
        raise refuse(name, value, fits)
    return found


def size(name: str, value: Any) -> int:
    """A whole number below 2**31.  Raises ValueError."""
    return whole(name, value, "a whole number below 2**31", high=2**31 - 1)


def real(name: str, value: Any, fits: str) -> float:
    """A real number of Python, NumPy or torch as a float; NaN and infinity are taken.  Raises ValueError."""
    if isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_complex() and value.device.type != "meta":
        value = value.item()
    if is_truth(value) or not isinstance(value, numbers.Real):
        raise refuse(name, value, fits)
    try:
        return float(value)
    except OverflowError:
        raise refuse(name, value, fits) from None


def flag(name: str, value: Any) -> bool:
    """A bool of Python or NumPy as a bool.  Raises ValueError for anything else, such as 0 or "no"."""
    if not isinstance(value, (bool, np.bool_)):
        raise refuse(name, value, "True or False")
    return bool(value)


def place(name: str, value: Any) -> torch.device:
    """A torch.device, or the one of this name.  Raises ValueError for a name that torch does not know."""
    try:
        if isinstance(value, (str, torch.device)):
            return torch.device(value)
    except RuntimeError:
        pass
    raise refuse(name, value, "a device's name, such as 'cpu' or 'cuda'")


def function(name: str, value: Any):
    """Raises ValueError unless value is None or can be called."""
    if value is not None and not callable(value):
        raise refuse(name, value, "a function, or None")


def is_row(value: Any) -> bool:
    """Whether a value is a list, a tuple, an array or the like; no text, bytes, set or iterator."""
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping)) or getattr(value, "ndim", 1) == 0:
        return False  # an array without axes has a length that raises
    return isinstance(value, Sequence) or (hasattr(value, "__len__") and hasattr(value, "__getitem__"))


def listed(value: Any) -> Any:
    """An array or a tensor as lists of Python's numbers; anything else as it is."""
    if not isinstance(value, (torch.Tensor, np.ndarray)) or getattr(value, "is_meta", False):
        return value
    return value.tolist()


def whole_numbers(prompt: Any) -> list[int]:
    """The ids of one prompt as Python ints.  Raises ValueError unless it is a sequence of whole numbers."""
    prompt = listed(prompt)
    if not is_row(prompt):
        raise ValueError(f"a prompt is {brief(prompt)}; pass its token ids as a list, a tuple or an array")
    ids = [index_of(i) for i in prompt]
    if None in ids:
        raise ValueError(f"a prompt holds {brief(list(prompt)[:4])}; token ids are whole numbers")
    return ids  # pyright: ignore[reportReturnType]


def strings(name: str, value: Any) -> list[str]:
    """A text or a sequence of texts as a list.  Raises ValueError for an empty text, or one that UTF-8 cannot write."""
    found = [value] if isinstance(value, str) else value
    if not is_row(found) or not all(isinstance(one, str) for one in found):
        raise refuse(name, value, "a text or a list of texts, () for none")
    if not all(found):
        raise ValueError(f"a {name} string is empty; it would end every text before it begins")
    for one in found:
        if not is_text(one):
            raise ValueError(f"a {name} string is {one!a}, which no text holds: it has a byte that is no UTF-8")
    return list(found)


def is_text(text: str) -> bool:
    """Whether UTF-8 can write a string: it has no half of a surrogate pair, no stand-in for a byte."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def tensor(name: str, value: Any, shape: str):
    """Raises ValueError unless value is a torch tensor."""
    if not isinstance(value, torch.Tensor):
        raise refuse(name, value, f"a torch tensor {shape} of int64 or int32")
