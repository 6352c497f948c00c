"""A causal LM over every cache and in every scenario: sound ones pass, and each scenario sees what only it can see."""

import copy
from contextlib import contextmanager
from functools import wraps
from unittest.mock import patch

import pytest
import torch

from kvproof.bench.judge.huggingface.caches import CACHES
from kvproof.bench.judge.huggingface.play import Play
from kvproof.bench.judge.huggingface.scenarios import SAME_CALLS, SCENARIOS
from kvproof.bench.judge.huggingface.subject import HuggingFaceSubject
from kvproof.bench.judge.huggingface.survey import RAISES, Survey, judged_model, survey
from kvproof.bench.judge.huggingface.ties import TiesToTheFirst
from kvproof.bench.judge.zoo.build import build
from kvproof.bench.judge.zoo.sizes import SIZES

from .._models import stranger

transformers = pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
PROMPTS = ([7, 8, 9, 10, 11, 12, 13, 14, 15], [3, 4, 5, 6])


def words(model, **how):
    """{(cache, scenario): word} of a survey."""
    return {(cell.cache, cell.scenario): cell.word for cell in survey(model, prompts=PROMPTS, steps=5, **how)}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom"])
def test_sound_models_are_not_accused_by_any_cache_or_scenario(family):
    found = words(stranger(family))
    if family == "gemma2":  # whose softcap the paged eager attention of transformers 5.24 drops
        assert found.pop(("paged", "steps")) == "BUG"
    assert set(found.values()) <= {"ROUNDING", "raises", "does not apply"}, found
    sound = {scenario for (cache, scenario), word in found.items() if word == "ROUNDING" and cache == "dynamic"}
    assert sound == set(SCENARIOS)


def test_every_cache_that_can_be_had_here_is_judged():
    found = words(stranger("llama"), scenarios=("steps",))
    needs = {name for name in CACHES if name.startswith(("offloaded", "quantised-q", "quantised-h"))}
    assert {cache for (cache, _), word in found.items() if word == "ROUNDING"} >= set(CACHES) - needs - {
        "sliding", "hybrid"
    }  # fmt: skip


def test_a_state_of_the_model_s_own_is_judged_step_against_whole():
    config = transformers.RwkvConfig(vocab_size=61, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2)
    torch.manual_seed(0)
    model = transformers.RwkvForCausalLM(config).eval().requires_grad_(False)
    found = words(model)
    assert found["own", "steps"] == found["own", "chunks"] == found["own", "generate"] == "ROUNDING"
    assert found["dynamic", "steps"] == found["own", "crop"] == "does not apply"

    def forgets(module, args, out):
        if out.state is not None:
            out.state[0].mul_(0.5)  # the last token that the feed-forward blocks saw

    hook = model.rwkv.register_forward_hook(forgets)
    try:
        assert words(model, scenarios=("steps",), caches=("own",)) == {("own", "steps"): "BUG"}
    finally:
        hook.remove()


# A fault, and the scenarios that see it over a dynamic cache; "steps" is among them only where it must be.


@contextmanager
def crop_one_short():
    own = transformers.cache_utils.DynamicLayer.crop
    with patch.object(transformers.cache_utils.DynamicLayer, "crop", lambda self, n: own(self, n + 1)):
        yield


@contextmanager
def values_not_reordered():
    def reorder_cache(self, order):
        self.keys = self.keys.index_select(0, order)

    with patch.object(transformers.cache_utils.DynamicLayer, "reorder_cache", reorder_cache):
        yield


@contextmanager
def reset_forgets_nothing():
    with patch.object(transformers.cache_utils.DynamicLayer, "reset", lambda self: None):
        yield


@contextmanager
def several_tokens_start_anew():
    """As a recurrent layer that has a path for one token and a path for a prompt, and no third."""
    own = transformers.cache_utils.DynamicLayer.update

    def update(self, keys, values, *rest, **more):
        k, v = own(self, keys, values, *rest, **more)
        if 1 < keys.shape[2] < k.shape[2]:
            v = v.clone()
            v[:, :, : -keys.shape[2]] = 0
        return k, v

    with patch.object(transformers.cache_utils.DynamicLayer, "update", update):
        yield


