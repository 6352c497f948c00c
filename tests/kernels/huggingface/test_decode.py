"""Decode steps of models of transformers on our kernels, against their own eager attention without a cache."""

import pytest
import torch

from kvproof.bench.judge.zoo.build import build
from kvproof.kernels.huggingface import masks, register_with_transformers

from ._models import BAR, OWN, SIZES, STEPS, error, model, tokens, transformers


@pytest.fixture(autouse=True)
def _registered():
    register_with_transformers()


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("family", OWN)
def test_a_ragged_left_padded_batch_decodes_as_each_sequence_alone(family, kind):
    assert error(family, kind) < BAR


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_a_right_padded_batch_whose_masks_have_holes_decodes_as_each_sequence_alone(family, kind):
    if family == "gpt_oss":  # positions in a window are counted by slots, so padding inside it is in the window
        assert error(family, kind, "right", lengths=(5, 5, 5)) < BAR
    else:
        assert error(family, kind, "right") < BAR


@pytest.mark.parametrize("family", OWN)
def test_one_token_prompts_and_lone_sequences_decode(family):
    assert error(family, lengths=(1,)) < BAR
    assert error(family, "static", lengths=(1, 1)) < BAR


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, BAR), (torch.bfloat16, 0.3), (torch.float16, 0.04)])
def test_other_dtypes_decode_as_far_as_they_round(family, dtype, bar):
    assert error(family, dtype=dtype) < bar


def test_a_decode_step_reads_the_cache_in_place(monkeypatch):
    """The keys that the compiled code is given are the static cache's own memory, strides and all."""
    from kvproof.kernels.cpu import decode_attention as cpu

    seen, plain = [], cpu.decode_attention
    monkeypatch.setattr(cpu, "decode_attention", lambda q, k, v, **more: seen.append((k, v)) or plain(q, k, v, **more))
    made, cache = model("llama"), transformers.StaticCache(config=model("llama").config, max_cache_len=32)
    made.set_attn_implementation("kvproof")
    with torch.no_grad():
        made(tokens()[0][None, :5], cache=cache)
        made(tokens()[0][None, 5:6], cache=cache)
    assert [k.data_ptr() for k, _ in seen] == [layer.keys.data_ptr() for layer in cache.layers]
    assert [v.data_ptr() for _, v in seen] == [layer.values.data_ptr() for layer in cache.layers]
    assert all(k.shape[2] == 32 for k, _ in seen)


def test_generate_gives_the_greedy_text_of_eager():
    made = model("llama")
    prompts, found = tokens(), {}
    ids = torch.stack([row[:3] for row in prompts])
    for implementation in ("eager", "kvproof"):
        made.set_attn_implementation(implementation)
        for kind in ("dynamic", "static"):
            text = made.generate(ids, max_new_tokens=20, do_sample=False, cache_implementation=kind, eos_token_id=None)
            found[implementation, kind] = text.tolist()
    assert len({str(text) for text in found.values()}) == 1


def test_beams_and_a_cropped_cache_decode_as_eager_does():
    made, ids, found = model("mistral"), tokens()[0][None, :9], []
    for implementation in ("eager", "kvproof"):
        made.set_attn_implementation(implementation)
        beams = made.generate(ids, max_new_tokens=8, num_beams=3, do_sample=False, eos_token_id=None)
        drafted = made.generate(ids, max_new_tokens=8, prompt_lookup_num_tokens=3, do_sample=False, eos_token_id=None)
        found.append((beams.tolist(), drafted.tolist()))
    assert found[0] == found[1]


def test_where_a_model_cuts_the_prompt_s_queries_the_last_sees_no_unfilled_slot(monkeypatch):
    """Gemma 4's shared layers keep only the queries whose logits are asked for, whatever the mask was made for."""
    made, ids = build("gemma4_text"), tokens()[0][None]

    @torch.no_grad()
    def last(name):
        made.set_attn_implementation(name)
        cache = transformers.StaticCache(config=made.config, max_cache_len=32)
        return made(ids, cache=cache, logits_to_keep=1).logits

    assert torch.allclose(last("kvproof"), last("eager"), atol=1e-5)
    monkeypatch.setattr(masks, "shows_all", lambda *sizes: True)
    with pytest.raises(ValueError, match="14 queries over 32 slots came without a mask"):
        last("kvproof")


@pytest.mark.exhaustive
def test_a_model_that_torch_compiles_decodes_the_same():
    made, row = model("llama"), tokens()[0][None]
    made.set_attn_implementation("kvproof")
    compiled = torch.compile(made.forward, backend="eager")
    with torch.no_grad():
        cache = transformers.DynamicCache(config=made.config)
        made(row[:, :-1], cache=cache)
        step = compiled(row[:, -1:], cache=cache).logits[:, -1]
        plain = made(row, use_cache=False).logits[:, -1]
    assert torch.allclose(step, plain, atol=1e-4)


def test_a_model_that_was_loaded_for_it_decodes(tmp_path):
    from kvproof.kernels.huggingface import load

    model("llama").save_pretrained(tmp_path)
    made = load(tmp_path, dtype=torch.float64)
    assert made.config._attn_implementation == "kvproof"
    assert made.dtype == torch.float64
    ids = tokens()[0][None]
    text = made.generate(ids, max_new_tokens=STEPS, do_sample=False, eos_token_id=None)
    assert text.shape[1] == ids.shape[1] + STEPS
    with pytest.raises(ValueError, match="attn_implementation is 'sdpa'; this loads for \"kvproof\""):
        load(tmp_path, attn_implementation="sdpa")
    assert SIZES["vocab_size"] > text.max()
