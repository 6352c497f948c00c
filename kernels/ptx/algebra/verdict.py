"""What came of comparing two computations in fpsan's ring."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..errors import PtxError
from .outside import Outside


class Difference(NamedTuple):
    """An array whose bits differ between the two sides."""

    name: str
    at: tuple[int, ...]  # the first such element
    one: int  # its bits
    other: int
    count: int  # of elements that differ
    size: int

    def __str__(self) -> str:
        place = f"{self.name}[{', '.join(map(str, self.at))}]" if self.at else self.name
        return f"{place} is {self.one:#x} and {self.other:#x}; {self.count} of {self.size} elements differ"


class Verdict(NamedTuple):
    """Whether two computations left the same bits, and what neither answer can speak of.

    sides        what the two are called
    arrays       the arrays that were compared: those that either side wrote to or returned, or those asked for
    differences  those whose bits differ: none if the two are the same
    outside      operations of either that are outside the ring: see outside.py
    unwritten    by array, how many elements of torch.empty's memory neither side wrote: nothing is known of them
    """

    sides: tuple[str, str]
    arrays: tuple[str, ...]
    differences: tuple[Difference, ...]
    outside: tuple[Outside, ...]
    unwritten: Mapping[str, int]

    @property
    def same(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        if self.same:
            head, effect, tail = f"Same: {', '.join(self.arrays)}", "hides", "which may hide a difference"
        else:
            head = f"Different: in {self.sides[0]} and {self.sides[1]}, " + "; ".join(map(str, self.differences))
            effect, tail = "parts", "which may part what is equal"
        head += "".join(f". Neither side wrote {n} elements of {name}" for name, n in self.unwritten.items())
        told = [*summed(x for x in self.outside if effect in x.effect)]
        return head + (f". Outside the ring, {tail}: {'; '.join(told)}" if told else "")


def summed(found: Iterable[Outside]) -> Iterator[str]:
    """One line for each operation, with the first place in each kernel."""
    lines: dict[tuple[str, str], list[str]] = {}
    for x in found:
        places = lines.setdefault((x.operation, x.why), [])
        places += [x.where or x.kernel] if (x.where or x.kernel) not in (*places, "") else []
    for (operation, why), places in lines.items():
        yield operation + (f" ({', '.join(places)})" if places else "") + f" {why}"


class DifferentAlgebra(PtxError):
    """Two computations that should be one algebra left different bits; its `verdict` has all."""

    def __init__(self, verdict: Verdict):
        super().__init__(str(verdict))
        self.verdict = verdict
