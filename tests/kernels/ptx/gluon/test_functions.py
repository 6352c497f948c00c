"""Gluon's functions run on a GPU that has them, each kernel held to NumPy, or are refused by name."""

import importlib

import numpy as np
import pytest
import triton
from triton.runtime.jit import JITFunction

from kvproof.kernels import ptx

from .. import _kernels
from . import _blackwell, _launch, _refused
from ._blackwell import BLACKWELL
from ._core import CORE
from ._hopper import HOPPER
from ._public import MODULES, public, used
from ._shared import SHARED

CASES = CORE | SHARED
TARGETS = ("sm_80", "sm_90", "sm_100")
NEEDS = {"halves": "sm_90"}  # Triton converts four bits by way of eight, which sm_80 has no instruction for
RUN = ("_core", "_shared", "_hopper", "_blackwell", "_rings")
REFUSED = {
    "two_programs": (
        *("hopper.cluster.arrive", "hopper.cluster.wait", "hopper.cluster.barrier", "hopper.async_store"),
        *(f"{gpu}.mbarrier.fence_init_release_cluster" for gpu in ("hopper", "blackwell")),
        "blackwell.async_store",
    ),
    "taken_over": ("blackwell.clc.try_cancel", "blackwell.clc.load_result"),
    "least": ("tensor_memory_descriptor.load_min", "tensor_memory_descriptor.load_max"),
}
TO_COME = ("add4", "sub4", "mul4", "fma4", "mbarrier.arrive", "mbarrier.fence_init_release_cluster")  # of rubin
HOST = ("aggregate_replace",)  # what acts while Triton compiles


def kernels(*modules):
    """The Gluon functions that these files of this folder define."""
    found = [importlib.import_module(f".{name}", __package__) for name in modules]
    return [x for m in found for x in vars(m).values() if isinstance(x, JITFunction) and x.fn.__module__ == m.__name__]


def functions():
    """The public names of functions, without types, layouts and dtypes."""
    return {name: x for name, x in public().items() if callable(x) and not isinstance(x, (type, triton.language.dtype))}


def uses(name, x, found):
    method = name.split(".")[0].endswith("_descriptor")
    return "." + name.split(".")[-1] in found if method else id(x) in found


def test_every_function_of_the_installed_gluon_is_run_or_refused():
    run, no = used(kernels(*RUN)), used(kernels("_refused"))
    refused = {name for names in REFUSED.values() for name in names}
    rest = {name for name, x in functions().items() if not uses(name, x, run)}
    own = {name for name in rest if name.startswith("rubin.") and name.removeprefix("rubin.") in TO_COME}
    same = {name for name in rest - own if name.startswith("rubin.") and name.replace("rubin", "blackwell") in refused}
    assert rest - own - same == refused | set(HOST)
    assert [name for name in refused if not uses(name, functions()[name], no)] == []
    assert len(functions()) > 200


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_of_the_core_language_is_right(name, target):
    if int(target[3:]) < int(NEEDS.get(name, "sm_80")[3:]):
        target = NEEDS[name]
    for seed in (None, 1):
        _kernels.run(CASES[name](), target=target, seed=seed, prints=False)


@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
@pytest.mark.parametrize("name", HOPPER)
def test_a_kernel_of_hopper_is_right(name, target):
    if (name, target) == ("multiplied", "sm_100"):
        target = "sm_90"  # the only one with wgmma
    for seed in (None, 1):
        _launch.run(HOPPER[name](), target=target, seed=seed)


@pytest.mark.parametrize("name", BLACKWELL)
def test_a_kernel_of_blackwell_is_right(name):
    for seed in (None, 1):
        _launch.run(BLACKWELL[name](), target="sm_100", seed=seed)


def test_unwritten_tensor_memory_may_be_loaded_but_not_used():
    out = np.zeros((128, 32), np.float32)
    ptx.run(_blackwell.unwritten_columns, 1, out, 0, target="sm_100")
    assert (out == 7).all()
    with pytest.raises(ptx.Uninitialised, match="column 0 of lanes 0 to 15 of tensor memory, that nothing has written"):
        ptx.run(_blackwell.unwritten_columns, 1, out, 3, target="sm_100")


def test_a_cluster_of_two_programs_is_refused_by_name():
    x = np.zeros(128, np.float32)
    with pytest.raises(ptx.Refused, match=r"num_ctas of two_programs is 2; .* runs no thread block clusters"):
        ptx.run(_refused.two_programs, 2, x, x.copy(), target="sm_90", num_ctas=2)


def test_cluster_launch_control_is_refused_by_name():
    with pytest.raises(ptx.UnknownOpcode, match=r"does not execute clusterlaunchcontrol\.try_cancel") as caught:
        ptx.run(_refused.taken_over, 2, np.zeros(1, np.int32), target="sm_100")
    assert caught.value.where[-1][0].endswith("_refused.py")


def test_loads_that_reduce_are_refused_by_ptxas_for_this_target():
    with pytest.raises(
        triton.runtime.errors.PTXASError, match=r"'tcgen05\.ld\.red' not supported on .target 'sm_100a'"
    ):
        ptx.run(_refused.least, 1, *np.zeros((2, 128), np.float32), target="sm_100")


def test_no_other_target_is_tried_for_what_the_machine_does_not_execute():
    """Triton ends the process where it compiles for sm_80 what names a unit of sm_100."""
    with pytest.raises(ptx.UnknownOpcode, match=r"does not execute tcgen05\.shift") as caught:
        ptx.run(_refused.shifted, 1, np.zeros(128, np.float32), target="sm_100")
    assert "take target" not in str(caught.value)


def test_a_gpu_to_come_is_refused_by_name():
    assert set(MODULES["rubin"].__all__) > {"add4", "sub4", "mul4", "fma4"}
    with pytest.raises(ptx.Refused, match=r"target is 'sm_107'; it can be sm_75, .*sm_100"):
        ptx.run(_refused.least, 1, *np.zeros((2, 128), np.float32), target="sm_107")


@pytest.mark.parametrize("name", ["mathematics", "products", "views"])
def test_gluon_is_routed_and_checked_as_triton_is(name):
    case = CASES[name]()
    with ptx.route("sm_90") as reports:
        case.kernel[case.grid](**case.arguments)
    _kernels.check(case)
    assert len(reports) == 1
    ptx.check(case.kernel, case.grid, **case.arguments, targets=("sm_80", "sm_90"), seeds=(1,))
