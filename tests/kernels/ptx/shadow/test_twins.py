"""What is done beside each instruction is said once, for either engine."""

from kvproof.kernels.ptx.decode import Decoder
from kvproof.kernels.ptx.parse import parse
from kvproof.kernels.ptx.shadow.twins import Follower

from .test_formats import TEXT

BODY = """ld.global.b32 %r1, [%rd1];
mul.f32 %r2, %r1, 0f3DCCCCCD;
setp.lt.f32 %p1, %r1, %r2;
cvt.rn.bf16x2.f32 %r3, %r1, %r2;
shr.u32 %r4, %r2, 23;
cvt.rn.f32.u32 %r5, %r4;
@%p1 st.global.b32 [%rd2], %r3;"""


def followed():
    program = parse(TEXT.format(body=BODY))
    decoder = Decoder(program, None)
    follower = Follower(decoder, ((0.1,), frozenset({0.1})), (), False)
    for i in program.instructions:
        follower(i, lambda block, active: None)
    return {i.opcode: n for n, i in enumerate(program.instructions)}, decoder, follower.followed()


def test_each_instruction_of_floats_has_an_act():
    at, _, found = followed()
    how = {opcode: [act.how for act in found.acts[n]] for opcode, n in at.items() if n in found.acts}
    assert how == {
        "ld.global.b32": ["load"], "mul.f32": ["compute"], "setp.lt.f32": ["choose"], "cvt.rn.bf16x2.f32": ["compute"],
        "cvt.rn.f32.u32": ["stand"], "st.global.b32": ["store"],
    }  # fmt: skip
    (act,) = found.acts[at["mul.f32"]]
    assert [(x.kind, x.twin, x.value is None) for x in act.numbers] == [("f32", True, True), ("f32", False, False)]
    assert act.numbers[1].value == 0.1


def test_a_pair_has_two_slots_and_what_makes_integers_of_bits_is_lost():
    at, decoder, found = followed()
    assert {name for name in decoder.slots if name.startswith("%r3'")} == {"%r3'", "%r3''"}
    assert "%r4'" not in decoder.slots
    assert found.lost == {at["cvt.rn.f32.u32"]}