@contextmanager
def own_positions_restart():
    """Positions that the model counts by itself start at 0 in every call, whatever the cache holds."""
    module = transformers.models.llama.modeling_llama
    own = module.LlamaRotaryEmbedding.forward

    def forward(self, x, position_ids):
        return own(self, x, position_ids if position_ids.shape[0] > 1 else position_ids - position_ids[:, :1])

    with patch.object(module.LlamaRotaryEmbedding, "forward", forward):
        yield


@contextmanager
def generate_counts_padding():
    own = transformers.LlamaForCausalLM.prepare_inputs_for_generation

    @wraps(own)  # generate() asks what it takes
    def prepare(self, *args, **kw):
        given = own(self, *args, **kw)
        if given.get("position_ids") is not None:
            given["position_ids"] = given["position_ids"] + (given["input_ids"].shape[1] == 1)
        return given

    with patch.object(transformers.LlamaForCausalLM, "prepare_inputs_for_generation", prepare):
        yield


FAULTS = {
    crop_one_short: {"crop"},
    values_not_reordered: {"beams"},
    reset_forgets_nothing: {"reuse"},
    several_tokens_start_anew: {"chunks", "pieces", "crop"},  # drafts are several tokens; these stay wrong by nothing
    own_positions_restart: {"bare"},
    generate_counts_padding: {"generate"},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_scenario_sees_what_only_it_can_see(fault):
    with fault():
        found = words(stranger("llama"), caches=("dynamic",))
    bugs = {scenario for (_, scenario), word in found.items() if word == "BUG"}
    assert bugs - {"crop"} == FAULTS[fault] - {"crop"}, found
    assert fault is not crop_one_short or bugs == {"crop"}


def test_the_place_of_a_bug_is_named_in_any_order_of_rows_and_calls():
    model = stranger("llama")

    def spoilt(module, args, out):
        return out + (out.shape[1] == 1) * 0.1  # of one token at a time alone

    hook = model.model.layers[1].mlp.register_forward_hook(spoilt)
    try:
        cells = list(survey(model, prompts=PROMPTS, steps=5, caches=("dynamic",)))
    finally:
        hook.remove()
    found = {cell.scenario: cell.found.start for cell in cells if cell.found is not None and cell.word == "BUG"}
    assert set(found) == set(SCENARIOS) - {"pieces"} or set(found) == set(SCENARIOS), Survey(cells).table()
    for scenario, start in found.items():
        assert start.startswith("layer 1, mlp, position"), (scenario, start)


def test_a_model_without_known_module_names_is_judged_and_its_modules_are_named():
    model = stranger("bloom")

    def spoilt(module, args, out):
        return out * (1.1 if out.shape[1] == 1 else 1.0)

    hook = model.transformer.h[1].mlp.dense_4h_to_h.register_forward_hook(spoilt)
    try:
        (cell,) = survey(model, prompts=PROMPTS, steps=4, caches=("dynamic",), scenarios=("steps",))
    finally:
        hook.remove()
    assert cell.word == "BUG"
    assert cell.found.start.startswith("transformer.h.1.mlp, position 9 of sequence 0"), cell.found.start


def test_equal_scores_that_topk_chooses_among_are_no_bug_and_hide_none(monkeypatch):
    """A sparse attention's scores are sums of ReLUs: with two heads several are 0, for the last place too."""
    monkeypatch.setitem(SIZES, "index_n_heads", 2)
    model = build("glm_moe_dsa")
    (cell,) = survey(model, prompts=12, steps=6, caches=("dynamic",), scenarios=("steps",))
    assert cell.word == "ROUNDING"
    assert "torch.topk chooses among equal scores" in cell.reason
    own = HuggingFaceSubject(model, prompts=12, steps=6).with_ties_to_the_first()
    own.paths("float32")
    assert own.ties is not None
    assert own.ties.tied > 0
    hook = model.model.layers[2].mlp.register_forward_hook(lambda module, args, out: out * (1 + (out.shape[1] == 1)))
    try:
        (cell,) = survey(model, prompts=12, steps=6, caches=("dynamic",), scenarios=("steps",))
    finally:
        hook.remove()
    assert cell.word == "BUG"


@pytest.mark.parametrize("largest", [True, False])
def test_ties_go_to_the_first_and_nothing_else_changes(largest):
    x = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0], [5.0, 4.0, 2.0, 1.0, 0.0]])
    with TiesToTheFirst() as ties:
        values, indices = x.topk(2, largest=largest)
    assert indices.tolist() == ([[1, 2], [0, 1]] if largest else [[3, 0], [4, 3]])
    assert torch.equal(values, x.gather(1, indices))
    assert ties.tied == int(largest)


