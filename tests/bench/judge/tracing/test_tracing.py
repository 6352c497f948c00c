"""The tape changes nothing, and what it holds is what the model computed."""

import numpy as np
import pytest
import torch
from torch import nn

from kvproof.bench.judge.tracing.tape import capture

from ...._gpt2_models import CACHED, forced, random_prompts, small_model
from .._models import STEPS, relative, stranger, subject

BLOCK = ["ln_1", "c_attn", "attention", "c_proj", "ln_2", "mlp"]
PROMPTS = random_prompts(61, (9, 3))
TOKENS = np.array([[1, 2], [3, 4]])


def hooks(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


@pytest.mark.parametrize(
    ("impl", "dtype"), [*((i, "float32") for i in CACHED), ("eager", "bfloat16"), ("sdpa", "bfloat16")]
)
def test_a_captured_decode_gives_the_same_bits_and_leaves_nothing_behind(impl, dtype):
    model = small_model(4, 8, dtype)[0].with_impl(impl)
    before = forced(model, PROMPTS, TOKENS)
    with capture(model) as tape:
        during = forced(model, PROMPTS, TOKENS)
    assert tape.calls
    assert torch.equal(before, during)
    assert torch.equal(before, forced(model, PROMPTS, TOKENS))
    assert not hooks(model)
    assert "logits" not in model.__dict__


def test_a_model_that_raises_is_left_as_it_was():
    model = small_model(4, 8)[0].with_impl("eager")
    with pytest.raises(ValueError, match=r"token id 1000 came"), capture(model):
        model(torch.tensor([[1000]]))
    assert not hooks(model)
    assert "logits" not in model.__dict__


def test_a_method_that_somebody_else_has_replaced_is_put_back():
    model = small_model(4, 8)[0].with_impl("eager")
    model.logits = lambda x: x  # pyright: ignore[reportAttributeAccessIssue]
    theirs = model.logits
    with capture(model):
        assert model.logits is not theirs
    assert model.logits is theirs


def test_operations_come_in_order_of_computation_with_the_shapes_they_promise():
    trace = subject("eager").trace_one("a")
    blocks = [(layer, name) for layer in (0, 1) for name in BLOCK]
    want = [(None, "embed"), *blocks, (None, "ln_f"), (None, "head"), (0, "cache"), (1, "cache")]
    assert [(x.layer, x.operation) for x in trace] == want
    shapes = {x.operation: x.value.shape for x in trace}
    assert shapes["embed"] == shapes["mlp"] == shapes["ln_f"] == (3, STEPS, 32)
    assert shapes["c_attn"] == (3, STEPS, 12, 8)
    assert shapes["attention"] == (3, STEPS, 4, 8)
    assert shapes["head"] == (3, STEPS, 61)
    assert shapes["cache"] == (3, 30 + STEPS - 1, 8, 8)


@pytest.mark.parametrize(("a", "b"), [("eager", "numpy"), ("sdpa", "naive"), ("triton", "naive"), ("numpy", "naive")])
def test_each_operation_of_each_impl_is_the_oracle_s(a, b):
    ours, theirs = subject(a, b, steps=2 if a == "triton" else STEPS).trace()
    assert {x[:2] for x in ours} == {x[:2] for x in theirs}
    by_name = {x[:2]: x.value for x in ours}
    assert max(relative(by_name[x[:2]], x.value) for x in theirs) < 1e-11


def test_a_hugging_face_gpt2_is_traced_like_ours():
    pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
    from kvproof.bench.judge.huggingface.subject import HuggingFaceSubject
    from kvproof.bench.judge.subjects.ours import OurSubject
    from kvproof.bench.measure import peers

    prompts = random_prompts(500, (4, 7))
    theirs = HuggingFaceSubject(peers.hf_model("tiny", torch.float32, torch.device("cpu")), prompts=prompts, steps=3)
    ours = OurSubject("tiny", "sdpa", prompts=prompts, steps=3)
    assert np.array_equal(ours.forced, theirs.forced)
    by_name = {x[:2]: x.value for x in ours.trace_one("a")}
    for which in "ab":
        trace = theirs.trace_one(which)
        assert {x[:2] for x in trace} == by_name.keys()
        assert max(relative(x.value, by_name[x[:2]]) for x in trace) < 1e-10


def test_a_llama_is_traced_with_its_positions_and_its_grouped_heads():
    model = stranger("llama")
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    plain = model(ids).logits
    with capture(model) as tape:
        assert torch.equal(model(ids).logits, plain)
    shapes = {x[:2]: x.value.shape for x in tape.activations()}
    assert list(shapes)[:4] == [(None, "embed"), (None, "positions"), (0, "ln_1"), (0, "c_attn")]
    assert shapes[None, "positions"] == (2, 3, 16)
    assert shapes[1, "c_attn"] == (2, 3, 8, 8)
    assert shapes[1, "attention"] == (2, 3, 4, 8)
    assert not hooks(model)


def test_a_model_of_no_known_family_is_refused_by_name():
    with (
        pytest.raises(ValueError, match=r"Linear has no model\.norm; tracing knows our GPT2 and"),
        capture(nn.Linear(2, 2)),
    ):
        pass
