"""autotune="all": every configuration runs from the arrays as they came, and all agree, but for rounding."""

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton import Config

from kvproof.kernels import ptx
from kvproof.kernels.ptx.differences import rounding

from ._tuned import ALL, SIZES, arrays, partials, per, total, tuned


def test_each_configuration_starts_from_the_arrays_as_they_came_and_the_first_one_s_result_stays():
    (x, out), kernel = arrays(), tuned()
    with ptx.route("sm_80", autotune="all") as reports:
        left = kernel[per](x, out, 300)
        assert [report.config for report in reports] == SIZES
        assert [report.grid[0] for report in reports] == [5, 3, 2]
        assert left is reports[0]
        assert kernel.best_config is SIZES[0]
        assert torch.equal(out, 1 + x)
        kernel[per](x, out, 300)
    assert torch.equal(out, 1 + 2 * x)
    assert ptx.run(kernel, per, x, out, 300, **ALL).config is SIZES[0]
    assert len(ptx.check(kernel, per, x, out, 300, targets="sm_80", seeds=[1], autotune="all")) == 2


def test_another_order_of_sums_is_no_disagreement_but_a_forgotten_tail_is():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(1)
    results = set()
    with ptx.route("sm_80", autotune="all", each=lambda report: results.add(out.item())):
        tuned(total)[(1,)](x, out, 3000)
    assert len(results) > 1  # the orders differ in bits
    one, other = Config({"BLOCK": 64}), Config({"BLOCK": 128, "TAIL": 1})
    with pytest.raises(ptx.ConfigDependent) as failure:
        ptx.run(tuned(total, [one, other]), 1, x, out, 3000, **ALL)
    for words in (r"out[0] depends on the configuration", str(one), str(other), "1 of 1 elements", "allow it"):
        assert words in str(failure.value)
    assert out.item() == pytest.approx(x.sum().item(), rel=1e-5)  # the first one's
    assert isinstance(failure.value, ptx.PtxError)


