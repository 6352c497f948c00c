"""Grids, groups and packing, against ml_dtypes and by hand."""

import ml_dtypes
import numpy as np
import pytest

from kvproof.reference.judge.formats.catalogue import FORMATS, named, table
from kvproof.reference.judge.formats.grids import FLOATS, WHOLE, grid
from kvproof.reference.judge.formats.groups import GROUPS, split
from kvproof.reference.judge.formats.packing import PACKINGS, pack, unpack


@pytest.mark.parametrize("name", FLOATS)
def test_rounding_to_floats_is_that_of_ml_dtypes(name):
    g = grid(name)
    rng = np.random.default_rng(0)
    beside = np.nextafter(
        g.middles.astype(np.float32), np.float32(np.inf)
    )  # ml_dtypes rounds float64 by way of float32
    q = np.concatenate([rng.normal(size=2000).astype(np.float32) * g.top / 3, g.values, g.middles, beside])
    q = np.clip(q, -g.top, g.top)
    at = g.nearest(q, "even")
    assert np.array_equal(g.values[at], q.astype(FLOATS[name]).astype(np.float64))
    again = g.codes[at].astype(np.uint8).view(FLOATS[name]).astype(np.float64)
    assert np.array_equal(again, g.values[at])


@pytest.mark.parametrize("name", WHOLE)
def test_rounding_to_whole_numbers(name):
    g = grid(name)
    q = np.arange(g.values[0], g.values[-1] + 0.25, 0.25)
    assert np.array_equal(g.values[g.nearest(q, "even")], np.rint(q))
    assert np.array_equal(g.values[g.nearest(q, "up")], np.floor(q + 0.5))
    assert np.array_equal(g.values[g.nearest(q, "away")], np.trunc(q + np.copysign(0.5, q)))
    assert g.values[g.nearest(np.array([-1e9, 1e9]), "even")].tolist() == [g.values[0], g.values[-1]]
    assert (1 << g.bits) - len(g.values) in (0, 1)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("size", [4, 5])
def test_groups_join_to_what_was_split(group, size):
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 12))
    cut = split(x, group, size)
    assert np.array_equal(cut.join(cut.g), x)
    assert cut.live.sum() == x.size


def test_who_shares_a_scale():
    x = np.arange(2 * 2 * 6 * 4).reshape(2, 2, 6, 4)
    assert split(x, "row").g[5].tolist() == x[0, 0, 5].tolist()
    assert split(x, "block", 2).g[1].tolist() == x[0, 0, 0, 2:].tolist()
    assert split(x, "channel", 3).g[1].tolist() == x[0, 0, 3:, 0].tolist()
    assert split(x, "channel").g[1].tolist() == x[0, 0, :, 1].tolist()
    assert split(x, "head").g[3].tolist() == x[1, 1].ravel().tolist()
    assert split(x, "flat-channel", 8).g[0].tolist() == x.reshape(-1, 4)[:8, 0].tolist()
    assert split(x, "block", 3).live.tolist()[:2] == [[True] * 3, [True, False, False]]


@pytest.mark.parametrize(
    ("packing", "codes", "data"),
    [("low", [1, 2, 3, 15], [0x21, 0xF3]),
        ("high", [1, 2, 3, 15], [0x12, 0x3F]), ("halves", [1, 2, 3, 15], [0x31, 0xF2]),
        ("quarters", [1, 2, 3, 0], [0b00111001]), ("bytes", [1, 255], [1, 255])],
)  # fmt: skip
def test_codes_in_bytes(packing, codes, data):
    assert pack(np.array(codes), packing).tolist() == data
    assert unpack(np.array(data, np.uint8), packing, signed=False).tolist() == codes


@pytest.mark.parametrize("packing", PACKINGS)
def test_signed_codes_come_back(packing):
    bits = {"quarters": 2, "bytes": 8}.get(packing, 4)
    codes = np.arange(-(1 << (bits - 1)), 1 << (bits - 1)).repeat(2)
    assert np.array_equal(unpack(pack(codes, packing), packing, signed=True), codes)
    with pytest.raises(ValueError, match="no packing"):
        pack(codes, "odd")


def test_a_format_is_named_with_its_changes():
    f = named("int8-row,scale_dtype=float16,ties=away,size=4")
    assert (f.scale_dtype, f.ties, f.size) == ("float16", "away", 4)
    assert f.name == "int8-row,scale_dtype=float16,ties=away,size=4"
    for text, words in (("int8-rows", "int8-row"), ("int8-row,sise=4", "the fields are"), ("int8-row,ties=odd", "even"),
            ("int8-row,size=x", "takes a number"), ("int8-row,grid=int9", "no grid")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            named(text)
    assert [row["name"] for row in table()] == list(FORMATS)


def test_the_rule_is_written_down():
    assert FORMATS["q4_0"].describe() == (
        "int4 codes per block of 32; scale = x / -8, x the number of largest magnitude, with its sign; stored as "
        "float16; x / unrounded scale, ties up; packed: halves"
    )


def test_e2m1_is_the_table_of_the_standard():
    assert grid("e2m1").values[7:].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert grid("e4m3fn").top == 448
    assert grid("e5m2").top == float(ml_dtypes.finfo(ml_dtypes.float8_e5m2).max)
