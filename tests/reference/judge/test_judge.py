"""The judge on trial: clean paths of many models are never accused, planted faults always, and doubt says why."""

import json
from functools import cached_property

import numpy as np
import pytest

from kvproof.reference.judge.difference import rms
from kvproof.reference.judge.faults import FAULTS, cached_logits
from kvproof.reference.judge.ladder import GATE, NARROW, UNSHIFTED, run
from kvproof.reference.judge.parity import judge
from kvproof.reference.judge.rounding import roundoff
from kvproof.reference.judge.verdict import BUG, INCONCLUSIVE, ORACLE, RESOLUTION, ROUNDING

from ._paths import HEADS, Float32Inside, NumpyPaths, TorchPaths, paged, small_config

LADDER = ("float32", "bfloat16", "float16")
FAULTY = [fault for fault in FAULTS if fault.kind != "attention"]


class Made:
    """Logits with rounding of a known size in each dtype, and a bug of a known size in path A."""

    def __init__(self, rounding, bug=0.0, at=("float64", "float32", "bfloat16")):
        self.rounding, self.bug, self.at = rounding, bug, at
        self.rng = np.random.default_rng(0)

    @cached_property
    def exact(self):
        return np.random.default_rng(1).standard_normal((2, 5, 50))

    def __call__(self, dtype, shift=0.0):
        if dtype not in self.rounding:
            raise NotImplementedError(dtype)
        a, b = (self.exact * (1 + shift) + self.rounding[dtype] * self.rng.standard_normal((2, 5, 50)) for _ in "ab")
        if dtype in self.at:
            a[1, 3, 7] += self.bug
        return a, b


USUAL = {"float64": 1e-14, "float32": 1e-6, "bfloat16": 3e-2}


class Odd(Made):
    """Made, with what is no number in path a, b or both ("ab") in some dtypes, at the same index: sequence 1."""

    def __init__(self, where, dtypes, value=np.nan, at: int | list | tuple = 1, **more):
        super().__init__(USUAL, **more)
        self.where, self.dtypes, self.value, self.index = where, dtypes, value, at

    def __call__(self, dtype, shift=0.0):
        both = super().__call__(dtype, shift)
        for name, x in zip("ab", both, strict=True):
            if name in self.where and dtype in self.dtypes:
                x[self.index] = self.value
        return both


@pytest.mark.parametrize("heads", HEADS)
def test_clean_torch_paths_are_rounding_in_every_dtype(heads):
    for seed, dtype in enumerate(LADDER):
        found = judge(TorchPaths(heads, 2, seed, ("eager", "sdpa")[seed % 2]), dtype)
        assert found.verdict == ROUNDING, found.reason
        assert [rung.dtype for rung in found.rungs] == list(dict.fromkeys(["float64", "float32", dtype]))
        assert found.rungs[0].gate < 1e-10


@pytest.mark.parametrize("path", [cached_logits, paged])
def test_clean_numpy_paths_are_rounding(path):
    for dtype in ("float64", "float32"):
        assert judge(NumpyPaths(path), dtype).verdict == ROUNDING


@pytest.mark.parametrize("fault", FAULTY, ids=lambda fault: fault.name)
def test_every_fault_of_the_model_or_its_cache_is_a_bug_against_the_oracle(fault):
    found = judge(NumpyPaths(fault.apply), "float32", question=ORACLE)
    assert found.verdict == BUG
    assert found.rungs[0].error > 100 * found.rungs[0].gate  # not a near thing
    assert found.rungs[0].error > 5 * RESOLUTION * found.rungs[0].size  # what may clear a path would have shown it
    assert "against the oracle" in found.reason


def draws(count):
    """Clean subjects over head layouts, depths, impls and dtypes: (name, subject, dtype)."""
    for seed in range(count):
        for i, heads in enumerate(HEADS):
            for j, dtype in enumerate(LADDER):
                layers, impl = (1, 2, 4, 8)[(seed + i) % 4], ("eager", "sdpa")[(seed + j) % 2]
                yield f"{heads} {layers} {impl} {dtype} {seed}", TorchPaths(heads, layers, 3 * seed + j, impl), dtype


@pytest.mark.exhaustive
def test_no_false_alarm_in_six_hundred_clean_draws_and_no_slack_for_a_bug_to_hide_in():
    worst, sizes, total = {}, {}, 0
    for name, subject, dtype in draws(50):
        found = judge(subject, dtype)
        assert found.verdict == ROUNDING, f"{name}: {found.reason}"
        total += 1
        for rung in found.rungs:
            worst[rung.dtype] = max(worst.get(rung.dtype, 0), rung.error / rung.noise)
            sizes[rung.dtype] = max(sizes.get(rung.dtype, 0), rung.noise / rung.size / roundoff(rung.dtype))
    print(f"\n{total} clean draws, no false alarm: fewer than 1 in {total // 3} at 95 % confidence")
    print("largest difference in root mean squares of rounding:", {key: round(x, 1) for key, x in worst.items()})
    print("largest such root mean square, in roundings of the logits:", {key: round(x, 1) for key, x in sizes.items()})
    assert GATE / 4 < max(worst["float64"], worst["float32"]) <= GATE / 1.9
    assert UNSHIFTED / 4 < max(sizes.values()) < UNSHIFTED


