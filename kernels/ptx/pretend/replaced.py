"""Names of other people's modules, replaced while a pretence is open, and only for the threads that have one."""

import functools
from collections.abc import Callable
from typing import Any

from ..compile import _compiling
from ..patches import ABSENT, Patches
from .places import pretending

patches = Patches(_compiling)  # while a thread compiles, another driver stands where Triton's is


def function(usual: Any, ours: Callable[..., Any]) -> Any:
    """A function that is `ours` in threads that pretend."""

    @functools.wraps(usual if callable(usual) else ours)
    def either(*args, **kwargs):
        if pretending():
            return ours(*args, **kwargs)
        if usual is ABSENT:
            raise AttributeError(ours.__name__)
        return usual(*args, **kwargs)

    return either


def around(usual: Any, ours: Callable[..., Any], where: Callable[..., bool] = lambda *args: True) -> Callable[..., Any]:
    """A function that is `ours`, called with its usual form first, for arguments `where` in threads that pretend."""

    @functools.wraps(usual)
    def either(*args, **kwargs):
        return ours(usual, *args, **kwargs) if pretending() and where(*args) else usual(*args, **kwargs)

    return either


def kind(usual: Any, ours: type) -> Any:
    """A class that makes `ours` in threads that pretend; of both it is said that they are instances of it."""

    class Either(type):
        def __call__(cls, *args, **kwargs):
            return (ours if pretending() or usual is ABSENT else usual)(*args, **kwargs)

        def __instancecheck__(cls, instance):
            return isinstance(instance, ours if usual is ABSENT else (ours, usual))

        def __subclasscheck__(cls, other):
            return issubclass(other, ours if usual is ABSENT else (ours, usual))

        def __getattr__(cls, name):
            return getattr(ours if pretending() or usual is ABSENT else usual, name)

    return Either(ours.__name__, (), {"__doc__": ours.__doc__})


def attribute(usual: Any, ours: Callable[[Any], Any]) -> Any:
    """A property of a class that is `ours`, a function of the object, in threads that pretend."""
    return property(lambda self: ours(self) if pretending() else usual.__get__(self, type(self)))


def put(owner: Any, name: str, make: Callable[..., Any], ours: Any) -> None:
    """Replace owner.name by make(what it was, ours), until the last pretence closes."""
    patches.put(owner, name, make(getattr(owner, name, ABSENT), ours))
