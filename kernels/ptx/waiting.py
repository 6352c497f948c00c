"""Progress of a launch that takes long, on standard error where that is a terminal."""

import sys
import time
from collections.abc import Callable

PATIENCE, EVERY = 5.0, 1.0  # seconds until the first line, and between two


class Waiting:
    """with Waiting(words) as waiting: a line that `tick` renews, and that is wiped at the end."""

    def __init__(self, words: Callable[[], str]):
        self.words, self.ticks, self.said = words, 0, False
        self.start = time.monotonic()
        self.next = self.start + PATIENCE if sys.stderr is not None and sys.stderr.isatty() else float("inf")

    def __enter__(self) -> "Waiting":
        return self

    def tick(self) -> None:
        """Called often; looks at the clock now and then."""
        self.ticks += 1
        if self.ticks & 63 == 0 and time.monotonic() >= self.next:
            now = time.monotonic()
            print(
                f"\r\x1b[Kthe PTX machine: {self.words()} in {now - self.start:.0f} s",
                end="",
                file=sys.stderr,
                flush=True,
            )
            self.said, self.next = True, now + EVERY

    def __exit__(self, *error: object) -> None:
        if self.said:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
