"""tl.dot_scaled on every target, by whatever instructions Triton has for it there; and block scaling by hand."""

import itertools
import re

import ml_dtypes
import numpy as np
import pytest

from kvproof.kernels import ptx
from kvproof.kernels.ptx import Undefined, UnknownOpcode, launch
from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.launch import buffer  # pyright: ignore[reportPrivateImportUsage]
from kvproof.kernels.ptx.tensor_core import mma_scaled, numbers

from ._scaled import Scaled, scaled

CASES = [
    ("sm_80", "e5m2", "e2m1", 32, "mma.sync"), ("sm_89", "e4m3", "e4m3", 32, "mma.sync"),
    ("sm_90", "e4m3", "e4m3", 32, "wgmma"), ("sm_90", "bf16", "e2m1", 32, "wgmma"),
    ("sm_100", "bf16", "e2m1", 32, "tcgen05.mma.*f16"), ("sm_100", "e4m3", "e5m2", 32, "tcgen05.*mxf8f6f4.block_scale"),
    ("sm_100", "e5m2", "e2m1", 32, "tcgen05.*mxf8f6f4.block_scale"), ("sm_100", "e2m1", "e2m1", 32, "tcgen05.*mxf4.b"),
    ("sm_100", "e2m1", "e2m1", 16, "tcgen05.*mxf4nvf4.block_scale"),
    ("sm_120", "e4m3", "e4m3", 32, "mma.sync.*mxf8f6f4.block_scale"),
    ("sm_120", "e2m1", "e2m1", 32, "mma.sync.*2X"), ("sm_120", "e2m1", "e2m1", 16, "mma.sync.*4X.*ue4m3"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "A", "B", "block", "unit"), CASES)
def test_a_scaled_product_is_that_of_the_scaled_matrices(target, A, B, block, unit):
    product = Scaled(A, B, block)
    report = ptx.run(scaled, 1, *product.args, target=target)
    assert any(re.match(unit, i.opcode) for i, _ in report.by_instruction)
    assert product.error() < 8 * 2**-24


def edited(product: Scaled, edit) -> None:
    """Launch it on sm_100 with its PTX edited."""
    compiled = compile(scaled, product.args, {}, "sm_100")
    text = edit(compiled.ptx)
    assert text != compiled.ptx
    arguments = [(name, buffer(name, x)) for name, x in compiled.arguments]
    launch.execute(text, (1, 1, 1), arguments, name="scaled", target="sm_100", shared=compiled.shared, num_warps=4)


def test_a_wrong_byte_of_the_scales_gives_a_wrong_product():
    product = Scaled("e4m3", "e4m3")
    edited(product, lambda text: re.sub(r"(mov\.b32 \s*%r\d+, )680591376;", rf"\g<1>{680591376 ^ 3 << 29};", text))
    assert product.error() > 0.01


def test_scales_that_differ_between_quarters_of_the_lanes_are_reported():
    store = r"(tcgen05\.st\.sync\.aligned\.32x32b\.x4\.b32 \[%r\d+ \+ 0\], \{)%r\d+"
    with pytest.raises(Undefined, match="not the same in all four quarters") as caught:
        edited(Scaled("e4m3", "e4m3"), lambda text: re.sub(store, r"\1%r1", text))
    assert "block_scale" in (caught.value.opcode or "")


def test_numbers_of_four_bits_and_scales_are_ml_dtypes_own():
    bytes = np.arange(256, dtype=np.uint8)
    want = np.stack([bytes & 15, bytes >> 4], -1).reshape(-1).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    assert np.array_equal(numbers.of_four_bits(bytes[:, None]).reshape(-1), want)
    powers = bytes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    assert np.array_equal(numbers.scales(bytes, "ue8m0"), powers, equal_nan=True)
    positive = (bytes & 0x7F).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert np.array_equal(numbers.scales(bytes, "ue4m3"), positive, equal_nan=True)


@pytest.mark.parametrize(("thread", "byte"), [(0, 0), (1, 2)])
def test_the_scales_of_mma_lie_where_the_isa_says(thread, byte):
    """Of A: rows g in thread 2 * thread-id of each four, rows g + 8 in the next; of B: columns g in thread-id."""
    rng = np.random.default_rng(thread)
    register = rng.integers(0, 1 << 32, (1, 32), dtype=np.uint32)
    f = mma_scaled.Form(64, "e2m1", "e2m1", 2, "ue8m0")
    of_a = mma_scaled.of_rows(f, register, byte, 2 * thread, 2)
    of_b = mma_scaled.of_rows(f, register, byte, thread, 1)
    for g, n in itertools.product(range(8), range(2)):
        for row, lane in ((g, 4 * g + 2 * thread), (g + 8, 4 * g + 2 * thread + 1)):
            assert of_a[0, 0, row, n] == 2.0 ** ((int(register[0, lane]) >> 8 * (byte + n) & 255) - 127)
        assert of_b[0, 0, g, n] == 2.0 ** ((int(register[0, 4 * g + thread]) >> 8 * (byte + n) & 255) - 127)


UNKNOWN = """m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::2X.f32.e4m3.e4m3.f32.ue8m0
m16n8k32.row.col.kind::mxf8f6f4.block_scale.f32.e2m1.e4m3.f32.ue8m0
m16n8k32.row.col.kind::mxf4.block_scale.f32.e2m1.e2m1.f32.ue8m0
m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue4m3"""


@pytest.mark.parametrize("shape", UNKNOWN.split("\n"))
def test_a_scaled_mma_it_does_not_know_is_refused_by_name(shape):
    with pytest.raises(UnknownOpcode, match="shapes, types and scales"):
        mma_scaled.form(f"mma.sync.aligned.{shape}")
