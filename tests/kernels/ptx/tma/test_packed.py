"""Boxes of packed elements, 16 of 4 or 6 bits, padded to 16 bytes in shared memory; by PTX written by hand."""

import re

import numpy as np
import pytest

from kvproof.kernels.ptx import InvalidTensorMap, Misaligned, OutOfBounds, Uninitialised
from kvproof.kernels.ptx.tma.host import Descriptor
from kvproof.kernels.ptx.tma.tensor_map import encode, faults

from ._by_hand import BAR, ENDED, EXPECT, INIT, WAIT, run, tensor

HELD = {14: 8, 15: 12}  # type -> bytes of 16 elements: b4x16_p64, b6x16_p32
ROWS = 16


def packed(rows: int, columns: int, kind: int) -> np.ndarray:
    """Bytes of (rows, columns) elements, none zero, in an array that begins at a multiple of 32."""
    bytes = columns // 16 * HELD[kind]
    room = np.zeros(rows * bytes + 32, np.uint8)
    first = -room.ctypes.data % 32
    found = room[first : first + rows * bytes].reshape(rows, bytes)
    found[...] = np.random.default_rng(kind).integers(1, 256, found.shape)
    return found


def map_of(array: np.ndarray, kind: int, **fields) -> Descriptor:
    columns = array.shape[1] // HELD[kind] * 16
    return tensor(array, [128, ROWS], kind, **{"global_dim": [columns, len(array)], **fields})


def loaded(map: Descriptor, kind: int, at: list[int], read: int | None = None) -> np.ndarray:
    """What a box leaves in the first bytes of each 16, as 128 threads read it word by word, up to byte `read`."""
    held = HELD[kind]
    out = np.zeros((ROWS * 8, held // 4), np.uint32)
    body = INIT + EXPECT.format(ROWS * 8 * held)
    body += "@%p1 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes "
    body += f"[0], [%rd2, {{{at[0]}, {at[1]}}}], [{BAR}]; {WAIT.format(0, 0)}"
    body += f"shl.b32 %r3, %r1, 4; mul.wide.u32 %rd3, %r1, {held}; add.u64 %rd4, %rd1, %rd3; "
    for n in range(0, read or held, 4):
        body += f"ld.shared.b32 %r4, [%r3+{n}]; st.global.b32 [%rd4+{min(n, held - 4)}], %r4; "
    run(body + "ret;", out, map, threads=128)
    return out.view(np.uint8)


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize(("swizzle", "at"), [(0, [0, 0]), (3, [128, 0]), (0, [128, 15]), (3, [-128, 3]), (3, [256, 3])])
def test_each_sixteen_elements_lie_in_16_bytes(kind, swizzle, at):
    array, held = packed(20, 256, kind), HELD[kind]
    found = loaded(map_of(array, kind, swizzle_mode=swizzle), kind, at).reshape(ROWS, 8, held)
    for r in range(ROWS):
        for j in range(8):
            row, first = at[1] + r, at[0] // 16 * held + j * held
            inside = row < 20 and 0 <= first < array.shape[1]
            expected = array[row, first : first + held] if inside else np.zeros(held, np.uint8)
            assert np.array_equal(found[r, j ^ (r % 8 if swizzle else 0)], expected), (r, j)


def test_the_padding_is_read_by_nobody():
    with pytest.raises(Uninitialised, match="4 bytes at 8 of shared memory that nothing has written"):
        loaded(map_of(packed(20, 256, 14), 14), 14, [0, 0], read=12)


def test_a_box_begins_at_a_multiple_of_128_elements():
    with pytest.raises(Misaligned, match=r"is 64 of packed elements, b4x16_p64; a box begins at a multiple of 128"):
        loaded(map_of(packed(20, 256, 14), 14), 14, [64, 0])


def test_an_access_past_the_array_names_the_element():
    array = packed(20, 256, 14)
    with pytest.raises(OutOfBounds, match=r"element \[20, 128\] of a tensor map"):
        loaded(map_of(array, 14, global_dim=[256, 40]), 14, [128, 8])


def test_packed_elements_are_not_stored():
    map = map_of(packed(20, 256, 14), 14)
    store = "mov.b32 %r3, 7; shl.b32 %r4, %r1, 4; st.shared.v4.b32 [%r4], {%r3, %r3, %r3, %r3}; "
    store += "fence.proxy.async.shared::cta; bar.sync 0; "
    store += "@%p1 cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd1, {0, 0}], [0]; "
    with pytest.raises(InvalidTensorMap, match="b4x16_p64 are loaded, and neither stored nor reduced"):
        run(store + ENDED + "ret;", map, threads=128)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"box_dim": [64, 4]}, r"box_dim\[0\] is 64, .* it must be 128"),
        ({"global_dim": [192, 20]}, r"global_dim\[0\] is 192, .* a multiple of 128"),
        ({"global_address": 48}, "global_address is 48, .* a multiple of 32"),
        ({"global_stride": [48]}, r"global_stride\[0\] is 48, .* a multiple of 32 bytes"),
        ({"swizzle_mode": 2}, r"swizzle_mode is 2, .* 0, or 3 \(128 bytes\)"),
        ({"fill_mode": 1}, r"fill_mode is 1, .* 0 \(zeros\)"),
        ({"elemtype": 13}, "elemtype is 13; it must be 0 to 15, but for 13: b4x16, packed without padding"),
    ],
)
def test_the_rules_of_packed_types(change, what):
    fields = map_of(packed(20, 256, 14), 14).fields | {"global_address": 64}
    assert not faults(encode(fields)[0])
    assert re.search(what, faults(encode(fields | change)[0]))
