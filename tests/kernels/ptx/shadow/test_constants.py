"""What a constant or a parameter was rounded from."""

import numpy as np
import pytest
import torch

from kvproof.kernels import ptx
from kvproof.kernels.ptx.shadow.constants import meant

from ._kernels import normal, scaled, shrunk


def bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def found(x: float, *numbers: float):
    return meant(bits(x), "f32", numbers)[0]


def test_a_constant_stands_for_the_number_of_python_that_rounds_to_it():
    assert found(0.1, 0.1, 0.2) == 0.1
    assert found(-0.1, 0.1) == -0.1
    assert found(1.4426950408889634) == 1.4426950408889634  # Triton's own, of tl.exp
    pair = meant(0x3E38AA3B, "bf16x2", (0.18033688,))[0]
    assert pair == complex(*(np.array([0xAA3B, 0x3E38], "u4") << 16).view("f4"))


def test_what_a_constant_may_stand_for_twice_is_not_guessed():
    assert found(0.1, 0.1, float(np.float32(0.1))) is None
    assert found(0.1, 0.2) is None  # folded by a compiler, or a polynomial's
    assert found(1.0, 0.99999999) == 1
    assert found(0.0, 1e-60) == 0
    assert found(0.75) == 0.75


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_number_of_python_that_no_constant_is_was_folded(target):
    x = normal(64)
    report = ptx.run(shrunk, 1, x, torch.empty_like(x), 64, target=target, shadow="float64")
    assert report.shadow.unmarked == {"the constant 0.999"}  # bfloat16 has no number nearer to it than 1


def test_constants_and_parameters_of_a_launch_are_those_of_python():
    x, out = normal(32, dtype=torch.float32), torch.empty(32)
    report = ptx.run(scaled, 1, x, out, 0.3, 64**-0.5 * 1.4426950408889634, 32, shadow="float64")
    exact = x.double().numpy() * 0.3 * (64**-0.5 * 1.4426950408889634)
    assert np.abs(report.shadow.arrays["out"] - exact).max() < 1e-16
