"""Wrong scales: divisor, range, dtype, zero point, and a scale that is not the one quantised with."""

from dataclasses import replace

import ml_dtypes
import numpy as np

from ..computation import RIGHT, Kept, decode_step, divide_step, round_step, round_trip, scale_step
from ..format import Format
from ..scales import E8M0, exact_scales
from .base import Hypothesis, floats, scaled, step

HALVES = (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16))


def times(factor):
    """Scales times a number, both in quantising and in reading."""

    def scale(f, cut, dtype):
        right = scale_step(f, cut, dtype)
        return right._replace(s=right.s * factor(f))

    return scale


def floor_of(least: float):
    """Scales are at least so large."""

    def scale(f, cut, dtype):
        right = scale_step(f, cut, dtype)
        return right._replace(s=np.maximum(right.s, least))

    return scale


def clamped_range(least: float):
    """What scales follow from is at least so large."""
    return lambda f, cut, dtype: floor_of(least / abs(f.divides_by))(f, cut, dtype)


def signed_maximum(f: Format, cut, dtype):
    """max x, not max |x|."""
    largest = np.where(cut.live, cut.g, -np.inf).max(-1, initial=-np.inf).astype(np.float64)
    return scale_step(f, cut, dtype)._replace(s=largest / f.divides_by)


def from_zero(f: Format, cut, dtype):
    """The range reaches to zero."""
    low = np.where(cut.live, cut.g, 0).min(-1, initial=0).astype(np.float64)
    high = np.where(cut.live, cut.g, 0).max(-1, initial=0).astype(np.float64)
    return scale_step(f, cut, dtype)._replace(s=(high - low) / f.divides_by, low=low)


def in_dtype(dtype):
    """Scales are computed and kept in a narrower float."""

    def scale(f, cut, x):
        right = exact_scales(f, cut.g, cut.live)
        return right._replace(s=right.s.astype(dtype).astype(np.float64))

    return scale


def read_in(dtype):
    """Codes are multiplied by a scale of a narrower float, though divided by the wider one."""
    return lambda f, codes, kept, x: decode_step(f, codes, kept._replace(s=kept.s.astype(dtype).astype(float)), x)


def minimum_read_in(dtype):
    return lambda f, codes, kept, x: decode_step(f, codes, kept._replace(low=kept.low.astype(dtype).astype(float)), x)


def other_divisor(f: Format, x, pieces):
    """The other of stored and unrounded."""
    return round_trip(replace(f, divisor="stored" if f.divisor == "unrounded" else "unrounded"), x, pieces)


def stored_to_power(f: Format, codes, kept, dtype):
    """Read with the scale rounded up to a power of two, though divided by the exact one."""
    with np.errstate(all="ignore"):
        s = np.where(kept.s > 0, np.exp2(np.ceil(np.log2(kept.s))), 0)
    return decode_step(f, codes, kept._replace(s=s), dtype)


def unguarded(f: Format, cut, scale, kept, dtype):
    """Division by a scale of zero."""
    compute = f.dtype_of("compute", dtype)
    x = cut.g.astype(compute) - kept.low.astype(compute)[:, None]
    return (x / kept.s.astype(compute)[:, None]).astype(np.float64) + kept.zero[:, None]


def unguarded_trip(f: Format, x, pieces):
    """`unguarded`; NaN quotients are read back as NaN."""
    return nan_trip(f, x, pieces, unguarded)


def nan_trip(f: Format, x, pieces, divide):
    """The round trip with another division, whose NaN is kept."""
    lost = -999

    def read(f, codes, kept, dtype):
        return np.where(codes == lost, np.nan, decode_step(f, np.where(codes == lost, 0, codes), kept, dtype))

    steps = RIGHT._replace(
        divide=divide,
        round=lambda f, q: np.where(np.isnan(q), lost, round_step(f, q)),
        carry=lambda f, codes: codes,
        decode=read,
    )
    return round_trip(f, x, pieces, steps)


def by_reciprocal(f: Format, cut, scale, kept, dtype):
    """Products with reciprocals that overflow."""
    compute = f.dtype_of("compute", dtype)
    s = (scale.s if f.divisor == "unrounded" else kept.s).astype(compute)[:, None]
    x = cut.g.astype(compute) - kept.low.astype(compute)[:, None]
    return np.where(s == 0, 0, x * (compute.type(1) / s)).astype(np.float64) + kept.zero[:, None]


def reciprocal_trip(f: Format, x, pieces):
    """`by_reciprocal`; NaN quotients are read back as NaN."""
    return nan_trip(f, x, pieces, by_reciprocal)


def not_applied(f: Format, codes, kept, dtype):
    """The codes themselves."""
    return decode_step(f, codes, kept._replace(s=np.ones_like(kept.s)), dtype)


def applied(power: int):
    return lambda f, codes, kept, dtype: decode_step(f, codes, kept._replace(s=kept.s**power), dtype)


def signed_exponent(f: Format, codes, kept, dtype):
    """The byte of the exponent is read as signed: scales of 2 and more become tiny."""
    return decode_step(f, codes, kept._replace(s=np.where(kept.s >= 2, kept.s * 2.0**-256, kept.s)), dtype)


