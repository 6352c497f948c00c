"""The machine's errors: each has what happened, the program and thread, and the line."""

from typing import Any


def location(where: tuple[tuple[str, int], ...]) -> str:
    """Python locations, innermost first, as 'kernel.py:12, called from kernel.py:40'; "" if the compiler left none."""
    return ", called from ".join(f"{file}:{line}" for file, line in where)


class Refused(ValueError):
    """A launch, option or setting that is refused before anything runs: no GPU takes it, or the machine does not."""


class PtxError(Exception):
    """Something the machine found in a kernel. Attributes: line (of the PTX text), where, program, thread, opcode.

    where    Python locations (file name, line), innermost first; () if the compiler left none
    program  (x, y, z) of the program at fault, thread its thread; None where the whole launch is
    """

    def __init__(self, what: str, instruction: Any = None, program: tuple | None = None, thread: int | None = None):
        self.what, self.program, self.thread = what, program, thread
        self.line: int | None = getattr(instruction, "line", None)
        self.opcode: str | None = getattr(instruction, "opcode", None)
        self.where: tuple[tuple[str, int], ...] = getattr(instruction, "where", ())
        who = [f"program {program}"] if program is not None else []
        who += [f"thread {thread}"] if thread is not None else []
        at = [location(self.where)] if self.where else []
        at += [f"PTX line {self.line}: {self.opcode}"] if self.line is not None else []
        super().__init__("; ".join([what, *([", ".join(who)] if who else []), *at]))


class ParseError(PtxError):
    """The PTX text has a form the parser does not know."""


class UnknownOpcode(PtxError):
    """An instruction the machine does not execute; it never guesses what one might mean."""

    def __init__(self, opcode: str, why: str = "", instruction: Any = None):
        super().__init__(f"the machine does not execute {opcode}" + (f": {why}" if why else ""), instruction)
        self.opcode = opcode
        self.why = why


class OutOfBounds(PtxError):
    """An access to memory that belongs to no argument of the kernel."""


class Misaligned(PtxError):
    """An access whose address is no multiple of its size."""


class Uninitialised(PtxError):
    """A read of memory that nothing has written: shared memory, an output, a dead slot of a cache."""


class Race(PtxError):
    """Two accesses to one place, one of them a write, which nothing orders."""


class WarpRace(Race):
    """A race between lanes of one warp, in which no other thread has a part; every other race is a plain Race.

    PTX leaves open which lane's value stays if one instruction stores several, and lanes need not be in step.
    """


class InvalidTensorMap(PtxError):
    """A tensor map that no GPU takes, or that is used before it is complete, released and acquired."""


class Undefined(PtxError):
    """A use of an instruction that PTX leaves undefined, where no other kind says more."""


class AssertionFailed(PtxError):
    """A device_assert that does not hold, or Triton's own that an integer did not overflow, both with debug=True."""


class Trap(PtxError):
    """The kernel stops itself."""


class InvalidBarrier(PtxError):
    """An mbarrier used before its init or after its inval, or arrived at more often than it was made for."""


class DivergentBarrier(PtxError):
    """Some threads of a program wait at a barrier that others never reach."""


class Deadlock(PtxError):
    """Every thread that is left waits, and no thread is left to end the wait."""


class Unfinished(PtxError):
    """The launch did not end within the instructions that it may run: it may be long, or have no end."""


class Endless(PtxError):
    """A loop that never ends: it comes round in the state that it was in before."""


class ScheduleDependent(PtxError):
    """Two schedules of one launch leave different results."""


class ConfigDependent(PtxError):
    """Two configurations of one autotuned kernel leave different results."""


class NotConverged(Exception):
    """Within the machine: some lanes of a warp-wide instruction have not come; others run first."""
