"""same_algebra: forms of one computation leave the same bits, faults do not; verdicts say what they cannot judge."""

# pyright: reportArgumentType=false

from pathlib import Path

import numpy as np
import pytest
import torch
import triton

from kvproof.kernels import ptx
from kvproof.kernels.ptx import DifferentAlgebra
from kvproof.kernels.ptx.algebra import ring
from kvproof.kernels.ptx.algebra import same as same_module
from kvproof.kernels.ptx.algebra.embedding import signed
from kvproof.kernels.ptx.algebra.same import compare
from kvproof.kernels.ptx.errors import Refused

from . import _kernels as kernels
from ._formulas import matrix_product, softmax_formula
from ._fpsan import needs_fpsan

pytestmark = needs_fpsan
ONE_WARP = {"num_warps": 1}


def vector(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(n)).float()


def line(text: str) -> str:
    """The first place of a text in the file of kernels."""
    path = Path(kernels.__file__)
    lines = path.read_text(encoding="utf-8").splitlines()
    return f"{path.name}:{next(n for n, x in enumerate(lines, 1) if text in x)}"


def launcher(kernel, n, **options):
    """A function of the arrays alone."""

    def launch(x, out):
        kernel[1,](x, out, n, triton.next_power_of_2(n), **ONE_WARP, **options)

    return launch


def test_an_online_softmax_is_the_plain_one_and_without_its_rescale_is_not():
    x, out = vector(64), torch.full((64,), torch.nan)
    x = x[np.argsort(signed(ring.array(x).payload))]  # the running maximum rises at every step
    usual = launcher(kernels.softmax, 64)
    verdict = ptx.same_algebra(usual, launcher(kernels.online_softmax, 64), x, out)
    assert (verdict.same, verdict.arrays, str(verdict)) == (True, ("out",), "Same: out")
    assert {x.operation for x in verdict.outside} == {"maxnumf", "exp", "divf", "constant -inf"}
    with pytest.raises(DifferentAlgebra) as error:
        ptx.same_algebra(usual, launcher(kernels.online_softmax, 64, RESCALE=False), x, out)
    (difference,) = error.value.verdict.differences
    assert (difference.name, difference.at, difference.count, difference.size) == ("out", (0,), 64, 64)
    one, other = f"{difference.one:#x}", f"{difference.other:#x}"
    assert one != other
    assert f"out[0] is {one} and {other}; 64 of 64 elements differ" in str(error.value)
    places = f"{line('tl.max(s, 0)')}, {line('m_new = tl.maximum(m, s)')}"
    assert f"maxnumf ({places}) goes by the order of payloads" in str(error.value)


def test_a_formula_in_python_is_a_side():
    x, out = vector(64), torch.full((64,), torch.nan)
    ptx.same_algebra(launcher(kernels.softmax, 64), softmax_formula, x, out)
    ptx.same_algebra(softmax_formula, launcher(kernels.online_softmax, 64), x.numpy(), out.numpy())
    wrong = launcher(kernels.softmax, 63)
    assert not compare(wrong, softmax_formula, x, out).same


def test_arrays_are_afterwards_as_they_came():
    x, out = vector(64), torch.full((64,), torch.nan)
    before = [t.clone().view(torch.int32) for t in (x, out)]

    def overwrites(x, out):
        kernels.softmax[1,](x, x, 64, 64)
        kernels.softmax[1,](x, out, 64, 64)

    assert not compare(launcher(kernels.softmax, 64), overwrites, x, out).same
    assert all(torch.equal(a.view(torch.int32), b) for a, b in zip((x, out), before, strict=True))

    def fails(x, out):
        overwrites(x, out)
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        compare(launcher(kernels.softmax, 64), fails, x, out)
    assert all(torch.equal(a.view(torch.int32), b) for a, b in zip((x, out), before, strict=True))


def test_two_launches_are_compared_in_the_arrays_that_they_share():
    x, out, scratch = vector(64), torch.zeros(64), torch.zeros(64)
    one = (kernels.softmax, 1, (x, out, 64, 64))
    verdict = ptx.same_algebra(one, (kernels.online_softmax, 1, (x,), {"out": out, "n": 64, "BLOCK": 64}))
    assert (verdict.arrays, verdict.sides) == (("out",), ("softmax", "online_softmax"))
    other = (kernels.softmax, 1, (x, scratch, 64, 64))
    with pytest.raises(Refused, match="softmax wrote to out, which softmax was not given; give both the same arrays"):
        compare(one, other)
    with pytest.raises(Refused, match="neither side wrote to x; compare arrays that they write"):
        compare(one, other, outputs="x")
    assert compare(one, (kernels.softmax, 1, (x, out.view(8, 8), 64, 64))).arrays == ("out",)


def test_returned_arrays_are_compared_by_name():
    def returns(n):
        def run(x):
            out, scratch = torch.empty(64), torch.empty(64)
            kernels.softmax[1,](x, out, 64, 64)
            kernels.softmax[1,](x, scratch, n, 64)
            return {"out": out, "all": [scratch[:4]]}

        return run

    x = vector(64)
    assert ptx.same_algebra(returns(64), returns(64), x).arrays == ("returned['out']", "returned['all'][0]")
    assert [d.name for d in compare(returns(64), returns(60), x).differences] == ["returned['all'][0]"]
    assert compare(returns(64), returns(60), x, outputs="returned['out']").same
    with pytest.raises(Refused, match=r"outputs names \['partials'\]; there are \['x', "):
        compare(returns(64), returns(64), x, outputs=["partials"])
    with pytest.raises(Refused, match="only one of run and the second returned returned"):
        compare(returns(64), lambda x: returns(64)(x) and None, x)


