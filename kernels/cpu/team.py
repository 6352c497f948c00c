"""Python threads that run the compiled engine together: one team per process, made when first needed."""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

Run = Callable[[int, int], int]  # (address of a job, number of the thread), without the interpreter's lock


class Team:
    """The caller's thread and others, which wait for work and end with the process."""

    def __init__(self):
        self.lock = threading.Lock()  # two callers at once take turns
        self.queues: list[SimpleQueue] = []
        self.process = os.getpid()

    def run(self, run: Run, job: np.ndarray, phases: np.ndarray, threads: int):
        """Run a job by so many threads, this one among them.

        job, phases   used by nobody else: a thread may look at them once more after this returns, and keeps them alive
        """
        address = job.ctypes.data
        if threads == 1:
            run(address, 0)
            return
        with self.lock:
            self.grow(threads - 1)
            try:
                for number, queue in enumerate(self.queues[: threads - 1], 1):
                    queue.put((run, job, phases, number))
                run(address, 0)
            except BaseException:  # Ctrl-C before the others were met: they wait for this thread
                phases[0, 1] = 1
                raise

    def grow(self, others: int):
        """Have so many other threads.  Raises RuntimeError where the system allows no more."""
        if self.process != os.getpid():  # a fork has this object, but not its threads
            self.queues, self.process = [], os.getpid()
        while len(self.queues) < others:
            queue: SimpleQueue = SimpleQueue()
            threading.Thread(target=work, args=(queue,), name="kvproof engine", daemon=True).start()
            self.queues.append(queue)


def work(queue: SimpleQueue):
    """What a thread of the team does: its part of one job after another."""
    while True:
        run, job, phases, number = queue.get()
        run(job.ctypes.data, number)
        del job, phases


TEAM = Team()
