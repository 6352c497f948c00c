"""A progress line on the terminal for work that takes longer than a few seconds; removed at the end."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

DELAY = 5.0  # seconds of silence before the line is shown
PERIOD = 1.0  # seconds between two looks at the clock

T = TypeVar("T")


class Progress:
    """A line on standard error, on a terminal only: the work, the units done, the time so far and left.

    what    name of the work; `line.what` may be changed
    total   number of units; None shows seconds alone
    done    units done before
    silent  show nothing, since other output shows progress
    tokens  gives the number of new tokens so far, for tokens per second

    A log file or a pipe gets nothing. A thread draws the line, also during long calls into C; `still` pauses it while
    work is timed.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        done: int = 0,
        silent: bool = False,
        tokens: Callable[[], int] | None = None,
    ):
        self.what, self.total, self.done, self.before, self.tokens = what, total, done, done, tokens
        self.screen: TextIO = sys.stderr
        self.width = 0  # of what is drawn
        self.shown = self.screen.isatty() and not silent
        self.lock, self.ended, self.ticking = threading.RLock(), threading.Event(), threading.Event()

    def __enter__(self) -> "Progress":
        self.begun = time.monotonic()
        self.ticking.set()
        if self.shown:
            self.thread = threading.Thread(target=self._tick, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.ticking.set()
        if self.shown:
            self.thread.join()
        self.clear()

    def _tick(self):
        wait = DELAY
        while not self.ended.wait(wait):
            if self.width:  # the first time it is shown, whatever is timed
                self.ticking.wait()
            self.draw()
            wait = PERIOD

    def update(self, n: int = 1):
        """n more units are done."""
        self.done += n

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items; each counts as done when the next is requested."""
        for item in items:
            yield item
            self.update()

    @contextmanager
    def still(self) -> Iterator[None]:
        """No thread wakes while the body runs, which is timed. Call `draw` between two measurements."""
        self.draw()
        self.ticking.clear()
        try:
            yield
        finally:
            self.ticking.set()

    def draw(self):
        """Show the line, if DELAY has passed."""
        seconds = time.monotonic() - self.begun
        if not self.shown or self.ended.is_set() or seconds < DELAY:
            return
        text = self.what
        if self.total is not None:
            text += f", {self.done} of {self.total}"
        if self.tokens is not None:
            text += f", {self.tokens() / seconds:.1f} tokens/s"
        text += f", {clock(seconds)}"
        new = self.done - self.before
        if self.total is not None and 0 < new and self.done < self.total:
            text += f", about {clock(seconds / new * (self.total - self.done))} left"
        text = text[: shutil.get_terminal_size().columns - 1]
        with self.lock:
            self._put(f"\r{text:{self.width}}")
            self.width = len(text)

    def clear(self):
        """Remove the line."""
        with self.lock:
            if self.width:
                self._put(f"\r{'':{self.width}}\r")
                self.width = 0

    def print(self, text: str):
        """Print a line on standard output, above this one where both are on the screen."""
        with self.lock:
            self.clear()
            print(text, flush=True)

    def _put(self, text: str):
        try:
            self.screen.write(text)
            self.screen.flush()
        except (OSError, ValueError):  # the terminal is gone
            self.shown = False


def clock(seconds: float) -> str:
    """Seconds as 12 s, 3 min 20 s, 2 h 5 min."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
