"""A pytest plugin: is this cached decode the same computation, or does it have a bug? Is this Triton kernel sound?

Four assertions, as functions to import and as fixtures of the same names:

    assert_same_decode(a, b)           two ways to the same logits: rounding, or a bug?
    assert_cache_contract(make_cache)  the promises of bench/judge/contract/cache.py, each by itself
    assert_attention(fn)               the promises of bench/judge/contract/attention.py for fn(q, k, v, lengths) -> o
    check_kernel(kernel, grid, *args)  one launch of a Triton kernel, compiled for GPUs that need not be here

A whole test file, for a decode of yours in place of these two:

    import numpy as np
    from kvproof.bench.judge.contract.adapters import small_model
    from kvproof.reference import forward
    from kvproof.reference.judge.faults import cached_logits, decode


    def test_attention(assert_attention):
        assert_attention(decode)


    def test_logits(assert_same_decode):
        def run(f):
            return lambda dtype, shift: f(np.arange(48).reshape(2, 24), *small_model(dtype, shift))

        assert_same_decode(run(cached_logits), run(forward), question="against the oracle")

Another, for a Triton kernel of yours in place of this one; it goes red without a mask, with a smaller BLOCK, or if the
kernel reads `out` before it writes it:

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
run, so it imports nothing of weight before an assertion is called.
"""

import hashlib
import json
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ...kernels.ptx import Report
    from ...reference.judge.verdict import Verdict
    from .contract.report import ContractReport


class DecodeDiffers(AssertionError):
    """The judge did not say ROUNDING; `report` is its verdict."""

    def __init__(self, verdict: "Verdict"):
        rungs = [
            f"  {rung.dtype:<9} differ by {rung.error:.2g}, rounding explains {rung.gate:.2g}"
            + {"green": "", "RED": "  <-- more than rounding", "aside": f"  (does not decide: {rung.note})"}[rung.word]
            for rung in verdict.rungs
        ]
        super().__init__("\n".join([f"{verdict.verdict}: {verdict.reason}", *rungs]))
        self.report = verdict


def assert_same_decode(
    a: Any,
    b: Any,
    dtype: str | None = None,
    *,
    question: str = "cached against uncached",
    allow_inconclusive: bool = False,
) -> "Verdict":
    """Raise DecodeDiffers unless the judge (reference/judge) says ROUNDING of path a beside the trusted path b.

    a, b      functions f(dtype, shift) or f(dtype) -> logits (B, n, V) of the same positions, or arrays of logits; see
              check_decode in contract/decode.py. With shift, the judge measures rounding instead of assuming it
    dtype     the one in question; by default float32, or that of the arrays
    question  what is compared, in words: "cached against uncached" or "against the oracle"
    allow_inconclusive  pass where nothing can be told, as from bfloat16 arrays alone; a BUG never passes
    returns   the verdict
    """
    __tracebackhide__ = True
    from .contract.decode import check_decode

    verdict = check_decode(a, b, dtype, question)
    if verdict.verdict != "ROUNDING" and not (allow_inconclusive and verdict.verdict == "INCONCLUSIVE"):
        raise DecodeDiffers(verdict)
    return verdict


def assert_cache_contract(make_cache: Callable[[], Any], **options: Any) -> "ContractReport":
    """Raise ContractBroken unless the cache keeps the contract; bench/judge/contract/cache.py has the options."""
    __tracebackhide__ = True
    from .contract.cache import check_cache

    return check_cache(make_cache, **options).raise_if_broken()


def assert_attention(fn: Callable[..., Any], **options: Any) -> "ContractReport":
    """Raise ContractBroken unless fn(q, k, v, lengths) -> o is decode attention.

    See check_attention in bench/judge/contract/attention.py for the options, such as dtype="bfloat16", device="cuda".
    """
    __tracebackhide__ = True
    from .contract.attention import check_attention

    return check_attention(fn, **options).raise_if_broken()


