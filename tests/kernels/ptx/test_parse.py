"""The parser: every kind of operand and directive, the lines it gives to instructions, and text that is broken."""

import numpy as np
import pytest

from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.errors import ParseError, PtxError
from kvproof.kernels.ptx.parse import operand, parse
from kvproof.kernels.ptx.syntax import Address, Immediate, Register, Symbol, Vector

from ._kernels import make, matmul_case, waves_case
from ._programs import total_case

A, B = Register("%a"), Register("%b")
OPERANDS = {
    "%r1": Register("%r1"),
    "%tid.x": Register("%tid.x"),
    "!%p1": Register("%p1", negated=True),
    "12": Immediate(12, 0),
    "-12": Immediate(-12, 0),
    "0xFFU": Immediate(255, 0),
    "-0x10": Immediate(-16, 0),
    "0f3F800000": Immediate(0x3F800000, 32),
    "0d3FF0000000000000": Immediate(0x3FF << 52, 64),
    "1.5": Immediate(0x3FC00000, 32),
    "global_smem": Symbol("global_smem"),
    "$L__BB0_1": Symbol("$L__BB0_1"),
    "_": Symbol("_"),
    "[%a]": Address(A, 0),
    "[ %a + 0 ]": Address(A, 0),
    "[%a+16]": Address(A, 16),
    "[%a+-120]": Address(A, -120),
    "[%a-8]": Address(A, -8),
    "[%a+0x10]": Address(A, 16),
    "[f_param_0+4]": Address(Symbol("f_param_0"), 4),
    "[64]": Address(Immediate(64, 0), 0),
    "{%a, %b}": Vector((A, B)),
    "{ %a }": Vector((A,)),
    "%a|%b": Vector((A, B)),
    "(a, b)": Vector((Symbol("a"), Symbol("b"))),
    "()": Vector(()),
}
BROKEN = [
    "", "1.", "1.5.2", "0f3F80", "08", "0x", "%", "%a %b", "[%a+%b]", "[%a+0x]", "[]", "{%a, 1.}", "%a|", "{",
    "[", "!",
]  # fmt: skip


@pytest.mark.parametrize(("text", "meaning"), OPERANDS.items())
def test_an_operand_is_read(text, meaning):
    assert operand(text, {}) == meaning


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_operand_is_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        operand(text, {})


def module(body: str, head: str = "", tail: str = "") -> str:
    pointer = ".param .u64 .ptr .global .align 1 k_param_0"
    parameters = f"{pointer},\n.param .u32 k_param_1,\n.param .align 8 .b8 k_param_2[16]"
    return f".version 8.8\n{head}\n.visible .entry k(\n{parameters}\n)\n.reqntid 128\n{{\n{body}\n}}\n{tail}"


FIRST = 10  # the line where a module's body begins


def body(text: str, **parts: str):
    return parse(module(".reg .pred %p<3>;.reg .b32 %r<9>;.reg .b64 %rd<3>;\n" + text, **parts))


def test_the_signature_names_parameters_and_their_types():
    assert body("ret;").parameters == [("k_param_0", "u64"), ("k_param_1", "u32"), ("k_param_2", "b8")]


def test_registers_are_of_the_class_of_their_width():
    kinds = {"pred": "pred", "b16": "b16", "u16": "b16", "f16": "b16", "s32": "b32", "f32": "b32", "f64": "b64"}
    program = parse(module("".join(f".reg .{t} %{t}<2>;" for t in kinds) + ".reg .b64 %SP;"))
    assert program.registers == {f"%{t}{n}": c for t, c in kinds.items() for n in (0, 1)} | {"%SP": "b64"}


def test_several_statements_on_a_line_and_one_on_several_lines_are_read():
    program = body("add.s32 %r1, %r2, 3; @%p1 bra.uni\n$L1; sub.s32 %r1, %r1,\n  -1;\n$L1: $L2: @!%p2 ret; ret;")
    assert [i.opcode for i in program.instructions] == ["add.s32", "bra.uni", "sub.s32", "ret", "ret"]
    assert [i.line - FIRST for i in program.instructions] == [1, 2, 3, 4, 4]
    guards = [i.guard for i in program.instructions]
    assert guards == [None, Register("%p1"), None, Register("%p2", negated=True), None]
    assert program.labels["$L1"] == program.labels["$L2"] == 3


def test_the_blocks_of_inline_assembly_keep_their_registers_and_labels_to_themselves():
    block = "{ .reg .b32 t; .reg .pred %q<2>; again: add.s32 t, %r1, 1; setp.eq.s32 %q1, t, 3; @%q1 bra.uni again; }\n"
    program = body(block + "mov.b32 %r1, %r2;\n" + block)
    one, two = program.instructions[:3], program.instructions[4:]
    targets = [[i.operands[0] for i in three] for three in (one, two)]
    assert not set(targets[0]) & set(targets[1])
    assert [program.labels[t[2].name] for t in targets] == [0, 4]
    assert [three[2].guard for three in (one, two)] == [three[1].operands[0] for three in (one, two)]
    assert all(program.registers[t[0].name] == "b32" for t in targets)


LOCS = """
.loc 1 10 0
mov.b32 %r1, 1;
.loc 1 20 3, function_name $L__info_string0, inlined_at 1 10 0
mov.b32 %r1, 2;
.loc 2 30 5, function_name $L__info_string1, inlined_at 1 20 3
mov.b32 %r1, 3;
.loc 1 0 0
mov.b32 %r1, 4;
// begin inline asm
.loc 1 99 1
mov.b32 %r1, 5;
// end inline asm
.loc 2 40 1, function_name $L__info_string1, inlined_at 1 77 3
mov.b32 %r1, 6;
.loc 3 50 0
mov.b32 %r1, 7;
"""


