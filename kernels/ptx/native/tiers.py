"""When a launch is compiled: at once where its code is at hand, else once NumPy has cost as much as compiling would.

So no kernel takes more than about twice what the better engine would have, whatever it turns out to do. What NumPy has
cost is kept on the disk, too: a kernel of which each process launches little is compiled after some of them, and sooner
if it comes again in a later run. Seconds are the CPU's, so that a busy machine decides as an idle one does.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from ..decode import Decoded
from ..start import Start
from . import brief, code, disk, engine, kernel
from .context import FUEL, SUSPECT
from .lower import Unlowered

PRICE = 0.14e-3  # seconds to write and compile an instruction, at level 0
SHADOW, ROUNDS = 3, 5  # times as many with a shadow, and with one that may keep roundings
FUEL_LIMIT = 1 << 28  # instructions of a thread of the CPU, from which on a launch has to show that it ends
PATIENCE = 30.0  # seconds: by then the NumPy form has stopped a launch that shows no end
OFTEN, AGAIN = 3, 32  # launches in a row that looked wrong, from which on NumPy runs a kernel alone; and until when
WRONG = "something looks wrong, and NumPy says exactly what"
BEGAN = time.time()  # this process, or nearly
LEAST = 1e-5, 2e-9  # seconds that an instruction takes in NumPy form on an idle machine, and more for each thread

_spent: dict[bytes, float] = {}  # seconds in NumPy form, by kernel: of this process, and of those before it
_assembly: dict[bytes, float] = {}  # seconds that kernels took to assemble, until these are among those spent
_refused: dict[bytes, str] = {}  # by kernel, why it has no machine code
_suspected: dict[Any, int] = defaultdict(int)  # by kernel and checks, how many of its last launches looked wrong


def typed(text: str, num_warps: int, assembled: Callable[[], Decoded]) -> Any:
    """A Decoded, assembled at once unless an earlier process has left what a launch of its machine code needs."""
    key, begun = kernel.key_of(text, num_warps), time.thread_time()
    if known := brief.read(key):
        return brief.Brief(known[0], assembled)
    decoded, took = assembled(), time.thread_time() - begun
    _assembly[key] = max(took, _assembly.get(key, 0.0))
    return decoded


class Tier:
    """One launch, and what this process knows of its kernel.

    code  its machine code, once compiled; None again where it cannot run this launch
    why   it does not run, or not yet
    """

    def __init__(self, start: Start, at_once: bool):
        self.start, self.key, self.at_once = start, kernel.key(start), at_once
        self.suspect = self.key, start.checks
        self.code: Any = None
        self.why = _refused.get(self.key) or kernel.refuses(start)
        self.at = 0.0 if self.why or at_once or code.at_hand(self.key) else time.thread_time() + self.left()
        if not self.why and not at_once and _suspected[self.suspect] >= OFTEN:
            _suspected[self.suspect] = (_suspected[self.suspect] + 1) % AGAIN
            self.why = "its last launches looked wrong"
        self.given_up, self.fuel = bool(self.why), start.max_steps or FUEL_LIMIT
        self.why = self.why or "it takes less time than compiling"

    def left(self) -> float:
        """Seconds that NumPy may still cost until compiling pays."""
        steps, threads = len(self.start.decoded.steps), math.prod(self.start.grid) * 32 * self.start.num_warps
        if self.key not in _spent:
            _spent[self.key] = disk.spent(code.digest_of(self.key), BEGAN)
        times = 1 if not self.start.shadow else ROUNDS if self.start.shadow.lines else SHADOW
        return PRICE * times * steps - _spent[self.key] - steps * (LEAST[0] + threads * LEAST[1])

    def due(self) -> bool:
        """Whether machine code takes over now, which is then compiled; asked before and during a run in NumPy form."""
        if self.given_up or time.thread_time() < self.at:
            return False
        try:
            self.code = self.code or kernel.compiled(self.start, self.at_once)
        except Unlowered as error:
            _refused[self.key] = self.give_up(f"no machine code for {error}")
        return not self.given_up

    def give_up(self, why: str) -> str:
        """NumPy runs this launch, since machine code cannot."""
        self.given_up, self.why, self.code = True, why, None
        return why

    def run(self, written: dict[str, np.ndarray] | None) -> Any:
        """What a Report is made from; None where the arrays are as they came, and NumPy is to run the launch."""
        try:
            found = engine.run(self.start, self.code, written, self.fuel)
        except Unlowered as error:
            self.give_up(f"no machine code for {error}")
            return None
        _suspected[self.suspect] = _suspected[self.suspect] + 1 if found == SUSPECT else 0
        if found == SUSPECT:
            self.given_up, self.why = True, WRONG
        elif found == FUEL and self.start.max_steps:
            self.given_up, self.why = True, "it may need more than max_steps"
        elif found == FUEL:  # NumPy says within seconds if the launch shows no end
            self.at, self.fuel, self.why = time.thread_time() + PATIENCE, None, "it may never end"
        return None if isinstance(found, int) else found

    def spent(self, seconds: float) -> None:
        """Note what a run in NumPy form took that compiling could have spared."""
        if not self.given_up and not self.code:
            seconds += _assembly.pop(self.key, 0.0)
            _spent[self.key] = _spent.get(self.key, 0.0) + seconds
            disk.spend(code.digest_of(self.key), seconds)