def check_kernel(kernel: Any, grid: Any, /, *args: Any, **kwargs: Any) -> "list[Report]":
    """Raise what the PTX machine finds in `kernel[grid](*args, **kwargs)`, a PtxError naming the line; needs no GPU.

    Out of bounds, misaligned, never written, raced for, deadlocked, different from schedule to schedule: check in
    kernels/ptx/check.py has the parameters and the options (targets, seeds, tolerance, readable). The arrays hold the
    results afterwards. Raises BackendError where TRITON_INTERPRET is set, since nothing is compiled then: unset it.
    returns  the report of each run, see Report in kernels/ptx/execute.py
    """
    __tracebackhide__ = True
    from ...kernels import ptx

    try:
        return ptx.check(kernel, grid, *args, **kwargs)
    except ptx.PtxError as error:
        raise error.with_traceback(None) from None  # the kernel is at fault, and the message names its line


def pytest_addoption(parser: pytest.Parser):
    group = parser.getgroup("kvproof")
    group.addoption(
        "--kvproof-json",
        metavar="FOLDER",
        help="write what kvproof's fixtures found, one JSON file per test, into this folder",
    )


def pytest_configure(config: pytest.Config):
    # Made absolute here, once: workers of pytest-xdist may stand elsewhere.
    if folder := config.getoption("kvproof_json"):
        config.option.kvproof_json = str(Path(folder).resolve())


@pytest.fixture
def kvproof_records(request: pytest.FixtureRequest):
    """What the assertions of this test found, as JSON-able dicts, written at its end if a folder was given."""
    records: list[dict] = []
    yield records
    folder = request.config.getoption("kvproof_json")
    if folder and records:
        write_records(Path(folder), request.node.nodeid, records)


def write_records(folder: Path, test: str, records: list[dict]) -> Path:
    """Write the records of a test to a file of its own; a digest tells names apart that a file system does not."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", test)[-120:].strip("-")
    path = folder / f"{name}-{hashlib.sha256(test.encode()).hexdigest()[:8]}.json"
    text = json.dumps({"test": test, "found": records}, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def recording(check: Callable[..., Any], records: list[dict]) -> Callable[..., Any]:
    """`check`, whose findings are also put into records, whether it raises or returns them."""

    @wraps(check)
    def checked(*args: Any, **options: Any):
        __tracebackhide__ = True
        try:
            report = check(*args, **options)
        except AssertionError as error:
            if report := getattr(error, "report", None):
                records.append({"assertion": check.__name__, "passed": False} | report.record())
            raise
        records.append({"assertion": check.__name__, "passed": True} | report.record())
        return report

    return checked


@pytest.fixture(name="assert_same_decode")
def same_decode_fixture(kvproof_records: list[dict]):
    """assert_same_decode, recorded."""
    return recording(assert_same_decode, kvproof_records)


@pytest.fixture(name="assert_cache_contract")
def cache_contract_fixture(kvproof_records: list[dict]):
    """assert_cache_contract, recorded."""
    return recording(assert_cache_contract, kvproof_records)


@pytest.fixture(name="assert_attention")
def attention_fixture(kvproof_records: list[dict]):
    """assert_attention, recorded."""
    return recording(assert_attention, kvproof_records)


@pytest.fixture(name="check_kernel")
def check_kernel_fixture(kvproof_records: list[dict]):
    """check_kernel, recorded: the counters of each run, or the fault."""

    @wraps(check_kernel)
    def checked(*args: Any, **options: Any):
        __tracebackhide__ = True
        kvproof_records.append({"assertion": "check_kernel", "passed": False})
        try:
            reports = check_kernel(*args, **options)
        except Exception as error:
            kvproof_records[-1]["fault"] = f"{type(error).__name__}: {error}"
            raise
        from ...kernels.ptx.show import summary

        kvproof_records[-1] |= {"passed": True, "runs": [summary(report, []) for report in reports]}
        return reports

    return checked
