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


@pytest.mark.parametrize("name", [*WHOLE, *FLOATS])
def test_ties_neighbours_and_ends_are_where_a_search_finds_them(name):
    g = grid(name)
    points = np.concatenate([g.values, g.middles, [0.0, -0.0, g.values[0] - 0.5, g.top + 0.5]])
    beside = [np.nextafter(points, end) for end in (-np.inf, np.inf)]
    q = np.concatenate([points, *beside, [1e300, -1e300, np.inf, -np.inf]])
    low, high = (np.searchsorted(g.middles, q, side=side) for side in ("left", "right"))
    assert np.array_equal(g.below(q), low)
    assert np.array_equal(g.above(q), high)
    assert np.array_equal(g.nearest(q, "up"), high)
    assert np.array_equal(g.nearest(q, "away"), np.where(q >= 0, high, low))
    assert np.array_equal(g.nearest(q, "even"), np.where(g.codes[low] % 2 == 1, high, low))
    assert g.below(np.array([np.nan])) == g.above(np.array([np.nan])) == g.nearest(np.array([np.nan]), "even") == 0


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
    f = named("int8-row,scale_dtype=float16,ties=away,top=100")
    assert (f.scale_dtype, f.ties, f.top) == ("float16", "away", 100)
    assert f.name == "int8-row,scale_dtype=float16,ties=away,top=100"
    assert named("int8-row, ties = away").ties == "away"
    for text, words in (("int8-rows", "int8-row"), ("int8-row,sise=4", "the fields are"), ("int8-row,ties=odd", "even"),
            ("int8-row,size=x", "takes a number"), ("int8-row,ties=up,ties=away", "came twice"),
            ("int8-row,grid=int9", "no grid")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            named(text)
    assert [row["name"] for row in table()] == list(FORMATS)


UNREAD = (
    [f"{name},scale_dtype=e8m0" for name in ("fp8-row", "uint4-block", "q4_0", "int8-static", "nvfp4")]
    + [f"{name},scale_dtype=e4m3fn" for name in ("fp8-row", "uint4-block", "mxfp8", "int8-static")]
    + [f"nvfp4,scale_dtype={dtype}" for dtype in ("float32", "float16", "input", "e8m0")]
    + [f"{name},size=64" for name in ("int8-row", "fp8-head", "fp8-tensor")]
    + [f"int8-row,group={group}" for group in ("block", "flat", "flat-channel")]
    + [f"{name},value=3" for name in FORMATS if FORMATS[name].rule != "fixed"]
    + [f"{name},packing={way}" for name in ("int8-row", "fp8-row") for way in ("low", "high", "halves", "quarters")]
    + ["int4-block,packing=quarters", "uint2-block,packing=low", "int8-static,top=3", "q4_0,grid=uint4"]
    + [f"int8-row,{field}={x}" for field in ("top", "floor", "value") for x in ("nan", "inf", "-1")]
    + [f"{name},growth=frozen" for name in ("int8-row", "kivi-keys", "int4-block", "nvfp4")]
    + ["mxfp8,divisor=unrounded", "nvfp4,divisor=unrounded", "q4_0,floor=1", "int8-static,floor=1", "mxfp4,floor=3"]
)


@pytest.mark.parametrize("text", UNREAD)
def test_a_field_that_says_nothing_is_refused(text):
    with pytest.raises(ValueError, match=text.rpartition(",")[2].partition("=")[0]):
        named(text)


def test_the_lowest_code_divides_where_the_scale_has_a_sign():
    assert named("q4_0").divides_by == -8
    assert named("q4_0,grid=int8,packing=bytes").divides_by == -128


def test_the_rule_is_written_down():
    assert FORMATS["q4_0"].describe() == (
        "int4 codes per block of 32; scale = x / -8, x the number of largest magnitude, with its sign; stored as "
        "float16; x / unrounded scale, ties up; computed in float32; packed: halves"
    )
    assert "scale is 0.03125," in FORMATS["int8-static"].describe()
    assert "the newest T mod 32 stay unquantised" in FORMATS["kivi-keys"].describe()
    assert "max|x| / (448 * 6)" in FORMATS["nvfp4"].describe()


def test_e2m1_is_the_table_of_the_standard():
    assert grid("e2m1").values[7:].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert grid("e4m3fn").top == 448
    assert grid("e5m2").top == float(ml_dtypes.finfo(ml_dtypes.float8_e5m2).max)
