"""What a contract's checks found: one line each, a record for machines, and a failure that a person understands."""

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ....reference.judge.difference import finite

HELD, BROKEN, NOT_CHECKED = "held", "broken", "not checked"


class Finding(NamedTuple):
    """One promise and whether it was kept.

    outcome   "held" | "broken" | "not checked"
    sentence  how it went; where it is broken, what was seen and what that usually means
    numbers   what was measured, such as "error" beside its "bar"
    name      what is promised, in a few words
    """

    outcome: str
    sentence: str
    numbers: dict[str, float] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    name: str = ""

    def record(self) -> dict:
        """JSON-able; a number that is not finite is null."""
        return {"name": self.name, "outcome": self.outcome, "sentence": self.sentence, "numbers": finite(self.numbers)}


def first_broken(findings: Iterable[Finding]) -> Finding:
    """The first finding that is not held, after which none is sought; else the last."""
    for finding in findings:
        if finding.outcome != HELD:
            break
    return finding  # pyright: ignore[reportPossiblyUnbound]


class NotChecked(NotImplementedError):
    """Raised by a check that has nothing to go by; the message says what is missing."""


class ContractBroken(AssertionError):
    """A promise was broken, or a required one could not be checked; `report` has all of them."""

    def __init__(self, report: "ContractReport"):
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class ContractReport:
    """All checks of one subject, in the order they ran.

    required  names of checks that must be held: not checked counts as broken
    """

    subject: str
    checks: Sequence[Finding]
    required: Sequence[str] = ()

    def named(self, outcome: str) -> list[str]:
        return [check.name for check in self.checks if check.outcome == outcome]

    @property
    def missing(self) -> list[str]:
        return [name for name in self.required if name in self.named(NOT_CHECKED)]

    @property
    def green(self) -> bool:
        """Nothing broken, nothing required missing, and something held: a contract of no checks proves nothing."""
        return not self.named(BROKEN) and not self.missing and bool(self.named(HELD))

    def record(self) -> dict:
        """The report as a JSON-able dict."""
        return {
            "kind": "contract",
            "subject": self.subject,
            "green": self.green,
            "checks": [check.record() for check in self.checks],
            "required": list(self.required),
        }

    def __str__(self) -> str:
        held, broken, rest = (len(self.named(outcome)) for outcome in (HELD, BROKEN, NOT_CHECKED))
        lines = [f"{self.subject}: {held} promises held, {broken} broken, {rest} not checked"]
        for outcome in (BROKEN, NOT_CHECKED, HELD):
            for check in self.checks:
                if check.outcome == outcome:
                    word = "BROKEN" if outcome == BROKEN else outcome
                    lines.append(f"  {word:<11}  {check.name}: {check.sentence}")
        if self.missing:
            lines.append(f"  required and not checked: {', '.join(self.missing)}")
        return "\n".join(lines)

    def raise_if_broken(self) -> "ContractReport":
        """This report, if it is green; raises ContractBroken, an AssertionError with the report as text, if not."""
        __tracebackhide__ = True
        if not self.green:
            raise ContractBroken(self)
        return self


def run_checks(
    subject: str, checks: Mapping[str, Callable[[], Finding]], only: Sequence[str] = (), required: Sequence[str] = ()
) -> ContractReport:
    """Run the checks, all or `only` those named, and report them: one that raises does not hide the next.

    NotImplementedError is how a subject says that it cannot do something: not checked. Any other exception breaks the
    promise. Raises ValueError for a name that is none of the checks', or required and not made.
    """
    names = list(only) or list(checks)
    for name in (*names, *required):
        if name not in checks or name not in names:
            known = ", ".join(checks if name not in checks else names)
            raise ValueError(f"there is no check {name!r} to make; choose from {known}")
    return ContractReport(subject, [answer(checks[name])._replace(name=name) for name in names], tuple(required))


def answer(check: Callable[[], Finding]) -> Finding:
    """What one check finds; what it raises becomes a finding too."""
    try:
        with np.errstate(all="ignore"):  # poison and wrong answers overflow; it is the answer that counts
            return check()
    except NotChecked as missing:
        return Finding(NOT_CHECKED, str(missing))
    except NotImplementedError as refusal:
        return Finding(NOT_CHECKED, f"the subject cannot: {refusal or 'NotImplementedError'}")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.replace(chr(92), '/').rsplit('/', 1)[-1]}:{last.lineno}"
        return Finding(BROKEN, f"raised {type(error).__name__}: {error} (at {where})")