@pytest.mark.parametrize(
    ("count", "least", "most"),
    [(2, 0, NARROW), pytest.param(100, NARROW / 4, NARROW / 1.9, marks=pytest.mark.exhaustive)],
)
def test_paths_that_compute_in_float32_inside_are_excused_and_not_taken_for_narrower(count, least, most):
    ratios = []  # A's noise in float32's errors
    for seed in range(count):
        subject = Float32Inside(config=small_config(HEADS[seed % 4], (1, 2, 4, 12)[seed // 4 % 4]), seed=seed)
        for subject.apart in (False, True):
            found = judge(subject, "float32")
            assert found.verdict == ROUNDING, f"{seed}: {found.reason}"
            assert "computes in float32 inside: differences below" in found.reason
        wide, narrow = run(subject, "float64", 3), run(subject, "float32", 0)
        assert wide
        assert wide.noise
        assert narrow
        ratios.append(wide.noise[0] / rms(narrow.b - wide.b))
    print(f"\nfloat32 inside: noise up to {max(ratios):.2f} of float32's error")
    assert least < max(ratios) < most


def test_a_bug_stands_out_in_the_first_rung_and_the_sentence_says_where():
    found = judge(Made(USUAL, bug=0.1), "bfloat16")
    assert found.verdict == BUG
    assert [rung.green for rung in found.rungs][:2] == [False, False]
    assert "In float64 the paths differ by 0.1" in found.reason
    assert "sequence 1, position 3, token 7" in found.reason
    assert "Asked: cached against uncached" in found.reason
    assert found.rungs[2].green  # where bfloat16 alone would have forgiven it


def test_a_bug_of_one_dtype_alone_is_called_there():
    found = judge(Made(USUAL, bug=9.0, at=("bfloat16",)), "bfloat16")
    assert found.verdict == BUG
    assert "they agree in float64 and float32: the fault is in bfloat16 alone" in found.reason


def test_without_float64_a_float32_rung_can_still_clear():
    found = judge(Made({key: USUAL[key] for key in ("float32", "bfloat16")}), "bfloat16")
    assert found.verdict == ROUNDING
    assert [rung.dtype for rung in found.rungs] == ["float32", "bfloat16"]


def test_half_precision_by_itself_can_accuse_but_never_clear():
    alone = {"bfloat16": USUAL["bfloat16"]}
    found = judge(Made(alone), "bfloat16")
    assert found.verdict == INCONCLUSIVE
    assert "bugs hide below it" in found.reason
    assert judge(Made(alone, bug=50.0), "bfloat16").verdict == BUG


@pytest.mark.parametrize("rounding", [USUAL, {"float64": 1e-6, "float32": 1e-6}, {"float32": 1e-6}])
def test_paths_that_take_no_shift_are_judged_by_an_assumed_noise_and_told_so(rounding):
    def unshifted(made):
        def paths(dtype, shift=0.0):
            if shift:
                raise NotImplementedError("no shift")
            return made(dtype)

        return paths

    found = judge(unshifted(Made(rounding)), "float32")
    assert found.verdict == ROUNDING
    assert "the paths take no shift, so their noise was not measured but assumed" in found.reason
    assert judge(unshifted(Made(rounding, bug=0.001)), "float32").verdict == BUG
    assert judge(unshifted(Made({"bfloat16": 3e-2})), "bfloat16").verdict == INCONCLUSIVE


def test_more_draws_measure_the_noise_more_closely():
    one, many = (judge(Made(USUAL), "float32", draws=draws).rungs[0].noise for draws in (1, 8))
    assert abs(many / 1e-14 - 1) < 0.1
    assert abs(one / 1e-14 - 1) < 0.5


def test_a_path_narrowed_in_secret_is_a_bug_though_its_own_noise_would_excuse_it():
    narrow = Made({"float64": 3e-2, "float32": 3e-2})

    def paths(dtype, shift=0.0):
        return narrow(dtype, shift)[0], clean_made(dtype, shift)[1]

    clean_made = Made(USUAL)
    found = judge(paths, "float32")
    assert found.verdict == BUG
    assert "it computes in less than float32 inside" in found.reason


def test_nan_in_one_path_is_a_bug_and_in_both_inconclusive():
    found = judge(Odd("a", USUAL, at=(0, 2, 5)), "float32")
    assert found.verdict == BUG
    assert "path A gives NaN in 1 of 500 logits (sequence 0), path B in none; first at sequence 0, " in found.reason
    assert "position 2, token 5" in found.reason
    json.dumps(found.record(), allow_nan=False)
    found = judge(Odd("ab", USUAL, at=(0, 2, 5)), "float32")
    assert found.verdict == INCONCLUSIVE
    assert "both paths give NaN" in found.reason


def test_the_attention_replayed_decides_where_half_precision_s_logits_cannot():
    asked = []

    def op(dtype):
        asked.append(dtype)
        return 1.5

    assert judge(Made(USUAL), "float32", op=op).verdict == ROUNDING
    found = judge(Made(USUAL), "bfloat16", op=op)
    assert asked == ["bfloat16"]
    assert (found.verdict, found.op) == (BUG, 1.5)
    assert "In bfloat16 the attention alone errs by 1.5 times" in found.reason


def test_equal_bits_are_rounding_and_an_unknown_dtype_is_refused():
    found = judge(lambda dtype, shift=0.0: (np.ones((1, 1, 3)),) * 2, "float16")
    assert found.verdict == ROUNDING
    assert "bit for bit" in found.reason
    with pytest.raises(ValueError, match="dtype is 'int8'; the judge takes float64, float32, bfloat16 or float16"):
        judge(Made(USUAL), "int8")
    with pytest.raises(ValueError, match="both must give the same positions"):
        judge(lambda dtype, shift=0.0: (np.ones((1, 1, 3)), np.ones((1, 2, 3))), "float32")


def test_paths_that_do_not_run_in_the_dtype_are_inconclusive_there():
    found = judge(NumpyPaths(), "bfloat16")
    assert (found.verdict, found.difference) == (INCONCLUSIVE, None)
    assert "do not run in bfloat16" in found.reason
