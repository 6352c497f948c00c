"""Other people's kernels on the machine: right, and without an alarm, on each target and under every schedule."""

import pytest

from ._kernels import run
from ._tutorials import TUTORIALS


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_kernel_as_others_write_it_runs(name, target):
    for seed in (None, 0, 1):
        run(TUTORIALS[name](), target=target, seed=seed)