def test_an_instruction_has_its_line_and_those_of_its_callers_innermost_first():
    program = body(LOCS, tail='.file 1 "/home/me/a.py"\n.file 2 "b.py"\n')
    ten, twenty = ("a.py", 10), ("a.py", 20)
    thirty = (("b.py", 30), twenty, ten)
    assert [i.where for i in program.instructions] == [
        (ten,), (twenty, ten), thirty, thirty, thirty, (("b.py", 40), ("a.py", 77)), (("?", 50),)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("comment", "callers"),
    [
        ("b.py:30:5", ()),
        ("b.py:30:5 @[ a.py:20:3 ]", (("a.py", 20),)),
        ("b.py:30:5 @[ a.py:20:3 @[ a.py:10:1 ] ]", (("a.py", 20), ("a.py", 10))),
    ],
)
def test_callers_that_only_the_comment_names_are_read_from_there(comment, callers):
    program = body(f".loc 2 30 5 // {comment}\nmov.b32 %r1, 1;\n", tail='.file 1 "/home/me/a.py"\n.file 2 "b.py"\n')
    assert [i.where for i in program.instructions] == [(("b.py", 30), *callers)]


def test_constants_are_as_long_as_they_are_declared():
    head = ".global .align 4 .b8 a_$1[5] = {1, 2, 255};\n.global .b32 b = -2;\n"
    head += ".global .align 8 .u64 c[2] = {0x10, 7};\n.global .align 1 .b8 d[3];"
    program = body("mov.b64 %rd1, a_$1;", head=head)
    assert program.constants == {
        "a_$1": b"\1\2\xff\0\0", "b": b"\xfe\xff\xff\xff", "c": b"\x10" + b"\0" * 7 + b"\7" + b"\0" * 7, "d": b"\0" * 3
    }  # fmt: skip


def test_shared_memory_is_the_module_s_and_the_kernel_s_and_local_memory_is_laid_out_in_order():
    head = ".extern .shared .align 16 .b8 global_smem[];"
    text = ".shared .align 4 .b8 own[20];\n.local .align 8 .b8 one[20]; .local .b8 two[4];\n"
    program = body(text + "mov.b32 %r1, one;\nmov.b32 %r2, two;\nst.local.b32 [two+4], %r1;", head=head)
    assert program.shared == {"global_smem": 0, "own": 20}
    assert [i.operands[1].bits for i in program.instructions[:2]] == [0, 32]
    assert program.instructions[2].operands[0] == Address(Immediate(32, 0), 4)
    assert program.local == 48


MISTAKES = {
    "mov.b32 %r1, 1.5.2;": "1.5.2 is no operand",
    "mov.b32 %r1, %r2 mov.b32 %r3, 1;": "no operand",
    "Mov %r1;": "no operand",
    ".alias a, b;": r"a directive .*: \.alias",
    ".reg .b256 %x;": r"a directive .*: \.reg",
    ".reg .b32 %x<99999>;": "more than 65536",
    ".loc 1 two 3": r"a \.loc the parser does not know",
    "$L1: $L1: ret;": r"the label \$L1 stands at two places",
    "bra $L9;": r"nothing declares \$L9",
    "mov.b64 %rd1, elsewhere;": "nothing declares elsewhere",
}


@pytest.mark.parametrize(("text", "what"), MISTAKES.items())
def test_a_mistake_is_reported_with_its_line(text, what):
    with pytest.raises(ParseError, match=what) as caught:
        body(f"mov.b32 %r1, 1;\n{text}\nret;")
    assert f"PTX line {FIRST + 2}" in str(caught.value)


def test_a_text_without_an_entry_or_an_end_or_with_odd_constants_is_refused():
    for text, what in (
        (".version 8.8\n", "no .entry"),
        (module("ret;")[:-2], "k has no end"),
        (module("ret;", ".global .b8 x[2] = {1, 2, 3};"), "line 2: x has values that are no integers, or too many"),
        (module("ret;", ".global .b64 x = y;"), "line 2: x has values"),
    ):
        with pytest.raises(ParseError, match=what):
            parse(text)


@pytest.fixture(scope="module")
def texts():
    """Three kernels as Triton compiles them, up to the debug information."""
    cases = (make(waves_case, dtype="float64"), "sm_90"), (make(matmul_case), "sm_80"), (make(total_case), "sm_100")
    found = [compile(case.kernel, (), case.arguments, target).ptx for case, target in cases]
    return [text[: text.index("\t.section")] for text in found]


def mutant(text: str, rng: np.random.Generator) -> str:
    """A text that is cut short, or lacks a piece, or has one twice, elsewhere, or with other characters."""
    a, b = sorted(int(x) for x in rng.integers(0, len(text), 2))
    b = min(b, a + int(2.0 ** rng.uniform(0, 10)))
    kind = rng.integers(5)
    if kind == 0:
        return text[:a]
    if kind == 1:
        return text[:a] + text[b:]
    if kind == 2:
        return text[:b] + text[a:]
    if kind == 3:
        at = int(rng.integers(len(text)))
        return text[:at] + text[a:b] + text[at:]
    odd = "".join(rng.choice(list('{}[]();:.,%@!+-0x1f_$| \n"/'), 3))
    return text[:a] + odd + text[a + 3 :]


def test_broken_text_is_refused_by_name_or_still_a_program(texts):
    rng = np.random.default_rng(0)
    refused = 0
    for n in range(200):
        try:
            parse(mutant(texts[n % 3], rng))
        except PtxError:
            refused += 1
    assert 50 < refused < 200
