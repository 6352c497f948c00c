"""Enough of a kernel to launch its machine code, kept beside that on the disk; the rest is parsed when asked for.

A kernel of 3,000 instructions takes 0.15 s to parse, bind and plan, and 2 ms to read back.
"""

import pickle
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

from ..decode import Decoded
from . import code, disk
from .pieces import Once

FEW = ("slots", "given", "fixed", "parameters", "constants", "granule", "local", "shared", "asynchronous", "undefined")


class Brief:
    """A Decoded of which all but the FEW fields are there only once somebody asks for one."""

    registers, unspecified = Decoded.registers, Decoded.unspecified

    def __init__(self, few: dict[str, Any], assembled: Callable[[], Decoded]):
        self.__dict__ |= few
        self.assembled = assembled

    @cached_property
    def whole(self) -> Decoded:
        return self.assembled()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def digest(key: bytes) -> str:
    return code.digest_of(b"brief " + __name__.encode() + key)  # pickles name their modules


@lru_cache(maxsize=256)
def read(key: bytes) -> tuple[dict[str, Any], Any] | None:
    """The few fields of a kernel and its kernel.Compiled without the code, if an earlier process has left them."""
    found = disk.read(digest(key))
    return pickle.loads(found[0]) if found else None


@lru_cache(maxsize=256)
def opcodes(key: bytes, decoded: Once) -> frozenset[str]:
    """Those of a kernel."""
    found = read(key)
    return found[1].opcodes if found else frozenset(s.instruction.opcode for s in decoded.value.steps)


def write(key: bytes, decoded: Decoded, made: Any) -> None:
    few = {name: getattr(decoded, name) for name in FEW}
    short = made._replace(code=None, plan=made.plan._replace(live=[], doubtful=0))
    disk.write(digest(key), pickle.dumps((few, short)), [])
