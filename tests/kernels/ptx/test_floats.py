"""The machine's floating point against libm, torch and ml_dtypes, and its approximate functions against float64."""

import ctypes
import ctypes.util

import ml_dtypes
import numpy as np
import pytest
import torch

from kvproof.kernels.ptx import floats, isa

from . import _truth as t

FUNCTIONS = {
    "ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "sqrt": np.sqrt,
    "rcp": np.reciprocal, "rsqrt": lambda x: 1 / np.sqrt(x), "div": np.divide,
}  # fmt: skip
COARSE = ("rcp.approx.ftz.f64", "rsqrt.approx.ftz.f64")


def last_places(bits: np.ndarray, true: np.ndarray, kind: str) -> np.ndarray:
    """Distance from the true float64 results in last places of the format; 0 where both are NaN or equal."""
    e, f = t.SHAPE[kind]
    got = np.array([t.number(int(b), kind) for b in bits.flat]).reshape(bits.shape)
    unit = 2.0 ** (np.maximum(np.frexp(true)[1] - 1, 2 - (1 << e - 1)) - f)
    same = (got == true) | (np.isnan(got) & np.isnan(true))
    return np.where(same, 0, np.abs(got - true) / unit)


def approximated(opcode: str, approximation: floats.Approximation | None):
    """An approximate function on samples: its patterns, the distance in last places, and which samples are regular."""
    meaning = isa.semantics(opcode, approximation)
    kind = meaning.sources[0]
    rng = np.random.default_rng(3)
    x = [t.samples(kind, 300, rng)[None] for _ in meaning.sources]
    with np.errstate(all="ignore"):
        bits = meaning.function(*x)
        values = [np.array([t.number(int(b), kind) for b in v.flat]).reshape(v.shape) for v in x]
        if "ftz" in opcode:
            values = [np.vectorize(t.flushed)(v) for v in values]
        true = np.asarray(FUNCTIONS[opcode.split(".")[0]](*values))
        error = last_places(bits, true, kind)
        regular = (np.abs(true) <= floats.FORMATS[kind].largest) & (np.abs(true) > 2.0**-100)
        if opcode.startswith("div.approx"):
            regular &= np.abs(values[1]) <= 2.0**126
    assert regular.sum() > 50, f"{opcode} is hardly tried"
    return bits, error, regular, kind


@pytest.mark.parametrize("opcode", [o for o in isa.OPCODES if t.approximate(o) and o not in COARSE])
def test_approximate_functions_are_nearest_and_move_by_no_more_than_asked(opcode):
    bits, error, regular, kind = approximated(opcode, None)
    assert error[regular].max() <= (1.0 if kind == "f64" else 0.51)  # in f64 the truth is itself rounded
    moved, error, _, _ = approximated(opcode, floats.Approximation(seed=1, ulps=2))
    assert error[regular].max() <= 4.51  # just below a power of two: half a place up to it, then two of twice the size
    assert (moved != bits).mean() > 0.1
    again, _, _, _ = approximated(opcode, floats.Approximation(seed=1, ulps=2))
    other, _, _, _ = approximated(opcode, floats.Approximation(seed=2, ulps=2))
    assert (again == moved).all()
    assert (other != moved).any()


def test_what_ptx_promises_of_an_approximation_stays_when_it_is_moved():
    zero, inf, one = 0, 0x7F800000, 0x3F800000
    promises = [("ex2", zero, one), ("ex2", inf, inf), ("ex2", inf | 1 << 31, zero), ("rcp", inf, zero)]
    promises += [("rcp", zero, inf), ("lg2", zero, inf | 1 << 31), ("cos", zero, one), ("sqrt", inf, inf)]
    for name, x, want in promises:
        for seed in range(8):
            function = isa.semantics(f"{name}.approx.ftz.f32", floats.Approximation(seed)).function
            with np.errstate(all="ignore"):
                assert function(np.array([[x]], np.uint32)).item() == want, name


