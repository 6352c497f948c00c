"""Programs in lockstep, and their threads where a branch has parted them."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .arrays import broadcast, chosen, merged
from .asynchronous.clocks import Clocks, Knowledge
from .asynchronous.mbarrier import MBarriers
from .asynchronous.ordering import Ordering
from .counters import Counters
from .decode import Decoded
from .errors import PtxError, WarpRace
from .local import LocalMemory
from .memory import GlobalMemory
from .printed import Printed
from .rows import Rows
from .shared import SharedMemory
from .tags import PROGRAM, WARP


def coordinates(program: Any, grid: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """The places along the axes of a grid of a program's number, or of an array of them."""
    X, Y, _ = grid
    return program % X, program // X % Y, program // (X * Y)


class World(NamedTuple):
    """What all programs of a launch share."""

    decoded: Decoded
    memory: GlobalMemory
    counters: Counters
    registers: list  # all that is known before the start, the same for all
    grid: tuple[int, int, int]
    T: int  # threads of a program
    shared: int  # bytes of shared memory of a program
    checks: bool
    random: np.random.Generator | None  # who decides the schedule; None: the default one
    printed: Printed
    lenient: bool  # whether races within one warp are warnings
    agents: dict[tuple, int]  # of the clocks, see asynchronous/clocks.py
    places: dict[int, int]  # of mbarriers
    shadow: Any = None  # a shadow.launch.Shadow

    def complain(self, error: PtxError) -> None:
        """Raise an error, or warn of it."""
        if not (self.lenient and isinstance(error, WarpRace)):
            raise error
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)


class Round(NamedTuple):
    """A fragment's state at a jump back."""

    head: int  # where to
    jump: int  # where from
    version: int  # of global memory
    registers: list  # that may still be read
    found: str = ""  # how an earlier state was the same: "still" without a byte written, or "same"


class Fragment:
    """Threads of a block that are at one instruction."""

    def __init__(self, pc: int, active: np.ndarray | None):
        self.pc, self.active = pc, active
        self.barrier: int | None = None  # waits at this one
        self.threads = 0  # until so many have come; 0: all
        self.asleep: Callable[[], bool] | None = None  # spins, or waits for its warp: while this is true
        self.looped: Round | None = None  # the last jump back
        self.jumps = 0  # back
        self.kept: Any = None  # an earlier one, see termination.Kept


