"""What is compared: every array that a side wrote, in lists and dicts, too, and only those; nothing else is touched."""

# pyright: reportArgumentType=false

import threading

import numpy as np
import pytest
import torch

from kvproof.kernels import ptx
from kvproof.kernels.ptx.algebra import ring
from kvproof.kernels.ptx.algebra.same import compare
from kvproof.kernels.ptx.errors import Refused

from . import _kernels as kernels
from ._fpsan import needs_fpsan

pytestmark = needs_fpsan
N = 256


def vector(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(N)).float()


def double(x, out, n=N):
    kernels.double[2,](x, out, n, 128)


def in_parts(x, out):
    kernels.double_in_parts[2,](x, out, N, 128)


@ring.formula
def doubled(x, out):
    out[...] = x + x


def test_all_configurations_of_a_tuned_kernel_agree_to_the_bit():
    x, out = vector(), torch.zeros(N)
    tuned = lambda x, out: kernels.double_but_one[1,](x, out, N) and None  # noqa: E731
    with pytest.raises(ptx.ConfigDependent, match=r"out\[40\] depends on the configuration"):
        compare(tuned, double, x, out, autotune="all")
    assert compare(tuned, double, x, out).same  # the first configuration is right
    right = lambda x, out: kernels.double_but_one[1,](x, out, N // 8) and None  # noqa: E731 # no element 40
    verdict = compare(right, right, x, out, autotune="all")
    assert (verdict.same, {op.operation for op in verdict.outside if not op.kernel}) == (True, set())


def test_what_a_launch_wrote_and_the_other_was_not_given_is_no_agreement():
    x, one, other, count = vector(), torch.zeros(N), torch.zeros(N), torch.zeros(N)

    def launched(out, s):
        return kernels.scale, 2, (x, out, s, N, 128)

    with pytest.raises(Refused, match="scale wrote to out, which scale was not given"):
        compare(launched(one, 1.0), launched(other, 3.0))
    read = (kernels.double, 2, (count, one, N, 128)), (kernels.double, 2, (count, one, N, 128))
    assert compare(*read).arrays == ("out",)


def test_arrays_that_neither_side_wrote_are_not_called_the_same():
    x, out = vector(), torch.zeros(N)
    assert compare(lambda x, out: double(x, x), lambda x, out: in_parts(x, x), x, out).arrays == ("x",)
    with pytest.raises(Refused, match="neither side wrote to out"):
        compare(lambda x, out: double(x, x), lambda x, out: in_parts(x, x), x, out, outputs=["x", "out"])

    def half(x):
        out = torch.empty(N)
        kernels.double[1,](x, out, N, 128)
        return out

    verdict = compare(half, half, x)
    assert (verdict.unwritten, str(verdict)) == (
        {"returned": 128}, "Same: returned. Neither side wrote 128 elements of returned")  # fmt: skip
    with pytest.raises(Refused, match="neither side wrote to x, returned"):
        compare(lambda x: half(x) is None or torch.empty(N), lambda x: half(x) is None or torch.empty(N), x)


def test_zeros_written_over_zeros_are_written():
    zero = lambda x, out: kernels.nothing_left[2,](x, out, N, 128) and None  # noqa: E731
    assert compare(zero, zero, vector(), torch.zeros(N)).arrays == ("out",)


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_arrays_in_lists_tuples_and_dicts_are_put_back_and_compared(kind):
    make = {"list": list, "tuple": tuple, "dict": dict}[kind]
    kv = [vector(), torch.zeros(N)]
    came, first = [t.clone() for t in kv], {"dict": "kv['k']"}.get(kind, "kv[0]")
    cache = make(zip("kv", kv, strict=True)) if kind == "dict" else make(kv)
    of = lambda kv: kv.values() if kind == "dict" else kv  # noqa: E731

    def launcher(x, kv):
        k, _ = of(kv)
        double(k, k)
        double(k, x)

    @ring.formula
    def formula(x, kv):
        k, _ = of(kv)
        k += k
        x[...] = k + k

    out = torch.zeros(N)
    assert ptx.same_algebra(launcher, launcher, out, cache).arrays == ("x", first)
    assert ptx.same_algebra(launcher, formula, out, cache).arrays == ("x", first)
    once = compare(launcher, lambda x, kv: double(next(iter(of(kv))), x), out, cache)
    assert [d.name for d in once.differences] == ["x", first]
    assert all(torch.equal(a, b) for a, b in zip(kv, came, strict=True))


def test_captured_arrays_are_not_seen_and_the_message_says_so():
    out = torch.zeros(N)
    with pytest.raises(Refused, match=r"neither side wrote to x; .* a function captures are not seen: pass them"):
        compare(lambda x: double(x, out), lambda x: double(x, out), vector())


def test_both_sides_draw_the_same_random_numbers():
    def dropped(x, out):
        drawn = torch.rand(N) + torch.from_numpy(np.random.rand(N)).float()
        double(drawn, out)

    before = torch.get_rng_state()
    assert compare(dropped, dropped, vector(), torch.zeros(N)).same
    assert torch.equal(torch.get_rng_state(), before)


def test_names_of_arrays_are_those_of_parameters_that_take_them():
    def rest(x, *rest, **kw):
        double(x, rest[0])

    assert compare(rest, rest, vector(), torch.zeros(N)).arrays == ("args[1]",)


def test_another_thread_s_launch_is_not_instrumented():
    x, out, plain = vector(), torch.zeros(N), torch.zeros(N)

    def meanwhile(x, out):
        double(x, out)
        other = threading.Thread(target=ptx.run, args=(kernels.double, 2, x, plain, N, 128))
        other.start()
        other.join()

    assert compare(meanwhile, double, x, out).same
    assert torch.equal(plain, 2 * x)


BAD = {
    "complex": (lambda x: x.to(torch.complex128), {}, "x is of complex128; kernels take dense arrays"),
    "NumPy's complex": (lambda x: np.zeros(3, complex), {}, "x is of complex128; kernels take dense arrays"),
    "sparse": (lambda x: x.to_sparse(), {}, "x is sparse, torch.sparse_coo; kernels take dense arrays"),
    "outputs": (lambda x: x, {"outputs": 3}, r"outputs is 3; it takes a name or several of \['x', 'out'\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared_is_a_type_error_in_words(name):
    make, settings, match = BAD[name]
    with pytest.raises(TypeError, match=match):
        compare(double, double, make(vector()), torch.zeros(N), **settings)


def test_a_side_that_is_none_is_named_by_its_type_and_an_empty_grid_by_name():
    x, out = vector(), torch.zeros(N)
    with pytest.raises(TypeError, match="the first side is a tuple that does not begin with a kernel; pass") as error:
        compare((double, 2, (x, out)), double, x, out)
    assert "tensor(" not in str(error.value)
    with pytest.raises(Refused, match="launched no Triton kernel here, or none but over an empty grid"):
        compare(lambda x, out: kernels.double[0,](x, out, N, 128) and None, double, x, out)


def named(verdict) -> set[str]:
    return {x.operation for x in verdict.outside if x.effect != "hides"}


def test_equal_algebra_that_the_ring_parts_is_named():
    half, out = vector().half(), torch.zeros(N)
    squares = [lambda x, out, WIDE=WIDE: kernels.square[1,](x, out, N, WIDE) and None for WIDE in (0, 1)]
    verdict = compare(*squares, half, out)
    assert (verdict.same, named(verdict)) == (False, {"extf"})
    verdict = compare(lambda x, out: kernels.scale[2,](x, out, 2.0, N, 128) and None, double, vector(), out)
    assert (verdict.same, named(verdict)) == (False, {"argument s"})
    sums = [lambda x, out, how=how: kernels.add_twice[1,](x, out, N, how) and None for how in (0, 1)]
    verdict = compare(*sums, vector(), vector(1))
    assert (verdict.same, named(verdict)) == (False, {"descriptor_reduce add"})
