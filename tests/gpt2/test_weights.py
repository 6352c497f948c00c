"""Loading: every spelling, GPT-2's traps, memory, the embedded checkpoint, the recipes, and every mistake by name."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof import reference
from kvproof.gpt2 import CheckpointError, generate, load
from kvproof.gpt2.checkpoint.pickles import PICKLES
from kvproof.gpt2.weights import EMBEDDED
from kvproof.reference.config import Config
from kvproof.reference.files import SAFETENSORS, find_weights
from kvproof.reference.synthetic import SIZES, random_tensors
from kvproof.reference.weights import expected_shapes

from .._checkpoints import LINEARS, edit_config, save_nanogpt, save_pretrained, tensors_of
from .._gpt2_models import IMPLS
from .._reference_models import F32_BAR, F64_BAR, SAFETENSORS_SPELLINGS, error
from .._refused import refused
from ._folders import IDS, SMALL, logits_of, sizes

SPELLINGS = SAFETENSORS_SPELLINGS | {
    "prefix-lmhead-maskedbias-bin": "logits_f32",
    "sharded-bin": "logits_f32",
    "nanogpt-ckpt": "logits_f32",
}
MEASURE = """
import ctypes, gc, json, sys, threading, kvproof.gpt2
def anon():
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith("RssAnon")).split()[1])
def measure(path, dtype):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what the last model freed would be used again, unseen
    before = peak = anon()
    loaded = threading.Event()
    def watch():
        nonlocal peak
        while not loaded.wait(0.002):
            peak = max(peak, anon())
    watcher = threading.Thread(target=watch)
    watcher.start()
    model = kvproof.gpt2.load(path, dtype=dtype)
    loaded.set()
    watcher.join()
    return max(peak, anon()) - before, sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps([measure(*pair.rsplit(":", 1)) for pair in sys.argv[1:]]))
