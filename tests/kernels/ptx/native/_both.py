"""Every launch on both engines: the same bits, the same report, the same error; and which engine took how many.

As a plugin it holds whole suites to that, natively from the first launch on, and prints at the end how many launches
went which way: pytest -n 0 -p kvproof.tests.kernels.ptx.native._both PATH. Launches that name their engine are let be.
Each test of PATH passes only if none of its launches differs.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from kvproof.kernels.ptx import execute, launch
from kvproof.kernels.ptx.errors import PtxError
from kvproof.kernels.ptx.tma import host

TOOK: Counter[str] = Counter()  # launches, by how the native engine took them: "native", or why it was NumPy
DIFFER: list[str] = []
TWINS = 1e-14  # of the largest number of an array
TOOK_TWINS: Counter[str] = Counter()  # arrays, by how near their twins were


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def facts(report: Any) -> dict[str, Any]:
    """All that a report says of a launch, but for who ran it."""
    names = ("total", "lines", "classes", "unique", "unwritten", "stored_to", "disagreeing")
    each = {f"line {i.line}, {i.opcode}": line for i, line in report.by_instruction}
    return each | {name: getattr(report, name) for name in names} | {"printed": report.printed.lines}


def twins_apart(usual: Any, found: Any) -> list[str]:
    """What differs in two shadows: numbers only by more than TWINS, for NumPy may sum a product in another order."""
    if usual is None or found is None:
        return [] if usual is found else ["shadow"]
    what = [x for x in ("lost", "choices", "unmarked", "places", "read") if getattr(usual, x) != getattr(found, x)]
    what += ["shadow.arrays"] if {*usual.arrays} != {*found.arrays} else []
    for name in {*usual.arrays} & {*found.arrays}:
        one, other = usual.arrays[name], found.arrays[name]
        near = TWINS * np.abs(one[np.isfinite(one)]).max(initial=0)
        what += [] if np.allclose(one, other, rtol=0, atol=near, equal_nan=True) else [f"shadow.arrays[{name!r}]"]
        TOOK_TWINS["equal" if np.array_equal(one, other, equal_nan=True) else "near"] += 1
    return what


def outcome(run: Any, engine: str | None, arguments: tuple, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What a launch returns or raises, and what may not differ."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = run(*arguments, **settings | {"engine": engine, "prints": False})
        except PtxError as error:
            return error, {"error": f"{type(error).__name__}: {error}", "warnings": [str(w.message) for w in caught]}
    return found, facts(found) | {"warnings": [str(w.message) for w in caught]}


def both(run: Any, *arguments: Any, **settings: Any) -> Any:
    """Run a launch in NumPy form and, from the same memory, natively where that can be; differences go to DIFFER."""
    if settings.get("engine"):
        return run(*arguments, **settings)
    buffers = [*host.arrays([value for _, value in arguments[2]]), *settings.get("reachable", ())]
    arrays = [b.array for b in buffers]
    came = [a.copy() for a in arrays]
    others = settings.get("written")
    usual = outcome(run, "numpy", arguments, settings | {"written": {} if others is not None else None})
    left = [bits(a) for a in arrays]
    for array, before in zip(arrays, came, strict=True):
        if array.flags.writeable:
            array[...] = before
    found, now = outcome(run, None, arguments, settings)
    why = getattr(found, "engine_reason", "error") or "native"
    TOOK[f"{why}: {settings['name']}" if "looks wrong" in why else why] += 1
    what = [name for name in {**usual[1], **now} if usual[1].get(name) != now.get(name)]
    what += [b.name for b, before in zip(buffers, left, strict=True) if bits(b.array) != before]
    what += twins_apart(getattr(usual[0], "shadow", None), getattr(found, "shadow", None))
    if what:
        shown = {name: (usual[1].get(name), now.get(name)) for name in what if name in usual[1] or name in now}
        DIFFER.append(
            f"{settings['name']} on {settings['target']}, seed {settings.get('seed')}: {what}: {shown}"[:2000]
        )
    for warning in now["warnings"]:
        warnings.warn(warning, RuntimeWarning, stacklevel=2)
    if isinstance(found, PtxError):
        raise found
    if settings.get("prints", True):
        print("".join(found.printed.lines), end="")
        found.printed.shows = True
        found.printed.close()
    return found


@contextmanager
def engines(at_once: bool = True) -> Iterator[None]:
    """Inside, launches run on both; at_once: natively from the first, whatever it costs to compile.

    Raises AssertionError at the end if any differed.
    """
    from kvproof.kernels.ptx.native import tiers

    run, price = execute.execute, tiers.PRICE
    launch.execute = lambda *arguments, **settings: both(run, *arguments, **settings)
    tiers.PRICE = -1.0 if at_once else price
    before = len(DIFFER)
    try:
        yield
    finally:
        launch.execute, tiers.PRICE = run, price
    assert not DIFFER[before:], "\n".join(DIFFER[before:])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with engines():
        return (yield)


def pytest_terminal_summary(terminalreporter):
    for why, n in [*TOOK.most_common(40), *((f"arrays with {x} twins", n) for x, n in TOOK_TWINS.items())]:
        terminalreporter.write_line(f"{n:6d} {why}")