def applied_as(value: float):
    return lambda f, codes, kept, dtype: decode_step(f, codes, kept._replace(s=np.full_like(kept.s, value)), dtype)


def twice(factor: float):
    return lambda f, codes, kept, dtype: decode_step(f, codes, kept, dtype) * factor


def one(f: Format, cut, dtype):
    right = scale_step(f, cut, dtype)
    return right._replace(s=np.ones_like(right.s), tensor=1.0)


def block_not_rounded(f: Format, scale, dtype):
    """Two levels: block scales stay float32."""
    return Kept(scale.s, scale.low, scale.zero, scale.tensor)


def divide_unrounded(f: Format, cut, scale, kept, dtype):
    return divide_step(f, cut, scale, Kept(scale.s, scale.low, kept.zero), dtype)


def tensor_scale(power: int):
    """Two levels: codes are read with the tensor's scale to that power more."""
    return lambda f, codes, kept, dtype: decode_step(f, codes, kept._replace(s=kept.s * kept.tensor**power), dtype)


def exponent(change):
    """Powers of two: another exponent."""

    def scale(f, cut, dtype):
        right = scale_step(f, cut, dtype)
        magnitude = np.where(cut.live, np.abs(cut.g.astype(np.float64)), 0).max(-1, initial=0)
        with np.errstate(all="ignore"):
            s = np.clip(np.exp2(change(f, magnitude)), *E8M0)
        return right._replace(s=np.where(magnitude > 0, s, right.s))

    return scale


def two_factor(f: Format):
    return f.rule.startswith("pow2")


def smooth(f: Format):
    """Scales follow the numbers, and are not powers of two."""
    return scaled(f) and not two_factor(f)


def divided_by_exact(f: Format, cut, scale, kept, dtype):
    """Powers of two: x is divided by max|x| / top itself."""
    magnitude = np.where(cut.live, np.abs(cut.g.astype(np.float64)), 0).max(-1, initial=0)
    return divide_step(f, cut, scale, Kept(magnitude / f.divides_by, kept.low, kept.zero), dtype)


def zero_rule(f: Format):
    return f.rule == "minmax-zero"


def zero_not_added(f: Format, cut, scale, kept, dtype):
    return divide_step(f, cut, scale, kept, dtype) - kept.zero[:, None]


def zero_of_one_sign(f: Format, cut, dtype):
    """Zero is clipped though the range does not reach to zero."""
    low = np.where(cut.live, cut.g, np.inf).min(-1).astype(np.float64)
    high = np.where(cut.live, cut.g, -np.inf).max(-1).astype(np.float64)
    s = (high - low) / f.divides_by
    zero = np.clip(np.rint(np.divide(-low, s, out=np.zeros_like(s), where=s > 0)), 0, f.divides_by)
    return scale_step(f, cut, dtype)._replace(s=s, zero=zero)


def zero_changed(change):
    def scale(f, cut, dtype):
        right = scale_step(f, cut, dtype)
        low = np.where(cut.live, cut.g, 0).min(-1, initial=0).astype(np.float64)
        with np.errstate(all="ignore"):
            return right._replace(zero=np.where(right.s > 0, change(f, -low / right.s), 0))

    return scale


def fixed_zero_middle(f: Format, cut, dtype):
    return scale_step(f, cut, dtype)._replace(zero=np.full(len(cut.g), (f.divides_by + 1) / 2))


TOPS = (("one more than", 1.0), ("half more than", 0.5), ("one less than", -1.0))
MINMAX = ("minmax", "minmax-zero")
ABS = ("absmax", "two-level")
FLOORS, AT_LEAST = (1.0, 2.0**-7, 2.0**-10, 1e-3, 1e-4, 1e-5, 1e-6, 2.0**-23, 1e-7, 1e-8), "the scale is at least {:g}"
RANGES, RANGE = (2.0**-7, 1e-4, 1e-5, 1e-6, 1e-7), "the range of the numbers is taken as at least {:g}"

