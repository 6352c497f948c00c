"""Where the elements of a box come from and where they go, against loops over its elements; all by hand-written PTX."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from kvproof.kernels.ptx import InvalidTensorMap, Uninitialised, UnknownOpcode

from ._by_hand import BAR, ENDED, EXPECT, INIT, WAIT, loaded, run, tensor

U8, U16, F32 = 0, 1, 7
RNG = np.random.default_rng(0)


def elements(array: np.ndarray, places: Iterator[tuple[int, ...]], fill: int = 0) -> np.ndarray:
    """The elements at places, outermost coordinate first, `fill` outside of the array: their bytes."""
    inside = lambda at: all(0 <= x < n for x, n in zip(at, array.shape, strict=True))  # noqa: E731
    return np.array([array[at] if inside(at) else fill for at in places], array.dtype).view(np.uint8)


def places(box: list[int], steps: list[int], at: list[int]) -> Iterator[tuple[int, ...]]:
    """Those of a tiled box, all arguments innermost first."""
    axes = [range(x, x + n, step) for x, n, step in zip(at, box, steps, strict=True)]
    return itertools.product(*axes[::-1])


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_tiled_boxes_of_any_rank_step_and_place(rank):
    for n in range(4):
        shape = [int(x) for x in RNG.integers(2, 7, rank - 1)] + [int(RNG.integers(2, 6)) * 8]
        array = RNG.integers(1, 1 << 16, shape).astype(np.uint16)
        box = [int(RNG.integers(1, 4)) * 8, *(int(x) for x in RNG.integers(1, 5, rank - 1))]
        steps = [1, *(int(x) for x in RNG.integers(1, 4, rank - 1))] if n else [1] * rank
        at = [int(RNG.integers(-2, 4)) * 8, *(int(x) for x in RNG.integers(-2, 5, rank - 1))]
        expected = elements(array, places(box, steps, at))
        found = loaded(array, tensor(array, box, U16, element_stride=steps), at, expected.size)
        assert np.array_equal(found, expected), (shape, box, steps, at)


def test_the_innermost_step_is_ignored():
    array = RNG.integers(1, 256, (4, 32)).astype(np.uint8)
    found = loaded(array, tensor(array, [32, 4], U8, element_stride=[4, 1]), [0, 0], 128)
    assert np.array_equal(found, array.ravel())


# The order of pieces of 16 bytes within lines of 128 bytes, line by line, as the ISA's figures have it.
ORDER = {
    0: [[*range(8)]],
    1: [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]],
    2: [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6], [2, 3, 0, 1, 6, 7, 4, 5], [3, 2, 1, 0, 7, 6, 5, 4]],
    3: [[x ^ line for x in range(8)] for line in range(8)],
}


@pytest.mark.parametrize(("mode", "columns"), [(0, 48), (1, 32), (2, 64), (3, 128)])
def test_swizzles_move_pieces_within_lines(mode, columns):
    array = RNG.integers(0, 256, (40, columns)).astype(np.uint8)
    rows = 2048 // columns
    plain = elements(array, places([columns, rows], [1, 1], [0, 0])).reshape(-1, 16)
    if mode == 0:
        assert np.array_equal(loaded(array, tensor(array, [columns, rows], U8), [0, 0], plain.size), plain.ravel())
        return
    found = loaded(array, tensor(array, [columns, rows], U8, swizzle_mode=mode), [0, 0], 2048).reshape(-1, 8, 16)
    lines = plain.reshape(-1, 8, 16)
    for n, line in enumerate(lines):
        order = ORDER[mode][n % len(ORDER[mode])]
        assert all(np.array_equal(found[n, order[x]], line[x]) for x in range(8))


def test_rows_are_gathered_by_four():
    array = RNG.integers(0, 256, (10, 64)).astype(np.uint8)
    found = loaded(array, tensor(array, [32, 1], U8), [16, 7, -1, 3, 10], 128, "tile::gather4")
    expected = elements(array, ((row, column) for row in (7, -1, 3, 10) for column in range(16, 48)))
    assert np.array_equal(found, expected)


def pixels(array, lower, upper, steps, at, offsets, count, channels) -> Iterator[tuple[int, ...]]:
    """Places of an im2col box: a walk over the pixels of a bounding box. All but the array are innermost first."""
    sizes = array.shape[-2:0:-1]  # W, H, D
    where = [*at[1:]]
    for _ in range(count):
        for channel in range(at[0], at[0] + channels):
            moved = [x + offset for x, offset in zip(where[:-1], offsets, strict=True)]
            yield (where[-1], *moved[::-1], channel)
        for axis in range(len(where)):
            where[axis] += steps[axis + 1] if axis < len(sizes) else 1
            if axis == len(sizes) or where[axis] <= sizes[axis] - 1 + upper[axis]:
                break
            where[axis] = lower[axis]


@pytest.mark.parametrize(
    ("shape", "lower", "upper", "steps", "at", "offsets"),
    [
        ((2, 9, 32), [0], [0], [1, 1, 1], [0, 4, 0], [0]),
        ((2, 9, 32), [-1], [1], [1, 2, 1], [16, -1, 0], [1]),
        ((3, 4, 5, 32), [0, 0], [0, 0], [1, 1, 1, 1], [0, 3, 1, 0], [0, 0]),
        ((3, 4, 5, 32), [-1, -1], [-1, -1], [1, 1, 1, 1], [0, -1, -1, 0], [2, 1]),
        ((3, 5, 7, 32), [-1, -1], [1, 0], [1, 2, 3, 1], [0, 1, 2, 1], [0, 2]),
        ((2, 3, 4, 5, 32), [-1, 0, -2], [0, 0, -1], [1, 1, 2, 1, 1], [0, 2, 2, 0, 0], [1, 0, 2]),
    ],
)
def test_im2col_walks_over_the_pixels_of_a_bounding_box(shape, lower, upper, steps, at, offsets):
    array = RNG.integers(1, 256, shape).astype(np.uint8)
    fields = {"mode": 1, "lower_corner": lower, "upper_corner": upper, "element_stride": steps}
    map = tensor(array, [16, 24, *[1] * (len(shape) - 2)], U8, **fields)
    expected = elements(array, pixels(array, lower, upper, steps, at, offsets, 24, 16))
    found = loaded(array, map, at, expected.size, "im2col", f", {{{', '.join(str(x) for x in offsets)}}}")
    assert np.array_equal(found, expected)


def test_a_copy_and_its_map_must_fit():
    array = np.zeros((4, 4, 32), np.uint8)
    with pytest.raises(InvalidTensorMap, match="has 3 dimensions, tiled; the instruction takes 2, tile"):
        loaded(array, tensor(array, [32, 4, 1], U8), [0, 0], 128)
    with pytest.raises(InvalidTensorMap, match="has 3 dimensions, tiled; the instruction takes 3, im2col"):
        loaded(array, tensor(array, [32, 4, 1], U8), [0, 0, 0], 128, "im2col", ", {0}")


def test_programs_may_have_maps_that_differ():
    a, b = (RNG.integers(1, 256, shape).astype(np.uint8) for shape in ((4, 64), (6, 32)))
    out = np.zeros(2 * 256, np.uint8)
    body = "setp.eq.u32 %p3, %r2, 0; selp.b64 %rd9, %rd2, %rd3, %p3; selp.b32 %r9, 128, 96, %p3; " + INIT
    body += f"@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [{BAR}], %r9; mul.wide.u32 %rd10, %r2, 256; "
    body += "@%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [0], "
    body += f"[%rd9, {{16, %r2}}], [{BAR}], %rd10; add.u64 %rd11, %rd1, %rd10; " + WAIT.format(0, 0)
    body += "@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd11], [0], %r9; " + ENDED + "ret;"
    run(body, out, tensor(a, [32, 4], U8), tensor(b, [16, 6], U8), programs=2)
    assert np.array_equal(out[:128], a[:, 16:48].ravel())
    assert np.array_equal(out[256:352], np.vstack([b[1:, 16:32], np.zeros((1, 16), np.uint8)]).ravel())


def test_what_lies_outside_is_not_even_read_from_shared_memory():
    out = np.zeros((3, 16), np.uint8)
    body = "shl.b32 %r9, %r1, 2; setp.lt.u32 %p3, %r1, 12; @%p3 st.shared.b32 [%r9], 0x01010101; "  # three rows of four
    body += "fence.proxy.async.shared::cta; bar.sync 0; "
    copy = "@%p1 cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd1, {{0, {}}}], [0]; "
    run(body + copy.format(0) + ENDED + "ret;", tensor(out, [16, 4], U8))
    assert (out == 1).all()
    with pytest.raises(Uninitialised, match="16 bytes at 48 of shared memory that nothing has written"):
        run(body + copy.format(-1) + ENDED + "ret;", tensor(out, [16, 4], U8))


@pytest.mark.parametrize("nan", [0, 1])
def test_what_fills_a_box_outside(nan):
    array = RNG.standard_normal((3, 8)).astype(np.float32)
    found = loaded(array, tensor(array, [8, 4], F32, fill_mode=nan), [4, 1], 128).view(np.float32).reshape(4, 8)
    assert np.array_equal(found[:2, :4], array[1:, 4:])
    assert (np.isnan(found) if nan else found == 0)[2:].all()
    assert (np.isnan(found) if nan else found == 0)[:, 4:].all()


def test_subnormals_become_zeros_where_the_type_says_so():
    array = np.array([[1, 1e-40, -1e-40, np.inf] * 2], np.float32)
    found = loaded(array, tensor(array, [8, 1], 8), [0, 0], 32).view(np.float32)
    assert np.array_equal(found, [1, 0, 0, np.inf] * 2)
    assert np.signbit(found[2])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((".shared::cta", ".shared::cta.multicast::cluster"), "copies into other programs of a cluster"),
        ((".mbarrier::complete_tx::bytes", ".mbarrier::complete_tx::bytes.cta_group::2"), "pairs of programs"),
        ((".global", ".global.tile::nothing"), ".tile::nothing is not known here"),
        ((".2d", ".6d"), ".6d is not known here"),
    ],
)
def test_forms_that_are_not_modelled_are_named(change, why):
    opcode = "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes".replace(*change)
    array, mask = np.zeros((4, 32), np.uint8), ", 3" if "multicast" in opcode else ""
    body = INIT + EXPECT.format(128) + f"@%p1 {opcode} [0], [%rd2, {{0, 0}}], [{BAR}]{mask}; ret;"
    with pytest.raises(UnknownOpcode, match=why):
        run(body, np.zeros(4, np.uint8), tensor(array, [32, 4], U8))
    if mask:
        run(
            body.replace(mask, ", 1").replace("ret;", WAIT.format(0, 0) + "ret;"),
            np.zeros(4, np.uint8),
            tensor(array, [32, 4], U8),
        )
