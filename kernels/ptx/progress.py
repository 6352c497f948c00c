"""Lines on standard error: the progress of a long launch if that is a terminal, and what is said once per process."""

import sys
import time
from collections.abc import Callable

PATIENCE, EVERY = 5.0, 1.0  # seconds until the first line, and between two
Stop = Callable[[], bool]  # whether a launch is to be left as it is
_said: set[str] = set()


def say(line: str) -> None:
    """Print a line, once per process; a warning would fail suites that take warnings for errors."""
    if line not in _said and sys.stderr is not None:
        _said.add(line)
        print(f"kvproof: {line}", file=sys.stderr, flush=True)


class Progress:
    """`with Progress(words) as progress`: a line that `tick` updates; it is erased at the end."""

    def __init__(self, words: Callable[[], str]):
        self.words, self.ticks, self.printed = words, 0, False
        self.start = time.monotonic()
        self.next = self.start + PATIENCE if sys.stderr is not None and sys.stderr.isatty() else float("inf")

    def __enter__(self) -> "Progress":
        return self

    def tick(self) -> None:
        """Call it often; every 64th call looks."""
        self.ticks += 1
        if self.ticks & 63 == 0:
            self.look()

    def look(self) -> None:
        """Update the line if it is time to."""
        if (now := time.monotonic()) >= self.next:
            text = f"the PTX machine: {self.words()} in {now - self.start:.0f} s"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self.printed, self.next = True, now + EVERY

    def __exit__(self, *error: object) -> None:
        if self.printed:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
