"""ptx.run(..., shadow="float64"): the values of float64 beside an unchanged run, and what each line's rounding did."""

from typing import Any

import numpy as np
import pytest
import torch

from kvproof.kernels import decode, ptx
from kvproof.kernels.ptx import Refused, launch
from kvproof.kernels.ptx.shadow.launch import EVERY, LOST
from kvproof.reference.judge.rounding import attention

from ._kernels import (
    by_its_bits,
    decided,
    highest,
    largest_of_bits,
    norm,
    norm_in_float64,
    normal,
    product,
    scaled,
    totals,
)  # fmt: skip

launched: Any = scaled


def normed(dtype=torch.bfloat16, **settings):
    x, w = normal(5, 128, dtype=dtype), normal(128, seed=1, dtype=dtype)
    out = torch.empty_like(x)
    report = ptx.run(norm, 5, x, w, out, 1e-5, 128, num_warps=2, **settings)
    return out, report, norm_in_float64(x, w, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_shadow_is_the_result_in_float64(dtype):
    out, report, exact = normed(dtype, shadow="float64")
    assert np.abs(report.shadow.arrays["out"] - exact).max() < 1e-13
    assert np.abs(out.double().numpy() - exact).max() > 1e-8
    assert not report.shadow.lost


def test_the_run_beside_it_has_the_same_bits_and_counts():
    plain, before, _ = normed(engine="numpy")
    for engine in ("numpy", "native"):
        followed, after, _ = normed(shadow="float64", engine=engine)
        assert torch.equal(plain, followed)
        assert before.lines == after.lines
        assert (before.shadow, after.engine) == (None, engine)


def test_with_every_rounding_kept_the_numbers_are_the_real_ones():
    out, report, _ = normed(shadow="float64", rounding=[EVERY])
    assert np.array_equal(report.shadow.arrays["out"], out.double().numpy())


def test_each_line_has_its_part_of_the_error_and_the_arrays_stay():
    out, report, _ = normed(shadow="float64")
    kept = out.clone()
    lines = report.shadow.lines
    error = out.double().numpy() - report.shadow.arrays["out"]
    effects = {at: np.abs(x.effect["out"]).max() for at, x in lines.items()}
    assert torch.equal(out, kept)
    assert {file for file, _ in lines} == {"_kernels.py"}
    worst = max(effects, key=lambda at: effects[at])
    assert worst[1] == norm.fn.__code__.co_firstlineno + 6  # the store rounds to bfloat16
    assert 2.0**-10 < lines[worst].largest <= 2.0**-8
    assert sorted(effects.values())[-2] < 1e-3 * effects[worst]
    assert np.abs(sum(x.effect["out"] for x in lines.values()) - error).max() < 1e-6


def test_launches_of_a_route_hand_their_shadows_on():
    q, (k, v) = normal(2, 2, 64), normal(2, 2, 2, 300, 64, seed=1)
    lengths = torch.tensor([300, 129], dtype=torch.int32)
    with ptx.route(shadow="float64") as reports:
        out = decode.decode_attention(q, k, v, lengths)
        shadow = ptx.shadow_of(out)
        half = ptx.shadow_of(out[:, 1])
        assert ptx.shadow_of(q) is None
    exact = attention(q.double().numpy(), k.double().numpy(), v.double().numpy(), lengths.numpy())
    assert len(reports) == 2
    assert shadow is not None
    assert np.abs(shadow - exact).max() < 1e-13
    assert np.array_equal(half, shadow[:, 1])
    assert ptx.shadow_of(out) is None


def test_what_else_writes_to_an_array_takes_its_shadow_away():
    x, out, again = normal(32, dtype=torch.float32), torch.empty(32), torch.empty(32)
    with ptx.route(shadow="float64"):
        launched[(1,)](x, out, 0.1, 1.0, 32)
        out[:16] = 3.0
        launched[(1,)](out, again, 1.0, 1.0, 32)
        shadow = ptx.shadow_of(again)
    assert shadow is not None
    assert (shadow[:16] == 3).all()
    assert np.abs(shadow[16:] - 0.1 * x[16:].double().numpy()).max() < 1e-15


def test_an_inner_route_inherits_the_shadow():
    x, out = normal(32, dtype=torch.float32), torch.empty(32)
    with ptx.route(shadow="float64"), ptx.route() as reports:
        launched[(1,)](x, out, 0.1, 1.0, 32)
        assert np.array_equal(ptx.shadow_of(out), reports[0].shadow.arrays["out"])


def test_arithmetic_on_bits_stands_as_it_is_and_is_told():
    x, out = normal(32, dtype=torch.float32), torch.empty(32)
    report = ptx.run(by_its_bits, 1, x, out, 32, shadow="float64")
    assert np.array_equal(report.shadow.arrays["out"], out.double().numpy())
    assert [opcodes for _, opcodes in report.shadow.lost.items()] == [{"add.s32"}]
    doubtful = ptx.run(by_its_bits, 1, x, out, 32, shadow="float64", rounding=[LOST])
    assert np.isnan(doubtful.shadow.arrays["out"]).all()


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_matrix_product_is_that_of_the_shadows(target):
    a, b = normal(32, 32), normal(32, 32, seed=1)
    out = torch.empty(32, 32, dtype=torch.bfloat16)
    report = ptx.run(product, 1, a, b, out, 32, 32, 32, num_warps=2, target=target, shadow="float64")
    exact = np.exp(a.double().numpy()) @ b.double().numpy()
    assert np.abs(report.shadow.arrays["out"] - exact).max() < 1e-13 * np.abs(exact).max()


def test_atomic_additions_add_shadows():
    x, out = normal(4, 64, dtype=torch.float32), torch.zeros(4)
    report = ptx.run(totals, 4, x, out, 64, shadow="float64")
    exact = 0.1 * x.double().reshape(-1, 4).sum(0).numpy()
    assert np.abs(report.shadow.arrays["out"] - exact).max() < 1e-13
    kept = ptx.run(totals, 4, x, out.zero_(), 64, shadow="float64", rounding=[EVERY])
    assert np.allclose(kept.shadow.arrays["out"], out.double().numpy(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("rounding", [["ab"], [([1], 2)], ((f, 1) for f in "ab"), [("a.py", -1)]])
def test_what_names_no_lines_is_refused(rounding):
    with pytest.raises(Refused, match="rounding is"):
        normed(shadow="float64", rounding=rounding)
    with pytest.raises(Refused, match="without shadow"):
        normed(rounding=[EVERY])
    with pytest.raises(ValueError, match="rounding names"):
        normed(shadow="float64", rounding=[("other.py", 3)])
    with pytest.raises(Refused, match="give it to run"):
        ptx.check(norm, 1, shadow="float64")


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_the_environment_s_engine_is_a_shadow_s_too(engine, monkeypatch):
    monkeypatch.setenv("KVPROOF_PTX_ENGINE", engine)
    assert normed(shadow="float64")[1].engine == engine


def test_where_rounding_decides_is_told():
    x, out = normal(32, dtype=torch.float32), torch.empty(32)
    report = ptx.run(decided, 1, x, out, 32, shadow="float64")
    assert {opcode[:4] for at in report.shadow.choices.values() for opcode in at} == {"setp", "cvt."}
    assert not ptx.run(decided, 1, x, out, 32, shadow="float64", rounding=[EVERY]).shadow.choices


def test_what_is_not_followed_is_told_of_inner_runs_and_through_a_maximum():
    x, out, told = normal(32, dtype=torch.float32), torch.empty(32), []
    with ptx.route(shadow="float64", rounding=[LOST], each=told.append):
        ptx.run(largest_of_bits, 1, x, out, 32)
        assert np.isnan(ptx.shadow_of(out)).all()
    assert [set().union(*r.shadow.lost.values()) for r in told] == [{"add.s32"}]


def test_atomic_maxima_and_integers_of_bits_are_told():
    x, out, bits = normal(32, dtype=torch.float32), torch.zeros(32), torch.empty(32, dtype=torch.int32)
    report = ptx.run(highest, 1, x, out, bits, 32, shadow="float64")
    assert {opcode.split(".")[0] for opcode in report.shadow.unmarked} == {"atom", "st"}


def test_a_loop_of_launches_keeps_one_shadow_of_an_array():
    x, out = normal(32, dtype=torch.float32), torch.empty(32)
    with ptx.route(shadow="float64"):
        for _ in range(3):
            launched[(1,)](x, out, 0.1, 1.0, 32)
        assert len(launch._route.get().twins) == 1


def test_what_has_no_shadow_is_refused():
    with pytest.raises(Refused, match="shadow"):
        normed(shadow="float64", seed=0)
    with pytest.raises(Refused, match="shadow is 'float32'; it must be None or"):
        normed(shadow="float32")