class Block(Rows):
    """Programs in lockstep. It is also what memory calls its site: it knows who does what, for the errors."""

    NAMES = ("warp_epoch", "commits")
    by_map = False  # its addresses are the kernel's own arithmetic

    def __init__(self, world: World, programs: np.ndarray):
        self.world, self.programs = world, programs
        self.instruction: Any = None
        self.R: list[Any] = list(world.registers)
        for name, place in zip("xyz", coordinates(programs, world.grid), strict=True):
            slot = world.decoded.slots.get(f"%ctaid.{name}")
            if slot is not None:
                self.R[slot] = place.astype(np.uint32)[:, None]
        self.clocks: Any = Clocks(world.agents, world.T // 32) if world.decoded.asynchronous else None
        self.mbarriers: Any = MBarriers(world.places, self.clocks) if self.clocks else None
        # Of threads that came to a barrier and went on, by its number: of which warps, (P or 1, W), and for how many it
        # is; and what they know.
        self.arrivals: dict[int, tuple[np.ndarray, int]] = {}
        self.given: dict[int, Knowledge] = {}
        ordering = partial(Ordering, self.clocks) if self.clocks else None
        self.shared = SharedMemory(world.shared, len(programs), world.decoded.granule, world.checks, ordering)
        self.local: LocalMemory | None = None
        self.tensor: Any = None  # its tensor memory, see tensor_core/tensor_memory.py
        # Each cp.async under way: where to, how many bytes, by which threads, and what each warp had committed before.
        self.copies: list[tuple[np.ndarray, int, np.ndarray, np.ndarray]] = []
        self.commits = np.zeros((1, world.T // 32), np.int64)
        self.epoch = np.zeros(len(programs), np.int64)
        self.warp_epoch = np.zeros((1, world.T // 32), np.int64)
        self.fragments = [Fragment(0, None)]
        self.moves = 0  # grows when a fragment gets on
        self.running: np.ndarray | None = None  # the threads of the fragment that runs; None: all
        self.retag()

    def retag(self) -> None:
        """Who is who, and when, for the bookkeeping of shared memory; see shared.py."""
        epoch = self.epoch[:1] if (self.epoch == self.epoch[0]).all() else self.epoch
        warp = np.repeat(self.warp_epoch, 32, axis=1)
        self.tags = (epoch[:, None] << PROGRAM) + (warp << WARP) + np.arange(self.world.T)

    def barrier_passed(self, rows: np.ndarray | None = None) -> None:
        """All threads of all programs, or of some, have met at a barrier."""
        if self.clocks is not None:
            self.clocks.meet((np.ones(1, bool) if rows is None else rows)[:, None] & np.ones(self.clocks.W, bool))
        self.learned(1 if rows is None else rows)

    def learned(self, rows: Any) -> None:
        """Threads of all programs, or of some, have learned what others did.

        Where only a part of the threads has, the race detector of global memory takes it for all.
        """
        self.epoch = self.epoch + rows
        self.retag()

    def mask(self, fragment: Fragment) -> np.ndarray:
        """A fragment's threads, (P or 1, T) bool."""
        everyone = np.ones((1, self.world.T), bool)
        return everyone if fragment.active is None else fragment.active & everyone

    def together(self, fragments: list[Fragment]) -> np.ndarray:
        """The threads of some fragments: (P or 1, T) bool."""
        return np.logical_or.reduce(np.broadcast_arrays(*(self.mask(f) for f in fragments)))

    def live(self) -> int:
        """The registers that some fragment may still read, as bits."""
        bits = self.world.decoded.always
        for f in self.fragments:
            bits |= self.world.decoded.live[f.pc]
        return bits

    def take(self, rows: np.ndarray) -> "Block":
        """Some of the programs, as a block of their own."""
        other, live = super().take(rows), self.live()
        other.programs, other.epoch = self.programs[rows], self.epoch[rows]
        # Dead registers go: an old value with other programs' rows would meet those written under a mask.
        other.R = [x if x is None or len(x) == 1 else x[rows] if live >> i & 1 else None for i, x in enumerate(self.R)]
        other.clocks = None if self.clocks is None else self.clocks.take(rows)
        other.mbarriers = None if self.clocks is None else self.mbarriers.take(rows, other.clocks)
        other.shared = self.shared.take(rows, other.clocks)
        other.local = None if self.local is None else self.local.take(rows)
        other.tensor = None if self.tensor is None else self.tensor.take(rows, other.clocks)
        part = lambda x: chosen(x, rows)  # noqa: E731
        other.copies = [(part(at), size, part(who), part(group)) for at, size, who, group in self.copies]
        other.arrivals = {number: (part(warps), count) for number, (warps, count) in self.arrivals.items()}
        other.given = {number: Knowledge(*map(part, given)) for number, given in self.given.items()}
        other.fragments, other.moves, other.running = [], 0, None
        for f in self.fragments:
            active = None if f.active is None else part(f.active)
            if active is None or active.any():
                other.fragments.append(Fragment(f.pc, active))
                other.fragments[-1].barrier, other.fragments[-1].threads = f.barrier, f.threads
        other.retag()
        return other

    def join(self, P: int, other: "Block", Q: int) -> None:
        """Take in the programs of a block that is at the same instruction."""
        super().join(P, other, Q)
        live = self.live()
        for i in range(len(self.R)):
            a, b = self.R[i], other.R[i]
            if a is b or not live >> i & 1:
                self.R[i] = a if a is b else None
                continue
            a, b = (np.zeros_like(y[:1]) if x is None else x for x, y in ((a, b), (b, a)))
            self.R[i] = merged(a, P, b, Q)
        if self.clocks is not None:
            self.clocks.join(P, other.clocks, Q)
            self.mbarriers.join(P, other.mbarriers, Q)
        self.shared.join(P, other.shared, Q)
        if self.local is not None or other.local is not None:
            self.local_memory().join(other.local_memory())
        if self.tensor is not None and other.tensor is not None:
            self.tensor.join(P, other.tensor, Q)
        self.programs = np.concatenate([self.programs, other.programs])
        self.epoch = np.concatenate([self.epoch, other.epoch])
        self.retag()

    def local_memory(self) -> LocalMemory:
        """Made when it is first needed."""
        if self.local is None:
            self.local = LocalMemory(len(self.programs), self.world.T, self.world.decoded.local)
        return self.local

    def warps(self, active: np.ndarray | None) -> np.ndarray:
        """Which warps have an active thread: (P or 1, W) bool."""
        T = self.world.T
        if active is None:
            return np.ones((1, T // 32), bool)
        return np.logical_or.reduce(broadcast(active, (len(active), T)).reshape(len(active), -1, 32), axis=2)

    @property
    def number(self) -> int:
        """Where the current instruction stands."""
        return self.world.decoded.index[id(self.instruction)]

    def error(self, kind: type[PtxError], what: str, row: int, thread: int) -> PtxError:
        program = coordinates(int(self.programs[row]), self.world.grid)
        return kind(what, self.instruction, program, thread)
