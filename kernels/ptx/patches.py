"""Names of other people's modules and classes, replaced while something is open in any thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ABSENT: Any = object()


class Patches:
    """`with patches.open(everything)`: the first to come calls `everything`, which puts; the last to go restores.

    afterwards  called at the end
    """

    def __init__(self, lock: Any = None, afterwards: Callable[[], object] = lambda: None):
        self.lock, self.afterwards, self.opened = lock or threading.Lock(), afterwards, 0
        self.usual: list[tuple[Any, str, Any]] = []  # owner, name, and what stood there itself, not inherited

    def put(self, owner: Any, name: str, ours: Any) -> None:
        self.usual.append((owner, name, vars(owner).get(name, ABSENT)))
        setattr(owner, name, ours)

    @contextmanager
    def open(self, everything: Callable[[], object]) -> Iterator[None]:
        with self.lock:
            if not self.opened:
                try:
                    everything()
                except BaseException:
                    self.restore()
                    raise
            self.opened += 1
        try:
            yield
        finally:
            with self.lock:
                self.opened -= 1
                if not self.opened:
                    self.restore()

    def restore(self) -> None:
        while self.usual:
            owner, name, own = self.usual.pop()
            if own is ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
        self.afterwards()
