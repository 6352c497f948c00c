"""A pytest plugin: is this Triton kernel sound? Compiled for GPUs that need not be here, and run on the PTX machine.

Two assertions, as functions to import and as fixtures of the same name:

    check_kernel(kernel, grid, *args)  one launch of a Triton kernel
    same_algebra(one, other, *arrays)  two computations, to the bit, but for the order in which they round

A whole test file, for a Triton kernel of yours in place of this one; it goes red without a mask, with a smaller BLOCK,
or if the kernel reads `out` before it writes it:

    import torch
    import triton
    import triton.language as tl


    @triton.jit
    def add_one(x, out, n, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out + at, tl.load(x + at, at < n) + 1, at < n)


    def test_add_one(check_kernel):
        x, out = torch.arange(300.0), torch.empty(300)
        check_kernel(add_one, (3,), x, out, 300, BLOCK=128, readable={"out": False})
        assert torch.equal(out, x + 1)

With --kvproof-json FOLDER the fixtures leave one JSON file per test that used them. pytest loads this module in every
run, so it imports nothing of weight before a kernel is checked.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .algebra.verdict import Verdict
    from .execute import Report


def check_kernel(kernel: Any, grid: Any, /, *args: Any, **kwargs: Any) -> "list[Report]":
    """Raise what the PTX machine finds in `kernel[grid](*args, **kwargs)`, a PtxError naming the line; needs no GPU.

    Parameters, options (targets, seeds, tolerance, readable, engine) and errors: check in kernels/ptx/check.py. The
    arrays hold the results afterwards. Raises Refused where TRITON_INTERPRET is set: unset it.
    returns  the report of each run, see Report in kernels/ptx/execute.py
    """
    __tracebackhide__ = True
    from .. import ptx

    try:
        return ptx.check(kernel, grid, *args, **kwargs)
    except ptx.PtxError as error:
        raise error.with_traceback(None) from None  # the kernel is at fault, and the message names its line


def same_algebra(one: Any, other: Any, /, *args: Any, **settings: Any) -> "Verdict":
    """Raise DifferentAlgebra unless two launchers of the same arrays are one algebra, as `ptx.same_algebra` has it.

    Returns its verdict, which names the operations that it cannot judge.
    """
    __tracebackhide__ = True
    from .. import ptx

    try:
        return ptx.same_algebra(one, other, *args, **settings)
    except ptx.PtxError as error:
        raise error.with_traceback(None) from None


def pytest_addoption(parser: pytest.Parser):
    """Add --kvproof-json, once: the judge's plugin calls this too."""
    group = parser.getgroup("kvproof")
    if not any("--kvproof-json" in option.names() for option in group.options):
        help = "write what kvproof's fixtures found, one JSON file per test, into this folder"
        group.addoption("--kvproof-json", metavar="FOLDER", help=help)


def pytest_configure(config: pytest.Config):
    # Made absolute here, once: workers of pytest-xdist may stand elsewhere.
    if folder := config.getoption("kvproof_json"):
        config.option.kvproof_json = str(Path(folder).resolve())


@pytest.fixture
def kvproof_records(request: pytest.FixtureRequest) -> Iterator[list[dict]]:
    """What the assertions of this test found, as JSON-able dicts, written at its end if a folder was given."""
    records: list[dict] = []
    yield records
    folder = request.config.getoption("kvproof_json")
    if folder and records:
        write_records(Path(folder), request.node.nodeid, records)


def write_records(folder: Path, test: str, records: list[dict]) -> Path:
    """Write the records of a test to a file of its own; a digest keeps apart names that a file system does not."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", test)[-120:].strip("-")
    path = folder / f"{name}-{hashlib.sha256(test.encode()).hexdigest()[:8]}.json"
    text = json.dumps({"test": test, "found": records}, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def recorded(records: list[dict], assertion: Callable[..., Any], facts: Callable[[Any], dict]) -> Callable[..., Any]:
    """An assertion of this file, which notes its fault, or the facts of what it returns."""

    @wraps(assertion)
    def checked(*args: Any, **options: Any):
        __tracebackhide__ = True
        records.append({"assertion": assertion.__name__, "passed": False})
        try:
            found = assertion(*args, **options)
        except Exception as error:
            records[-1]["fault"] = f"{type(error).__name__}: {error}"
            raise
        records[-1] |= {"passed": True, **facts(found)}
        return found

    return checked


@pytest.fixture(name="check_kernel")
def check_kernel_fixture(kvproof_records: list[dict]):
    """check_kernel, recorded: the counters of each run, or the fault."""

    def runs(reports: "list[Report]") -> dict:
        from .profile import summary

        return {"runs": [summary(report, []) for report in reports]}

    return recorded(kvproof_records, check_kernel, runs)


@pytest.fixture(name="same_algebra")
def same_algebra_fixture(kvproof_records: list[dict]):
    """same_algebra, recorded: what was compared, what differs, and the operations that it cannot judge."""
    facts = lambda verdict: {"compared": [*verdict.arrays], "outside": [*map(str, verdict.outside)]}  # noqa: E731
    return recorded(kvproof_records, same_algebra, facts)