@pytest.mark.parametrize(("kind", "name", "number"), [("f32", "fmaf", ctypes.c_float), ("f64", "fma", ctypes.c_double)])
def test_fma_is_libm_s(kind, name, number):
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    fma = getattr(libm, name)
    fma.argtypes, fma.restype = [number] * 3, number
    dtype, unsigned = (np.float32, np.uint32) if kind == "f32" else (np.float64, np.uint64)
    rng = np.random.default_rng(5)
    x = np.stack([t.samples(kind, 6000, rng) for _ in range(3)]).view(dtype)
    x[:, 1000:] = rng.standard_normal((3, 5000))
    x[:2, 2000:] = np.rint(x[:2, 2000:] * 512) / 512  # short factors make ties
    with np.errstate(all="ignore"):
        x[2, 3000::2] = -x[0, 3000::2] * x[1, 3000::2]  # cancellation leaves the product's error alone
        x[2, 4000::3] *= dtype(2.0 ** (-24 if kind == "f32" else -53))
        got = isa.semantics(f"fma.rn.{kind}").function(*(v.view(unsigned)[None] for v in x))[0].view(dtype)
    want = np.array([fma(*map(float, v)) for v in x.T], dtype)
    assert np.array_equal(got, want, equal_nan=True)
    assert (np.signbit(got) == np.signbit(want))[got == 0].all()


TORCH = {"f16": torch.float16, "bf16": torch.bfloat16, "e5m2": torch.float8_e5m2, "e4m3": torch.float8_e4m3fn}


@pytest.mark.parametrize(("kind", "dtype"), TORCH.items())
def test_conversions_are_torch_s(kind, dtype):
    rng = np.random.default_rng(6)
    x = np.concatenate([t.samples("f32", 4000, rng).view(np.float32), rng.standard_normal(4000).astype(np.float32)])
    x = x[np.isfinite(x) & (np.abs(x) < floats.FORMATS[kind].largest)]
    bits = floats.encode(x, kind)
    want = torch.from_numpy(x).to(dtype)
    assert (bits == want.view(torch.uint8 if bits.dtype == np.uint8 else torch.uint16).numpy()).all()
    every = np.arange(1 << min(16, 8 * bits.dtype.itemsize)).astype(bits.dtype)
    numbers = every.view(getattr(ml_dtypes, f"{dtype}".removeprefix("torch."), np.float16)).astype(np.float32)
    assert np.array_equal(floats.decode(every, kind), numbers, equal_nan=True)


def test_fma_just_below_the_least_normal_number_is_rounded_once():
    """2**-126 - 2**-149, and a little less than half a last place more: float64 rounds that up to the half."""
    x = [np.array([[v]], np.uint32) for v in (0x33800001, 0x007FFFFF, 0x007FFFFF)]
    assert isa.semantics("fma.rn.f32").function(*x).item() == 0x007FFFFF


def test_div_approx_by_what_has_a_subnormal_reciprocal_is_zero_and_div_full_is_not():
    a, c = (np.array([[x]], np.float32).view(np.uint32) for x in (2.0**126, 2.0**127))
    with np.errstate(all="ignore"):
        assert isa.semantics("div.approx.f32").function(a, c).item() == 0
        assert isa.semantics("div.full.f32").function(a, c).view(np.float32).item() == 0.5


@pytest.mark.parametrize("opcode", COARSE)
def test_coarse_functions_read_and_give_the_upper_32_bits_of_a_float64(opcode):
    rng = np.random.default_rng(9)
    x = np.concatenate([t.samples("f64", 300, rng), np.exp(rng.uniform(-300, 300, 300)).view(np.uint64)])[None]
    upper = (x >> np.uint64(32) << np.uint64(32)).view(np.float64)
    with np.errstate(all="ignore"):
        value = np.where(np.abs(upper) < 2.0**-1022, np.copysign(0, upper), upper)
        true = FUNCTIONS[opcode.split(".")[0]](value)
        results = [isa.semantics(opcode, a).function(x) for a in (None, floats.Approximation(1, 2))]
    true = np.where(np.abs(true) < 2.0**-1022, np.copysign(0, true), true)
    regular = np.isfinite(true) & (true != 0)
    for bits, least, most in zip(results, (0.4, 1.5), (0.51, 4.51), strict=True):  # as above
        got = bits.view(np.float64)
        assert not (bits << np.uint64(32)).any()
        error = np.abs(got[regular] - true[regular]) / (np.spacing(np.abs(true[regular])) * 2.0**32)
        assert least < error.max() <= most
        assert np.array_equal(got[~regular], true[~regular], equal_nan=True)
        assert np.array_equal(np.signbit(got[true == 0]), np.signbit(true[true == 0]))


