"""What a launch did, counted: instructions, bytes, sectors, bank conflicts; in all and per Python source line."""

import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .arrays import broadcast
from .decode import Decoded

SECTOR = 32  # bytes that global memory moves at least
BANKS = 32  # of 4 bytes each, in shared memory

# The first pattern that an opcode matches names its class.
CLASSES = {
    "global load": r"ld\.global", "global store": r"st\.global|cp\.async\.bulk.*bulk_group",
    "atomic": r"(atom|red|cp\.reduce)\.", "async copy": r"cp\.async",
    "shared": r"(ld|st)\.shared|ldmatrix|stmatrix", "local": r"(ld|st)\.local",
    "barrier": r"(bar|barrier)\.|fence|membar",
    "shuffle, vote": r"(shfl|vote|redux|elect|match)\.|activemask", "tensor": r"mma\.|wgmma|tcgen05",
    "branch": r"bra\b|ret\b|exit\b|trap|vprintf|__assertfail",
    "special function": r"(ex2|lg2|sin|cos|tanh|rsqrt|sqrt|rcp|div)\.",
    "convert": r"cvt", "move": r"mov\.|ld\.param|selp|prmt",
    "float": r"\w+\.(\w+\.)*(f16|bf16|f32|f64)", "integer": r".",
}  # fmt: skip


@cache
def class_of(opcode: str) -> str:
    return next(name for name, pattern in CLASSES.items() if re.match(pattern, opcode))


class Traffic(NamedTuple):
    """What one instruction asked of memory, over the launch."""

    bytes: int = 0  # asked for by active threads
    sectors: int = 0  # of 32 bytes, once for each warp that touches one (global memory)
    wavefronts: int = 0  # passes that shared memory needs
    conflicts: int = 0  # of which bank conflicts cost
    operations: int = 0  # active threads

    def plus(self, other: tuple[int, ...]) -> "Traffic":
        return Traffic(*(a + b for a, b in zip(self, other, strict=True)))


class Counters:
    """Filled by the machine while it runs, an element or an entry for each instruction."""

    def __init__(self, decoded: Decoded, T: int):
        self.decoded, self.T = decoded, T
        self.issued = np.zeros(len(decoded.steps), np.int64)  # by how many warps
        self.memory: dict[int, Traffic] = {}  # of instructions that access global memory
        self.shared: dict[int, Traffic] = {}
        self.disagreeing = 0  # threads whose copy of a replicated value is not that which was stored

    @staticmethod
    def add(counts: dict[int, Traffic], block: Any, traffic: tuple[int, ...]) -> None:
        counts[block.number] = counts.get(block.number, Traffic()).plus(traffic)

    def by_warp(self, block: Any, x: np.ndarray, active: np.ndarray | None):
        """x and active as (rows, warps, 32), and how many programs each row stands for."""
        rows = max(len(x), 1 if active is None else len(active))
        times = len(block.programs) // rows
        x = broadcast(x, (rows, self.T)).reshape(rows, -1, 32)
        return x, None if active is None else broadcast(active, (rows, self.T)).reshape(rows, -1, 32), times

    def accessed(self, block: Any, at: np.ndarray, size: int, active: np.ndarray | None) -> None:
        """Count an access to global memory at bytes `at`."""
        sector, on, times = self.by_warp(block, at >> SECTOR.bit_length() - 1, active)
        if on is not None:  # threads that are off look like a neighbour that is on, and add no sector
            sector = np.where(on, sector, -1)
        if on is not None or np.count_nonzero(sector[..., 1:] < sector[..., :-1]):
            sector = np.sort(sector, axis=-1)
        new = np.count_nonzero(sector[..., 1:] != sector[..., :-1]) + np.count_nonzero(sector[..., 0] >= 0)
        threads = (sector.size if on is None else int(np.count_nonzero(on))) * times
        self.add(self.memory, block, (threads * size, int(new) * times, 0, 0, threads))

    def copied(self, block: Any, at: np.ndarray, size: int, on: np.ndarray) -> None:
        """Count a bulk copy's words in global memory, at bytes (P or 1, N), of those that are on (P, N)."""
        sector = np.sort(np.where(on, at >> SECTOR.bit_length() - 1, -1), axis=1)
        new = np.count_nonzero(sector[:, 1:] != sector[:, :-1]) + np.count_nonzero(sector[:, 0] >= 0)
        words = int(np.count_nonzero(on))
        self.add(self.memory, block, (words * size, int(new), 0, 0, int(np.count_nonzero(on.any(1)))))

    def banks(self, block: Any, at: np.ndarray, size: int, active: np.ndarray | None) -> None:
        """Count an access to shared memory.

        8 bytes go by half warps, 16 by quarters; each of these takes as many passes as its fullest bank has words.
        """
        at, on, times = self.by_warp(block, at.astype(np.int64), active)
        threads = (at.size if on is None else int(np.count_nonzero(on))) * times
        lanes = 32 // max(size // 4, 1)
        words = ((at[..., None] >> 2) + np.arange(max(size // 4, 1))).reshape(-1, lanes * max(size // 4, 1))
        if on is not None:
            words = np.where(np.repeat(on.reshape(-1, lanes), max(size // 4, 1), axis=1), words, -1)
        words = np.sort(words, axis=-1)
        first = np.concatenate([words[:, :1] >= 0, (words[:, 1:] != words[:, :-1])], axis=1) & (words >= 0)
        groups = np.broadcast_to(np.arange(len(words))[:, None], words.shape)
        load = np.bincount(groups[first] * BANKS + words[first] % BANKS, minlength=len(words) * BANKS)
        passes = load.reshape(-1, BANKS).max(axis=1)
        least = int((passes > 0).sum())
        total = int(passes.sum())
        self.add(self.shared, block, (threads * size, 0, total * times, (total - least) * times, threads))

    def replicas(self, block: Any, at: np.ndarray, words: np.ndarray, size: int) -> None:
        """Count the threads that hold another value than the first thread of their program with the same address.

        Threads that a predicate keeps from storing count too: Triton lets one of the threads that hold a copy store it.
        """
        here = np.ones((1, 1), bool) if block.running is None else block.running  # others have no value yet
        P, T = max(len(at), len(words), len(here)), self.T
        if at.shape[1] == 1 and words.shape[1] == 1:
            return
        if block.running is None and at.shape[1] > 1 and not np.count_nonzero(at[:, 1:] <= at[:, :-1]):
            return  # no place has two
        keys = np.broadcast_to(np.where(here, at, -1 - np.arange(T)), (P, T))
        words = np.broadcast_to(words if size > 8 else words[..., None], (P, T, max(size // 8, 1)))
        order = np.argsort(keys, axis=1, kind="stable")
        keys, words = np.take_along_axis(keys, order, 1), np.take_along_axis(words, order[..., None], 1)
        same = keys[:, 1:] == keys[:, :-1]
        if same.any():
            differs = (words[:, 1:] != words[:, :-1]).any(-1) & same
            self.disagreeing += int(differs.sum()) * (len(block.programs) // P)
