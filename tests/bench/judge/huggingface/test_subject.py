"""A causal LM of transformers as a subject: padded batches, positions, folders, attention of the user's own."""

import numpy as np
import pytest
import torch

from kvproof.bench.judge.huggingface.subject import HuggingFaceSubject

from ...._gpt2_models import random_prompts
from .._models import STEPS, relative, stranger

PROMPTS = random_prompts(61, (7, 3, 5))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_padded_batch_of_a_stranger_agrees_with_each_row_alone(family, cache):
    theirs = HuggingFaceSubject(stranger(family), prompts=PROMPTS, steps=STEPS, cache=cache, left_padded=2)
    bars = {"float64": 1e-11 if family == "gpt2" else 1e-4, "float32": 1e-4, "bfloat16": 3e-1}
    for dtype, bar in bars.items():
        a, b = theirs.paths(dtype)
        assert a.shape == b.shape == (3, STEPS, 61)
        assert relative(a, b) < bar
        assert not np.array_equal(a, b) or dtype == "bfloat16"  # which may hide the other order of a sum
    assert theirs.name_a == f"{cache} cache, left-padded"


def test_a_left_padded_gpt2_without_positions_is_far_from_its_rows_alone():
    lost = HuggingFaceSubject(stranger("gpt2"), prompts=PROMPTS, steps=STEPS, position_ids=False)
    assert relative(*lost.paths("float64")) > 1e-2
    assert lost.name_a == "dynamic cache, left-padded, no position_ids"


def test_a_model_in_memory_is_left_as_it_is_and_a_folder_gives_the_same_logits(tmp_path):
    model = stranger("gpt2")
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    in_memory, from_folder = (HuggingFaceSubject(x, prompts=PROMPTS, steps=2) for x in (model, tmp_path))
    for dtype in ("float64", "bfloat16"):
        assert np.array_equal(in_memory.paths(dtype, 1e-3)[0], from_folder.paths(dtype, 1e-3)[0])
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_a_custom_attention_attends_in_the_cached_path_alone():
    transformers = pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[hf]'")
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    def unscaled(module, query, *rest, **kw):
        return sdpa_attention_forward(module, query * 2, *rest, **kw)

    AttentionMaskInterface.register("kvproof-test", sdpa_mask)
    clean = HuggingFaceSubject(stranger("llama"), prompts=PROMPTS, steps=3)
    for function, wrong in ((sdpa_attention_forward, False), (unscaled, True)):
        transformers.AttentionInterface.register("kvproof-test", function)
        custom = HuggingFaceSubject(stranger("llama"), prompts=PROMPTS, steps=3, attn_implementation="kvproof-test")
        a, b = custom.paths("float64")
        assert np.array_equal(b, clean.paths("float64")[1])
        assert (relative(a, b) > 1e-2) == wrong
    assert custom.name_a.endswith("kvproof-test")


@pytest.mark.parametrize(("arguments", "message"), [
    ({"cache": "window"}, "cache is 'window'; it must be one of auto, dynamic"),
    ({"steps": 0}, "steps is 0"),
    ({"prompts": [[1], []]}, "at least one token id"),
    ({"steps": 60}, "7 prompt columns and 60 steps do not fit the model's 64 positions"),
    ({"model": "/no/such/folder"}, "has no config.json"),
])  # fmt: skip
def test_a_stranger_s_wrong_arguments_are_refused(arguments, message):
    given = {"prompts": PROMPTS, "model": arguments.get("model") or stranger("gpt2")} | arguments
    with pytest.raises(ValueError, match=message):
        HuggingFaceSubject(**given)
