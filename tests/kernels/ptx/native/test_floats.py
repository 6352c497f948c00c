"""Native floating point against the NumPy form, bit by bit, NaN payloads included."""

import numpy as np
import pytest

from kvproof.kernels.ptx import isa
from kvproof.kernels.ptx.native import floats, numpy_loops
from kvproof.kernels.ptx.native.lower import Unlowered, opcode

from ._lowered import Case, Lowered, samples

OPCODES = [o for o in isa.OPCODES if not o.startswith("cvt") and any("f" in kind for kind in opcode(o, 0).types)]
DIRECTED = [o for o in OPCODES if o.endswith(".f64") and {"rz", "rm", "rp"} & set(o.split("."))]
UNLOWERED = {*DIRECTED, "rsqrt.approx.f64", *(o for o in OPCODES if "xorsign" in o)}
FAMILIES = sorted({o.split(".")[0] for o in OPCODES})


@pytest.fixture(scope="module", autouse=True)
def _loops():
    numpy_loops.link()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_spelling_has_the_bits_of_the_numpy_form(family):
    opcodes = [o for o in OPCODES if o.split(".")[0] == family and o not in UNLOWERED]
    lowered = Lowered(opcodes, floats.RUNTIME)
    for o in opcodes:
        lowered.check(o, *samples(o))


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
    lowered = Lowered([o], floats.RUNTIME)
    lowered.check(o, np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32))


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_fma_is_rounded_once_where_a_sum_comes_near_a_tie(kind):
    """c is half a last place of a*b, or just so much and a little more, in many binades."""
    o, n = f"fma.rn.{kind}", 1 << 14
    lowered = Lowered([o])
    rng = np.random.default_rng(1)
    bits, fraction = {"f32": (32, 23), "f64": (64, 52), "f16": (16, 10), "bf16": (16, 7)}[kind]
    few = ((1 << bits) - 1) & ~((1 << fraction // 2) - 1)  # numbers of few bits have products of few
    x = [rng.integers(0, 1 << 63, n).astype(f"u{bits // 8}") for _ in range(3)]
    for i in (0, 1):
        x[i] = x[i] & x[i].dtype.type(few)
    with np.errstate(all="ignore"):
        product = isa.semantics(f"mul.{kind}").function(*x[:2])
    below = product - (x[2] % x[2].dtype.type(2 * fraction + 4) << x[2].dtype.type(fraction))
    lowered.check(o, *x[:2], below)
    lowered.check(o, *x[:2], below & ~x[2].dtype.type((1 << fraction) - 1))


def test_a_wrong_bit_is_found(monkeypatch):
    """Which is to say that the tests above can fail."""
    monkeypatch.setitem(floats.LOWER, "add", lambda op, L, values: [L.bits(L.b.fadd(*map(L.number, values)))])
    lowered = Lowered(["add.f32"])
    with pytest.raises(AssertionError, match=r"wrong, of .* not \['0x7fffffff'\]"):
        lowered.check("add.f32", *samples("add.f32"))
