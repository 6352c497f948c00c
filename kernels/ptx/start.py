"""What a launch starts from, the same for the NumPy form and for machine code."""

from typing import Any, NamedTuple

import numpy as np

from .decode import Decoded, dtype
from .segments import SURELY, Buffer, Segments, number
from .tma import host

MASKS = {f"{letter}{bits}": (1 << bits) - 1 for letter in "bsu" for bits in (8, 16, 32, 64)}


def as_bits(value: Any, kind: str) -> int:
    """A number argument as the bits of its parameter."""
    bits = int(kind[1:])
    if kind[0] == "f":
        return int(np.full((), value, f"f{bits // 8}").view(f"u{bits // 8}"))
    return int(value) & ((1 << bits) - 1)


class Start(NamedTuple):
    """What a launch starts from: a program as both engines take it, its arguments, and the settings; see `execute`."""

    text: str  # the PTX
    decoded: Decoded
    grid: tuple[int, int, int]
    parameters: dict[str, Any]  # of the module, by name
    buffers: list[Buffer]
    shared: int
    num_warps: int
    checks: bool
    seed: int | None
    readable: dict[str, Any]
    blank: dict[str, np.ndarray] | None
    warp_races: str
    max_steps: int | None
    trace: bool
    prints: bool
    moved: bool = False  # whether approximate functions give other numbers than the nearest
    shadow: Any = None  # a shadow.launch.Asked

    def assembled(self) -> "Start":
        """With all of its program, where only a brief of that has come, see native/brief.py."""
        return self._replace(decoded=getattr(self.decoded, "whole", self.decoded))

    @property
    def may_race(self) -> bool:
        """Whether the order of all accesses is the schedule's, for nobody asks what orders them."""
        return self.seed is not None and not self.checks

    def random(self) -> Any:
        return None if self.seed is None else np.random.default_rng(self.seed)

    def values(self, pointers: dict[str, int], segments: Segments) -> dict[str, np.ndarray]:
        """The parameters' values as the kernel sees them; a descriptor's name stands for the address of its map."""
        kinds = dict(self.decoded.parameters)
        return {x: np.full((1, 1), bits, dtype(kinds[x])) for x, bits in self.bits(pointers, segments).items()}

    def bits(self, pointers: dict[str, int], segments: Any) -> dict[str, int]:
        """The same as whole numbers."""
        values = {}
        for parameter, kind in self.decoded.parameters:
            value = self.parameters[parameter]
            if value.__class__ is Buffer and kind == "u64":
                values[parameter] = pointers[value.name]
            elif value.__class__ is int and -SURELY < value < SURELY and kind in MASKS:
                values[parameter] = value & MASKS[kind]
            elif value.__class__ is not host.Descriptor:
                bits = pointers[value.name] if value.__class__ is Buffer else number(value, segments)
                values[parameter] = as_bits(bits or 0, kind)
        return values
