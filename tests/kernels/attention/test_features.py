"""Every feature of decode attention, alone and beside every other, against the plain float64 formula.

The compiled code of both engines runs on the PTX machine, fused and unfused; the same calls run under Triton's
interpreter in a process of its own. The cases are those of tests/_attention_grid.py;
what CI has no time for is `exhaustive`.
"""

import itertools
import json
import mmap
import os
import sys
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings

from kvproof.bench.judge.contract.op import to_numpy, to_torch
from kvproof.kernels import ptx
from kvproof.kernels.attention import decode_attention
from kvproof.reference.judge.cases import DTYPES, Case, check
from kvproof.reference.judge.probes import ROUNDING, probe
from kvproof.reference.judge.questions import SHAPES

from ... import _child
from ..._attention_grid import ALONE, CASES, PAIRS, cases

TARGETS = ("sm_90", "sm_80", "sm_100")
ENGINES = {"simt": tuple(DTYPES), "mma": ("float16", "bfloat16")}
PROBED = (Case(lengths=(0, 1, 17, 33, 40), T=40),)
FAR = 2**31 + 2**12  # elements: more than a signed 32-bit offset can name
any_call = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Multiplied(Case):
    """A case whose weights the tensor cores multiply, in 16 bits, whatever it asks for."""

    @property
    def rounded_weights(self):
        return DTYPES[self.dtype]


def engines(case: Case) -> list[str]:
    """The engines that take the case."""
    return [engine for engine, dtypes in ENGINES.items() if case.dtype in dtypes]


def numpy_op(**options):
    """The kernel on NumPy arrays, writing to the caches it is given."""

    def op(**call):
        call = {name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in call.items()}
        return tuple(to_numpy(x) for x in decode_attention(**call, **options))

    return op


def hold(case: Case, engine: str, fused=True, batch_invariant=True):
    """Hold one engine to the formula, however this process runs kernels."""
    if engine == "mma":
        case = Multiplied(**{field.name: getattr(case, field.name) for field in fields(case)})
    check(numpy_op(engine=engine, fused=fused, batch_invariant=batch_invariant), case)