@triton.jit
def half(x, out, n, BLOCK: tl.constexpr, ATOMIC: tl.constexpr = False, KEEP: tl.constexpr = 1):  # pyright: ignore[reportArgumentType]
    """out = x; of the second half, where KEEP is 2, nothing is written."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if ATOMIC:
        tl.atomic_add(out + at, tl.load(x + at, at < n), at < n // KEEP)
    else:
        tl.store(out + at, tl.load(x + at, at < n), at < n // KEEP)


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("good_first", [False, True])
def test_what_one_configuration_alone_writes_is_reported_however_small(atomic, good_first):
    x = torch.full((256,), 1e-3, dtype=torch.bfloat16 if not atomic else torch.float32)
    x[0] = 1e6 if atomic else 1e3
    good, bad = Config({"BLOCK": 64, "ATOMIC": atomic}), Config({"BLOCK": 128, "ATOMIC": atomic, "KEEP": 2})
    kernel = tuned(half, [good, bad] if good_first else [bad, good])
    with pytest.raises(ptx.ConfigDependent, match=r"out\[128\] depends.*; 128 of 256 elements") as failure:
        ptx.run(kernel, per, x, torch.zeros_like(x), 256, **ALL)
    assert f"with {good}, which alone writes it" in str(failure.value)
    assert "another order" not in str(failure.value)
    ptx.run(kernel, per, x, torch.zeros_like(x), 256, tolerance={"out": 1e-3}, **ALL)
    out = x.clone() if not atomic else torch.zeros_like(x)
    ptx.run(tuned(half, [good, good if atomic else bad]), per, x, out, 256, **ALL)  # of the same value it is no matter


def test_whole_numbers_agree_exactly():
    x, out = torch.ones(100_000), torch.zeros(1, dtype=torch.int32)
    one, other = Config({"BLOCK": 1024}), Config({"BLOCK": 2048, "TAIL": 1})
    with pytest.raises(ptx.ConfigDependent, match=r"out\[0\].*100000.0.*99999.0"):
        ptx.run(tuned(total, [one, other]), 1, x, out, 100_000, **ALL)


def test_arrays_that_mean_something_else_in_each_configuration_are_allowed_by_name():
    x, parts = torch.ones(300), torch.zeros(5)
    kernel = tuned(partials)
    with pytest.raises(ptx.ConfigDependent, match=r"parts\[0\].*64.0.*128.0.*tolerance=\{'parts': ...\}"):
        ptx.run(kernel, per, x, parts, 300, **ALL)
    ptx.run(kernel, per, x, parts, 300, tolerance={"parts": math.inf}, **ALL)
    with pytest.raises(ptx.ConfigDependent), ptx.route("sm_80", autotune="all", tolerance={"parts": 0.1}):
        kernel[per](x, parts, 300)


@pytest.mark.parametrize(("dtype", "steps"), [(torch.float32, 66), (torch.float16, 2.01), (torch.float64, 66)])
def test_the_tolerance_of_rounding_is_of_the_dtype(dtype, steps):
    step = torch.finfo(dtype).eps
    assert rounding(torch.zeros(1, dtype=dtype)) == pytest.approx(steps * step, rel=0.01)
    assert rounding(np.zeros(1, str(dtype)[6:])) == rounding(torch.zeros(1, dtype=dtype))
    assert rounding(torch.zeros(1, dtype=torch.int8)) is None


def test_a_fault_of_a_later_configuration_is_reported_with_it():
    @triton.jit
    def copy(x, out, n, BLOCK: tl.constexpr):
        at = tl.arange(0, BLOCK)
        tl.store(out + at, tl.load(x + at))

    x, out = torch.ones(128), torch.zeros(128)
    good, bad = Config({"BLOCK": 128}), Config({"BLOCK": 256})
    ptx.run(tuned(copy, [good, bad]), 1, x, out, 128, target="sm_80")
    with pytest.raises(ptx.OutOfBounds, match="with the configuration BLOCK: 256") as failure:
        ptx.run(tuned(copy, [good, bad]), 1, x, out, 128, **ALL)
    assert "test_autotune.py" in str(failure.value)
    assert torch.equal(out, x)  # what the first left


def test_a_tolerance_of_no_array_or_for_one_configuration_is_refused():
    x, parts = torch.ones(300), torch.zeros(5)
    kernel, words = tuned(partials), r"tolerance names \['oo'\]; the arrays .* are \['parts', 'x'\]"
    with pytest.raises(ValueError, match=words):
        ptx.run(kernel, per, x, parts, 300, tolerance={"parts": math.inf, "oo": 1.0}, **ALL)
    with pytest.raises(ValueError, match=words), ptx.route(tolerance={"parts": math.inf, "oo": 1.0}, **ALL):
        kernel[per](x, parts, 300)
    with ptx.route(tolerance={"parts": math.inf}, **ALL):  # the other kernel has no such array
        kernel[per](x, parts, 300)
        tuned()[per](*arrays(), 300)
    with pytest.raises(ptx.Refused, match='tolerance= came without autotune="all"'):
        ptx.run(kernel, per, x, parts, 300, tolerance={"parts": 1.0}, target="sm_80")
    for autotune in ("first", "all"):  # of the schedules, too
        ptx.check(kernel, per, x, parts, 300, targets="sm_80", seeds=[], tolerance={"parts": 9e9}, autotune=autotune)


def test_sums_near_0_of_large_terms_are_reported_as_what_they_may_be():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ptx.ConfigDependent, match=r"another order of sums explains 7.*, unless terms cancel\..*allow"):
        ptx.run(tuned(total), 1, x - x.mean(), torch.zeros(1), 3000, **ALL)


def test_what_a_table_of_pointers_leads_to_is_put_back_too():
    @triton.jit
    def through(table, n, BLOCK: tl.constexpr):
        out = tl.load(table).to(tl.pointer_type(tl.float32))
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out + at, tl.load(out + at, at < n) + 1, at < n)

    out = torch.zeros(300)
    ptx.run(tuned(through), per, torch.tensor([out.data_ptr()]), 300, **ALL)
    assert torch.equal(out, torch.ones(300))


def test_mistakes_are_answered_with_what_fits():
    x, out = arrays()
    with pytest.raises(ptx.Refused, match='autotune is \'every\'; it must be "first" or "all"'):
        ptx.run(tuned(), per, x, out, 300, autotune="every")
    with pytest.raises(ptx.Refused, match="tolerance is 1e-06; it must be a dict of array names"):
        ptx.route("sm_80", autotune="all", tolerance=1e-6).__enter__()
    with pytest.raises(ptx.Refused, match="autotun= is no setting of the machine; did you mean autotune="):
        ptx.route("sm_80", autotun="all").__enter__()
