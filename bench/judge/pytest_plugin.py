"""A pytest plugin: is this cached decode the same computation, or does it have a bug?

Five assertions, as functions to import and as fixtures of the same names:

    assert_same_decode(a, b)           two ways to the same logits: rounding, or a bug?
    assert_same_decode(model, scenarios="all")  the same of a causal LM of transformers, cached and uncached
    assert_cache_contract(make_cache)  the promises of bench/judge/contract/cache.py, each by itself
    assert_pool_contract(make_pool)    the promises of bench/judge/contract/pool.py, for blocks that sequences share
    assert_format(fn, format="…")      what a quantiser loses is what its format must lose: formats/quantisers.py
    assert_attention(fn)               the promises of bench/judge/contract/attention.py for fn(q, k, v, lengths) -> o

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

With --kvproof-json FOLDER the fixtures leave one JSON file per test that used them. pytest loads this module in every
run, so it imports nothing of weight before an assertion is called.
"""

from collections.abc import Callable
from functools import wraps
from os import PathLike
from typing import TYPE_CHECKING, Any

import pytest

from ...kernels.ptx import pytest_plugin as records

if TYPE_CHECKING:
    from ...reference.judge.formats.verdict import FormatVerdict
    from ...reference.judge.verdict import Verdict
    from .contract.report import ContractReport
    from .huggingface.survey import Survey


# The option --kvproof-json and the fixture that keeps the records; pytest takes them from both plugins alike.
pytest_addoption, pytest_configure = records.pytest_addoption, records.pytest_configure
kvproof_records = records.kvproof_records


class ScenariosDiffer(AssertionError):
    """A causal LM's cached path is not its uncached one over some cache, in some scenario; `report` has the cells."""

    def __init__(self, report: "Survey"):
        super().__init__("\n".join([f"{report.word}:", *report.table()]))
        self.report = report


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
    b: Any = None,
    dtype: str | None = None,
    *,
    question: str = "cached against uncached",
    allow_inconclusive: bool = False,
    **of_model: Any,
) -> "Verdict | Survey":
    """Raise DecodeDiffers unless the judge (reference/judge) says ROUNDING of path a beside the trusted path b.

    a, b      functions f(dtype, shift) or f(dtype) -> logits (B, n, V) of the same positions, or arrays of logits; see
              check_decode in contract/functions.py. With shift, the judge measures rounding instead of assuming it.
              Or a alone, a causal LM of transformers, or the folder of one: its cached path beside its uncached one
    dtype     the one in question; by default float32, or that of the arrays
    question  what is compared, in words: "cached against uncached" or "against the oracle"
    allow_inconclusive  pass what is INCONCLUSIVE, as bfloat16 arrays alone are; a BUG never passes
    of_model  for a model: scenarios="all" or names of them, caches="all" or names (default "steps" over the model's
              usual cache; scenarios="all" has every cache too), prompts, steps, attn_implementation; see judged_model
    returns   the verdict; of a model, every cell. What a model raises in a cell, and what does not apply, passes

    Raises ScenariosDiffer for a model.
    """
    __tracebackhide__ = True
    if b is None and not hasattr(a, "get_input_embeddings") and not isinstance(a, (str, PathLike)):
        raise TypeError(
            f"a {type(a).__name__} came alone; give two paths, or a causal LM of transformers or its folder"
        )
    if b is None:
        return assert_model(a, dtype or "float32", allow_inconclusive, **of_model)
    if of_model:
        raise TypeError(f"{', '.join(of_model)} came beside two paths; a model alone takes them")
    from .contract.functions import check_decode

    verdict = check_decode(a, b, dtype, question)
    if verdict.verdict != "ROUNDING" and not (allow_inconclusive and verdict.verdict == "INCONCLUSIVE"):
        raise DecodeDiffers(verdict)
    return verdict


def assert_model(model: Any, dtype: str, allow_inconclusive: bool, **how: Any) -> "Survey":
    __tracebackhide__ = True
    from .huggingface.survey import judged_model

    found = judged_model(model, dtype, **how)
    passes = ("ROUNDING", "INCONCLUSIVE") if allow_inconclusive else ("ROUNDING",)
    if found.word not in passes:
        raise ScenariosDiffer(found)
    return found


def assert_cache_contract(make_cache: Callable[[], Any], **options: Any) -> "ContractReport":
    """Raise ContractBroken unless the cache keeps the contract; bench/judge/contract/cache.py has the options."""
    __tracebackhide__ = True
    from .contract.cache import check_cache

    return check_cache(make_cache, **options).raise_if_broken()


def assert_pool_contract(make_pool: Callable[[], Any], **options: Any) -> "ContractReport":
    """Raise ContractBroken unless the pool keeps the contract; bench/judge/contract/pool.py has the options."""
    __tracebackhide__ = True
    from .contract.pool import check_pool

    return check_pool(make_pool, **options).raise_if_broken()


def assert_attention(fn: Callable[..., Any], **options: Any) -> "ContractReport":
    """Raise ContractBroken unless fn(q, k, v, lengths) -> o is decode attention.

    See check_attention in bench/judge/contract/attention.py for the options, such as dtype="bfloat16", device="cuda".
    """
    __tracebackhide__ = True
    from .contract.attention import check_attention

    return check_attention(fn, **options).raise_if_broken()


class FormatBroken(AssertionError):
    """A quantiser loses what its format need not lose; `report` is the verdict."""

    def __init__(self, verdict: "FormatVerdict"):
        super().__init__(str(verdict))
        self.report = verdict


def assert_format(quantiser: Any, format: Any, dtype: str = "float32", **options: Any) -> "FormatVerdict":
    """Raise FormatBroken unless the judge of formats says FORMAT; what is INCONCLUSIVE does not pass.

    See check_format in bench/judge/formats/quantisers.py for what a quantiser is, the formats' names and the options,
    such as arrays="numpy".
    """
    __tracebackhide__ = True
    from .formats.quantisers import check_format

    verdict = check_format(quantiser, format, dtype, **options)
    if verdict.verdict != "FORMAT":
        raise FormatBroken(verdict)
    return verdict


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


@pytest.fixture(name="assert_pool_contract")
def pool_contract_fixture(kvproof_records: list[dict]):
    """assert_pool_contract, recorded."""
    return recording(assert_pool_contract, kvproof_records)


@pytest.fixture(name="assert_attention")
def attention_fixture(kvproof_records: list[dict]):
    """assert_attention, recorded."""
    return recording(assert_attention, kvproof_records)


@pytest.fixture(name="assert_format")
def format_fixture(kvproof_records: list[dict]):
    """assert_format, recorded."""
    return recording(assert_format, kvproof_records)
