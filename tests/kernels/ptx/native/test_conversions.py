"""Native cvt against the NumPy form, bit by bit, NaN payloads included."""

import pytest

from kvproof.kernels.ptx import isa
from kvproof.kernels.ptx.native import conversions
from kvproof.kernels.ptx.native.lower import Unlowered
from kvproof.kernels.ptx.native.table import opcode

from ._lowered import Lowered, check_all, samples

OPCODES = [o for o in isa.OPCODES if o.startswith("cvt.")]
WHOLE = [o for o in OPCODES if {"rz", "rm", "rp"} & set(o.split(".")) and o.endswith(("f64.s64", "f64.u64"))]
UNLOWERED = {*WHOLE, *(o for o in OPCODES if "ue8m0x2" in o)}
RESULTS = sorted({opcode(o, 0).types[0] for o in OPCODES} - {"ue8m0x2"})


@pytest.mark.parametrize("to", RESULTS)
def test_every_spelling_has_the_bits_of_the_numpy_form(to):
    check_all([o for o in OPCODES if opcode(o, 0).types[0] == to and o not in UNLOWERED])


def test_what_has_no_native_form_says_so():
    for o in UNLOWERED:
        with pytest.raises(Unlowered):
            Lowered([o])


def test_a_wrong_bit_is_found(monkeypatch):
    """Which is to say that the tests above can fail: here what lies between two halves is always rounded up."""
    monkeypatch.setattr(conversions, "encode", lambda L, x, kind, mode: encode(L, x, kind, "rp"))
    lowered = Lowered(["cvt.rn.f16x2.f32"])
    with pytest.raises(AssertionError, match="wrong, of"):
        lowered.check("cvt.rn.f16x2.f32", *samples("cvt.rn.f16x2.f32"))


encode = conversions.encode
