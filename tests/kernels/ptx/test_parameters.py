"""Parameters whose addresses a kernel chooses between before it loads one, and what can go wrong with them."""

import numpy as np
import pytest
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import errors
from kvproof.kernels.ptx.parameters import addressed, places
from kvproof.kernels.ptx.parse import parse

from ._text import fails, run


@triton.jit
def pick(a, b, c, out, n, BLOCK: tl.constexpr):
    """out[p] is the sum of a for p = 0, of b for p = 1, else of c."""
    p = tl.program_id(0)
    x = a
    if p == 1:
        x = b
    if p > 1:
        x = c
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        total += tl.load(x + start + tl.arange(0, BLOCK))
    tl.store(out + p, tl.sum(total))


def test_a_kernel_that_chooses_one_of_its_pointers_reads_that_one():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 99, 128).astype(np.float32) for _ in range(3)]
    out = np.zeros(4, np.float32)
    ptx.check(pick, 4, *arrays, out, 128, BLOCK=64)
    assert out.tolist() == [arrays[n].sum() for n in (0, 1, 2, 2)]


CHOICE = (
    "mov.b64 %rd3, k_param_0; mov.b64 %rd4, k_param_1; setp.lt.u32 %p1, %r1, 8; selp.b64 %rd5, %rd3, %rd4, %p1; {} "
    "ld.param.b64 %rd6, [%rd5{}]; add.u64 %rd6, %rd6, %rd10; st.global.b32 [%rd6], 7; ret;"
)


def test_each_thread_of_a_warp_may_choose_another_parameter():
    a, b = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
    run(CHOICE.format("", ""), a, b)
    assert a.tolist() == [7] * 8 + [0] * 24
    assert b.tolist() == [0] * 8 + [7] * 24


@pytest.mark.parametrize("body", [CHOICE.format("add.s64 %rd5, %rd5, 4;", ""), CHOICE.format("", "+4")])
def test_an_address_at_which_no_parameter_begins_is_an_error_of_its_thread(body):
    error = fails(errors.OutOfBounds, "no parameter of the kernel begins", body, np.zeros(32, "u4"), np.zeros(32, "u4"))
    assert error.thread == 0


def test_the_address_of_a_parameter_that_no_load_follows_stays_as_it_is():
    text = ".version 8.7\n.target sm_90\n.visible .entry k(.param .u64 k_param_0)\n{\n.reg .b64 %rd<9>;\n"
    program = parse(text + "mov.b64 %rd1, k_param_0;\nret;\n}\n")
    assert addressed(program.instructions, program.parameters) == program.instructions
    assert program.instructions[0].operands[1].name == "k_param_0"


def test_no_two_parameters_share_an_address():
    where = places([(f"p{n}", "b64") for n in range(300)])
    assert len(set(where.values())) == 300
    assert min(where.values()) > 0
