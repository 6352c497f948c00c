"""LLVM IR as text: what is known is no instruction, what nobody reads is not written, and LLVM takes the rest."""

import llvmlite.binding as llvm
import pytest

from kvproof.kernels.ptx.native import ir
from kvproof.kernels.ptx.native.lanes import F32, I1, I32, I64, Lanes, vector


@pytest.fixture
def b():
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(I32, [I32, vector(F32), ir.PointerType()]), "f")
    return ir.IRBuilder(function.append_basic_block())


def text(b) -> str:
    """The function's code, as LLVM prints it."""
    b.ret(I32(0))
    module = llvm.parse_assembly(str(b.module))
    module.verify()
    return str(module)


def test_types_are_one_object_each_and_numbers_wrap():
    assert vector(I32) is ir.VectorType(ir.IntType(32), 32)
    assert I32(-1).constant == (1 << 32) - 1
    assert str(Lanes.const(None, vector(I32), 3)) == "<32 x i32> splat (i32 3)"  # pyright: ignore[reportArgumentType]
    assert str(F32(1.1)) == f"float 0x{0x3FF19999A0000000:016x}"


def test_what_is_known_is_no_instruction(b):
    x = b.function.args[0]
    assert b.add(I32(-1), I32(2)).constant == 1
    assert b.shl(I32(1 << 31), I32(1)).constant == 0
    assert b.icmp_unsigned("==", I32(-1), I32(0xFFFFFFFF)).constant == 1
    assert b.icmp_signed("!=", I32(-1), I32(0xFFFFFFFF)).constant == 0
    assert b.zext(b.trunc(I64(1 << 40 | 5), I32), I64).constant == 5
    assert b.add(x, I32(0)) is x
    assert b.and_(x, I32(-1)) is x
    assert b.select(I1(1), x, I32(7)) is x
    assert not b.lines
    assert b.mul(x, I32(0)) is not x


def test_a_value_of_its_own_bits_is_itself(b):
    x = b.function.args[1]
    there = b.bitcast(x, vector(I32))
    assert b.bitcast(there, vector(F32)) is x


@pytest.mark.parametrize("read", [False, True])
def test_what_nobody_reads_is_not_written(b, read):
    x, _, place = b.function.args
    later = b.later(I32, lambda: b.mul(x, I32(3)))
    with b.if_then(b.icmp_signed("<", x, I32(0))):
        if read:
            b.store(later, place)
    b.store(later if read else x, place)  # behind the branch: it was written before it
    assert text(b).count("mul i32") == read


def test_relations_are_llvms(b):
    x, y, place = b.function.args
    holds = [b.icmp_signed("<", x, I32(1)), b.icmp_unsigned(">=", x, I32(1)), b.icmp_unsigned("==", x, I32(1))]
    holds += [b.fcmp_ordered("<", y, y), b.fcmp_unordered("==", y, y), b.fcmp_ordered("ord", y, y)]
    holds += [b.fcmp_unordered("uno", y, y), b.fcmp_ordered("!=", y, y)]
    for one in holds:
        b.store(one, place)
    found = text(b)
    for name in ("slt", "uge", "icmp eq", "olt", "ueq", "ord", "uno", "one"):
        assert f"{name} " in found, found


def test_a_trunk_knows_what_came_before_it_and_no_more(b):
    before = b.block.trunk
    with b.if_else(b.icmp_signed("<", b.function.args[0], I32(0))) as (then, other):
        with then:
            inner = b.block.trunk
            assert inner.within(before)
        with other:
            assert not b.block.trunk.within(inner)
    assert b.block.trunk.within(before)
    assert not b.block.trunk.within(inner)
    text(b)
