"""Tensor maps: their bytes, the instructions that make them, and when a copy may use them."""

import numpy as np
import pytest

from kvproof.kernels.ptx import InvalidTensorMap, Misaligned, OutOfBounds, ParseError, UnknownOpcode
from kvproof.kernels.ptx.tma.tensor_map import BIT, DTYPE, FIELDS, SIZE, encode, fault, faults, lacking

from ._by_hand import BAR, EXPECT, INIT, MAP, OUT, WAIT, run, tensor

U8, F16, F32 = 0, 6, 7
BOX = {
    "rank": 1, "elemtype": U8, "global_address": 0, "global_dim": [64, 9], "global_stride": [64], "box_dim": [32, 4],
    "element_stride": [1, 1], "swizzle_mode": 0, "fill_mode": 0,
}  # fmt: skip


def test_a_map_is_128_bytes_whose_every_entry_has_a_bit():
    assert DTYPE.itemsize == SIZE == 128
    assert len(BIT) == sum(FIELDS.values()) == len(set(BIT.values())) <= 32
    made = encode(BOX)
    again = np.frombuffer(made.tobytes(), DTYPE)[0]
    assert list(again["global_dim"][:2]) == [64, 9]
    assert lacking(again) == faults(again) == ""


@pytest.mark.parametrize("key", [key for key in BIT if key != ("swizzle_atomicity", 0)], ids=str)
def test_a_map_lacks_what_was_not_set_within_its_rank(key):
    made = encode({**BOX, "rank": 4})
    made["known"] &= ~np.uint32(1 << BIT[key])
    name, entry = key
    assert lacking(made[0]) == (f"{name}[{entry}]" if FIELDS[name] > 1 else name)
    made["rank"] = 0
    assert (lacking(made[0]) == "") == (FIELDS[name] > 1 and (entry > 0 or name == "global_stride"))


# The edges of each rule of cuTensorMapEncodeTiled, and what lies just outside.
EDGES = [
    ("global_address", [0, 16, 1 << 47], [8, 17]),
    ("global_dim", [1, (1 << 32) - 1], [0]),
    ("global_stride", [0, 16, (1 << 40) - 16], [8, 1 << 40]),
    ("box_dim", [1, 256], [0, 257]),
    ("element_stride", [1, 8], [0, 9]),
    ("rank", [0, 4], [5]),
    ("elemtype", [0, 12, 14, 15], [13, 16]),
    ("interleave_layout", [0], [1, 2]),
    ("swizzle_mode", [0, 3], [4]),
    ("swizzle_atomicity", [0], [1]),
    ("fill_mode", [0, 1], [2]),
]


def test_the_rules_of_single_fields():
    assert {name for name, _, _ in EDGES} == set(FIELDS)
    for name, good, bad in EDGES:
        assert not any(fault(name, 0, x) for x in good), name
        assert all(f"{name}" in fault(name, 0, x) and f"is {x}; it must be" in fault(name, 0, x) for x in bad), name


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"box_dim": [24, 4]}, "24 bytes; it must be a multiple of 16"),
        ({"box_dim": [12, 4], "elemtype": F16}, "24 bytes; it must be a multiple of 16"),
        ({"box_dim": [48, 4], "swizzle_mode": 1}, "48 bytes; its swizzle takes up to 32"),
        ({"box_dim": [80, 4], "swizzle_mode": 2}, "takes up to 64"),
        ({"box_dim": [128, 4], "swizzle_mode": 3, "elemtype": F16}, "takes up to 128"),
        ({"fill_mode": 1}, "elemtype u8; integers are filled with zeros"),
        ({"global_stride": [40]}, r"global_stride[0] is 40"),
    ],
)
def test_the_rules_of_fields_together(change, what):
    assert what in faults(encode(BOX | change)[0])
    assert not faults(encode(BOX | {"box_dim": [64, 4], "swizzle_mode": 3, "elemtype": F16})[0])


def made(space: str, where: str, **change: str) -> str:
    """PTX that makes a map of a (9, 64) uint8 array at %rd2, box (4, 32), by single fields."""
    values = {
        "global_address": ["%rd2"], "rank": ["1"], "box_dim": ["32", "4"], "global_dim": ["64", "9"],
        "global_stride": ["%rd9"], "element_stride": ["1", "1"], "elemtype": ["0"], "interleave_layout": ["0"],
        "swizzle_mode": ["0"], "fill_mode": ["0"],
    }  # fmt: skip
    text = "mov.u64 %rd9, 64; "
    for name, given in values.items():
        wide = 64 if name in ("global_address", "global_stride") else 32
        for n, value in enumerate(given):
            entry = f"{n}, " if FIELDS[name] > 1 else ""
            value = change.get(f"{name}_{n}", value)
            text += f"@%p1 tensormap.replace.tile.{name}.{space}.b1024.b{wide} [{where}], {entry}{value}; "
    return text