FEW_BITS = {"e2m1": ml_dtypes.float4_e2m1fn, "e2m3": ml_dtypes.float6_e2m3fn, "e3m2": ml_dtypes.float6_e3m2fn}


@pytest.mark.parametrize("kind", FEW_BITS)
def test_numbers_of_four_and_six_bits_are_ml_dtypes_own(kind):
    form, dtype = floats.FORMATS[kind], FEW_BITS[kind]
    patterns = np.arange(1 << ml_dtypes.finfo(dtype).bits, dtype=np.uint8)
    numbers = patterns.view(dtype).astype(np.float32)
    assert np.array_equal(floats.decode(patterns, kind), numbers)
    assert np.array_equal(floats.encode(numbers, kind), patterns)
    ordered = np.unique(numbers)
    x = np.concatenate([np.random.default_rng(0).uniform(-9, 9, 5000), (ordered[1:] + ordered[:-1]) / 2])
    x = x.astype(np.float32)
    within = x.clip(-form.largest, form.largest).astype(dtype)
    assert np.array_equal(floats.encode(x, kind), within.view(np.uint8))
    with np.errstate(invalid="ignore"):  # as in the machine
        bits = floats.encode(np.array([np.inf, -np.inf, np.nan], np.float32), kind)
    assert floats.decode(bits, kind).tolist() == [form.largest, -form.largest, form.largest]


@pytest.mark.parametrize("end", ["", ".satfinite"])
@pytest.mark.parametrize("mode", ["rz", "rp"])
def test_scales_of_blocks_are_the_nearest_powers_of_two_of_a_size(mode, end):
    """Truth: the list of all powers of two, and comparisons with it."""
    rng = np.random.default_rng(0)
    some, steps = rng.uniform(-150, 128, 5000), np.arange(-149.0, 128)
    x = np.concatenate([2.0**some, -(2.0**some), 2.0**steps, [0.0, -0.0, -3.0]]).astype(np.float32)
    powers, size = 2.0 ** np.arange(-127.0, 129), np.abs(x).astype(np.float64)
    wanted = np.searchsorted(powers, size, "right") - 1 if mode == "rz" else np.searchsorted(powers, size, "left")
    wanted = wanted.clip(0, 254 if end else 255)
    function = isa.semantics(f"cvt.{mode}{end}.ue8m0x2.f32", None, 2).function
    got = function(x.view(np.uint32), np.full(len(x), 0x3F800000, np.uint32))
    assert got.dtype == np.uint16
    assert np.array_equal(got >> 8, wanted)
    assert (got & 255 == 127).all()
    ends = np.array([np.inf, -np.inf, np.nan], np.float32).view(np.uint32)
    assert (function(ends, ends) >> 8).tolist() == ([254, 254, 255] if end else [255] * 3)


def test_scales_of_blocks_become_bfloat16():
    bits = np.arange(256, dtype=np.uint16)
    got = isa.semantics("cvt.rn.bf16x2.ue8m0x2", None, 1).function(bits << np.uint16(8) | np.uint16(127))
    halves = np.stack([got >> 16, got & 0xFFFF]).astype(np.uint32) << np.uint32(16)
    upper, lower = halves.astype(np.uint32).view(np.float32)
    assert (lower == 1).all()
    assert np.array_equal(upper[:255], 2.0 ** np.arange(-127.0, 128))
    assert np.isnan(upper[255])
