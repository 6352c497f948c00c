"""Rungs that only the judge asked for do not decide, parts that stay in float32 are no fault, and neither are steps."""

import numpy as np
import pytest

from kvproof.bench.judge.contract.functions import check_decode
from kvproof.bench.judge.huggingface.subject import HuggingFaceSubject
from kvproof.reference.judge.difference import rms
from kvproof.reference.judge.faults import FAULTS, int8_logits
from kvproof.reference.judge.ladder import GATE
from kvproof.reference.judge.parity import judge
from kvproof.reference.judge.rounding import roundoff
from kvproof.reference.judge.verdict import BUG, INCONCLUSIVE, RESOLUTION, ROUNDING

from ...bench.judge._models import stranger
from ._paths import HEADS, NumpyPaths, Stepping, small_config
from .test_judge import FAULTY, USUAL, Made, Odd

EIGHT_BIT = [fault for fault in FAULTS if fault.correct is int8_logits]
FAINT = [fault for fault in FAULTY if fault.name in ("other_gelu", "other_eps")]
SAMPLE = [*FAINT, *FAULTY[::9]]
REST = [pytest.param(fault, marks=pytest.mark.exhaustive) for fault in FAULTY if fault not in SAMPLE]


ODD = [(where, value) for where in ("a", "b", "ab") for value in (np.nan, np.inf, -np.inf)]


@pytest.mark.parametrize(("where", "value"), ODD[:-1])  # -inf in both is a masked vocabulary
@pytest.mark.parametrize("rows", [[1], [0, 1]])
def test_what_is_no_number_in_float64_alone_does_not_decide_and_it_is_said_whose(where, rows, value):
    for dtype in ("float32", "bfloat16"):
        found = judge(Odd(where, ["float64"], value, rows), dtype)
        assert found.verdict == ROUNDING, found.reason
        assert [rung.word for rung in found.rungs] == ["aside", *["green"] * (len(found.rungs) - 1)]
        kind = "NaN" if np.isnan(value) else "infinity"
        for path in where:
            assert f"path {path.upper()} gives {kind} in {250 * len(rows)} of 500 logits" in found.reason
        assert ("in none" in found.reason) == (len(where) == 1)
        assert "so float64 does not decide" in found.reason
        assert ("(sequence 1)" in found.reason) == (len(rows) == 1)


@pytest.mark.parametrize(("asked", "odd"), [("bfloat16", "float32"), ("float64", "float32"), ("float16", "float32")])
def test_nor_does_what_is_no_number_in_float32_where_another_dtype_is_in_question(asked, odd):
    subject = Odd("a", [odd])
    subject.rounding = USUAL | {"float16": 3e-3}
    found = judge(subject, asked)
    assert found.verdict == ROUNDING, found.reason
    assert f"In {odd} path A gives NaN" in found.reason


@pytest.mark.parametrize("dtypes", [("float32",), ("float64", "float32"), ("float64", "float32", "bfloat16")])
def test_nan_in_the_dtype_in_question_is_a_bug_whatever_the_other_rungs_hold(dtypes):
    found = judge(Odd("a", dtypes), "float32")
    assert found.verdict == BUG
    assert (
        f"In {dtypes[0]} path A gives NaN in 250 of 500 logits (sequence 1), path B in none; first at" in found.reason
    )
    assert "trusted" not in found.reason
    swapped = judge(Odd("b", dtypes), "float32")
    assert "path B gives NaN" in swapped.reason


def test_with_nan_beside_it_a_fault_is_called_by_the_rungs_that_are_left():
    found = judge(Odd("a", ["float64"], bug=0.01), "float32")  # in sequence 1, where float64 has nothing to compare
    assert found.verdict == BUG
    assert "In float32 the paths differ by 0.01" in found.reason


class WithoutFloat64(NumpyPaths):
    """Path A is NaN in float64, in every sequence."""

    def __call__(self, dtype, shift=0.0):
        a, b = super().__call__(dtype, shift)
        return (a * np.nan if dtype == "float64" else a), b


@pytest.mark.parametrize("fault", [*SAMPLE, *REST], ids=lambda fault: getattr(fault, "name", None))
def test_every_planted_fault_is_called_by_float32_where_float64_is_nan(fault):
    found = judge(WithoutFloat64(fault.apply), "float32")
    assert found.verdict == BUG
    assert "In float32 the paths differ" in found.reason


def test_clean_paths_are_rounding_where_float64_is_nan_in_either_path():
    for subject in (WithoutFloat64(), lambda dtype, shift=0.0: WithoutFloat64()(dtype, shift)[::-1]):
        found = judge(subject, "float32")
        assert found.verdict == ROUNDING
        assert found.rungs[1].gate < RESOLUTION * found.rungs[1].size


