"""How the machine runs a launch, and what each setting may be: asked at every door, before anything runs."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import Refused

Readable = Mapping[str, bool | np.ndarray]
MOST_ULPS = 65536
ENGINES = (None, "native", "numpy")


class Settings(NamedTuple):
    """`run`, `route` and, but for checks and seed, `check` take these as keywords.

    checks    whether bounds, alignment, unwritten memory, races, barriers and deadlock are checked
    seed      None runs the default schedule, an int a random one
    readable  by parameter name, whether an array may be read before the kernel writes it: one bool, or one per
              element. A function of (kernel name, its parameters by name) may return this, for launches that differ
    approximation_ulps  by how many units in the last place approximate functions are perturbed
    trace     whether the report keeps every access to global memory
    max_steps  after how many instructions, each counted once for all programs that run it together, a launch is
              stopped; None stops loops that show no end, after about ten seconds: see termination.py
    reachable  arrays that the kernel reaches by addresses it loads, as from a table of pointers: one, several, or by
              name. Live tensors whose address stands in an int64 argument are found without it
    warp_races  "raise", or "warn" for a RuntimeWarning where lanes of one warp race; see errors.WarpRace
    engine    "native" runs machine code, and raises Refused where a kernel has none; "numpy" the slower NumPy form, the
              measure of the other: results, errors and reports are the same. None takes what ends sooner: NumPy for
              short launches and rare instructions. $KVPROOF_PTX_ENGINE is for launches that do not say
    prints    whether what device_print prints goes to standard output; the report has it in any case
    shadow    "float64": every float register also carries the value that it would have in float64; see `report.shadow`
    rounding  lines, pairs of (file name, number), whose rounding such a shadow keeps; ("*", 0) is every line
    """

    checks: bool = True
    seed: int | None = None
    readable: Readable | Callable[[str, dict[str, Any]], Readable | None] | None = None
    approximation_ulps: int = 0
    trace: bool = False
    max_steps: int | None = None
    reachable: Any = None
    warp_races: str = "raise"
    engine: str | None = None
    prints: bool = True
    shadow: str | None = None
    rounding: Sequence[tuple[str, int]] = ()


class Tuning(NamedTuple):
    """What becomes of kernels under triton.autotune; `run`, `route` and `check` take these as keywords, too.

    autotune   "first" runs the first configuration that pruning leaves and the target takes, "all" runs them all, each
               from the arrays as they came; they must agree, and the first one's results stay
    tolerance  by array, how far its values may differ then, in units of its largest; by default as far as another order
               of sums explains where terms do not cancel (differences.rounding), and whole numbers not at all
    """

    autotune: str = "first"
    tolerance: Mapping[str, float] | None = None


def whole(least: int, most: float = math.inf) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, (int, np.integer)) and not isinstance(x, bool) and bool(least <= x <= most)


def boolean(x: Any) -> bool:
    return x.__class__ in (bool, np.bool_)


def readability(x: Any) -> bool:
    """Whether it fits `Settings.readable`."""
    if x is None or callable(x):
        return True
    return isinstance(x, Mapping) and all(isinstance(k, str) and mask(v) for k, v in x.items())


def mask(x: Any) -> bool:
    """A bool, or an array of them, torch's or NumPy's."""
    return str(getattr(x, "dtype", np.asarray(x).dtype)).removeprefix("torch.") == "bool"


def places(x: Any) -> bool:
    """Whether it is a sequence of Python lines."""
    pair = lambda at: isinstance(at, tuple) and len(at) == 2 and isinstance(at[0], str) and whole(0)(at[1])  # noqa: E731
    return isinstance(x, Sequence) and not isinstance(x, str) and all(map(pair, x))


def shares(x: Any) -> bool:
    """Whether it maps names to how far values may differ."""
    numbers = (int, float, np.integer, np.floating)
    fits = lambda v: isinstance(v, numbers) and not isinstance(v, bool) and v >= 0  # noqa: E731
    return x is None or (isinstance(x, Mapping) and all(isinstance(k, str) and fits(v) for k, v in x.items()))


# By name: whether a value fits, and what does.
TAKES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "checks": (boolean, "True or False"),
    "seed": (lambda x: x is None or whole(0)(x), "None or a whole number >= 0"),
    "readable": (readability, "a dict of array names to True, False or a bool for each element, or a function of it"),
    "approximation_ulps": (whole(0, MOST_ULPS), f"a whole number of last places, 0 to {MOST_ULPS}"),
    "trace": (boolean, "True or False"),
    "max_steps": (lambda x: x is None or whole(1)(x), "None or a whole number of instructions, 1 or more"),
    "reachable": (lambda x: True, "arrays, in a list or by name in a dict"),  # reachable.py asks each
    "warp_races": (lambda x: x in ("raise", "warn"), '"raise" or "warn"'),
    "engine": (lambda x: x in ENGINES, 'None, "native" or "numpy"'),
    "prints": (boolean, "True or False"),
    "shadow": (lambda x: x in (None, "float64"), 'None or "float64"'),
    "rounding": (places, 'a list of pairs (file name, line), such as ("kernel.py", 12)'),
    "autotune": (lambda x: x in ("first", "all"), '"first" or "all"'),
    "pretend": (boolean, "True or False"),
    "keep": (lambda x: x is None or whole(0)(x), "None or a whole number of reports, 0 or more"),
    "each": (lambda x: x is None or callable(x), "None or a function of a report"),
    "tolerance": (shares, "a dict of array names to numbers >= 0, shares of the array's largest value"),
}


def check_settings(given: Mapping[str, Any]) -> None:
    """Raise Refused for a setting that does not exist, or whose value does not fit: what came, what fits."""
    for name, value in given.items():
        if name not in TAKES:
            raise Refused(f"{name}= is no setting of the machine{nearest(name, (*Settings._fields, *Tuning._fields))}")
        fits, words = TAKES[name]
        try:
            good = fits(value)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise Refused(f"{name} is {short(value)}; it must be {words}")
    if given.get("rounding") and not given.get("shadow"):
        raise Refused('rounding= came without shadow="float64", whose lines it names: give both')


def several(name: str, values: Any, fits: Callable[[Any], bool], words: str, least: int = 0) -> tuple:
    """A sequence of different values, as a tuple. Raises Refused for any other."""
    found = tuple(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes)) else None
    if found is None or len(found) < least or not all(map(fits, found)):
        raise Refused(f"{name} is {short(values if found is None else found)}; it must be {words}")
    if again := [x for i, x in enumerate(found) if x in found[:i]]:
        raise Refused(f"{name} holds {again[0]!r} twice; leave one out")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """What a misspelled name may have meant, or all that there is, as the end of an error."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]}=?" if close else f"; there are {', '.join(known)}"


def short(value: Any) -> str:
    """A value in a message of one line."""
    words = " ".join(repr(value).split())
    return words if len(words) <= 80 else words[:77] + "..."
