"""Products of tiles of many shapes, drawn at random, on every target with a tensor core of its own kind."""

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl

from kvproof.kernels import ptx

from ._matmul import Product, opcodes

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
UNITS = {"sm_80": "mma.sync", "sm_89": "mma.sync", "sm_90": "wgmma.mma", "sm_100": "tcgen05.mma", "sm_120": "mma.sync"}


def drawn(seed: int) -> tuple[torch.dtype, dict[str, Any]]:
    """A type and the options of a product."""
    rng = np.random.default_rng(seed)
    pick = lambda *values: values[rng.integers(len(values))]  # noqa: E731
    dtype, target = pick(*TYPES), pick("sm_90", "sm_90", "sm_90", "sm_100", "sm_100", "sm_120", "sm_89", "sm_80")
    if target == "sm_80" and dtype == torch.float8_e4m3fn:
        dtype = torch.float16
    BM, warps, BK = pick(64, 128, 256), pick(4, 8), pick(16, 32, 64, 128)
    BN = pick(8, 16, 32, 64, 128, 256) if target == "sm_90" else pick(16, 32, 64, 128)
    BK = max(BK, 32) if dtype.itemsize == 1 else BK
    options = {"ta": bool(pick(0, 1)), "tb": bool(pick(0, 1)), "stages": pick(1, 2, 3, 4), "num_warps": warps}
    if dtype == torch.float16 and rng.random() < 0.2:
        options["acc"] = tl.float16
    sizes = {"BM": BM, "BN": BN, "BK": BK, "M": BM * pick(1, 2), "N": BN * pick(1, 2), "K": BK * pick(1, 2, 5)}
    return dtype, {**sizes, **options, "target": target}


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=[] if n in (1, 3, 5) else [pytest.mark.exhaustive]) for n in range(200)]
)
def test_a_product_of_any_shape_is_that_of_the_matrices(seed):
    dtype, options = drawn(seed)
    product = Product(dtype, **options)
    try:
        report = product.run()
    except ptx.OutOfResources:
        pytest.skip(f"{options} takes more shared memory than {options['target']} has")
    assert opcodes(report, UNITS[options["target"]])
    K = options["K"]
    limit = 0 if dtype == torch.int8 else K * 2**-11 if "acc" in options else K * 2**-24
    assert product.error() <= limit
