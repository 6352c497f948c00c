"""Loading: every safetensors spelling, the embedded checkpoint, the recipes, and every mistake by name."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from gpt2_models import IMPLS
from reference_models import F32_BAR, F64_BAR, error

from kvproof import reference
from kvproof.gpt2 import CheckpointError, ConfigError, generate, load
from kvproof.gpt2.weights import EMBEDDED
from kvproof.reference.synthetic import random_tensors

SPELLINGS = {
    "plain": "logits_f32",
    "plain-f16": "logits_f16weights",
    "plain-bf16": "logits_bf16weights",
    "openai-style-noprefix-maskbuffers": "logits_f32",
    "prefix-lmhead-maskedbias-safetensors": "logits_f32",
    "sharded-safetensors": "logits_f32",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_model(data, spelling):
    expected = np.load(data / "variants" / "expected.npz")
    model = load(data / "variants" / spelling)
    logits = model(torch.as_tensor(expected["input_ids"])).numpy()
    assert error(logits, expected[SPELLINGS[spelling]]) <= F32_BAR


def test_a_file_loads_as_its_folder_does(data):
    folder, file = (load(data / "variants" / path) for path in ("plain", "plain/model.safetensors"))
    for a, b in zip(folder.parameters(), file.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", torch.bfloat16])
def test_weights_come_in_the_dtype_asked_for(data, dtype):
    model = load(data / "variants" / "plain", dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {p.dtype for p in model.parameters()} == {wanted}


@pytest.mark.parametrize("impl", IMPLS)
def test_tiny_agrees_with_the_oracle(impl, device):
    model = load(impl=impl, device=device)
    params, config = reference.load(EMBEDDED["tiny"])
    ids = np.array([model.tokenizer.encode("Once upon a time there was")])
    oracle = reference.generate(ids, params, config, 4)
    assert generate(model, ids.tolist(), max_new_tokens=4)[0].ids == oracle[0, ids.shape[1] :].tolist()
    want = reference.forward(ids, params, config)
    assert error(model(torch.as_tensor(ids, device=device)).cpu().numpy(), want) <= F32_BAR
    exact = load(dtype="float64", device=device)(torch.as_tensor(ids, device=device))
    assert error(exact.cpu().numpy(), want) <= F64_BAR


def test_random_distilgpt2_is_the_recipe_in_torch():
    model = load("random:distilgpt2", dtype="bfloat16")
    assert (model.config.n_layer, model.config.n_embd, model.tokenizer.n_vocab) == (6, 768, 50257)
    wanted = dict(random_tensors(model.config))
    place = dict(model.named_parameters())
    assert wanted.keys() == place.keys()
    for name in ("wte.weight", "h.5.mlp.c_proj.weight", "ln_f.bias"):
        assert torch.equal(place[name], torch.from_numpy(wanted[name]).bfloat16())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tinny"}, "no model 'tinny': it is no folder, no file and none of tiny, random:distilgpt2"),
        ({"name": "tinny"}, "did you mean 'tiny'?"),
        ({"name": "random:gpt3"}, "random model 'gpt3'"),
        ({"dtype": "int8"}, "dtype is int8; it must be one of float64, float32, float16, bfloat16"),
        ({"device": "abacus"}, "device 'abacus' is not known"),
        ({"impl": "fast"}, "impl 'fast' is not known; choose one of naive, eager, sdpa, triton"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_cuda_without_a_gpu_is_named():
    with pytest.raises(
        ValueError, match="device 'cuda' was asked for, but torch finds no CUDA GPU here; use device='cpu'"
    ):
        load(device="cuda")


def variant(data, tmp_path, **config):
    """A copy of the plain spelling with fields of its config.json changed."""
    folder = tmp_path / "model"
    shutil.copytree(data / "variants" / "plain", folder)
    raw = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale_attn_by_inverse_layer_idx", True),
        ("reorder_and_upcast_attn", True),
        ("scale_attn_weights", False),
        ("activation_function", "relu"),
        ("model_type", "llama"),
    ],
)
def test_a_config_flag_that_is_not_honoured_is_refused_by_name(data, tmp_path, field, value):
    with pytest.raises(ConfigError, match=field):
        load(variant(data, tmp_path, **{field: value}))


def test_the_exact_gelu_and_another_eps_are_honoured(data, tmp_path):
    ids = np.load(data / "variants" / "expected.npz")["input_ids"]
    folder = variant(data, tmp_path, activation_function="gelu", layer_norm_epsilon=1e-3)
    params, config = reference.load(folder)
    model = load(folder, dtype="float64")
    assert error(model(torch.as_tensor(ids)).numpy(), reference.forward(ids, params, config)) <= F64_BAR
    plain = load(data / "variants" / "plain", dtype="float64")
    assert error(model(torch.as_tensor(ids)).numpy(), plain(torch.as_tensor(ids)).numpy()) > 1e-4


def test_a_checkpoint_of_another_shape_is_refused(data, tmp_path):
    with pytest.raises(CheckpointError, match=r"tensor .* has shape"):
        load(variant(data, tmp_path, n_positions=32))
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(CheckpointError, match="missing"):
        load(variant(data, tmp_path, n_layer=4))


def test_a_tied_head_that_differs_is_refused_and_an_untied_one_is_used(data, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = variant(data, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["wte.weight"] * 2
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from wte\.weight"):
        load(folder)
    raw = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(raw))
    ids = torch.tensor([[1, 2, 3]])
    assert torch.allclose(load(folder)(ids), 2 * load(data / "variants" / "plain")(ids))


def test_another_model_s_merges_are_refused(data, tmp_path):
    folder = variant(data, tmp_path)
    shutil.copy(EMBEDDED["tiny"] / "vocab.bpe", folder)
    with pytest.raises(CheckpointError, match="makes 2049 tokens, the model has 11"):
        load(folder)