def launches(case: Case, engine: str, fused: bool) -> list[str]:
    """The kernels one call launches."""
    several = case.T > 128 if case.page is None else -(-case.T // case.page) * case.page > 128
    unfused = ["append_rows"] * case.append + [f"attend_{engine}"] + ["combine_splits"] * several
    return [f"attend_{engine}"] if fused else unfused


def compiled(case: Case, engine: str, fused=True, target="sm_90", seed=None):
    """`hold` on the PTX machine, where threads that hold copies of one number must agree on its bits."""
    with ptx.route(target, keep=None, seed=seed) as reports:
        hold(case, engine, fused)
    assert [report.name for report in reports] == launches(case, engine, fused)
    # The columns that pad a tile's rows name the next row's addresses; the machine takes them for copies.
    padded = engine == "mma" and case.D & (case.D - 1)
    assert padded or not any(report.disagreeing for report in reports), case


def every_way():
    """Each case with each engine that takes it, fused and not, on three GPUs; CI has half of the pairs of settings,
    and some features alone, the ways in turn."""
    for i, case in enumerate(CASES):
        takes = engines(case)
        mine = (takes[i // 2 % len(takes)], i % 4 != 3, TARGETS[i % 3])
        for way in itertools.product(takes, (True, False), TARGETS):
            in_ci = way == mine and (i % 2 == 0 if case in PAIRS else i % 3 == 1)
            yield pytest.param(case, *way, id=f"{i}-{way}", marks=() if in_ci else pytest.mark.exhaustive)


@pytest.mark.parametrize(("case", "engine", "fused", "target"), list(every_way()))
def test_a_compiled_call_agrees_with_the_formula(case, engine, fused, target):
    compiled(case, engine, fused, target)


@settings(any_call, max_examples=6)
@given(case=cases())
def test_any_compiled_call_agrees_with_the_formula(case):
    compiled(case, engines(case)[case.seed % 2 % len(engines(case))], fused=case.seed % 3 > 0)


@pytest.mark.exhaustive
@settings(any_call, max_examples=300)
@given(case=cases())
def test_three_hundred_compiled_calls_agree_with_the_formula(case):
    for engine in engines(case):
        compiled(case, engine, case.seed % 3 > 0, TARGETS[case.seed % 3], seed=case.seed)


INTERPRETER = pytest.mark.skipif(
    triton.__version__ == "3.9.0", reason="Triton 3.9.0's interpreter takes no mask from a comparison of scalars"
)


def interpreted(numbers) -> None:
    """Check cases by number under Triton's interpreter, both engines, and raise what any of them raises."""
    old = "ignore:Conversion of an array with ndim > 0:DeprecationWarning"  # what Triton 3.6's interpreter does
    code = [sys.executable, "-W", "error", "-W", old, *_child.words(__file__), *map(str, numbers)]
    child = _child.run(code, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == list(numbers)


@INTERPRETER
def test_interpreted_calls_agree_with_the_formula():
    interpreted(range(len(ALONE), len(CASES), 20))


@INTERPRETER
@pytest.mark.exhaustive
def test_every_interpreted_call_agrees_with_the_formula():
    interpreted(range(len(CASES)))


def asked(engine, dtype, shapes):
    def op(*cache):
        with ptx.route("sm_90"):
            return to_numpy(decode_attention(*(to_torch(x) for x in cache), engine=engine))

    report = probe(op, dtype, shapes)
    assert report.verdict == ROUNDING, report.reason
    assert not report.refused


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("engine", ENGINES)
def test_exact_probes_find_nothing_but_rounding(engine, dtype):
    asked(engine, dtype, PROBED)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("engine", ENGINES)
def test_all_exact_probes_find_nothing_but_rounding(engine, dtype):
    asked(engine, dtype, SHAPES)


def far_apart(x: torch.Tensor, axis: int, storage: torch.Tensor, start: int) -> torch.Tensor:
    """A copy of x in storage, its elements along `axis` FAR from one another."""
    strides = list(x.contiguous().stride())
    strides[axis] = FAR
    return storage.as_strided(x.shape, strides, start).copy_(x)


FARTHEST = {"batch": (0, None), "head": (1, None), "page": (0, 16)}
IN_CI = [("head", "simt"), ("page", "mma")]  # five seconds each


@pytest.mark.parametrize(
    ("what", "engine"),
    [
        pytest.param(*way, marks=() if way in IN_CI else pytest.mark.exhaustive)
        for way in itertools.product(FARTHEST, ENGINES)
    ],
)
def test_offsets_past_32_bits_reach_their_rows(what, engine):
    """Of the storage between two rows no byte is ever touched, so none needs memory; a wrong address meets no array."""
    axis, page = FARTHEST[what]
    call: dict[str, Any] = {name: torch.from_numpy(x) for name, x in small_call(page).items()}
    near = decode_attention(**{name: x.clone() for name, x in call.items()}, engine=engine)
    bytes_ = mmap.mmap(-1, 2 * (FAR + 2**13), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    storage = torch.frombuffer(bytes_, dtype=torch.float16)
    k, v = (far_apart(call[name], axis, storage, start) for name, start in (("k", 0), ("v", 2**11)))
    k[...], v[...] = call["k"], call["v"]
    for fused in (True, False):
        o = decode_attention(**call | {"k": k, "v": v}, engine=engine, fused=fused)
        assert torch.equal(o, near)
    for new, x in (("k_new", k), ("v_new", v)):  # of the last sequence and head, whose row lies far away
        assert any(torch.equal(call[new][-1, -1], row) for row in x[1, 1]), "the row was not appended"


def small_call(page):
    """Two sequences of 16 slots, or one of two pages, that grow by a row; every number another."""
    rng = np.random.default_rng(0)
    B = 1 if page else 2
    k, v = rng.standard_normal((2, 2, 2, 16, 16)).astype(np.float16)
    new = rng.standard_normal((3, B, 2, 16)).astype(np.float16)
    call = {"q": new[0], "k_new": new[1], "v_new": new[2], "k": k, "v": v}
    call["lengths"] = np.array([20] if page else [16, 9], np.int32)
    return call | ({"block_table": np.array([[0, 1]], np.int32)} if page else {})


def main(numbers) -> None:
    """The child's part of `interpreted`."""
    for i in numbers:
        for engine in engines(CASES[i]):
            hold(CASES[i], engine, fused=i % 2 == 0)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
