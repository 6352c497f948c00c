"""Fields of a format that its others have no use for, and numbers that fit none: each is refused, with what fits."""

import math
from typing import Any

SIZED = ("block", "flat", "flat-channel")  # groups that need a size; "channel" may have one


def refuse_unfit(f: Any) -> None:
    """f is a Format. Raises ValueError for the first field that says nothing, or nothing that can be."""
    for check in (check_numbers, check_group, check_scale, check_rule, check_packing, check_growth):
        wrong = check(f)
        if wrong:
            raise ValueError(wrong)


def check_numbers(f: Any) -> str:
    if f.window < 0 or f.size < 0 or (f.window_kind != "sliding" and f.window == 0):
        return f"window={f.window}, size={f.size}; neither is negative, and blocks have a window"
    if not math.isfinite(f.top) or (f.top < 0 and f.rule != "signed"):
        return f"top={f.top:g}; it is a number above 0, or 0 for the grid's largest value"
    if not (math.isfinite(f.value) and f.value > 0):
        return f"value={f.value:g}; the scale of rule=fixed is a number above 0"
    if not (math.isfinite(f.floor) and f.floor >= 0):
        return f"floor={f.floor:g}; the least scale is a number above 0, or 0 for none"
    return ""


def check_group(f: Any) -> str:
    if f.group in SIZED and f.size < 1:
        return f"group={f.group} has no size; say how many numbers share a scale: size=32"
    if f.size and f.group not in (*SIZED, "channel"):
        return f"size={f.size} says nothing to group={f.group}; it goes with {', '.join(SIZED)} and channel"
    return ""


def check_scale(f: Any) -> str:
    power = f.rule.startswith("pow2")
    if f.scale_dtype == "e8m0" and not power:
        return f"scale_dtype=e8m0 holds powers of two, and rule={f.rule} others; it goes with pow2-floor, pow2-ceil"
    if (f.scale_dtype == "e4m3fn") != (f.rule == "two-level"):
        return f"scale_dtype={f.scale_dtype} with rule={f.rule}; e4m3fn and two-level go together alone"
    if f.divisor == "unrounded" and (f.rule == "two-level" or f.scale_dtype == "e8m0"):
        return f"divisor=unrounded says nothing to rule={f.rule} in {f.scale_dtype}, whose scale is rounded by the rule"
    if f.floor and f.rule in ("signed", "fixed"):
        return f"floor={f.floor:g} says nothing to rule={f.rule}; leave it out"
    if f.floor and power and math.frexp(f.floor)[0] != 0.5:
        return f"floor={f.floor:g} is no power of two, as scales of rule={f.rule} are"
    return ""


def check_rule(f: Any) -> str:
    if f.rule != "fixed" and f.value != 1.0:
        return f"value={f.value:g} says nothing to rule={f.rule}; it is the scale of rule=fixed"
    if f.rule == "fixed" and f.top:
        return f"top={f.top:g} says nothing to rule=fixed, whose scale is value={f.value:g}"
    if f.rule == "signed" and f.codes.values[0] >= 0:
        return f"rule=signed with grid={f.grid}, which has no negative codes; take a signed grid, such as int4"
    return ""


def check_packing(f: Any) -> str:
    per = {"bytes": 1, "quarters": 4}.get(f.packing, 2)
    if per > 1 and per * f.codes.bits != 8:
        return f"packing={f.packing} puts {per} codes in a byte, and those of {f.grid} have {f.codes.bits} bits"
    return ""


def check_growth(f: Any) -> str:
    kept = f.group in ("head", "tensor") or (f.group == "channel" and not f.size)
    if f.growth == "frozen" and (not kept or f.window or f.rule == "fixed"):
        return (
            f"growth=frozen says nothing to group={f.group}, window={f.window}, rule={f.rule}; a first append's scale "
            "can be kept for head, tensor, or channel without size, without window, where scales follow the numbers"
        )
    return ""
