"""The formats that are known by name; any field that its rule reads may be changed: "int8-row,scale_dtype=float16"."""

import difflib

from .format import Format, changed

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("int8-row", "int8-narrow"),
        Format("int8-row-minmax", "uint8", rule="minmax"),
        Format("int8-row-zero-point", "uint8", rule="minmax-zero"),
        Format("int8-channel", "int8-narrow", group="channel", size=32, window=32, window_kind="blocks"),
        Format("int8-tensor", "int8-narrow", group="tensor", growth="frozen"),
        Format("int8-static", "int8-narrow", rule="fixed", value=2.0**-5),
        Format("int4-block", "int4-narrow", group="block", size=32, packing="low"),
        Format("uint4-block", "uint4", group="block", size=32, rule="minmax", packing="low"),
        Format("uint4-block-zero-point", "uint4", group="block", size=32, rule="minmax-zero", packing="low"),
        Format("uint2-block", "uint2", group="block", size=32, rule="minmax", packing="quarters"),
        Format("kivi-keys", "uint2", group="channel", size=32, rule="minmax", packing="quarters", window=32,
            window_kind="blocks"),
        Format("kivi-values", "uint2", group="block", size=32, rule="minmax", packing="quarters", window=32),
        Format("fp8-row", "e4m3fn"),
        Format("fp8-head", "e4m3fn", group="head", growth="frozen"),
        Format("fp8-tensor", "e4m3fn", group="tensor", growth="frozen"),
        Format("fp8-e5m2-row", "e5m2"),
        Format("fp8-unscaled", "e4m3fn", rule="fixed"),
        Format("fp8-e5m2-unscaled", "e5m2", rule="fixed"),
        Format("mxfp8-ceil", "e4m3fn", group="block", size=32, rule="pow2-ceil", scale_dtype="e8m0"),
        Format("mxfp8", "e4m3fn", group="block", size=32, rule="pow2-floor", scale_dtype="e8m0"),
        Format("mxfp4", "e2m1", group="block", size=32, rule="pow2-floor", scale_dtype="e8m0", packing="low"),
        Format("mxfp4-ceil", "e2m1", group="block", size=32, rule="pow2-ceil", scale_dtype="e8m0", packing="low"),
        Format("nvfp4", "e2m1", group="block", size=16, rule="two-level", scale_dtype="e4m3fn", packing="low"),
        Format("q8_0", "int8-narrow", group="block", size=32, scale_dtype="float16", divisor="unrounded",
            ties="away"),
        Format("q4_0", "int4", group="block", size=32, rule="signed", scale_dtype="float16", divisor="unrounded",
            ties="up", packing="halves"),
        Format("q4_1", "uint4", group="block", size=32, rule="minmax", scale_dtype="float16", divisor="unrounded",
            ties="up", packing="halves"),
    )
}  # fmt: skip


def named(text: str) -> Format:
    """The format NAME or NAME,field=value,….  Raises ValueError with the nearest names, or the fields."""
    name, _, rest = text.partition(",")
    name = name.strip()
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, 3, 0.3) or FORMATS
        raise ValueError(f"no format {name!r}; there are {', '.join(near)}: see --formats")
    return changed(FORMATS[name], rest)


def table() -> list[dict[str, str]]:
    """Name and rule of each format."""
    return [{"name": f.name, "rule": f.describe()} for f in FORMATS.values()]
