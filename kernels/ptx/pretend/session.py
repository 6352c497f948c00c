"""One pretence from its opening to its end: everything that is replaced, and the thread's own GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils import _triton as asked

from . import autocast, cuda, inductor, random, tensors, triton_driver
from .dispatch import Dispatch
from .places import Pretence, _pretence, pretending
from .properties import properties
from .replaced import replacing
from .streams import Stream


@contextmanager
def pretend(sm: int) -> Iterator[None]:
    """Inside, this thread has a GPU of compute capability `sm`: cuda:0, whose memory is the CPU's.

    Of nested pretences the inner one's properties count.
    """
    nested = pretending()
    forget()
    with replacing(everything), triton_driver.active():
        token = _pretence.set(Pretence(properties(sm), Stream.default(), random.default()))
        try:
            if nested:
                yield
            else:
                with Dispatch():
                    yield
        finally:
            _pretence.reset(token)
            forget()


def forget() -> None:
    """Ask again what torch keeps of its answers: has_triton() and its like, which look for a GPU."""
    for known in vars(asked).values():
        if hasattr(known, "cache_clear"):
            known.cache_clear()


def everything() -> None:
    tensors.put_all()
    cuda.put_all()
    random.put_all()
    autocast.put_all()
    inductor.put_all()
    triton_driver.put_all()
