"""Calls are inlined: functions that Triton keeps apart, libdevice's own, nested ones; and what cannot be is refused."""

import math
import re

import numpy as np
import pytest
import triton
import triton.language as tl
from triton.language.extra import libdevice

from kvproof.kernels import ptx
from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.errors import ParseError, UnknownOpcode
from kvproof.kernels.ptx.parse import parse

TARGETS = ("sm_80", "sm_90", "sm_100")
# No float64 comes nearer to a multiple of pi/2. Source of it and of its cosine: Muller, Elementary Functions, ch. 11.
NEAREST = 6381956970095103 * 2.0**797


@triton.jit
def turns(x, sines, cosines, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0.0)
    tl.store(sines + at, tl.sin(v), mask=at < n)
    tl.store(cosines + at, tl.cos(v), mask=at < n)


@triton.jit
def powers(x, out, n, BLOCK: tl.constexpr):
    """Calls of two functions whose parameters have the same names; a cache policy made of a decimal number."""
    at = tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0.0, eviction_policy="evict_last")
    tl.store(out + at, libdevice.pow(v, v * 0 + 1.5) + tl.sin(v), mask=at < n)


@triton.jit(noinline=True)
def affine(a, b):
    return a * b + 1


@triton.jit(noinline=True)
def pair(a, b):
    if a > 3:
        a = affine(a, b)
    return a, affine(b, a)


@triton.jit
def twice(x, out):
    i = tl.program_id(0)
    v = tl.load(x + i)
    a, b = pair(v, v + 1)
    c, d = pair(a, b * 2)
    tl.store(out + 2 * i, c)
    tl.store(out + 2 * i + 1, d)


def two(v):
    """What the kernel `twice` computes, in the order of its calls."""

    def pair(a, b):
        a = a * b + 1 if a > 3 else a
        return a, b * a + 1

    a, b = pair(v, v + 1)
    return pair(a, b * 2)


@pytest.mark.parametrize("target", TARGETS)
def test_calls_of_two_functions_keep_their_parameters_apart(target):
    x, out = np.linspace(1, 1e6, 100), np.full(100, np.nan)
    ptx.run(powers, 1, x, out, 100, BLOCK=128, target=target, readable={"out": False})
    assert np.abs(out - (x**1.5 + np.sin(x))).max() <= 1e-15 * 1e9


@pytest.mark.parametrize("target", TARGETS)
def test_a_sine_in_float64_is_right_to_two_ulps_up_to_the_largest_numbers(target):
    v = np.array([0.0, 5e-324, 1e-300, 0.5, 105414.0, 105416.0, 2.0**31, 2.0**31 + 1, 1e22, 2.0**600, 1.7e308, NEAREST])
    x = np.concatenate([np.linspace(-1e6, 1e6, 470), v, -v])
    out = np.full((2, len(x)), np.nan)
    ptx.run(turns, (2,), x, out[0], out[1], len(x), BLOCK=256, target=target)
    true = np.array([[f(float(v)) for v in x] for f in (math.sin, math.cos)])
    true[1, np.abs(x) == NEAREST] = -4.68716592425462761112e-19  # where glibc is wrong by eight ulps
    assert (np.abs(out - true) <= 2 * np.spacing(np.abs(true))).all()
    assert np.array_equal(np.signbit(out), np.signbit(true))
    ptx.run(turns, (1,), np.array([np.inf, -np.inf, np.nan]), out[0], out[1], 3, BLOCK=128, target=target)
    assert np.isnan(out[:, :3]).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_a_function_called_from_two_places_that_calls_another_keeps_its_registers_apart(target, dtype):
    x = np.array([1, 2, 3, 4, 5, -7], dtype)
    out = np.full((len(x), 2), -99, dtype)
    ptx.run(twice, (len(x),), x, out, target=target)
    assert out.tolist() == [list(map(float, two(v))) for v in x.tolist()]
    assert compile(twice, (x, out), {}, target).ptx.count("call.uni") == 4


def test_an_instruction_of_a_function_says_who_called_it():
    x = np.zeros(1, np.float32)
    program = parse(compile(twice, (x, x), {}, "sm_90").ptx)
    fused = [i for i in program.instructions if i.opcode.startswith("fma")]
    assert len(fused) == 4  # two calls of pair, which calls affine at two places
    lines = [[line for _, line in i.where] for i in fused]
    first = affine.fn.__code__.co_firstlineno + 2
    assert [line[0] for line in lines] == [first] * 4
    assert [line[1] - first for line in lines] == [6, 7, 6, 7]
    assert len({line[2] for line in lines[:2]}) == len({line[2] for line in lines[2:]}) == 1
    assert lines[0][2] + 1 == lines[2][2]


