"""Happens-before in one program: vector clocks of its warps, after FastTrack.

An agent is a warp, or what works beside the warps: the copies that one mbarrier counts, the wgmmas of a warp group, the
bulk copies or tcgen05 instructions that a warp has begun. A moment is a number of an agent's own: of a warp, how often
it has released what it did; of the others, see proxy.Done. An access is known by its agent and moment, and it happened
before whatever a warp does now if the warp knows that moment of that agent.

Source: Flanagan and Freund 2009, FastTrack; PTX ISA 8.7, section 8 (memory consistency model) and 8.9.1 (proxies).
"""

from typing import Any, NamedTuple

import numpy as np

from ..arrays import chosen, merged
from ..rows import Rows


class Knowledge(NamedTuple):
    """What is known of each agent, (P or 1, agents) int32, in all and through a proxy fence; see Clocks."""

    known: np.ndarray
    fenced: np.ndarray


class Clocks(Rows):
    """What each of W warps of P programs in lockstep knows.

    agents  names of the launch's agents, which all blocks share -> columns; a warp's is its number
    known   (P or 1, W, agents) int32, the last moment of each agent that happened before what the warp does now
    fenced  likewise, of warps: the last moment whose plain stores the async proxy sees, when this warp asks it
    begun   kind of asynchronous instruction -> (P or 1, W) int32, how many groups of it each warp has committed
    issued  agent's column -> (P or 1,) int32, the moment of its latest access, and the instruction
    issuers  thread -> (P or 1,) bool, the programs of which it has begun bulk copies
    """

    NAMES = ("known", "fenced")

    def __init__(self, agents: dict, W: int):
        self.agents, self.W = agents, W
        self.known = np.zeros((1, W, W), np.int32)
        self.known[0, range(W), range(W)] = 1
        self.fenced = np.zeros_like(self.known)
        self.begun: dict[str, np.ndarray] = {}
        self.issued: dict[int, tuple[np.ndarray, Any]] = {}
        self.issuers: dict[int, np.ndarray] = {}

    def column(self, agent: tuple) -> int:
        """Where an agent stands; a new one gets a place."""
        return self.agents.setdefault(agent, self.W + len(self.agents))

    def fit(self, rows: int = 1) -> None:
        """Make room for all agents, and for programs that differ."""
        more = self.W + len(self.agents) - self.known.shape[2]
        if more > 0:
            self.each(lambda x: np.pad(x, ((0, 0), (0, 0), (0, more))))
        super().fit(rows)

    def now(self) -> np.ndarray:
        """Each warp's own moment: (P or 1, W)."""
        return self.known[:, range(self.W), range(self.W)]

    def tick(self, warps: np.ndarray) -> None:
        """After some warps, (P or 1, W) bool, have released what they did: what they do from now on is later."""
        self.fit(len(warps))
        self.known[:, range(self.W), range(self.W)] += warps

    def released(self, warps: np.ndarray) -> Knowledge:
        """What some warps together know, and now give to whoever acquires it."""
        self.fit(len(warps))
        each = (np.where(warps[..., None], x, 0).max(1) for x in (self.known, self.fenced))
        given = Knowledge(*each)
        self.tick(warps)
        return given

    def acquire(self, warps: np.ndarray, given: Knowledge) -> None:
        """Some warps learn what others have given."""
        self.fit(max(len(warps), len(given.known)))
        for mine, other in zip((self.known, self.fenced), given, strict=True):
            some = mine[..., : other.shape[1]]
            np.maximum(some, other[:, None], out=some, where=warps[..., None])

    def meet(self, warps: np.ndarray) -> None:
        """Some warps have met at a barrier."""
        self.acquire(warps, self.released(warps))

    def fence(self, warps: np.ndarray) -> None:
        """fence.proxy.async: what these warps know of plain stores, the async proxy is to see."""
        self.fit(len(warps))
        np.maximum(self.fenced, self.known, out=self.fenced, where=warps[..., None])
        self.tick(warps)

    def learn(self, warps: np.ndarray, column: int, moment: np.ndarray) -> None:
        """Some warps have waited for an agent's moment, (P or 1,) or (P or 1, W)."""
        moment = moment if moment.ndim == 2 else moment[:, None]
        self.fit(max(len(warps), len(moment)))
        np.maximum(self.known[..., column], moment, out=self.known[..., column], where=warps)

    def groups(self, kind: str) -> np.ndarray:
        return self.begun.setdefault(kind, np.zeros((1, self.W), np.int32))

    def commit(self, warps: np.ndarray, kind: str) -> None:
        """What some warps have begun of a kind since their last commit is a group."""
        self.begun[kind] = self.groups(kind) + warps

    def issue(self, column: int, moment: np.ndarray, instruction: Any) -> None:
        """An asynchronous instruction has begun."""
        before = self.issued.get(column, (moment, None))[0]
        self.issued[column] = np.maximum(before, moment), instruction

    def unfinished(self) -> Any:
        """(rows, instruction) of what nobody has waited for, or None: a program must not end before it is over."""
        self.fit()
        for column, (moment, instruction) in self.issued.items():
            late = moment > self.known[..., column].max(1)
            if late.any():
                return late, instruction
        return None

    def take(self, rows: np.ndarray) -> "Clocks":
        other = super().take(rows)
        other.begun = {kind: chosen(x, rows) for kind, x in self.begun.items()}
        other.issued = {column: (chosen(moment, rows), i) for column, (moment, i) in self.issued.items()}
        other.issuers = {thread: chosen(x, rows) for thread, x in self.issuers.items()}
        return other

    def join(self, P: int, other: "Clocks", Q: int) -> None:
        for clocks in (self, other):
            clocks.fit()
        super().join(P, other, Q)
        kinds = self.begun.keys() | other.begun.keys()
        self.begun = {kind: merged(self.groups(kind), P, other.groups(kind), Q) for kind in kinds}
        nowhere, threads = np.zeros(1, bool), self.issuers.keys() | other.issuers.keys()
        each = {x: (self.issuers.get(x, nowhere), other.issuers.get(x, nowhere)) for x in threads}
        self.issuers = {thread: merged(a, P, b, Q) for thread, (a, b) in each.items()}
        none = np.zeros(1, np.int32), None
        for column in self.issued.keys() | other.issued.keys():
            (a, mine), (b, theirs) = self.issued.get(column, none), other.issued.get(column, none)
            self.issued[column] = merged(a, P, b, Q), mine or theirs
