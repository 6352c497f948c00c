"""Two functions of anybody's as a subject (see subjects.py), named on a command line as "module:function"."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np


class CallableSubject:
    """Two functions f(dtype, shift) -> logits (B, n, V), given as "module:function", a under test and b trusted.

    Raises ValueError, in one line, for a module or a function that is not there.
    """

    question = "the first function against the second"

    def __init__(self, a: str, b: str):
        self.name_a, self.name_b = a, b
        self.functions = find_function(a), find_function(b)

    def paths(self, dtype: str, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """What both return. Raises what they raise: NotImplementedError for a dtype they cannot run in."""
        a, b = (np.asarray(function(dtype, shift)) for function in self.functions)
        return a, b


def find_function(name: str) -> Callable[[str, float], Any]:
    """The function that "module:function" names.  Raises ValueError where there is none."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{name!r} names no function; write module:function")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ValueError(
            f"{name!r}: module {module!r} cannot be imported ({error}); is its folder on sys.path?"
        ) from None
    except AttributeError:
        raise ValueError(f"{name!r}: module {module!r} has no {attribute!r}") from None
    if not callable(function):
        raise ValueError(f"{name!r} is a {type(function).__name__}; it must be a function of (dtype, shift)")
    return function
