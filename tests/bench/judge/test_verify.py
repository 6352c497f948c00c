"""The judge's command: one word, its reason, an exit code for each word, and none of them for a mistake or a crash."""

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof.bench.judge import __main__ as verify
from kvproof.bench.judge import exam
from kvproof.bench.judge.faults.catalogue import TORCH_FAULTS
from kvproof.bench.judge.options import GOES_WITH, MODES, flag
from kvproof.bench.measure.gate import replayed_attention, to_numpy
from kvproof.bench.measure.interleaved import Models
from kvproof.gpt2 import attention, load
from kvproof.gpt2.int8_weights import Int8Matrix
from kvproof.gpt2.paged import PagedCache
from kvproof.kernels.cpu import CompilerFailed, Variant
from kvproof.reference.judge.faults import FAULTS
from kvproof.reference.judge.parity import judge

from ..._browser import Visit, needs_browser

sys.modules["test_verify"] = sys.modules[__name__]  # as a user would name it
ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "bench" / "results" / "judge" / "exam.jsonl"
QUICK = ["--steps", "4"]
rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(2, 3, 50))


def plain(dtype, shift):
    """A path that rounds its logits to the dtype, and moves smoothly with the shift."""
    return torch.from_numpy(LOGITS * (1 + shift)).to(getattr(torch, dtype)).double().numpy()


def reordered(dtype, shift):
    x = torch.from_numpy(LOGITS * (1 + shift) / 3).to(getattr(torch, dtype))
    return (x + x + x).double().numpy()


def wrong(dtype, shift):
    return plain(dtype, shift) + 1e-6


def half_alone(dtype, shift):
    if dtype != "bfloat16":
        raise NotImplementedError
    return plain(dtype, shift)


def half_alone_too(dtype, shift):
    return half_alone(dtype, shift) * (1 + 2**-8)


def crashes(dtype, shift):
    raise RuntimeError("a bug of mine")


def callables(a: str, b: str) -> list[str]:
    return ["--callable", f"test_verify:{a}", "--against", f"test_verify:{b}"]


@pytest.mark.parametrize(("a", "b", "dtype", "code", "starts", "says"), [
    ("reordered", "plain", "float32", 0, "ROUNDING: test_verify:reordered against test_verify:plain", ""),
    ("wrong", "plain", "bfloat16", 1, "BUG", "In float64 the paths differ by 1e-06"),
    ("half_alone_too", "half_alone", "bfloat16", 2, "INCONCLUSIVE", ""),
])  # fmt: skip
def test_each_verdict_has_a_word_and_an_exit_code(a, b, dtype, code, starts, says, capsys):
    assert verify.main([*callables(a, b), "--dtype", dtype]) == code
    out = capsys.readouterr().out
    assert out.startswith(starts)
    assert says in out


def test_an_error_of_ours_under_way_is_no_verdict(capsys, monkeypatch):
    def crash(*args, **how):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("kvproof.bench.judge.investigation.judge", crash)
    assert verify.main(callables("plain", "plain")) == 4
    assert "an error of ours, and no verdict" in capsys.readouterr().err