HYPOTHESES: tuple[Hypothesis, ...] = (
    *(step("divisor", f"the scale divides by {words} the largest code", lambda f: f.codes.whole and scaled(f),
        scale=times(lambda f, by=by: abs(f.divides_by) / (abs(f.divides_by) + by))) for words, by in TOPS),
    *(step("divisor", f"the scale divides by {top}, not the largest value", lambda f, top=top: floats(f) and f.rule in
        ABS and f.codes.top != top, scale=times(lambda f, top=top: f.divides_by / top))
        for top in (1.0, 4.0, 8.0, 127.0, 224.0, 240.0, 256.0, 448.0, 480.0, 57344.0)),
    *(step("scale floor", AT_LEAST.format(least), smooth, scale=floor_of(least)) for least in FLOORS),
    *(step("scale floor", RANGE.format(least), smooth, scale=clamped_range(least)) for least in RANGES),
    step("abs", "the scale follows from max x, not from max |x|", lambda f: f.rule == "absmax", scale=signed_maximum),
    step("range", "the range is stretched to include zero", lambda f: f.rule == "minmax", scale=from_zero),
    *(step("scale dtype", f"the scale is computed and kept in {name}", smooth, scale=in_dtype(t))
        for name, t in HALVES),
    *(step("scale not round-tripped", f"numbers are divided by a wider scale than the {name} one they are read with",
        smooth, decode=read_in(t)) for name, t in HALVES),
    *(step("min not round-tripped", f"min is read in {name}, and was subtracted in a wider dtype",
        lambda f: f.rule == "minmax", decode=minimum_read_in(t)) for name, t in HALVES),
    Hypothesis("scale not round-tripped", "numbers are divided by the unrounded scale and read with the stored one",
        lambda f: f.divisor == "stored" and f.scale_dtype != "float32" and not two_factor(f), other_divisor),
    Hypothesis("scale not round-tripped", "numbers are divided by the stored scale, not by the unrounded one",
        lambda f: f.divisor == "unrounded", other_divisor),
    step("scale not round-tripped", "numbers are divided by the exact scale and read with its power of two above",
        smooth, decode=stored_to_power),
    step("scale not round-tripped", "numbers are divided by the exact scale, not by its power of two", two_factor,
        divide=divided_by_exact),
    step("scale not round-tripped", "numbers are divided by the unrounded block scale", lambda f: f.rule == "two-level",
        divide=divide_unrounded),
    step("block scale", "block scales are not rounded to e4m3", lambda f: f.rule == "two-level",
        store=block_not_rounded),
    *(step("tensor scale", f"the tensor's scale is {words} when codes are read", lambda f: f.rule == "two-level",
        decode=tensor_scale(power)) for words, power in (("left out", -1), ("inverted", -2), ("applied twice", 1))),
    Hypothesis("0/0", "a group of zeros, whose scale is zero, is divided by it: NaN", smooth, unguarded_trip),
    Hypothesis("reciprocal", "numbers are multiplied by the scale's reciprocal, infinite for a subnormal scale",
        smooth, reciprocal_trip),
    step("scale not applied", "the scale is not applied when codes are read", decode=not_applied),
    step("scale applied twice", "the scale is applied twice when codes are read", decode=applied(2)),
    step("scale inverted", "codes are divided by the scale when they are read", decode=applied(-1)),
    step("scale not applied", "codes are read with a scale of zero", decode=applied_as(0.0)),
    step("exponent bias", "floats are read with a bias one too small: twice as large", floats, decode=twice(2.0)),
    step("exponent bias", "floats are read with a bias one too large: half as large", floats, decode=twice(0.5)),
    step("scale is 1", "the scale is 1 throughout", scaled, scale=one),
    step("exponent", "the shared exponent is rounded up, not down", lambda f: f.rule == "pow2-floor",
        scale=exponent(lambda f, m: np.ceil(np.log2(m)) - np.floor(np.log2(f.divides_by)))),
    step("exponent", "the shared exponent is the largest number's own: that of the grid is not subtracted", two_factor,
        scale=exponent(lambda f, m: np.floor(np.log2(m)))),
    step("exponent", "the shared exponent is ceil(log2(max / top)), not floor(log2 max) - floor(log2 top)",
        lambda f: f.rule == "pow2-floor", scale=exponent(lambda f, m: np.ceil(np.log2(m / f.divides_by)))),
    step("exponent", "the shared exponent is floor(log2 max) - floor(log2 top), not ceil(log2(max / top))",
        lambda f: f.rule == "pow2-ceil",
        scale=exponent(lambda f, m: np.floor(np.log2(m)) - np.floor(np.log2(f.divides_by)))),
    step("exponent", "the byte of the shared exponent is read as signed", two_factor, decode=signed_exponent),
    step("exponent", "the shared exponent is rounded to the nearest", two_factor,
        scale=exponent(lambda f, m: np.rint(np.log2(m / f.divides_by)))),
    step("exponent", "the shared exponent is that of max / top rounded down", two_factor,
        scale=exponent(lambda f, m: np.floor(np.log2(m / f.divides_by)))),
    step("exponent", "the shared exponent is one too large where max / top is a power of two", two_factor,
        scale=exponent(lambda f, m: np.floor(np.log2(m / f.divides_by)) + 1)),
    step("exponent", "the shared exponent is that of the largest number rounded to 1 bit",
        two_factor, scale=exponent(lambda f, m: np.floor(np.log2(m) + np.log2(8 / 7)) - np.floor(np.log2(
            f.divides_by)))),
    step("zero point", "the zero point is not added before codes are clipped", zero_rule, divide=zero_not_added),
    step("zero point", "the range does not include zero, and the zero point is clipped", zero_rule,
        scale=zero_of_one_sign),
    step("zero point", "the zero point is not rounded", zero_rule,
        scale=zero_changed(lambda f, z: np.clip(z, 0, f.divides_by))),
    step("zero point", "the zero point is truncated, not rounded", zero_rule,
        scale=zero_changed(lambda f, z: np.clip(np.trunc(z), 0, f.divides_by))),
    step("zero point", "the zero point is the middle code whatever the range", zero_rule, scale=fixed_zero_middle),
)  # fmt: skip
