"""A job's input: a file of lines, read in two passes that each hold one line at a time."""

import hashlib
from array import array
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from .line import content, read_line


class Input:
    """A job's lines, as the file is when this is made: what is appended later is left to the next run.

    file  open for reading, and able to seek

    count    lines that are not blank
    repeats  index of a line -> of the first line with the same custom_id
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = file.seek(0, 2)
        named = [array("Q"), array("Q")]  # index of each line with a custom_id, and a hash of that
        self.count = 0
        for index, line in self.lines():
            self.count += 1
            if (custom_id := read_line(index, line).custom_id) is not None:
                named[0].append(index)
                named[1].append(hash_of(custom_id))
        self.repeats = self.find_repeats(*map(np.array, named))

    def lines(self, skip: int = 0) -> Iterator[tuple[int, bytes]]:
        """(index, line) of each line that is not blank, without the first `skip` of these."""
        self.file.seek(0)
        left = self.size
        for index, line in enumerate(self.file):
            line, left = line[:left], left - len(line)
            if content(index, line):
                if skip:
                    skip -= 1
                else:
                    yield index, line
            if left <= 0:
                return

    def find_repeats(self, indices: np.ndarray, hashes: np.ndarray) -> dict[int, int]:
        """The repeats, found among the lines whose hashes come twice, so that a long file's names are never held."""
        values, counts = np.unique(hashes, return_counts=True)
        suspects = set(indices[np.isin(hashes, values[counts > 1])].tolist())
        first: dict[str, int] = {}
        found: dict[int, int] = {}
        for index, line in self.lines() if suspects else ():
            custom_id = read_line(index, line).custom_id if index in suspects else None
            if custom_id is not None and first.setdefault(custom_id, index) != index:
                found[index] = first[custom_id]
        return found


def hash_of(text: str) -> int:
    """64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
