"""float64 throughout: what a model computes in float32 by name, and the faults that hide below its rounding."""

import pytest
import torch

from kvproof.bench.judge.huggingface.subject import HuggingFaceSubject
from kvproof.bench.judge.huggingface.survey import survey
from kvproof.bench.judge.huggingface.wide import float64_throughout

from .._models import relative, stranger

pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
PROMPTS = [[7, 8, 9, 10, 11], [3, 4]]


def test_float32_by_name_is_float64_inside_and_float32_again_after_an_error():
    x, seen = torch.ones(2, dtype=torch.float64), []

    def fails():
        with float64_throughout():
            seen.extend((x.float(), x.to(torch.float32), torch.softmax(x, 0, dtype=torch.float)))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert [y.dtype for y in seen] == 3 * [x.dtype]
    assert str(torch.float32) == str(torch.float) == "torch.float32"
    assert str(x.float().dtype) == "torch.float32"


@pytest.mark.parametrize("family", ["llama", "gemma2", "bloom"])
def test_correct_paths_agree_to_float64_s_rounding_and_weights_stay(family):
    model = stranger(family)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    subject = HuggingFaceSubject(model, prompts=PROMPTS, steps=3)
    assert relative(*subject.paths("float64")) < 1e-13
    subject.wide = False
    assert relative(*subject.paths("float32")) > 1e-9
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_a_fault_of_float32_s_size_is_seen():
    """1e-6 of one layer's output, in decode steps alone: a fourth of what float32 rounds there."""
    model = stranger("llama")
    hook = model.model.layers[0].mlp.register_forward_hook(
        lambda module, args, out: out * (1 + 4e-6 * (out.shape[1] == 1))
    )
    try:
        (cell,) = survey(model, prompts=PROMPTS, steps=4, caches=("dynamic",), scenarios=("steps",))
    finally:
        hook.remove()
    assert cell.word == "BUG"
    assert cell.found.start.startswith("layer 0, mlp")


def test_a_model_that_cannot_run_so_is_judged_as_it_is():
    model = stranger("llama")

    def particular(module, args, out):
        if torch.float32 == torch.float64:
            raise TypeError("this layer wants float32 by name")

    hook = model.model.norm.register_forward_hook(particular)
    try:
        subject = HuggingFaceSubject(model, prompts=PROMPTS, steps=3)
        assert not subject.wide
        assert relative(*subject.paths("float64")) < 1e-4
    finally:
        hook.remove()
