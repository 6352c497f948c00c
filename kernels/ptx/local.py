"""Local memory: what each thread keeps to itself, where the compiler found no register for it."""

from copy import copy

import numpy as np

from .arrays import first_of
from .errors import Misaligned, OutOfBounds, Uninitialised


class LocalMemory:
    """`size` bytes for each of T threads of P programs."""

    def __init__(self, P: int, T: int, size: int):
        self.bytes = np.zeros((P, T, -(-size // 8) * 8), np.uint8)
        self.written = np.zeros_like(self.bytes, bool)

    def take(self, rows: np.ndarray) -> "LocalMemory":
        """That of some of the programs."""
        other = copy(self)
        other.bytes, other.written = self.bytes[rows], self.written[rows]
        return other

    def join(self, other: "LocalMemory") -> None:
        """Take in that of more programs, after one's own."""
        self.bytes = np.concatenate([self.bytes, other.bytes])
        self.written = np.concatenate([self.written, other.written])

    def place(self, address: np.ndarray, size: int, active, site) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, threads, first bytes) of each thread's access, (P, T) each; threads that are off look at byte 0."""
        P, T, limit = self.bytes.shape
        at = address.astype(np.int64)
        at = np.broadcast_to(at if active is None else np.where(active, at, 0), (P, T))
        for kind, bad in ((OutOfBounds, (at < 0) | (at + size > limit)), (Misaligned, at % size != 0)):
            if bad.any():
                row, thread = first_of(bad)
                what = f"{size} bytes at {at[row, thread]} of the thread's {limit} bytes of local memory"
                raise site.error(kind, what, row, thread)
        rows, threads = np.broadcast_arrays(np.arange(P)[:, None], np.arange(T)[None])
        return rows, threads, at

    def load(self, address: np.ndarray, size: int, active, site) -> np.ndarray:
        """The words at each thread's address: (P, T), above 8 bytes (P, T, size // 8)."""
        rows, threads, at = self.place(address, size, active, site)
        each = (rows[..., None], threads[..., None], at[..., None] + np.arange(size))
        blank = ~self.written[each].all(-1) & (True if active is None else active)
        if blank.any():
            row, thread = first_of(blank)
            what = f"{size} bytes at {at[row, thread]} of local memory hold nothing that was written"
            raise site.error(Uninitialised, what, row, thread)
        words = self.bytes[each].view(f"u{min(size, 8)}")
        return words if size > 8 else words[..., 0]

    def store(self, address: np.ndarray, words: np.ndarray, size: int, active, site) -> None:
        """Write the words that `load` would give."""
        rows, threads, at = self.place(address, size, active, site)
        words = words if size > 8 else words[..., None]
        data = np.ascontiguousarray(np.broadcast_to(words, (*at.shape, words.shape[2]))).view(np.uint8)
        on = np.broadcast_to(True if active is None else active, at.shape)
        each = (rows[on][:, None], threads[on][:, None], at[on][:, None] + np.arange(size))
        self.bytes[each], self.written[each] = data[on], True
