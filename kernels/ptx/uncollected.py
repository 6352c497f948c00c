"""Python's garbage collector, kept from a program while it is made."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector, which would go through all objects of the process each time that a quarter more has come.

    An instruction is a dozen objects that stay, so beside torch each search takes 0.3 s or more, and finds nothing.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
