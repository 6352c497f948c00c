"""Kernels under triton.autotune: which configurations run, with which hooks, and tuners that others made."""

import gc
import threading

import pytest
import torch
import triton
from triton import Config
from triton.runtime import Autotuner

from kvproof.kernels import ptx

from ._tuned import ALL, SIZES, add_to, arrays, per, tuned


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
