"""One pretence from its opening to its end: everything that is replaced, and the thread's own GPU."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch.utils import _triton as asked

from . import autocast, cuda, inductor, moves, random, storages, tensors, triton_driver
from .dispatch import Dispatch
from .places import Pretence, _pretence, pretence, pretending
from .properties import properties
from .replaced import patches
from .streams import Stream


@contextmanager
def pretend(sm: int) -> Iterator[None]:
    """Inside, this thread has a GPU of compute capability `sm`: cuda:0, whose memory is the CPU's.

    Of nested pretences the inner one's properties count.
    """
    nested = pretending()
    forget()
    with patches.open(everything), made(sm) as inner:
        token = _pretence.set(inner)
        try:
            if nested:
                yield
            else:
                with Dispatch(), autocast.casting():
                    yield
        finally:
            _pretence.reset(token)
            forget()


@contextmanager
def made(sm: int) -> Iterator[Pretence]:
    """This thread's GPU. In a nested pretence what is on the host stays there, and the stream and the numbers go on."""
    if pretending():
        yield replace(pretence(), properties=properties(sm))
    else:
        with random.default() as generator:
            yield Pretence(properties(sm), Stream.default(), generator)


def forget() -> None:
    """Ask again what torch keeps of its answers: has_triton() and its like, which look for a GPU."""
    for known in vars(asked).values():
        if hasattr(known, "cache_clear"):
            known.cache_clear()


def everything() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # by torch, of its own torch.jit.script
        importlib.import_module("torch._decomp.decompositions_for_jvp")  # reads the source of what is replaced below
    tensors.put_all()
    moves.put_all()
    cuda.put_all()
    random.put_all()
    autocast.put_all()
    storages.put_all()
    inductor.put_all()
    triton_driver.put_all()