HEAD = ".version 8.8\n.target sm_90a\n.address_size 64\n"
LEAF = """.func (.param .b64 func_retval0) leaf(
	.param .b64 leaf_param_0
)
{
	.local .align 8 .b8 	__local_depot1[24];
	.reg .b64 %SPL;
	.reg .pred %p<2>;
	.reg .b64 %rd<3>;
	mov.b64 %SPL, __local_depot1;
	ld.param.b64 %rd1, [leaf_param_0];
	setp.eq.b64 %p1, %rd1, 0;
	@%p1 ret;
	st.b32 [%rd1], 7;
	st.param.b64 [func_retval0], %SPL;
	ret;
}
"""
CALL = """	{
	.param .b64 param0;
	.param .b64 retval0;
	st.param.b64 [param0], %rd2;
	call.uni (retval0), leaf, (param0);
	ld.param.b64 %rd1, [retval0];
	}
"""
ENTRY = """.visible .entry main(
	.param .u64 main_param_0
)
{
	.local .align 4 .b8 	__local_depot0[20];
	.reg .b64 %SP;
	.reg .b64 %rd<4>;
	mov.b64 %SP, __local_depot0;
	cvta.local.u64 %rd3, %SP;
	add.u64 %rd2, %rd3, 4;
BODY	ret;
}
"""


def module(body: str, functions: str = LEAF, entry: str = ENTRY) -> str:
    return HEAD + entry.replace("BODY", body) + functions


def test_a_function_has_its_local_memory_behind_its_caller_s_and_siblings_share_theirs():
    program = parse(module(CALL + CALL))
    assert program.local == 32 + 32  # 20 and 24, each up to 16
    moved = [i.operands[1].bits for i in program.instructions if i.operands and str(i.operands[0]).count("SP")]
    assert moved[:1] + moved[-1:] == [0, 32]


def test_a_return_under_a_guard_leaves_the_function_and_not_the_kernel():
    program = parse(module(CALL))
    jumps = [i for i in program.instructions if i.opcode == "bra"]
    assert [i.guard.name if i.guard else None for i in jumps] == ["%p1@1", None]
    behind = {program.labels[i.operands[0].name] for i in jumps}
    assert [program.instructions[n].operands[0].name for n in behind] == ["%rd1"]
    assert [i.opcode for i in program.instructions].count("ret") == 1


def test_a_generic_address_that_can_only_be_local_is_local():
    opcodes = [i.opcode for i in parse(module(CALL)).instructions]
    assert "st.local.b32" in opcodes
    assert "st.b32" not in opcodes


def test_a_generic_address_that_may_be_either_stays_unknown():
    either = CALL.replace("%rd2;", "%rd2;\n ld.param.b64 %rd0, [main_param_0];\n @%p0 st.param.b64 [param0], %rd0;")
    either = module(either, entry=ENTRY.replace(".reg .b64 %SP;", ".reg .b64 %SP; .reg .pred %p<1>;"))
    assert "st.b32" in [i.opcode for i in parse(either).instructions]


@pytest.mark.parametrize(
    ("body", "functions", "error", "what"),
    [
        (CALL.replace("leaf", "elsewhere"), LEAF, UnknownOpcode, r"call\.uni elsewhere: the PTX has no body of it"),
        (CALL, LEAF.replace("st.b32 [%rd1], 7;", CALL.replace("%rd2", "%rd1")), UnknownOpcode, "leaf: it calls itself"),
        (CALL.replace("leaf", "%rd1"), LEAF, UnknownOpcode, "a call of an address"),
        (CALL.replace("(param0);", "(param0, param0);"), LEAF, ParseError, "takes 2 .* and is given 3"),
        (CALL.replace("st.param", "// st.param"), LEAF, UnknownOpcode, "a parameter, or one that nothing has set"),
        (CALL.replace("ld.param.b64", "ld.param.b16"), LEAF, UnknownOpcode, "a part of a parameter"),
        ("	bra.uni nowhere;\n", LEAF, ParseError, "nothing declares nowhere"),
        ("	mov.b64 %rd1, nothing;\n", LEAF, ParseError, "nothing declares nothing"),
    ],
)
def test_a_call_that_cannot_be_inlined_is_refused_with_its_line(body, functions, error, what):
    with pytest.raises(error, match=what) as caught:
        parse(module(body, functions))
    assert re.search(r"PTX line \d+", str(caught.value))


def test_halves_of_a_parameter_may_be_read_as_a_whole_and_a_whole_as_halves():
    halves = CALL.replace("st.param.b64 [param0], %rd2;", "st.param.v2.b32 [param0], {%r0, %r1};")
    halves = halves.replace("ld.param.b64 %rd1, [retval0];", "ld.param.b32 %r1, [retval0+4];")
    entry = ENTRY.replace(".reg .b64 %SP;", ".reg .b64 %SP; .reg .b32 %r<2>;")
    moves = [i for i in parse(module(halves, entry=entry)).instructions if i.opcode == "mov.b64"]
    assert [len(getattr(x, "parts", "1")) for i in moves for x in i.operands].count(2) == 2
