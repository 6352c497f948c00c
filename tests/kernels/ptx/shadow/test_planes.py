"""Twins in memory: they count while memory holds the bytes they were stored with."""

import numpy as np

from kvproof.kernels.ptx.shadow.formats import exact
from kvproof.kernels.ptx.shadow.planes import Plane, paired

FLOATS = np.array([[1.5, -2.0, 3.25, 0.1]], np.float32).view(np.uint32)
AT = np.array([[0, 4, 8, 12]]) // 2


def test_a_twin_is_read_while_its_bytes_are_there():
    plane = Plane(1, 64)
    assert np.array_equal(plane.read(AT, AT, FLOATS, "f32"), exact(FLOATS, "f32"))
    plane.write(AT, AT, FLOATS, "f32", np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[True, True, False, True]]))
    assert plane.read(AT, AT, FLOATS, "f32").tolist() == [[1.0, 2.0, 3.25, 4.0]]
    other = FLOATS.copy()
    other[0, 1] += 1
    assert plane.read(AT, AT, other, "f32")[0, 1] == exact(other, "f32")[0, 1]
    assert plane.read(AT, AT, FLOATS, "bf16x2").real[0, 0] == 0.0  # of another format


def test_a_store_of_what_has_no_twin_takes_it_away():
    plane = Plane(1, 64)
    plane.write(AT, AT, FLOATS, "f32", np.full((1, 4), 9.0))
    plane.write(AT[:, :2], AT[:, :2], FLOATS[:, :2], None, np.zeros((1, 1)))
    assert plane.read(AT, AT, FLOATS, "f32").tolist() == [[1.5, -2.0, 9.0, 9.0]]


def test_a_pair_is_two_numbers_each_with_its_own_twin():
    plane, low = Plane(1, 64), np.array([[0, 2]])
    words = np.array([[0x3F803F80, 0x40003F80]], np.uint32)  # (1, 1), (1, 2) of bfloat16
    plane.write(low, low + 1, words, "bf16x2", paired(np.array([[1.01, 1.02]]), np.array([[1.03, 2.04]])))
    assert plane.read(low, low + 1, words, "bf16x2").tolist() == [[1.01 + 1.03j, 1.02 + 2.04j]]
    assert plane.read(low + 1, low + 1, words.view(np.uint16)[:, 1::2], "bf16").tolist() == [[1.03, 2.04]]


def test_cells_are_copied_with_all_that_is_known_of_them():
    one, two = Plane(1, 64), Plane(2, 64)
    one.write(AT, AT, FLOATS, "f32", np.full((1, 4), 9.0))
    at = np.arange(8) + two.cells
    two.take(at, one, np.arange(8))
    assert two.read(AT + two.cells, AT, FLOATS, "f32").tolist() == [[9.0] * 4]
    assert not two.holds(AT)