def test_where_only_half_precision_is_left_nothing_is_cleared_and_the_advice_is_not_what_was_done():
    found = judge(Odd("a", ["float64", "float32"]), "bfloat16")
    assert found.verdict == INCONCLUSIVE
    assert "run them in float64" not in found.reason
    assert "float64 would tell, but gives no answer here" in found.reason
    coarse = judge(Made({"float64": 3e-2, "float32": 3e-2}), "float32")
    assert coarse.verdict == INCONCLUSIVE
    assert "run them in float64" not in coarse.reason
    assert "they were run in float64 and round more coarsely inside" in coarse.reason


@pytest.mark.parametrize(("dtype", "only"), [("float32", "float64"), ("float64", "float32"), ("bfloat16", "float64")])
def test_a_difference_that_the_dtype_in_question_would_show_and_does_not_is_reported_and_no_bug(dtype, only):
    found = judge(Made(USUAL, bug=0.1, at=(only,)), dtype)
    assert found.verdict == ROUNDING, found.reason
    assert f"In {only} the paths differ by 0.1; " in found.reason
    assert "would show a fault of this size" in found.reason
    assert judge(Made(USUAL, bug=0.1), dtype).verdict == BUG


FAMILIES = {
    "llama": {"attn_implementation": "eager", "left_padded": 3},
    "qwen2": {"attn_implementation": "eager", "left_padded": 1},
    "mistral": {"attn_implementation": "eager", "left_padded": 3},
    "gemma2": {},
    "bloom": {},
    "mpt": {},
}
HUGGING_FACE = pytest.mark.filterwarnings("ignore:.*past_key_values. is deprecated:FutureWarning")


@HUGGING_FACE
@pytest.mark.parametrize("family", FAMILIES)
def test_strangers_whose_padded_rows_are_nan_in_float64_alone_are_judged_by_float32(family):
    subject = HuggingFaceSubject(stranger(family), prompts=[[7, 8, 9, 10, 11], [3, 4]], steps=4, **FAMILIES[family])
    throughout = judge(subject.paths, "float32", throughout=lambda: subject.wide)
    assert throughout.verdict == ROUNDING
    assert subject.wide
    assert throughout.rungs[0].resolution < 1e-11
    subject.wide = False  # float64 as the model takes it
    found = judge(subject.paths, "float32")
    assert found.verdict == ROUNDING, found.reason
    assert "path A gives NaN" in found.reason
    assert "path B in none" in found.reason


class Tables(NumpyPaths):
    """Path A has a part that is float32 in every dtype: "table" of positions, "scale" of attention or "norm"."""

    def __init__(self, part, apply=None):
        super().__init__(**({"path": apply} if apply else {}))
        self.part = part

    def __call__(self, dtype, shift=0.0):
        kept, b = self.params64, super().__call__(dtype, shift)[1]
        if self.part == "table":
            self.params64 = kept | {"wpe": {"weight": self.float32(kept["wpe"]["weight"] * 1.1) / 1.1}}
        else:
            name = {"scale": "attn", "norm": "ln_1"}[self.part]
            self.params64 = kept | {"h": [p | {name: self.rounded(p[name])} for p in kept["h"]]}
        a = super().__call__(dtype, shift)[0]
        self.params64 = kept
        return a, b

    def rounded(self, tree):
        if isinstance(tree, dict):
            return {key: self.rounded(value) for key, value in tree.items()}
        return self.float32(tree * 1.1) / 1.1

    @staticmethod
    def float32(x):
        return x.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("part", ["table", "scale", "norm"])
def test_a_part_that_stays_in_float32_is_no_fault_and_the_floor_is_told(part):
    found = judge(Tables(part), "float32")
    assert found.verdict == ROUNDING, found.reason
    assert 1e-9 < found.rungs[0].error < found.rungs[0].gate < RESOLUTION * found.rungs[0].size
    assert "parts of them stay in float32, as tables of positions do: differences below" in found.reason


@pytest.mark.parametrize("fault", FAINT, ids=lambda fault: fault.name)
def test_the_faintest_faults_are_called_beside_a_part_in_float32(fault):
    assert judge(Tables("table", fault.apply), "float32").verdict == BUG


@pytest.mark.parametrize("times", [0.5, 1.5, 10.0])
def test_the_float32_floor_ends_where_float32_s_own_gate_does(times):
    found = judge(Made(USUAL, bug=times * GATE * 1e-6, at=("float64",)), "float32")
    assert (found.verdict == ROUNDING) == (times < 1 or times > 2.5)  # a larger one float32 itself would show
    coarse = judge(Made(USUAL, bug=times * GATE * 1e-6), "float32")
    assert (coarse.verdict == ROUNDING) == (times < 1)


ROTARY = {"gpt_neox": 3, "gptj": 30, "phi": 3, "roformer": 0}


