"""Kernels with tensor descriptors: loads, stores, reductions, gathers and scatters, against torch's indexing."""

import numpy as np
import pytest
import torch
from triton.experimental.gluon import language as ttgl
from triton.experimental.gluon.nvidia import hopper

from kvproof.kernels import ptx

from ._kernels import (
    COPIES,
    SHAPE,
    add_one,
    add_one_made,
    add_one_to_groups,
    descriptor,
    double_ragged,
    image,
    matmul,
    matmul_persistent,
    numbers,
    reduce,
    row_sums,
    rows_of,
    transpose,
    view,
)

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
FLOATS_8 = [torch.float8_e4m3fn, torch.float8_e5m2]
SHAPES = {1: (1000,), 2: (50, 144), 3: (5, 20, 48), 4: (3, 5, 6, 32), 5: (2, 3, 4, 5, 16)}
BLOCKS = {1: (256,), 2: (16, 64), 3: (2, 8, 32), 4: (1, 2, 4, 32), 5: (1, 2, 4, 4, 16)}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


TYPES = (*INTEGERS, *FLOATS, *FLOATS_8)
CASES = [(2, x, -3, -16) for x in TYPES]
CASES += [(r, torch.float16, *at) for r in SHAPES for at in ((0, 0), (1, 8), (-1, -8))]


@pytest.mark.parametrize(("rank", "dtype", "at", "last"), CASES, ids=str)
def test_boxes_are_copied_but_for_what_lies_outside(rank, dtype, at, last):
    shape, block = SHAPES[rank], BLOCKS[rank]
    x = numbers(shape, dtype)
    y = torch.zeros_like(x)
    boxes = [-(-n // b) if axis < 3 else 1 for axis, (n, b) in enumerate(zip(shape, block, strict=True))]
    ptx.run(COPIES[rank], tuple(boxes[:3]), descriptor(x, *block), descriptor(y, *block), at, last, *block)
    starts = [at] * (rank - 1) + [last]
    covered = tuple(
        slice(max(start, 0), max(many * b + start, 0)) for start, many, b in zip(starts, boxes, block, strict=True)
    )
    expected = torch.zeros_like(x)
    expected[covered] = x[covered]
    assert same_bits(y, expected)


FILLED = [(torch.int8, "zero"), (torch.float16, "zero"), *((x, "nan") for x in FLOATS)]


@pytest.mark.parametrize("block", [(8, 16), (8, 32), (8, 64), (16, 128), (16, 256)], ids=str)
@pytest.mark.parametrize(("dtype", "padding"), FILLED, ids=str)
def test_every_swizzle_and_what_fills_a_box_outside_of_the_tensor(dtype, block, padding):
    x, out = numbers((12, 208), dtype), torch.zeros(block, dtype=dtype)
    report = ptx.run(view, 1, descriptor(x, *block, padding=padding), out, -5, -16, *block)
    swizzle = {16: 0, 32: 1, 64: 2}.get(block[1] * dtype.itemsize, 3)
    assert report.metadata.tensordesc_meta[0]["swizzle"] == swizzle
    expected = torch.full(block, float("nan") if padding == "nan" else 0).to(dtype)
    part = x[: block[0] - 5, : block[1] - 16] if block[0] > 5 else x[:0]
    expected[5 : 5 + len(part), 16 : 16 + part.shape[1]] = part
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("num_warps", "seed"), [(1, None), (1, 0), (4, None), (4, 1), (8, 0)])
def test_kernels_of_several_warps_in_any_schedule(num_warps, seed):
    x = numbers((64, 64), torch.float16)
    y, sums = torch.zeros_like(x), torch.zeros(64)
    settings = {"num_warps": num_warps, "seed": seed}
    ptx.run(transpose, (2, 2), descriptor(x, 32, 32), descriptor(y, 32, 32), 32, **settings)
    assert torch.equal(y, x.T)
    ptx.run(row_sums, 4, descriptor(x, 16, 32), sums, 64, 16, 32, **settings)
    assert torch.equal(sums, x.float().sum(1))


WHOLE = [torch.int32, torch.uint32, torch.int64, torch.uint64]
REDUCED = {
    "add": [torch.int32, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32],
    **{name: [*WHOLE, torch.float16, torch.bfloat16] for name in ("min", "max")},
    **dict.fromkeys(("and", "or", "xor"), WHOLE),
}  # fmt: skip
FUNCTIONS = {
    "add": torch.add, "min": torch.minimum, "max": torch.maximum,
    "and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor,
}  # fmt: skip


@pytest.mark.parametrize(("operation", "dtype"), [(op, t) for op, types in REDUCED.items() for t in types], ids=str)
def test_reductions_of_several_programs_into_one_box(operation, dtype):
    x, y = numbers((32, 32), dtype, most=30), numbers((12, 48), dtype, seed=1, most=30)
    expected = y.to(torch.float64 if dtype.is_floating_point else torch.int64)
    for part in x.to(expected.dtype).split(8):
        expected[2:10, 16:48] = FUNCTIONS[operation](expected[2:10, 16:48], part)
    ptx.run(reduce, 4, descriptor(x, 8, 32), descriptor(y, 8, 32), operation, 8, 32)
    assert torch.equal(y.to(expected.dtype), expected)


def test_a_reduction_that_reaches_past_the_end_leaves_the_rest_alone():
    x, y = numbers((8, 32), torch.float32), torch.zeros(6, 24)
    ptx.run(reduce, 1, descriptor(x, 8, 32), descriptor(y, 8, 32), "add", 8, 32)
    assert torch.equal(y[2:, 16:], x[:4, :8])
    assert not y[:2].any()
    assert not y[:, :16].any()


@pytest.mark.parametrize("at", [0, 16, -16])
@pytest.mark.parametrize(("n", "dtype"), [(8, torch.float16), (32, torch.float32), (16, torch.int8)], ids=str)
def test_rows_are_gathered_and_scattered(n, dtype, at):
    x = numbers((40, 96), dtype)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:n].to(torch.int32)
    rows[3] = 50  # no row of the tensor
    y, expected = torch.zeros_like(x), torch.zeros_like(x)
    ptx.run(rows_of, 1, descriptor(x, 1, 32), descriptor(y, 1, 32), rows, at, 16, n, target="sm_100")
    kept = rows[rows < 40].long()
    from_, to = max(at, 0), max(at, 0) - at + 16
    expected[kept, to:48] = x[kept, from_ : at + 32]
    assert same_bits(y, expected)


