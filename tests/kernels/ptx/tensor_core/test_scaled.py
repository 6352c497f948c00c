"""tl.dot_scaled on every target, by whatever instructions Triton has for it there."""

import re

import pytest

from kvproof.kernels import ptx

from ._scaled import Scaled, scaled

PLAIN = [
    ("sm_80", "e2m1", "e2m1", "mma.sync"), ("sm_80", "e5m2", "e2m1", "mma.sync"), ("sm_89", "e4m3", "e4m3", "mma.sync"),
    ("sm_90", "e4m3", "e4m3", "wgmma"), ("sm_90", "e2m1", "e2m1", "wgmma"), ("sm_90", "bf16", "e2m1", "wgmma"),
    ("sm_100", "bf16", "e2m1", "tcgen05.mma"), ("sm_120", "bf16", "e4m3", "mma.sync"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "A", "B", "unit"), PLAIN)
def test_a_scaled_product_is_that_of_the_scaled_matrices(target, A, B, unit):
    product = Scaled(A, B)
    report = ptx.run(scaled, 1, *product.args, target=target)
    used = {i.opcode for i, _ in report.by_instruction if re.match(unit, i.opcode)}
    assert used
    assert product.error() < 8 * 2**-24