def test_an_error_of_the_user_s_function_is_theirs_with_its_file_and_line(capsys):
    assert verify.main(callables("crashes", "plain")) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "test_verify:crashes raised RuntimeError: a bug of mine (at " in line
    assert f"test_verify.py:{crashes.__code__.co_firstlineno + 1})" in line


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_our_own_decode_steps_are_rounding(impl, capsys):
    assert verify.main(["--impl", impl, *QUICK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "ROUNDING"
    assert [rung["dtype"] for rung in found["rungs"]] == ["float64", "float32"]
    assert found["starts"] is None
    assert found["slots"] == {"unread": 0, "read though dead": 0}


ENGINE = [
    pytest.param(
        *case, marks=[] if case in (("float32", 16, None), ("bfloat16", None, None)) else pytest.mark.exhaustive
    )
    for case in product(("float64", "float32", "bfloat16", "float16"), (None, 16), (None, "int8"))
]


@pytest.mark.parametrize(("dtype", "page", "weights"), ENGINE)
def test_the_compiled_engine_is_rounding(dtype, page, weights, capsys):
    pages, quantised = [] if page is None else ["--page", str(page)], [] if weights is None else ["--weights", weights]
    assert verify.main(["--impl", "numba", "--dtype", dtype, *pages, *quantised, *QUICK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "ROUNDING"
    assert [rung["dtype"] for rung in found["rungs"]] == list(dict.fromkeys(["float64", "float32", dtype]))
    assert found["slots"] == {"unread": 0, "read though dead": 0}
    assert found["ulps"] is None  # it has no operations to trace
    assert found["unknown"] == []


def test_a_fault_of_a_cache_of_the_engine_is_a_bug(monkeypatch, capsys):
    usual = PagedCache.make_room

    def swapped(self, stop):
        usual(self, stop)
        if stop > 6:
            self.block_table[:, 0] = self.block_table[:, 1]

    monkeypatch.setattr(PagedCache, "make_room", swapped)
    assert verify.main(["--impl", "numba", "--page", "4", *QUICK]) == 1
    assert "BUG: numba against naive, float32" in capsys.readouterr().out


def test_a_planted_fault_is_a_bug_with_its_place_and_what_explains_it(capsys):
    assert verify.main(["--impl", "eager", *QUICK, "--inject", "torch_v_from_k"]) == 1
    out = capsys.readouterr().out
    assert "starts at layer 0, attention" in out
    assert "seen: differs in sequence 0 from position 11 on; sequence 1 from position 6 on, in decode steps" in out
    assert "explains it: the values are read from the keys (leaves " in out
    assert "usually" not in out


def test_what_a_fault_plants_is_taken_out_again():
    verify.main(["--impl", "eager", *QUICK, "--inject", "torch_no_scale", "--json"])
    assert verify.main(["--impl", "eager", *QUICK, "--json"]) == 0


@pytest.mark.parametrize(("argv", "message"), [
    (["--impl", "fast"], "invalid choice"),
    ([], "one of the arguments"),
    (["--impl", "eager", "--inject", "torch_v_from_kk"], "torch_v_from_k"),
    (["--impl", "eager", "--model", "tinny"], "did you mean 'tiny'?"),
    (["--impl", "eager", "--against", "eager"], "eager came twice"),
    (["--impl", "numba", "--inject", "torch_v_from_k"], "cannot be injected into numba"),
    (["--impl", "naive", "--against", "sdpa", "--page", "4"], "page is 4 for naive"),
    (["--impl", "sdpa", "--page", "0"], "page is 0"),
    (["--hf", "nowhere", "--page", "4"], "it goes with --impl"),
    (["--callable", "a:b"], "needs a trusted function"),
    (callables("nothing", "plain"), "has no 'nothing'"),
    (["--hf", "nowhere", "--inject", "x"], "it goes with --impl"),
    (["--impl", "eager", "--context", "2000"], "2000"),
])  # fmt: skip
def test_a_mistake_is_exit_code_3_and_says_what_fits(argv, message, capsys):
    assert verify.main(argv) == 3
    assert message in capsys.readouterr().err


def test_an_option_that_does_nothing_is_refused_whatever_its_value(capsys):
    """Every option of every mode that it does not go with, by each value that could pass for no value."""
    flags = {action.dest: action for action in verify.options()._actions}
    words = {"logits": ["a", "b"], "faults": [], "formats": [], "impl": ["sdpa"]}
    tried = 0
    for mode, (name, modes) in product(MODES, GOES_WITH.items()):
        action = flags[name]
        if mode in modes or name == mode or action.choices:
            continue
        for value in [[]] if action.nargs == 0 else [["0"]] if action.type in (int, float) else [[""], ["0"]]:
            argv = [flag(mode), *words.get(mode, ["x"]), flag(name), *value]
            assert verify.main(argv) == 3, argv
            assert f"{flag(name)} does nothing beside" in (said := capsys.readouterr().err) or "is empty" in said, argv
            tried += 1
    assert tried > 100


def test_the_corpus_is_listed_with_where_each_bug_happened(capsys):
    assert verify.main(["--faults", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == len(FAULTS) + len(TORCH_FAULTS) >= 40
    assert sum(bool(fault["link"]) for fault in listed) >= 40
    assert verify.main(["--faults"]) == 0
    assert "torch_v_from_k" in capsys.readouterr().out


def only(dtype, subject):
    def paths(name, shift=0.0):
        if name != dtype:
            raise NotImplementedError
        return subject.paths(name, shift)

    return paths


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_rung_catches_a_corpus_fault_with_no_other_beside_it(dtype):
    subject = exam.in_numpy(next(fault for fault in FAULTS if fault.name == "stale_slot"))
    verdict = judge(only(dtype, subject), dtype)
    assert verdict.verdict == "BUG"
    assert [rung.dtype for rung in verdict.rungs] == [dtype]


def test_the_replayed_attention_catches_a_corpus_fault_where_the_logits_are_clean(monkeypatch):
    model = load("tiny", dtype="bfloat16", impl="eager")
    planted = next(fault for fault in FAULTS if fault.name == "splits_overlap")
    clean = exam.ours(Models("tiny", torch.device("cpu")), "eager", 0)
    assert judge(clean.paths, "bfloat16", op=lambda _: replayed_attention(model, 2, 200)).verdict == "ROUNDING"

    def step(q, cache, layer):
        arrays = [to_numpy(x) for x in (q, cache.k[layer], cache.v[layer])]
        return torch.from_numpy(planted.apply(*arrays, np.array(cache.host_lengths)).astype(np.float64)).to(q.dtype)

    with monkeypatch.context() as spoilt:
        spoilt.setitem(attention.DECODE_STEP, "eager", step)
        error = replayed_attention(model, 2, 200)
    verdict = judge(clean.paths, "bfloat16", op=lambda _: error)
    assert verdict.verdict == "BUG"
    assert "the attention alone errs" in verdict.reason


def test_a_sample_of_the_exam_is_passed():
    sittings = list(exam.exam(clean=4, most=2))
    assert {s.kind for s in sittings} == {"clean", "attention", "cache", "model", "torch"}
    assert [s.name for s in sittings if s.called == (s.kind == "clean")] == []
    assert all(s.place == s.found for s in sittings if s.place and s.ladder == "BUG")


def test_the_committed_exam_knows_every_fault_and_the_readme_shows_its_table():
    sittings = exam.read(RESULTS)
    bugs = [s for s in sittings if s.kind != "clean"]
    assert sorted(s.name for s in bugs) == sorted(fault.name for fault in (*FAULTS, *TORCH_FAULTS))
    assert all(s.called for s in bugs)
    assert not any(s.called for s in sittings if s.kind == "clean")
    assert "\n".join(exam.table(sittings)) in (ROOT / "bench" / "judge" / "README.md").read_text(encoding="utf-8")


def right_attention(module, query, key, value, attention_mask, scaling=None, **_):
    """transformers' own, by way of a function of the user's."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling)


def wrong_attention(module, query, key, value, attention_mask, scaling=None, **_):
    return right_attention(module, query, key, key, attention_mask, scaling)


@pytest.mark.parametrize(("function", "code"), [("right_attention", 0), ("wrong_attention", 1)])
def test_a_hugging_face_model_is_judged_under_an_attention_of_the_user_s(tmp_path, function, code):
    transformers = pytest.importorskip("transformers", reason="transformers is not here; pip install -e '.[hf]'")
    config = transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    own = ["--attn-implementation", f"test_verify:{function}"]
    assert verify.main(["--hf", str(tmp_path), *QUICK, *own]) == code


@needs_browser
def test_the_page_opens_without_a_complaint_or_a_request(tmp_path):
    path = tmp_path / "verdict.html"
    assert verify.main(["--impl", "eager", *QUICK, "--inject", "torch_no_scale", "--html", str(path)]) == 1
    text = path.read_text(encoding="utf-8")
    for part in ("BUG: eager against naive", "Where it starts", "Error of each layer", "slot by slot", "narrowly"):
        assert part in text
    assert len(text) < 2e6
    visit = Visit(path)
    assert not visit.console
    assert not visit.addresses


def test_int8_weights_are_judged_by_their_values_and_said(capsys):
    assert verify.main(["--impl", "sdpa", "--against", "numpy", "--weights", "int8", *QUICK]) == 0
    assert "sdpa against numpy, float32, int8 weights\n" in capsys.readouterr().out
    bug = ["--impl", "eager", "--against", "numpy", "--weights", "int8", "--inject"]
    assert verify.main([*bug, "torch_c_proj_untransposed", "--json", *QUICK]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["weights"], found["starts"]["operation"]) == ("BUG", "int8", "c_proj")


def test_a_channel_that_has_its_neighbour_s_scale_is_a_bug(capsys, monkeypatch):
    def neighbours(self, rows, dtype):
        return self.weight[rows].to(dtype) * self.scale.roll(1)[rows].to(dtype)[..., None]

    monkeypatch.setattr(Int8Matrix, "values", neighbours)
    assert verify.main(["--impl", "sdpa", "--against", "numpy", "--weights", "int8", *QUICK]) == 1
    assert capsys.readouterr().out.startswith("BUG: ")
    assert verify.main(["--hf", "nowhere", "--weights", "int8"]) == verify.USAGE
    assert "--weights does nothing beside --hf; it goes with --impl" in capsys.readouterr().err


def test_an_engine_that_cannot_be_compiled_is_a_wrong_call_and_no_verdict(capsys, monkeypatch):
    def fail(*_, **__):
        raise CompilerFailed(Variant(*["float32"] * 4), "LLVM said no")

    monkeypatch.setattr(verify, "investigate", fail)
    assert verify.main(["--impl", "numba", *QUICK]) == 3
    assert capsys.readouterr().err.startswith("kvproof verify: the engine for float32")
