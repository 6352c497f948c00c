"""Twins on their way: with every rounding kept, whatever moved wrongly would not end as the real number."""

import numpy as np
import pytest

from kvproof.kernels import ptx

from .._kernels import FLOATS, gelu_case, layer_norm_case, make, matmul_case, order_case, softmax_case, waves_case
from .._programs import decode_case, total_case

LAUNCHES = {
    "softmax of pairs": (softmax_case, {"dtype": "float16", "n": 1025, "num_warps": 8}, "sm_100"),
    "softmax": (softmax_case, {"dtype": "bfloat16"}, "sm_90"),
    "layer_norm": (layer_norm_case, {"dtype": "float16"}, "sm_80"),
    "gelu": (gelu_case, {"dtype": "bfloat16"}, "sm_90"),
    "waves": (waves_case, {"dtype": "float16"}, "sm_90"),
    "float64": (softmax_case, {"dtype": "float64"}, "sm_90"),
    "matmul": (matmul_case, {"dtype": "bfloat16"}, "sm_80"),
    "matmul of odd shape": (matmul_case, {"dtype": "float16", "shape": (37, 45, 51)}, "sm_90"),
    "matmul in two stages": (matmul_case, {"num_stages": 2, "num_warps": 2}, "sm_89"),
    "matmul tf32": (matmul_case, {"dtype": "float32", "precision": "tf32"}, "sm_80"),
    "matmul of integers": (matmul_case, {"dtype": "int8"}, "sm_80"),
    "order": (order_case, {"dtype": "float32"}, "sm_90"),
    "total": (total_case, {"dtype": "float32"}, "sm_90"),
    "decode": (decode_case, {}, "sm_90"),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_it_ends_as_the_real_number(name):
    case, options, target = LAUNCHES[name]
    case = make(case, **options)
    settings = {"readable": case.readable, "shadow": "float64", "rounding": [("*", 0)]}
    report = ptx.run(case.kernel, case.grid, **case.arguments, **settings, target=target)
    floats = [x for x in case.truth if case.arguments[x].dtype.name in FLOATS]
    assert set(floats) <= set(report.shadow.arrays)
    for array in floats:
        with np.errstate(all="ignore"):
            real, shadow = case.arguments[array].astype(np.float64), report.shadow.arrays[array]
        assert np.allclose(shadow, real, rtol=1e-12, atol=1e-30, equal_nan=True), array
