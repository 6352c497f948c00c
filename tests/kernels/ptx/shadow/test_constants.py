"""What a constant or a parameter was rounded from."""

import numpy as np
import torch

from kvproof.kernels import ptx
from kvproof.kernels.ptx.shadow.constants import meant

from ._kernels import normal, scaled


def bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def test_a_constant_stands_for_the_number_of_python_that_rounds_to_it():
    assert meant(bits(0.1), "f32", (0.1, 0.2)) == 0.1
    assert meant(bits(-0.1), "f32", (0.1,)) == -0.1
    assert meant(bits(0.1), "f32", (0.2,)) == np.float32(0.1)
    assert meant(bits(1.4426950408889634), "f32") == 1.4426950408889634  # Triton's own, of tl.exp
    assert meant(0x3E38AA3B, "bf16x2", (0.18033688,)) == complex(*(np.array([0xAA3B, 0x3E38], "u4") << 16).view("f4"))


def test_constants_and_parameters_of_a_launch_are_those_of_python():
    x, out = normal(32, dtype=torch.float32), torch.empty(32)
    report = ptx.run(scaled, 1, x, out, 0.3, 64**-0.5 * 1.4426950408889634, 32, shadow="float64")
    exact = x.double().numpy() * 0.3 * (64**-0.5 * 1.4426950408889634)
    assert np.abs(report.shadow.arrays["out"] - exact).max() < 1e-16
