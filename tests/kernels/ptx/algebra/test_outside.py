"""What a verdict says that it cannot judge: each operation of a kernel's TTIR outside the ring, at its own line."""

from types import SimpleNamespace

import pytest

from kvproof.kernels.ptx.algebra import embedding
from kvproof.kernels.ptx.algebra.outside import BOTH, HIDES, PARTS, judged, outside

TEXT = """
#loc = loc("/somewhere/kernel.py":4:1)
#loc9 = loc("/somewhere/kernel.py":7:20)
#loc28 = loc("p"(#loc9))
module {
    %a = arith.constant dense<0xFF800000> : tensor<32xf32> loc(#loc24)
    %n = arith.constant dense<3> : tensor<32xi32> loc(#loc24)
    %one = arith.constant dense<1.000000e+00> : tensor<32xf32> loc(#loc24)
    %p_14 = arith.maxnumf %p_12, %p_13 : f32 loc(#loc36)
    %p_15 = arith.maxnumf %p_14, %p_13 : f32 loc(#loc24)
    %s = arith.addf %p_12, %p_13 : tensor<32xf32> loc(#loc24)
    %5 = tt.atomic_rmw fadd, acq_rel, gpu, %1, %4, %c : (tensor<32x!tt.ptr<f32>>, tensor<32xf32>) -> tensor<32xf32> loc(#loc24)
    %6 = tt.atomic_rmw add, acq_rel, gpu, %1, %4, %c : (tensor<32x!tt.ptr<i32>>, tensor<32xi32>) -> tensor<32xi32> loc(#loc24)
}
#loc4 = loc("/somewhere/kernel.py":6:9)
#loc8 = loc("/lib/triton/language/standard.py":191:16)
#loc11 = loc("/lib/triton/language/standard.py":170:12)
#loc24 = loc("a"(#loc4))
#loc33 = loc(callsite(#loc8 at #loc28))
#loc36 = loc(callsite(#loc11 at #loc33))
"""  # noqa: E501


def test_each_operation_is_named_once_at_the_kernel_s_own_line():
    found = outside([SimpleNamespace(name="soft", asm={"ttir": TEXT})])
    assert [(x.operation, x.where, x.count) for x in found] == [
        ("constant -inf", "kernel.py:6", 1), ("maxnumf", "kernel.py:7", 2), ("atomic_rmw fadd", "kernel.py:6", 1),
    ]  # fmt: skip
    assert str(found[1]) == "maxnumf (soft, kernel.py:7, 2 times) goes by the order of payloads, not of numbers"


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        ("%1 = arith.truncf %0 : tensor<8xf32> to tensor<8xf16>", HIDES, PARTS),
        ("%1 = tt.fp_to_fp %0, rounding = rtne : tensor<8xf32> -> tensor<8xf8E5M2>", HIDES, PARTS),
        ("%1 = tt.fp_to_fp %0 : tensor<8xf8E5M2> -> tensor<8xf16>", PARTS, PARTS),
        ("%1 = tt.fp_to_fp %0 : tensor<8xf8E5M2> -> tensor<8xf8E4M3FN>", None, None),
        ("%1 = arith.extf %0 : tensor<8xf16> to tensor<8xf32>", PARTS, PARTS),
        (
            'tt.func public @k(%x: !tt.ptr<f32> loc("x"(#loc)), %s: f32 loc("s"(#loc)), %n: i32 loc("n"(#loc))) {',
            PARTS,
            PARTS,
        ),
        ('tt.func public @k(%x: !tt.ptr<f32> loc("x"(#loc)), %n: i32 loc("n"(#loc))) {', None, None),
        ("tt.descriptor_reduce add, %d[%c], %v : !tt.tensordesc<64xf32>, tensor<64xf32>", BOTH, BOTH),
        ("tt.descriptor_reduce add, %d[%c], %v : !tt.tensordesc<64xi32>, tensor<64xi32>", None, None),
        ("%1 = tt.clampf %0, %2, %3, propagateNan = none : tensor<8xf32>", BOTH, PARTS),
        (
            '%1 = tt.elementwise_inline_asm "add.f32 $0, $1, $1;" {pure = true} %0 : tensor<8xf32> -> tensor<8xf32>',
            BOTH,
            PARTS,
        ),
        ("%1 = tt.bitcast %0 : tensor<8xf32> -> tensor<8xi32>", BOTH, BOTH),
        ("%1 = tt.bitcast %0 : tensor<8xi32> -> tensor<8xi32>", None, None),
        ("%1 = tt.bitcast %0 : !tt.ptr<f32> -> !tt.ptr<f16>", None, None),
        ("%1 = arith.sitofp %0 : tensor<8xi32> to tensor<8xf32>", BOTH, BOTH),
        ("%1 = arith.cmpf ogt, %0, %2 : tensor<8xf32>", BOTH, BOTH),
        ("%1 = arith.cmpi slt, %0, %2 : tensor<8xi32>", None, None),
        ("%1 = math.absf %0 : tensor<8xf64>", BOTH, BOTH),
        ("%1 = math.exp2 %0 : f32", PARTS, PARTS),
        ("%1 = arith.divf %0, %2 : tensor<8xbf16>", PARTS, PARTS),
        ("%1 = arith.constant dense<5.000000e-01> : tensor<8xf32>", PARTS, PARTS),
        ("%1 = arith.constant -1.000000e+00 : f32", None, None),
        ("%1 = arith.constant 0xFC00 : f16", PARTS, PARTS),
        ("%1 = arith.mulf %0, %2 : tensor<8xf32>", None, None),
        ("%1 = tt.dot %0, %2, %3 : tensor<16x16xf16> * tensor<16x16xf16> -> tensor<16x16xf32>", None, None),
    ],
)
def test_what_an_operation_may_do_by_version(line, old, new):
    for version, effect in (((3, 8), old), ((3, 9), new)):
        with embedding.as_of(*version):
            assert [found for _, found, _ in judged(line + " loc(#loc3)")] == ([effect] if effect else [])