ZERO = f"mov.u32 %r9, {MAP}; shl.b32 %r10, %r1, 2; add.u32 %r9, %r9, %r10; st.shared.b32 [%r9], 0; bar.warp.sync -1; "
COPY_OUT = (
    f"tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd3], [{MAP}], 128; "
)
ACQUIRE = "fence.proxy.tensormap::generic.acquire.gpu [%rd3], 128; "
LOAD = "@%p1 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [0], [%rd3, {{{}}}], [{}]; "
PLAIN = f"@%p1 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [0], [{{}}], 128, [{BAR}]; "
USE = INIT + EXPECT.format(128) + LOAD.format("16, 2", BAR) + WAIT.format(0, 0) + OUT.format(0, 128)
IN_SHARED = ZERO + made("shared::cta", str(MAP))


def launch(body: str, **settings) -> np.ndarray:
    """What a box at (2, 16) of a (9, 64) array is, by the map that the body makes at %rd3, in zeros."""
    out, array = np.zeros(128, np.uint8), np.arange(9 * 64, dtype=np.uint8).reshape(9, 64)
    room = np.zeros(256, np.uint8)
    first = -room.ctypes.data % 128
    run(body + USE, out, array, room[first : first + 128], **settings)
    assert np.array_equal(out.reshape(4, 32), array[2:6, 16:48])
    return out


GLOBAL = made("global", "%rd3") + "@%p1 fence.proxy.tensormap::generic.release.gpu; "


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("body", [IN_SHARED + COPY_OUT + ACQUIRE, GLOBAL + ACQUIRE], ids=["shared", "global"])
def test_a_map_is_made_by_its_fields(body, seed):
    launch(body, seed=seed)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (IN_SHARED + COPY_OUT, "and not acquired by fence.proxy.tensormap::generic.acquire since"),
        (IN_SHARED + ACQUIRE + COPY_OUT, "and not acquired by"),
        (GLOBAL, "and not acquired by"),
        (GLOBAL.replace("release", "acquire").replace("gpu; ", "gpu [%rd3], 128; "), "and not released by"),
        (GLOBAL + ACQUIRE + made("global", "%rd3").split("; ")[-2] + "; ", "and not released by"),
        (ACQUIRE, "and are none: only a descriptor or tensormap.replace makes one"),
        (
            ZERO + made("shared::cta", str(MAP), box_dim_0="40") + COPY_OUT + ACQUIRE,
            "40 bytes; it must be a multiple of 16",
        ),
        (
            ZERO + made("shared::cta", str(MAP), global_dim_1="0") + COPY_OUT + ACQUIRE,
            r"in the tensor map global_dim\[1\] is 0; it must be at least 1",
        ),
        (
            ZERO + f"@%p1 st.shared.b32 [{MAP}], 7; " + made("shared::cta", str(MAP)),
            "and are none: make them zero first",
        ),
    ],
)
def test_what_is_no_map_or_not_yet_one(body, what):
    with pytest.raises(InvalidTensorMap, match=what) as caught:
        launch(body)
    assert caught.value.line is not None
    assert caught.value.thread == 0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"global_stride_0": "-64"}, r"global_stride\[0\] is -64; it must"),
        ({"global_address_0": "%rd8"}, r"global_address is b \+ 2 bytes; it must be a multiple of 16"),
        ({"global_address_0": "%rd7"}, r"global_address is b - 8 bytes; it must"),
        ({"global_address_0": "24"}, "global_address is 0x18; it must"),
    ],
)
def test_a_field_that_does_not_fit_is_named_as_it_was_meant(change, what):
    with pytest.raises(InvalidTensorMap, match=f"in a tensor map {what}"):
        launch("add.u64 %rd8, %rd2, 2; sub.u64 %rd7, %rd2, 8; " + ZERO + made("shared::cta", str(MAP), **change))


def test_an_empty_tensor_is_no_fault_where_no_copy_uses_its_map():
    empty = ZERO + made("shared::cta", str(MAP), global_dim_0="0", global_dim_1="0") + "bar.sync 0; "
    launch(empty + IN_SHARED + COPY_OUT + ACQUIRE)


def test_a_map_is_acquired_by_each_program_of_its_own():
    # Only the first program acquires the map that it has made for both.
    body = (
        "setp.eq.u32 %p3, %r2, 0; and.pred %p1, %p1, %p3; " + GLOBAL + "@%p3 " + ACQUIRE + "setp.eq.u32 %p1, %r1, 0; "
    )
    with pytest.raises(InvalidTensorMap, match="not acquired") as caught:
        launch(body, programs=2)
    assert caught.value.program == (1, 0, 0)


