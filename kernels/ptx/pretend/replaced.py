"""Names of other people's modules, replaced while a pretence is open, and only for the threads that have one."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .places import pretending

ABSENT: Any = object()
_changing = threading.Lock()
_open = 0  # pretences, in all threads
_usual: list[tuple[Any, str, Any]] = []  # owner, name, and what stood there itself, not inherited


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
    own = vars(owner).get(name, ABSENT)
    _usual.append((owner, name, own))
    setattr(owner, name, make(getattr(owner, name, ABSENT), ours))


@contextmanager
def replacing(everything: Callable[[], None]) -> Iterator[None]:
    """The first to come calls `everything`, which puts; the last to go restores all that was put."""
    global _open
    with _changing:
        if _open == 0:
            try:
                everything()
            except BaseException:
                restore()
                raise
        _open += 1
    try:
        yield
    finally:
        with _changing:
            _open -= 1
            if _open == 0:
                restore()


def restore() -> None:
    while _usual:
        owner, name, own = _usual.pop()
        if own is ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
