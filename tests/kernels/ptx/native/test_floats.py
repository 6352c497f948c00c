"""Native floating point against the NumPy form, bit by bit, NaN payloads included."""

import ctypes

import numpy as np
import pytest

from kvproof.kernels.ptx import isa
from kvproof.kernels.ptx.native import code, floats, ir, numpy_loops
from kvproof.kernels.ptx.native.lower import Unlowered
from kvproof.kernels.ptx.native.table import opcode

from .. import _text
from ._lowered import Case, Lowered, check_all, samples

OPCODES = [o for o in isa.OPCODES if not o.startswith("cvt") and any("f" in kind for kind in opcode(o, 0).types)]
DIRECTED = [o for o in OPCODES if o.endswith(".f64") and {"rz", "rm", "rp"} & set(o.split("."))]
UNLOWERED = {*DIRECTED, "rsqrt.approx.f64", *(o for o in OPCODES if "xorsign" in o)}
FAMILIES = sorted({o.split(".")[0] for o in OPCODES})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_spelling_has_the_bits_of_the_numpy_form(family):
    check_all([o for o in OPCODES if o.split(".")[0] == family and o not in UNLOWERED], numpy_loops.RUNTIME)


def test_what_has_no_native_form_says_so():
    for o in UNLOWERED:
        with pytest.raises(Unlowered):
            Lowered([o])


def test_min_and_max_take_a_third_operand():
    cases = [Case(o, 3) for o in ("min.f32", "max.NaN.f32", "max.ftz.f32")]
    lowered = Lowered(cases)
    for case in cases:
        lowered.check(case, *samples(case))


@pytest.mark.parametrize("name", numpy_loops.LOOPS)
def test_approximations_are_numpys_on_a_million_numbers(name):
    o = f"{name}.approx.f32"
    lowered = Lowered([o], numpy_loops.RUNTIME)
    lowered.check(o, np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32))


def test_compiled_code_finds_numpys_loops(tmp_path, monkeypatch):
    """As kernels are linked, from an object file."""
    monkeypatch.setenv("KVPROOF_CACHE_DIR", str(tmp_path))
    module = ir.Module()
    for define in numpy_loops.RUNTIME.values():
        define(module)
    linked = code.linked(*code.made("loops", [str(module)]), ())
    x = np.linspace(-3, 3, 99, dtype=np.float32)
    for name, function in numpy_loops.LOOPS.items():
        one = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(linked[f"numpy.{name}.f32"])
        with np.errstate(all="ignore"):
            want = function(x.astype(np.float64)).astype(np.float32)
        assert np.array_equal(np.array([one(v) for v in x], np.float32), want, equal_nan=True)


def test_a_wrong_bit_is_found(monkeypatch):
    """Which is to say that the tests above can fail."""
    monkeypatch.setitem(floats.LOWER, "add", lambda op, L, values: [L.bits(L.b.fadd(*map(L.number, values)))])
    lowered = Lowered(["add.f32"])
    with pytest.raises(AssertionError, match=r"wrong, of .* not \['0x7fffffff'\]"):
        lowered.check("add.f32", *samples("add.f32"))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_an_fma_rounded_twice_is_found(kind, monkeypatch):
    monkeypatch.setattr(floats, "odd_sum", lambda L, a, b: L.b.fadd(a, b))
    lowered = Lowered([f"fma.rn.{kind}"])
    with pytest.raises(AssertionError, match="wrong, of"):
        lowered.check(f"fma.rn.{kind}", *samples(f"fma.rn.{kind}"))


@pytest.mark.parametrize("then", ["mul.f32 %r9, %r7, %r7; ", "mov.b32 %r9, %r7; ", "cvt.f32.bf16 %r9, %h1; "])
@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_a_nan_that_goes_on_as_a_number_is_the_canonical_one_to_whoever_looks_at_its_bits(engine, then):
    """Infinity minus itself is another NaN on this CPU; as float16's, taken for a bfloat16, it would be a number."""
    body = "mov.b32 %r6, 0x7f800000; sub.f32 %r7, %r6, %r6; cvt.rn.f16.f32 %h1, %r7; " + then
    assert (_text.own(body, engine=engine) == 0x7FFFFFFF).all()