def test_a_map_lies_at_a_multiple_of_64_in_an_array():
    body = IN_SHARED + COPY_OUT + ACQUIRE
    with pytest.raises(Misaligned, match="64 bytes at c"):
        launch(body + "add.u64 %rd3, %rd3, 16; ")
    with pytest.raises(OutOfBounds, match=r"the tensor map: 16 bytes at .* belongs to no argument"):
        launch(body + "add.u64 %rd3, %rd3, 1024; ")
    with pytest.raises(InvalidTensorMap, match=f"lies at {MAP}, in shared memory"):
        launch(body + f"mov.u64 %rd3, {MAP}; ")


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("tensormap.replace.tile.nothing.shared::cta.b1024.b32 [0], 1; ", UnknownOpcode, "this form of"),
        ("tensormap.replace.tile.rank.b1024.b32 [%rd3], 1; ", UnknownOpcode, "or a generic address"),
        (
            "tensormap.replace.tile.box_dim.global.b1024.b32 [%rd3], 5, 1; ",
            UnknownOpcode,
            "5 entries, and this is for number 5",
        ),
        ("fence.proxy.tensormap::generic.acquire.gpu [%rd3], 64; ", UnknownOpcode, "a size other than"),
        ("fence.proxy.tensormap::generic.acquire.gpu; ", ParseError, "operands that do not fit"),
        (COPY_OUT.replace("128", "64"), UnknownOpcode, "this form of"),
    ],
)
def test_forms_that_are_not_known_are_named(text, kind, why):
    with pytest.raises(kind, match=why):
        launch(text)


def test_prefetches_of_a_map_or_a_box_change_nothing():
    more = "prefetch.tensormap [%rd3]; @%p1 cp.async.bulk.prefetch.tensor.2d.L2.global [%rd3, {0, 0}]; "
    launch(IN_SHARED + COPY_OUT + ACQUIRE + more)


def test_a_map_among_the_parameters_needs_no_fence():
    out, array = np.zeros(128, np.uint8), np.arange(256, dtype=np.uint8).reshape(4, 64)
    run(USE.replace("%rd3", "%rd2"), out, tensor(array, [32, 4], U8))
    assert np.array_equal(out.reshape(4, 32), np.vstack([array[2:, 16:48], np.zeros((2, 32), np.uint8)]))


@pytest.mark.parametrize(
    ("body", "kind", "what"),
    [
        ("@%p1 tensormap.replace.tile.rank.global.b1024.b32 [%rd2], 0; ", InvalidTensorMap, ": the address is a param"),
        ("@%p1 st.global.b32 [%rd2+64], 0; ", InvalidTensorMap, r" \+64 bytes: the address is a parameter's, and"),
        ("@%p1 red.global.add.u32 [%rd2+4], 1; ", InvalidTensorMap, r" \+4 bytes: the address is a parameter's"),
        (ZERO + COPY_OUT.replace("%rd3", "%rd2"), InvalidTensorMap, ": the address is a parameter's"),
        ("@%p1 st.global.b32 [%rd2+128], 0; ", OutOfBounds, r" \+128 bytes: the address belongs to no argument"),
        ("@%p1 ld.global.b32 %r9, [%rd2+2]; ", Misaligned, r" \+2 bytes: the address is no multiple of 4"),
    ],
)
def test_a_map_among_the_parameters_is_read_only(body, kind, what):
    out, array = np.zeros(128, np.uint8), np.arange(256, dtype=np.uint8).reshape(4, 64)
    with pytest.raises(kind, match=f"bytes at the tensor map of parameter b{what}"):
        run(body + USE.replace("%rd3", "%rd2"), out, tensor(array, [32, 4], U8))
    run("@%p1 ld.global.b32 %r9, [%rd2+64]; @%p1 st.global.b32 [%rd1], 1; ret; ", out, tensor(array, [32, 4], U8))


def test_an_address_that_a_map_gives_is_no_overflow_of_the_kernels():
    # Row 65,536 by a stride of 2**16 lies 2**32 bytes past the first row.
    out, array = np.zeros(128, np.uint8), np.zeros((4, 64), np.uint8)
    wide = tensor(array, [32, 4], U8, global_dim=[64, 1 << 20], global_stride=[1 << 16])
    with pytest.raises(OutOfBounds, match=r"b \+4294967296 bytes, 4294967040 past its end: the address belongs"):
        run(USE.replace("%rd3", "%rd2").replace("16, 2", "0, 65536"), out, wide, array)
    far = "mov.u64 %rd9, 4294967296; add.u64 %rd9, %rd3, %rd9; "
    with pytest.raises(OutOfBounds, match=r"b \+4294967296 bytes, .* \(a 32-bit offset that overflowed: 2\*\*32"):
        run(far + INIT + EXPECT.format(128) + PLAIN.format("%rd9"), out, wide, array)
