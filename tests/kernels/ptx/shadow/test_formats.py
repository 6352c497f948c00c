"""What the bits of a register stand for is found from what is done with them, before and after."""

from kvproof.kernels.ptx.parse import parse
from kvproof.kernels.ptx.shadow.formats import bits_used, formats

TEXT = """
.visible .entry k(.param .u64 k_0, .param .u64 k_1)
{{
.reg .pred %p<3>;
.reg .b16 %rs<9>;
.reg .b32 %r<20>;
.reg .b64 %rd<9>;
ld.param.b64 %rd1, [k_0];
ld.param.b64 %rd2, [k_1];
{body}
ret;
}}
"""


def found(body: str, *pointers: str) -> dict[str, str]:
    return formats(parse(TEXT.format(body=body)), pointers)


def test_a_loaded_pair_is_what_its_halves_are_converted_from():
    body = "ld.global.b32 %r1, [%rd1];\nmov.b32 {%rs1, %rs2}, %r1;\ncvt.f32.bf16 %r2, %rs1;"
    assert found(body) == {"%rs1": "bf16", "%rs2": "bf16", "%r1": "bf16x2", "%r2": "f32"}


def test_a_shuffled_number_is_one_on_both_sides():
    body = "shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;\nmax.f32 %r3, %r1, %r2;\nadd.s32 %r5, %r6, 1;"
    assert found(body) == {"%r1": "f32", "%r2": "f32", "%r3": "f32"}


def test_bit_tricks_that_widen_a_bfloat16_are_known():
    body = "and.b32 %r2, %r1, -65536;\nshl.b32 %r3, %r1, 16;\nmul.f32 %r4, %r2, %r3;"
    assert found(body) == {"%r1": "bf16x2", "%r2": "f32", "%r3": "f32", "%r4": "f32"}


def test_what_is_only_moved_has_the_format_of_what_its_pointer_points_at():
    body = "ld.shared.b32 %r1, [%r9];\nadd.s64 %rd3, %rd2, 64;\nst.global.b32 [%rd3], %r1;"
    assert found(body, "f32", "bf16") == {"%r1": "bf16x2"}
    assert found(body, "f32", "") == {}
    assert found(body.replace("%rd2, 64", "%rd2, %rd1"), "f32", "bf16") == {}  # of two pointers, neither


def test_integers_made_of_a_float_s_bits_are_known():
    body = "mul.f32 %r1, %r2, %r3;\nshr.u32 %r4, %r1, 23;\nadd.s32 %r5, %r4, 1;\nadd.s32 %r6, %r7, 1;"
    program = parse(TEXT.format(body=body))
    assert bits_used(program, formats(program)) == {"%r4", "%r5"}