@HUGGING_FACE
@pytest.mark.parametrize("family", ROTARY)
def test_strangers_with_float32_tables_at_shifted_positions_are_rounding(family):
    how = {"steps": 4, "left_padded": ROTARY[family], "position_ids": False}
    subject = HuggingFaceSubject(stranger(family), prompts=[[7, 8, 9, 10, 11], [3, 4]], **how)
    subject.wide = False  # float64 as the model takes it
    found = judge(subject.paths, "float32")
    assert found.verdict == ROUNDING, found.reason
    assert "parts of them stay in float32" in found.rungs[0].note


def crossing(steps):
    """The first draw in which rounding carries a number across a step: float32 logits move by more than it rounds."""
    for seed in range(200):
        subject = Stepping(steps, seed)
        a, b = subject("float32")
        if np.abs(a - b).max() > 100 * roundoff("float32") * rms(b):
            return subject
    return pytest.fail("no draw crosses a step")


@pytest.mark.parametrize("steps", ["int8", "float8_e4m3fn", "bfloat16", "fixed"])
def test_paths_that_round_to_steps_are_rounding_although_a_step_moves_float32_logits(steps):
    found = judge(crossing(steps), "float32")
    assert found.verdict == ROUNDING, found.reason
    assert found.rungs[0].error < 1e-12


@pytest.mark.parametrize("fault", EIGHT_BIT, ids=lambda fault: fault.name)
def test_planted_faults_of_an_8_bit_cache_are_bugs_in_every_draw(fault):
    for seed in range(2):
        subject = Stepping("int8", seed)
        found = judge(lambda dtype, shift=0.0, of=subject: of(dtype, shift, fault.apply), "float32")
        assert found.verdict == BUG, found.reason


def test_a_fault_of_float32_alone_is_called_although_the_path_has_steps():
    (newest,) = [fault for fault in EIGHT_BIT if fault.name == "newest_row_unquantised"]
    for seed in range(2):
        subject = Stepping("int8", seed)

        def paths(dtype, shift=0.0, of=subject):
            return of(dtype, shift, newest.apply if dtype == "float32" else None)

        found = judge(paths, "float32")
        assert found.verdict == BUG
        assert "the fault is in float32 alone" in found.reason


@pytest.mark.parametrize(("count", "most"), [(6, 0), pytest.param(300, 14, marks=pytest.mark.exhaustive)])
def test_right_8_bit_caches_are_not_accused_and_few_are_inconclusive(count, most):
    doubts, moved = 0, 0.0
    for seed in range(count):
        config = small_config(HEADS[seed // 2 % 4], (1, 2, 4, 8)[seed // 8 % 4]) if seed % 2 else None
        subject = Stepping("int8", seed, config)
        a, b = ((lambda dtype, shift, side=side: subject(dtype, shift)[side]) for side in (0, 1))  # noqa: B023
        found = check_decode(a, b)
        assert found.verdict != BUG, f"{seed}: {found.reason}"
        assert "run them in float64" not in found.reason
        doubts += found.verdict == INCONCLUSIVE
        moved = max(moved, found.rungs[1].error / found.rungs[1].size)
    print(f"\n{count} draws, none accused, {doubts} inconclusive; steps moved logits by up to {moved:.1e} of their rms")
    assert doubts <= most


def without_shift(subject, side):
    return lambda dtype: subject(dtype)[side]


@pytest.mark.parametrize("steps", ["int8", "fixed"])
def test_stepping_paths_that_take_no_shift_are_not_accused(steps):
    a, b = (without_shift(crossing(steps), side) for side in (0, 1))
    assert check_decode(a, b).verdict != BUG
    wrong = lambda dtype: a(dtype) * (1 + 0.1 * (dtype == "float32"))  # noqa: E731
    assert check_decode(wrong, b).verdict == BUG


@pytest.mark.parametrize(("bug", "word"), [(0.001, INCONCLUSIVE), (0.01, INCONCLUSIVE), (0.03, BUG), (1.0, BUG)])
def test_without_a_shift_float32_alone_may_have_crossed_a_step_and_the_advice_is_to_take_one(bug, word):
    made = Made(USUAL, bug=bug, at=("float32",))
    a, b = (without_shift(made, side) for side in (0, 1))
    found = check_decode(a, b)
    assert found.verdict == word, found.reason
    assert ("Let both take a shift, f(dtype, shift)" in found.reason) == (word == INCONCLUSIVE)


def test_a_jump_is_measured_on_the_trusted_path_alone():
    """A path under test that jumps by itself, as one that reads what happens to lie there, excuses nothing."""
    made = Made(USUAL)

    def jumpy(dtype, shift=0.0):
        a, b = made(dtype, shift)
        return a + (0.1 if dtype == "float32" or shift * 2**14 % 2 >= 1 else 0.0), b

    assert judge(jumpy, "float32").verdict == BUG
