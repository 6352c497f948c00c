"""How much of the machine others use while something is timed."""

import os
import statistics
import time

from ..measure.environment import read_text

MOST = 0.1  # CPUs that others may use before a run: a tenth of one slows a run on two by a twentieth


class Others:
    """CPUs that other processes used since it was made, on average; None where the system does not count them."""

    def __init__(self):
        self.begun, self.all, self.own = time.monotonic(), busy(), own()

    def used(self) -> float | None:
        seconds, now = time.monotonic() - self.begun, busy()
        if self.all is None or now is None or seconds <= 0:
            return None
        return max(0.0, (now - self.all - (own() - self.own)) / seconds)


def busy() -> float | None:
    """Seconds of CPU time that the machine has spent, and that its host has taken from it; None if it does not say."""
    first = read_text("/proc/stat").partition("\n")[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None
    user, nice, system, _idle, _wait, irq, softirq, stolen = map(int, first[1:9])
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    times = os.times()
    return times.user + times.system


def measure(seconds: float = 1.0, samples: int = 3) -> float | None:
    """CPUs that others use now: the median of a few samples of so many seconds."""
    found = []
    for _ in range(samples):
        others = Others()
        time.sleep(seconds)
        found.append(others.used())
    return None if None in found else statistics.median(found)


def require(most: float = MOST):
    """Raises ValueError if others use more than so many CPUs."""
    used = measure()
    if used is not None and used > most:
        raise ValueError(
            f"others use {used:.2f} of {os.cpu_count()} CPUs, and at most {most:g} fit beside what is timed; wait, "
            "stop them, or add --loaded, which measures all the same and says so"
        )