"""


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_model_by_its_folder_and_by_its_file(data, spelling):
    expected = np.load(data / "variants" / "expected.npz")
    wanted = expected[SPELLINGS[spelling]]
    model = load(data / "variants" / spelling)
    logits = model(torch.as_tensor(expected["input_ids"])).numpy()
    padded = spelling == "nanogpt-ckpt"  # to a multiple of 64
    assert logits.shape[-1] == (64 if padded else 11)
    assert error(logits[..., :11], wanted) <= F32_BAR
    file = find_weights(data / "variants" / spelling, (*SAFETENSORS, *PICKLES))
    assert file.is_file()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), load(file).parameters(), strict=True))


def test_safetensors_are_preferred_to_a_pickle_beside_them(data, tmp_path):
    folder = variant(data, tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"spoilt")
    assert load(folder).config.n_vocab == 11
    (folder / "model.safetensors").unlink()
    refused(CheckpointError, r"pytorch_model\.bin is cut off or no pickle", load, folder)


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
        ({"name": "tinny"}, "no model 'tinny': it is no folder, no file and none of tiny, gpt2, gpt2-medium"),
        ({"name": "tinny"}, "did you mean 'tiny'?"),
        ({"name": "random:gpt3"}, "random model 'gpt3'"),
        ({"dtype": "int8"}, "dtype is int8; it must be one of float64, float32, float16, bfloat16"),
        ({"device": "abacus"}, "device 'abacus' is not known"),
        ({"impl": "fast"}, "impl 'fast' is not known; choose one of auto, naive, eager, sdpa, triton, numba"),
    ],
)
def test_mistakes_are_named(arguments, message):
    refused(ValueError, re.escape(message), load, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_cuda_without_a_gpu_is_named():
    words = "device 'cuda' was asked for, but torch finds no CUDA GPU here; use device='cpu'"
    refused(ValueError, words, load, device="cuda")


def variant(data, tmp_path, **config):
    """A copy of the plain spelling with fields of its config.json changed."""
    return edit_config(shutil.copytree(data / "variants" / "plain", tmp_path / "model"), **config)


def test_the_exact_gelu_and_another_eps_are_honoured(data, tmp_path):
    ids = np.load(data / "variants" / "expected.npz")["input_ids"]
    folder = variant(data, tmp_path, activation_function="gelu", layer_norm_epsilon=1e-3)
    params, config = reference.load(folder)
    model = load(folder, dtype="float64")
    assert error(model(torch.as_tensor(ids)).numpy(), reference.forward(ids, params, config)) <= F64_BAR
    plain = load(data / "variants" / "plain", dtype="float64")
    assert error(model(torch.as_tensor(ids)).numpy(), plain(torch.as_tensor(ids)).numpy()) > 1e-4


def test_a_checkpoint_of_another_shape_is_refused_whatever_memory_its_config_would_take(data, tmp_path):
    folder = variant(data, tmp_path, n_positions=32)
    refused(CheckpointError, r"tensor .* has shape", load, folder)
    refused(CheckpointError, "missing", load, edit_config(folder, n_positions=16, n_layer=4))
    refused(CheckpointError, r"wpe\.weight has shape", load, edit_config(folder, vocab_size=2**60, n_positions=2**60))


def test_another_model_s_merges_are_refused(data, tmp_path):
    folder = variant(data, tmp_path)
    shutil.copy(EMBEDDED["tiny"] / "vocab.bpe", folder)
    refused(CheckpointError, "makes 2049 tokens, the model has 11", load, folder)


def test_nanogpt_s_transposed_square_c_proj_is_turned_back(tmp_path):
    tensors = tensors_of(SMALL)
    assert tensors["h.0.attn.c_proj.weight"].shape == (50, 50)
    want = logits_of(save_pretrained(tmp_path / "hf", SMALL, tensors))
    assert error(logits_of(save_nanogpt(tmp_path / "nano", SMALL, tensors)).numpy(), want.numpy()) <= F64_BAR
    params, config = reference.load(tmp_path / "hf")
    assert error(want.numpy(), reference.forward(IDS.numpy(), params, config)) <= F64_BAR


def test_a_checkpoint_in_the_other_layout_is_refused_as_a_whole(tmp_path):
    tensors = tensors_of(SMALL)
    turned = {name: t.T.contiguous() if name.endswith(LINEARS) else t for name, t in tensors.items()}
    refused(CheckpointError, "it is transposed", load, save_pretrained(tmp_path / "hf", SMALL, turned))
    refused(CheckpointError, r"c_attn\.weight has shape", load, save_nanogpt(tmp_path / "nano", SMALL, turned))


def test_nanogpt_without_biases_is_gpt2_with_zero_biases(tmp_path):
    tensors = tensors_of(SMALL)
    zeroed = {name: torch.zeros_like(t) if name.endswith(".bias") else t for name, t in tensors.items()}
    without = save_nanogpt(tmp_path / "nano", SMALL, tensors, bias=False)
    want = logits_of(save_pretrained(tmp_path / "hf", SMALL, zeroed))
    assert error(logits_of(without).numpy(), want.numpy()) <= F64_BAR
    torch_file = torch.load(save_nanogpt(tmp_path / "both", SMALL, tensors) / "ckpt.pt", weights_only=True)
    torch_file["model_args"]["bias"] = False
    torch.save(torch_file, tmp_path / "both" / "ckpt.pt")
    refused(CheckpointError, r"tensor .*\.bias does not belong", load, tmp_path / "both")


def test_a_padded_vocabulary_never_makes_a_padding_id(tmp_path):
    tiny = load()
    folder = save_nanogpt(tmp_path / "nano", tiny.config, dict(tiny.state_dict()), pad=63)
    shutil.copy(EMBEDDED["tiny"] / "vocab.bpe", folder)
    model = load(folder)
    assert (model.config.n_vocab, model.tokenizer.n_vocab) == (2112, tiny.config.n_vocab)
    prompt = "Once upon a time"
    logits = model(torch.tensor([tiny.tokenizer.encode(prompt)]))
    assert logits[0, -1].argmax() >= tiny.config.n_vocab  # the padding would win
    for settings in ({}, {"temperature": 1.0, "seed": 1}, {"kv_cache": False}):
        want, got = (generate(m, prompt, max_new_tokens=12, **settings)[0] for m in (tiny, model))
        assert max(got.ids) < tiny.config.n_vocab
        assert got.ids == want.ids


@pytest.mark.parametrize(("n_vocab", "known"), [(50257, 50257), (50304, 50257), (50256, None), (50258, None)])
def test_without_merges_the_two_published_sizes_have_the_published_tokenizer(tmp_path, n_vocab, known):
    config = sizes(n_vocab)
    tokenizer = load(save_pretrained(tmp_path / "hf", config, tensors_of(config))).tokenizer
    assert (tokenizer and tokenizer.n_vocab) == known


@pytest.mark.parametrize("name", ["merges.txt", "vocab.bpe"])
def test_merges_beside_the_weights_are_the_tokenizer(tmp_path, name):
    for n_vocab in (2049, 2112):  # as many as there are, padded
        folder = save_pretrained(tmp_path / str(n_vocab), sizes(n_vocab), tensors_of(sizes(n_vocab)))
        shutil.copy(EMBEDDED["tiny"] / "vocab.bpe", folder / name)
        assert load(folder).tokenizer.n_vocab == 2049


def test_a_folder_that_is_called_like_a_known_model_is_reached_by_its_path_alone(data, tmp_path, monkeypatch):
    shutil.copytree(data / "variants" / "plain", tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert [load(name).config.n_vocab for name in ("tiny", "./tiny", Path("tiny"))] == [2049, 11, 11]


def test_a_tied_head_is_compared_to_its_last_row(tmp_path):
    config = Config(n_vocab=1030, n_ctx=4, n_embd=4, n_head=1, n_layer=1, n_inner=16)
    tensors = tensors_of(config)
    head = tensors["wte.weight"].clone()
    load(save_pretrained(tmp_path, config, tensors | {"lm_head.weight": head}))
    head[-1, -1] += 1
    refused(CheckpointError, "differs", load, save_pretrained(tmp_path, config, tensors | {"lm_head.weight": head}))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_loading_takes_hardly_more_memory_than_the_model(tmp_path):
    config = SIZES["distilgpt2"]
    tensors = {name: torch.zeros(shape) for name, shape in expected_shapes(config).items()}
    save_pretrained(tmp_path / "hf", config, tensors | {"lm_head.weight": tensors["wte.weight"].clone()})
    save_nanogpt(tmp_path / "nano", config, tensors)
    models = ("hf:float32", "hf:bfloat16", "nano:bfloat16")
    words = [sys.executable, "-c", MEASURE, *(str(tmp_path / model) for model in models)]
    run = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    for model, (peak, size) in zip(models, json.loads(run.stdout), strict=True):
        assert size > 1.6e8
        assert peak <= 1.15 * size + 50e6, model
