"""autotune="all": every configuration runs from the arrays as they came, and all agree, but for rounding."""

import gc
import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton import Config
from triton.runtime import Autotuner

from kvproof.kernels import ptx
from kvproof.kernels.ptx.differences import rounding

ALL: Any = {"autotune": "all", "target": "sm_80"}
SIZES = [Config({"BLOCK": 64}, num_warps=2), Config({"BLOCK": 128}), Config({"BLOCK": 256}, num_warps=8)]


@triton.jit
def add_to(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(out + at, at < n) + tl.load(x + at, at < n), at < n)


@triton.jit
def total(x, out, n, BLOCK: tl.constexpr, TAIL: tl.constexpr = 0):  # pyright: ignore[reportArgumentType]
    """The sum of x, in blocks; the last TAIL elements are forgotten."""
    sum = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, n, BLOCK):
        at = first + tl.arange(0, BLOCK)
        sum += tl.load(x + at, at < n - TAIL, other=0).to(tl.float32)
    tl.store(out, tl.sum(sum))


@triton.jit
def partials(x, parts, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(parts + tl.program_id(0), tl.sum(tl.load(x + at, at < n, other=0)))


def per(meta):
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


def tuned(kernel: Any = add_to, configs: Any = SIZES, **options):
    return triton.autotune(configs, key=["n"], **options)(kernel)


def arrays(n=300):
    return torch.arange(float(n)), torch.ones(n)


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


def test_hooks_prunings_and_configurations_that_do_not_fit_are_those_of_one():
    x, out = arrays()
    kernel = tuned(reset_to_zero=["out"])
    with ptx.route("sm_80", autotune="all"):
        kernel[per](x, out, 300)
        assert torch.equal(out, x)
        kernel[per](x, out, 300)  # of a key that was launched before
        assert torch.equal(out, 2 * x)
    called = []
    configs = [Config({"BLOCK": 64}, num_warps=64)]
    configs += [Config({"BLOCK": b}, pre_hook=lambda given: called.append(given["BLOCK"])) for b in (64, 128, 256)]
    pruned = tuned(configs=configs, prune_configs_by={"early_config_prune": lambda configs, args, **kw: configs[:3]})
    with ptx.route("sm_80", autotune="all") as reports:
        pruned[per](*arrays(), 300)
        assert [report.config for report in reports] == configs[1:3]
    assert called == [64, 128]
    with pytest.raises(ptx.OutOfResources, match="64 warps"):
        ptx.run(tuned(configs=[configs[0], configs[0]]), per, *arrays(), 300, **ALL)


def test_a_tuner_s_first_launch_is_the_first_also_where_another_one_lay_in_memory():
    x = torch.arange(300.0)
    with ptx.route("sm_80"):
        for _ in range(12):
            kernel, out = tuned(reset_to_zero=["out"]), torch.full((300,), 5.0)
            kernel[per](x, out, 300)
            assert torch.equal(out, x)
            del kernel
            gc.collect()


def test_a_route_knows_its_own_launches_alone():
    (x, out), kernel = arrays(), tuned(reset_to_zero=["out"])
    for _ in range(2):
        with ptx.route("sm_80"):
            kernel[per](x, out, 300)
            assert torch.equal(out, x)
            kernel[per](x, out, 300)
            assert torch.equal(out, 2 * x)


def test_hooks_around_what_triton_times_do_not_run():
    called = []
    hooks = {"pre_hook": lambda given, reset_only=False: called.append(reset_only), "post_hook": called.append}
    with ptx.route("sm_80", autotune="all"):
        tuned(**hooks)[per](*arrays(), 300)
    assert called == [True] * 3


@pytest.mark.parametrize("autotune", ["first", "all"])
def test_a_configuration_of_clusters_is_passed_over_by_name_if_there_is_another(autotune):
    (x, out), clusters = arrays(), Config({"BLOCK": 64}, num_ctas=2)
    with (
        pytest.warns(RuntimeWarning, match="BLOCK: 64.*num_ctas: 2.* of add_to is passed over: .* no thread block cl"),
        ptx.route("sm_80", autotune=autotune) as reports,
    ):
        tuned(configs=[clusters, *SIZES[1:]])[per](x, out, 300)
    assert [report.config for report in reports] == SIZES[1 : 3 if autotune == "all" else 2]
    assert torch.equal(out, 1 + x)
    with pytest.raises(ptx.Refused, match="num_ctas of add_to is 2; it must be 1"):
        ptx.run(tuned(configs=[clusters, clusters]), per, x, out, 300, target="sm_80", autotune=autotune)


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


def test_heuristics_above_and_below_a_tuner():
    x, out = arrays()
    half = triton.heuristics({"BLOCK": lambda given: 64 * given["num_warps"]})(add_to)
    warps = [Config({}, num_warps=1), Config({}, num_warps=4)]
    with ptx.route("sm_80", autotune="all") as reports:
        triton.autotune(warps, key=["n"])(half)[per](x, out, 300)
        triton.heuristics({"n": lambda given: given["x"].numel()})(tuned())[per](x, out)
        assert [report.grid[0] for report in reports] == [5, 2, 5, 3, 2]
    assert torch.equal(out, 1 + 2 * x)


class Timing(Autotuner):
    """As libraries make their own: it times in `run`."""

    def run(self, *args, **kwargs):
        raise AssertionError("timed")


def own(kind):
    return kind(add_to, add_to.arg_names, SIZES, ["n"], [], [])


def test_tuners_of_others_run_on_the_machine_as_triton_s_do_and_are_left_alone_elsewhere():
    (x, out), failures = arrays(), []

    class Late(Timing):
        def run(self, *args, **kwargs):
            raise AssertionError("late")

    def elsewhere(kind):
        try:
            own(kind)[per](x, out, 300)
        except AssertionError as error:
            failures.append(str(error))

    with ptx.route("sm_80") as reports:
        for kind in (Timing, Late):
            own(kind)[per](x, out, 300)
            thread = threading.Thread(target=elsewhere, args=(kind,))
            thread.start()
            thread.join()
        assert [report.config for report in reports] == [SIZES[0]] * 2
    assert failures == ["timed", "late"]
    assert torch.equal(out, 1 + 2 * x)


def test_mistakes_are_answered_with_what_fits():
    x, out = arrays()
    with pytest.raises(ptx.Refused, match='autotune is \'every\'; it must be "first" or "all"'):
        ptx.run(tuned(), per, x, out, 300, autotune="every")
    with pytest.raises(ptx.Refused, match="tolerance is 1e-06; it must be a dict of array names"):
        ptx.route("sm_80", autotune="all", tolerance=1e-6).__enter__()
    with pytest.raises(ptx.Refused, match="autotun= is no setting of the machine; did you mean autotune="):
        ptx.route("sm_80", autotun="all").__enter__()