def test_what_cannot_be_compared_is_refused_with_what_to_do():
    x, out = vector(64), torch.zeros(64)
    usual = launcher(kernels.softmax, 64)
    with pytest.raises(Refused, match=r"the second launched no Triton kernel here, .* mark a formula .* @ring.formula"):
        compare(usual, lambda x, out: None, x, out)
    with pytest.raises(TypeError, match="the first side is a kernel alone; pass a function"):
        compare(kernels.softmax, usual, x, out)
    with pytest.raises(Refused, match="there is nothing to compare; pass arrays"):
        compare(lambda: usual(x, out), lambda: usual(x, out))


def test_a_triton_without_fpsan_is_refused_by_name(monkeypatch):
    from triton._C.libtriton import passes

    class Older:  # nanobind's modules let nothing be deleted
        ttgpuir = object()

    monkeypatch.setattr(same_module.triton, "__version__", "3.7.1")
    monkeypatch.setattr("triton._C.libtriton.passes", Older)
    assert passes is not Older
    with pytest.raises(
        Refused, match=r"needs fpsan of Triton 3.8, and 3.7.1 has none: install triton>=3.8, or compare"
    ):
        compare(launcher(kernels.softmax, 64), softmax_formula, vector(64), torch.zeros(64))


def test_torch_arithmetic_between_kernels_is_named():
    def scaled(x, out):
        kernels.softmax[1,](x, out, 64, 64)
        out *= 2
        return out.clone(), out[:3].to(torch.float16)

    verdict = compare(scaled, scaled, vector(64), torch.zeros(64))
    assert {x.operation for x in verdict.outside if not x.kernel} == {"torch.mul_", "torch._to_copy"}
    assert "torch.mul_ is torch's own arithmetic: do it in a kernel, or in ring" in str(verdict)


@pytest.mark.parametrize("n", [63, 64])
def test_a_softmax_without_its_max_agrees_for_an_odd_number_of_terms_alone(n):
    """Every exp is odd: the sum of an even number of them is even, and has no inverse."""
    x, out = vector(n), torch.zeros(n)
    verdict = compare(softmax_formula, launcher(kernels.plain_softmax, n), x, out)
    assert verdict.same == (n % 2 == 1)


def test_masks_by_minus_infinity_weigh_and_expect_zero_mends_it():
    x, out = vector(45), torch.zeros(45)
    assert not compare(softmax_formula, launcher(kernels.softmax, 45), x, out).same
    ptx.same_algebra(softmax_formula, launcher(kernels.expecting_zeros, 45), x, out)


def test_atomic_sums_in_two_orders_differ_and_are_named():
    x, out = vector(8), torch.zeros(1)
    verdict = compare(*((kernels.sum_in_atomics, 8, (x, out, order)) for order in (0, 1)))
    assert not verdict.same
    place = line("tl.atomic_add(out")
    assert f"atomic_rmw fadd ({place}) adds the bits of payloads as floats" in str(verdict)


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.exhaustive),
    pytest.param("float32", marks=pytest.mark.exhaustive)])  # fmt: skip
def test_dots_are_one_algebra_in_blocks_of_any_size_and_the_formula(dtype):
    rng, out = np.random.default_rng(1), torch.zeros(16, 16)
    a, b = (torch.from_numpy(rng.standard_normal(s)).to(getattr(torch, dtype)) for s in ((16, 64), (64, 16)))

    def blocks(size):
        return lambda a, b, out: kernels.product[1,](a, b, out, 16, 16, 64, size)

    ptx.same_algebra(blocks(64), matrix_product, a, b, out)
    ptx.same_algebra(blocks(32), blocks(16), a, b, out)
    assert not compare(blocks(16), lambda a, b, out: blocks(16)(b, a, out), a, b, out).same
    assert not compare(blocks(16), lambda a, b, out: kernels.product[1,](a, b, out, 16, 16, 48, 16), a, b, out).same


def test_dots_leave_the_same_bits_for_every_gpu():
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.standard_normal(s)).half() for s in ((16, 64), (64, 16)))
    bits = []
    for target in ("sm_80", "sm_90", "sm_100"):
        out = torch.zeros(16, 16)
        ptx.run(
            kernels.product, 1, a, b, out, 16, 16, 64, 32, target=target, instrumentation_mode="fpsan", checks=False
        )
        bits.append(out.numpy().tobytes())
    assert len(set(bits)) == 1


def test_one_last_place_of_one_element_is_seen():
    x, out = vector(64), torch.zeros(64)

    def moved(x, out):
        x.view(torch.int32)[17] += 1
        kernels.softmax[1,](x, out, 64, 64)
        x.view(torch.int32)[17] -= 1

    verdict = compare(launcher(kernels.softmax, 64), moved, x, out)
    assert [(d.name, d.count) for d in verdict.differences] == [("out", 64)]
