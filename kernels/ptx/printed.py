"""What a launch prints."""

import sys

LINES = 1000  # of one launch that are printed


class Printed:
    """What a launch prints: the first LINES in `lines`, and in `left_out` how many more there are."""

    def __init__(self, shows: bool):
        self.shows, self.lines, self.left_out = shows, [], 0

    def add(self, lines: list[str], left_out: int) -> None:
        self.lines += lines
        self.left_out += left_out
        if self.shows:
            sys.stdout.write("".join(lines))

    def close(self) -> None:
        """At the end of the launch: print how many lines are left out."""
        if self.shows and self.left_out:
            sys.stdout.write(f"... and {self.left_out:,} more lines of device_print, left out after {LINES:,}\n")
