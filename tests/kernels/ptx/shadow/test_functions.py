"""Every float instruction of the table: what it is followed by rounds to what it gives."""

import numpy as np
import pytest

from kvproof.kernels.ptx import isa
from kvproof.kernels.ptx.floats import FORMATS
from kvproof.kernels.ptx.opcode import BITS
from kvproof.kernels.ptx.parse import Instruction, Register
from kvproof.kernels.ptx.shadow.formats import HALF, KINDS, exact
from kvproof.kernels.ptx.shadow.functions import function

UNFOLLOWED = ("set.", "cvt.rni", "cvt.rzi", "cvt.rmi", "cvt.rpi", "selp", "mov")


def of_floats() -> list[str]:
    found = []
    for opcode in isa.OPCODES:
        s = isa.semantics(opcode)
        if all(kind in KINDS for kind in (*s.sources, *s.results)) and not opcode.startswith(UNFOLLOWED):
            found.append(opcode)
    return found


def numbers(kind: str, rng) -> np.ndarray:
    """Bits of positive numbers of middling size."""
    half = HALF.get(kind, KINDS[kind])
    x = rng.uniform(0.5, 2, 64 * (2 if kind in HALF else 1))
    wide = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
    bits = (
        (x.astype("f4").view("u4") >> 16).astype("u2")
        if half == "bf16"
        else x.astype(wide[half]).view(f"u{BITS[half] // 8}")
    )
    return bits.view(f"u{BITS[kind] // 8}")[None]


@pytest.mark.parametrize("opcode", of_floats())
def test_it_rounds_to_what_the_instruction_gives(opcode):
    s, rng = isa.semantics(opcode), np.random.default_rng(0)
    operands = [Register(f"%r{n}") for n in range(len(s.sources) + 1)]
    f = function(Instruction(opcode, tuple(operands), None, 1, ()))
    if "xorsign" in opcode:
        assert f is None
        return
    assert f is not None
    bits = [numbers(kind, rng) for kind in s.sources]
    with np.errstate(all="ignore"):
        real = exact(s.function(*bits), KINDS[s.results[0]]).view(np.float64)
        shadow = f(*(exact(x, KINDS[kind]) for x, kind in zip(bits, s.sources, strict=True))).view(np.float64)
    half = HALF.get(s.results[0], s.results[0])
    fraction = 20 if opcode.endswith("ftz.f64") else FORMATS[half].fraction
    # Differences of numbers of 0.5 to 2 may cancel: their error is one of the operands, not of the result.
    assert np.allclose(shadow, real, rtol=2.0**-fraction, atol=2.0**-fraction)
