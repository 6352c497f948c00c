"""Shadows as machine code: those of the NumPy form, launch by launch."""

import numpy as np
import pytest
import torch

from kvproof.kernels import ptx
from kvproof.kernels.ptx import Refused, execute
from kvproof.kernels.ptx.native import tiers
from kvproof.kernels.ptx.shadow.launch import EVERY, LOST, Asked

from .. import _text
from .._kernels import make
from ..shadow import _kernels as kernels
from ..shadow import test_launch as launches
from ..shadow.test_moving import LAUNCHES
from . import _both

ROUNDINGS = {"none": (), "every": [EVERY], "lost": [LOST]}
WITH = [
    pytest.param(x, r, marks=[] if (n + k) % 3 == 0 else [pytest.mark.exhaustive])
    for n, x in enumerate(LAUNCHES)
    for k, r in enumerate(ROUNDINGS)
    if (x, r) != ("total", "every")
]  # whose atomics keep their roundings in NumPy form


@pytest.fixture
def natively():
    """Launches run on both engines, and natively to their ends."""
    before = _both.TOOK.copy()
    with _both.engines():
        yield
    assert {*(_both.TOOK - before)} == {"native"}


def run(kernel, grid, *arguments, **settings):
    return ptx.run(kernel, grid, *arguments, **{"target": "sm_90", "shadow": "float64"} | settings)


@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize(("name", "rounding"), WITH)
def test_kernels_have_the_twins_of_the_numpy_form(name, rounding):
    case, options, target = LAUNCHES[name]
    case = make(case, **options)
    run(case.kernel, case.grid, **case.arguments, target=target, readable=case.readable, rounding=ROUNDINGS[rounding])


def calls():
    x, out = kernels.normal(32, dtype=torch.float32), torch.empty(32)
    a, b = kernels.normal(32, 32), kernels.normal(32, 32, seed=1)
    square, bits = torch.empty(32, 32, dtype=torch.bfloat16), torch.empty(32, dtype=torch.int32)
    yield "scaled", (kernels.scaled, 1, x, out, 0.3, 0.1, 32)
    yield "shrunk", (kernels.shrunk, 1, kernels.normal(64), torch.empty(64, dtype=torch.bfloat16), 64)
    yield "its bits", (kernels.by_its_bits, 1, x, out, 32)
    yield "decided", (kernels.decided, 1, x, out, 32)
    yield "largest of bits", (kernels.largest_of_bits, 1, x, out, 32)
    yield "highest", (kernels.highest, 1, x, torch.zeros(32), bits, 32)
    yield "product", (kernels.product, 1, a, b, square, 32, 32, 32)
    wide = kernels.normal(4, 64, dtype=torch.float32)
    yield "totals", (kernels.totals, 4, wide, torch.zeros(4), 64)
    yield "fetched", (kernels.fetched, 4, wide, torch.zeros(4), torch.empty(4, 64), 64)


@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize("rounding", ["none", "lost"])
@pytest.mark.parametrize(("name", "call"), [pytest.param(*x, id=x[0]) for x in calls()])
def test_what_is_lost_and_what_rounding_decides_are_found_alike(name, call, rounding):
    report = run(*call, rounding=ROUNDINGS[rounding])
    assert bool(report.shadow.lost) == (name in ("its bits", "largest of bits", "highest", "shrunk"))
    assert bool(report.shadow.choices) == (name == "decided")


@pytest.mark.usefixtures("natively")
def test_a_route_of_launches():
    launches.test_launches_of_a_route_hand_their_shadows_on()
    launches.test_what_else_writes_to_an_array_takes_its_shadow_away()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_each_line_has_the_part_of_the_error_that_it_has_in_numpy_form(dtype, monkeypatch):
    numpy = launches.normed(dtype, shadow="float64", engine="numpy")[1].shadow.lines
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    monkeypatch.setattr(execute.lockstep, "run", None)
    native = launches.normed(dtype, shadow="float64")[1].shadow.lines
    assert {*numpy} == {*native}
    for at, one in numpy.items():
        assert native[at].largest == one.largest
        assert np.array_equal(native[at].effect["out"], one.effect["out"])


# Each thread finds the bits of v in shared memory, stored as bytes, which have no twin; and leaves v there, with its.
STALE = """ld.global.b32 %r6, [%rd11]; mul.f32 %r7, %r6, 0f3DCCCCCD; st.shared.b32 [%r5 + 512], %r7;
st.shared.v4.b8 [%r5], {%h1, %h2, %h3, %h4}; ld.shared.b32 %r8, [%r5]; add.f32 %r9, %r8, 0f00000000;
st.global.b32 [%rd11], %r9; bar.sync 0; st.shared.b32 [%r5], %r7; ret;"""


@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_shared_memory_has_no_twins_of_the_program_before(engine):
    n = 64
    x = np.full(32 * n, 3.0, np.float32)
    product = np.float32(3) * np.float32(0.1)
    halves = "".join(f"mov.b16 %h{k + 1}, {byte};\n" for k, byte in enumerate(product.tobytes()))
    report = _text.run(halves + STALE, x, programs=n, shadow=Asked(), engine=engine)
    assert (report.shadow.arrays["a"] == float(product)).all()


def test_what_machine_code_does_not_carry_runs_in_numpy_form():
    x, out = kernels.normal(4, 64, dtype=torch.float32), torch.zeros(4)
    with _both.engines():
        report = run(kernels.totals, 4, x, out, 64, rounding=[EVERY])
    assert report.engine_reason == "no machine code for the rounding of atomic additions"
    with pytest.raises(Refused, match="rounding of atomic additions"):
        run(kernels.totals, 4, x, out.zero_(), 64, rounding=[EVERY], engine="native")
    assert run(kernels.totals, 4, x, out.zero_(), 64, engine="native").shadow.lines  # these in NumPy form
