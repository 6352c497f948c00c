"""Two paths of anybody's as a subject (see __init__.py), named on a command line as "module:attribute"."""

import difflib
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ..contract.functions import SIGNATURE, Path
from ..contract.user_errors import user_code
from ..tracing.module_tape import ModuleTape, align, capture_modules
from ..tracing.tape import Activation
from .shadowed import SHADOW_GATE, shadowed


class CallableSubject:
    """Two functions or arrays as ../contract/functions.py has them, each "module:attribute", a under test, b trusted.

    dtype    the one in question, in which arrays stand
    modules  "module:attribute" of the torch models that the functions run the parts of; none are needed where they
             call a model as a whole
    shadow   the GPU by whose code Triton kernels of a, which takes `dtype` alone, are run in float64: see shadowed.py

    Raises ValueError, in one line, for what is not there and for what fails when it is imported.
    """

    question = "the first function against the second"
    prefilled = 1
    float64_gate: float | None = None

    def __init__(
        self, a: str, b: str, dtype: str = "float32", modules: Sequence[str] = (), shadow: str | None = None
    ):  # fmt: skip
        self.name_a, self.name_b = a, b
        self.a, self.b = (as_path(name, dtype) for name in (a, b))
        if shadow and not self.a.call:
            raise ValueError(f"--shadow runs the kernels of a function; {a!r} is saved logits: leave it out")
        if shadow and self.a.call:
            function = self.a.call[0]
            self.float64_gate = SHADOW_GATE
            followed = shadowed(lambda name: function(name, 0.0), dtype, shadow)
            self.a.call = (lambda name, shift: followed(name)), False
        self.roots = [find_module(name) for name in modules]
        self.aligned: tuple[str, str] | None = None
        self.positions: np.ndarray | None = None
        self.n = 0

    def paths(self, dtype: str, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """What both give. NotImplementedError for a dtype they do not run in; UserCodeError for what they raise."""
        return self.a(dtype, shift), self.b(dtype, shift)

    def trace(self, dtype: str = "float64") -> tuple[list[Activation], list[Activation]]:
        """What the modules that both paths run give, of the tokens that both were given.

        Raises ValueError where they run none, or on tokens that do not go together.
        """
        a, b = self.trace_one("a", dtype), self.trace_one("b", dtype)
        if not {x.operation for x in a} & {x.operation for x in b}:
            raise ValueError(
                "the functions run no torch module of the same name that gives a row for each token; name the model "
                "whose parts they run by --module MODULE:OBJECT"
            )
        return a, b

    def trace_one(self, which: str, dtype: str = "float64", shift: float = 0.0) -> list[Activation]:
        if self.aligned is None:
            tapes = self._tape("a", dtype), self._tape("b", dtype)
            *aligned, self.positions = align(*tapes, self.n)
            self.aligned = aligned[0], aligned[1]
        return self._tape(which, dtype, shift).activations(self.aligned["ab".index(which)], self.n)

    def _tape(self, which: str, dtype: str, shift: float = 0.0) -> ModuleTape:
        with capture_modules(self.roots) as tape:
            self.n = (self.a if which == "a" else self.b)(dtype, shift).shape[1]
        return tape


def find_module(name: str) -> torch.nn.Module:
    """The torch module that "module:attribute" names.  Raises ValueError where it is none."""
    found = find(name)
    if not isinstance(found, torch.nn.Module):
        raise ValueError(f"{name!r} is a {type(found).__name__}; it must be a torch module that the functions run")
    return found


def as_path(name: str, dtype: str) -> Path:
    found = find(name)
    if not callable(found) and not hasattr(found, "__array__") and not isinstance(found, (list, tuple)):
        raise ValueError(f"{name!r} is a {type(found).__name__}; it must be a function: {SIGNATURE}")
    return Path(found, name, dtype, partial(user_code, name))


def find_function(name: str) -> Callable[..., Any]:
    """The function that "module:function" names.  Raises ValueError where there is none."""
    function = find(name)
    if not callable(function):
        raise ValueError(f"{name!r} is a {type(function).__name__}; it must be a function")
    return function


def find(name: str) -> Any:
    """What "module:attribute" names, the attribute dotted or not.  Raises ValueError where there is none."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute) or module.startswith(".") or ":" in attribute:
        raise ValueError(f"{name!r} names no function; write module:function")
    if module.endswith(".py") or "/" in module:
        raise ValueError(f"{name!r} names a file; write its module as an import does, without .py: module:function")
    found, at = imported(module, name), module
    for part in attribute.split("."):
        with user_code(f"{name!r}: reading {part!r} of {at}", refusals=False):
            there = hasattr(found, part)
        if not there:
            near = difflib.get_close_matches(part, dir(found), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name!r}: {'module' if at == module else 'object'} {at!r} has no {part!r}{hint}")
        found, at = getattr(found, part), f"{at}.{part}"
    return found


def imported(module: str, name: str) -> Any:
    """The module; what its own code raises on the way is reported as its own."""
    try:
        with user_code(f"{name!r}: module {module!r}", "it must import without an error", refusals=False):
            return importlib.import_module(module)
    except ValueError as error:
        cause = error.__cause__
        absent = isinstance(cause, ModuleNotFoundError) and cause.name and f"{module}.".startswith(f"{cause.name}.")
        if not absent:
            raise
        raise ValueError(
            f"{name!r}: module {module!r} cannot be imported ({cause}); is its folder on sys.path?"
        ) from None