def test_what_a_model_raises_is_reported_as_its_own_with_its_line():
    (cell,) = survey(stranger("bloom"), prompts=PROMPTS, steps=3, caches=("static",), scenarios=("steps",))
    assert cell.word == RAISES
    assert "modeling_bloom.py:" in cell.reason
    assert cell.found is None


def test_an_error_of_ours_is_no_verdict_and_no_green_word(monkeypatch):
    def broken(self, tokens):
        raise KeyError("ours")

    monkeypatch.setattr(Play, "crop", broken)
    found = judged_model(stranger("llama"), scenarios=("steps", "crop"), steps=3)
    assert [cell.word for cell in found.cells] == ["ROUNDING", "error of ours"]
    assert found.word == "error of ours"


def test_what_raises_leaves_chosen_cells_in_doubt_and_does_not_spoil_all_of_them():
    model = stranger("bloom")
    assert judged_model(model, caches=("dynamic", "static"), scenarios="steps", steps=3).word == "INCONCLUSIVE"
    assert judged_model(model, scenarios="all", steps=2).word == "ROUNDING"


def test_an_operation_of_a_cache_that_is_not_implemented_raises_and_is_no_refusal_of_a_dtype(monkeypatch):
    def absent(self, order):
        raise NotImplementedError("no beams here")

    monkeypatch.setattr(transformers.cache_utils.DynamicLayer, "reorder_cache", absent)
    (cell,) = judged_model(stranger("llama"), scenarios="beams", steps=3).cells
    assert (cell.word, "NotImplementedError: no beams here" in cell.reason) == (RAISES, True)
    model = copy.deepcopy(stranger("llama"))
    monkeypatch.setattr(type(model.model.norm), "forward", absent_forward)
    with pytest.raises(ValueError, match="LlamaForCausalLM raised NotImplementedError: not yet"):
        HuggingFaceSubject(model, prompts=12)


def absent_forward(self, x):
    raise NotImplementedError("not yet")


@pytest.mark.parametrize(("given", "message"), [
    ({"scenario": "bare", "left_padded": 2}, "bare is given neither mask nor positions; leave --left-padded"),
    ({"scenario": "generate", "position_ids": False}, "generate makes masks and positions itself"),
    ({"cache": "paged", "left_padded": 1}, "paged packs its rows without padding"),
    ({"cache": "paged", "attn_implementation": "eager"}, "has an attention of its own, which eager cannot replace"),
    ({"scenario": "crop", "prompts": 57, "steps": 6}, "6 steps and 3 drafts do not fit the model's 64 positions"),
    ({"steps": 0}, "steps is 0; at least 1 position"),
    ({"left_padded": -1}, "left_padded is -1"),
])  # fmt: skip
def test_what_would_do_nothing_or_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        HuggingFaceSubject(stranger("llama"), **{"prompts": 12, **given})


@pytest.mark.parametrize("scenario", ["crop", "beams"])
def test_one_step_is_too_few_for_what_happens_between_steps(scenario):
    (cell,) = judged_model(stranger("llama"), scenarios=scenario, steps=1).cells
    assert (cell.word, "2 steps or more" in cell.reason) == ("does not apply", True)


def test_an_attention_that_a_model_never_calls_is_refused():
    subject = HuggingFaceSubject(stranger("bloom"), prompts=12, steps=2, attn_implementation="sdpa")
    with pytest.raises(ValueError, match="does not attend through AttentionInterface, so sdpa would not be called"):
        subject.paths("float32")


def test_where_one_path_cannot_run_in_float64_throughout_neither_does():
    model = copy.deepcopy(stranger("llama"))
    subject = HuggingFaceSubject(model, prompts=12, steps=3)

    def particular(module, args, out):
        if torch.float32 == torch.float64 and out.shape[1] > 1 and len(out) == 1:
            raise TypeError("whole sequences want float32 by name")

    hook = subject.lm.model("float64").model.norm.register_forward_hook(particular)
    try:
        subject.paths("float64")
    finally:
        hook.remove()
    assert not subject.wide
    assert [key for key in subject._whole_logits if key[0] == "float64"] == [("float64", 0.0, False)]