@pytest.mark.parametrize(("target", "seed"), [("sm_90", None), ("sm_90", 0), ("sm_100", None), ("sm_80", None)])
def test_descriptors_made_by_the_kernel_and_by_the_host_do_the_same(target, seed):
    whole = numbers((50, 272), torch.float16)
    x = whole[:, :136]  # of another stride
    y, z = torch.zeros(50, 272, dtype=torch.float16)[:, :136], torch.zeros_like(whole)[:, :136]
    ptx.run(add_one_made, 4, x, y, 50, 136, 272, 16, 64, target=target, seed=seed)
    ptx.run(add_one, 4, descriptor(x), descriptor(z), 136, 16, 64, target=target, seed=seed)
    assert torch.equal(y, x + 1)
    assert torch.equal(z, x + 1)


def test_numpy_arrays_and_a_tensor_map_of_its_own_for_every_program():
    x = np.arange(6 * 16 * 32, dtype=np.float32).reshape(6, 16, 32)
    y = np.zeros_like(x)
    ptx.run(double_ragged, 6, x, y, np.array([16, 9, 16, 1, 9, 4], np.int32), 16, 32)
    for n, rows in enumerate([16, 9, 16, 1, 9, 4]):
        assert np.array_equal(y[n, :rows], 2 * x[n, :rows])
        assert not y[n, rows:].any()


@pytest.mark.parametrize("seed", [None, 0])
def test_programs_that_make_map_after_map_and_part_ways(seed):
    rows = [40, 0, 16, 100]
    inputs = [numbers((n, 64), torch.float16, n) for n in rows]
    outputs = [torch.zeros_like(x) for x in inputs]
    tables = [torch.tensor([x.data_ptr() for x in arrays]) for arrays in (inputs, outputs)]
    ptx.run(add_one_to_groups, 2, *tables, torch.tensor(rows, dtype=torch.int32), 4, 16, 64, seed=seed)
    assert all(torch.equal(y, x + 1) for x, y in zip(inputs, outputs, strict=True))


def test_float32_is_rounded_to_tf32_where_a_descriptor_asks_for_it():
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    x[0, :3] = torch.tensor([float("inf"), float("nan"), 1 + 2.0**-11])  # the last lies halfway
    out = torch.zeros_like(x)
    ptx.run(view, 1, descriptor(x, round_f32_to_tf32=True), out, 0, 0, 16, 64)
    assert not (out[1:].view(torch.int32) & 0x1FFF).any()
    assert (out[1:] - x[1:]).abs().max() <= x[1:].abs().max() * 2.0**-11
    assert torch.isnan(out[0, 1])
    assert out[0, 0] == float("inf")
    assert out[0, 2] == 1 + 2.0**-10


def test_a_report_counts_what_was_copied():
    x = numbers(SHAPE, torch.float16)
    report = ptx.run(add_one, 4, descriptor(x), descriptor(torch.zeros_like(x)), 256, 16, 64)
    assert report.total.loaded.bytes == report.total.stored.bytes == x.nbytes
    assert report.total.loaded.sectors == report.total.stored.sectors == x.nbytes // 32
    assert report.unique["a"] == x.nbytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("how", ["a tile each", "persistent", "warps apart"])
def test_matrix_products_of_boxes(how, dtype):
    M, N, K = 96, 80, 144
    a, b, c = numbers((M, K), dtype, most=4), numbers((N, K), dtype, 1, most=4), torch.zeros(M, N)
    given = descriptor(a, 64, 32), descriptor(b, 64, 32), descriptor(c, 64, 64)
    if how == "a tile each":
        ptx.run(matmul, (2, 2), *given, K, 64, 64, 32)
    else:
        ptx.run(matmul_persistent, 3, *given, M, N, K, 64, 64, 32, how == "warps apart")
    assert torch.equal(c, a.float() @ b.float().T)


@pytest.mark.parametrize(("corner", "offsets"), [(0, (0, 0)), (-1, (0, 0)), (-1, (1, 1))])
def test_gluon_loads_pixels_of_images(corner, offsets):
    x, out = numbers((2, 4, 4, 32), torch.float32), torch.zeros(16, 32)
    layout = ttgl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=32, rank=2)
    both = [corner, corner]
    a = hopper.TensorDescriptorIm2Col.from_tensor(
        x, [16, 32], layout, pixel_box_lower_corner=both, pixel_box_upper_corner=both
    )
    ptx.run(image, 1, a, hopper.TensorDescriptor.from_tensor(out, [16, 32], layout), 0, 1, 2, *offsets, num_warps=1)
    # Windows of 4 x 4 pixels, moved by the corner and the offsets, one image after the other.
    moved = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    down, right = (1 + corner + offset for offset in offsets)
    window = moved[:, down : down + 4, right : right + 4].reshape(-1, 32)
    first = (1 - corner) * 4 + 2 - corner
    assert torch.equal(out, window[first : first + 16])