def test_models_that_no_cache_can_decode_with_are_refused_with_the_reason():
    noisy = copy.deepcopy(stranger("llama"))
    noisy.model.norm.register_forward_hook(lambda module, args, out: out + torch.randn_like(out))
    with pytest.raises(ValueError, match="other logits each time"):
        HuggingFaceSubject(noisy, prompts=12)
    sees_all = copy.deepcopy(stranger("llama"))
    sees_all.model.norm.register_forward_hook(lambda module, args, out: out + out.mean(1, keepdim=True))
    with pytest.raises(ValueError, match="a token other logits once later ones follow"):
        HuggingFaceSubject(sees_all, prompts=12)


def test_an_8_bit_cache_is_held_to_its_own_numbers_and_a_wrong_scale_is_a_bug():
    model, how = stranger("llama"), {"caches": ("quantised-fp8",)}
    found = {scenario: word for (_, scenario), word in words(model, **how).items()}
    assert found == {x: "ROUNDING" if x in SAME_CALLS else "does not apply" for x in SCENARIOS}
    layer = transformers.cache_utils.Fp8QuantizedLayer
    own = layer._quantize

    def each_call_anew(self, tensor, scale=None):
        codes, new = own(self, tensor)
        return codes, new if scale is None else scale  # the scale of these codes is lost

    with patch.object(layer, "_quantize", each_call_anew):
        assert set(words(model, scenarios=("steps",), **how).values()) == {"BUG"}


def test_one_word_for_a_table_is_its_worst():
    model = stranger("llama")
    with crop_one_short():
        cells = list(survey(model, prompts=PROMPTS, steps=4, caches=("dynamic",), scenarios=("steps", "crop")))
    assert Survey(cells).word == "BUG"
    assert Survey(cells[:1]).word == "ROUNDING"
    assert Survey([]).word == "INCONCLUSIVE"
    assert Survey(cells).table()[-1] == "2 cells: 1 ROUNDING, 1 BUG"
    assert all(set(cell.record()) == {"cache", "scenario", "word", "reason", "found"} for cell in cells)


def test_the_assertion_for_pytest_has_the_same_reach(assert_same_decode):
    model = stranger("llama")
    one = assert_same_decode(model, steps=3)
    assert [(cell.cache, cell.scenario) for cell in one.cells] == [("dynamic", "steps")]
    every = assert_same_decode(model, scenarios="all", caches="dynamic", steps=3)
    assert {cell.scenario for cell in every.cells} == set(SCENARIOS)
    with values_not_reordered(), pytest.raises(AssertionError, match=r"dynamic +beams +BUG"):
        assert_same_decode(model, scenarios="all", caches="dynamic", steps=3)
    with pytest.raises(ValueError, match="scenario 'beam' is not known; choose all or some of steps, bare"):
        assert_same_decode(model, scenarios="beam")
    with pytest.raises(TypeError, match="a function came alone; give two paths, or a causal LM"):
        assert_same_decode(lambda dtype: None)
    with pytest.raises(TypeError, match="scenarios came beside two paths"):
        assert_same_decode([[1.0]], [[1.0]], scenarios="all")


def test_windows_that_no_sequence_reaches_are_said():
    model = build("mistral")  # windows of 8
    assert HuggingFaceSubject(model, prompts=12, steps=2).notes == []
    (note,) = HuggingFaceSubject(model, prompts=5, steps=2).notes
    assert note == "no sequence is longer than its windows of 8 tokens; give --context 8"
    with pytest.raises(ValueError, match="no sequence is longer than its windows of 8 tokens"):
        HuggingFaceSubject(model, prompts=5, steps=2, cache="sliding")


def test_cells_are_chosen_by_name():
    model = stranger("gpt2")
    found = judged_model(model, scenarios=("crop", "reuse"), steps=3)
    assert [(cell.cache, cell.scenario) for cell in found.cells] == [("dynamic", "crop"), ("dynamic", "reuse")]
    assert len(judged_model(model, caches="all", steps=2).cells) == len(set(CACHES) - {"sliding", "hybrid"})
    (cell,) = judged_model(model, scenarios="crop", caches="full", steps=3).cells
    assert (cell.cache, cell.scenario, cell.word) == ("full", "crop", "ROUNDING")
