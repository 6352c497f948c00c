"""Weights as training code and downloads leave them: read alike by both readers, or named for what they are."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from kvproof import reference
from kvproof.gpt2 import CheckpointError, ConfigError, load
from kvproof.reference.config import Config

from ..._checkpoints import as_json, edit_config, save_pretrained, tensors_of
from ..._refused import refused

SMALL = Config(n_vocab=11, n_ctx=8, n_embd=8, n_head=2, n_layer=2, n_inner=16)
IDS = [[3, 1, 4, 1, 5, 9, 2, 6]]


def both_refuse(words, path, error=CheckpointError):
    for reader in (load, reference.load):
        refused(error, words, reader, path)


def blocks(wrapper: str):
    """Each block within a module of this name."""
    return lambda name: re.sub(r"^(h\.\d+)\.", rf"\1.{wrapper}.", name)


PREFIXES = {
    "Lightning": "model.transformer.{}".format,
    "Lightning, compiled": "model._orig_mod.transformer.{}".format,
    "PEFT, merged": "base_model.model.transformer.{}".format,
    "DataParallel": "module.transformer.{}".format,
    "Fabric": "_forward_module.{}".format,
    "a stranger's": "lit_gpt.backbone.{}".format,
    "FSDP": lambda name: f"_fsdp_wrapped_module.{blocks('_fsdp_wrapped_module')(name)}",
    "blocks compiled": blocks("_orig_mod"),
    "blocks checkpointed": blocks("_checkpoint_wrapped_module"),
    "one module compiled": lambda name: name.replace("mlp.", "mlp._orig_mod."),
}


@pytest.fixture(scope="module")
def tensors():
    return tensors_of(SMALL)


@pytest.fixture(scope="module")
def wanted(tensors, tmp_path_factory):
    return load(save_pretrained(tmp_path_factory.mktemp("plain"), SMALL, tensors), dtype="float64")(torch.tensor(IDS))


def folder(path, state=None, metadata=None, config=SMALL, **changes):
    """A folder with this state as model.safetensors, if there is one, and a config."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(as_json(config) | changes))
    if state is not None:
        save_file(state, path / "model.safetensors", metadata)
    return path


def check(path, wanted):
    """Both readers give the wanted logits."""
    assert torch.equal(load(path, dtype="float64")(torch.tensor(IDS)), wanted)
    if (path / "model.safetensors").is_file():
        got = reference.forward(np.array(IDS), *reference.load(path))
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-11)


@pytest.mark.parametrize("spelling", PREFIXES)
def test_whatever_training_put_around_the_model_is_taken_off_its_names(tmp_path, tensors, wanted, spelling):
    state = {PREFIXES[spelling](name): t for name, t in tensors.items()}
    check(folder(tmp_path / "safe", state), wanted)
    torch.save(state, folder(tmp_path / "pickled") / "pytorch_model.bin")
    check(tmp_path / "pickled", wanted)


@pytest.mark.parametrize("name", ["lm_head", "module.lm_head", "model.lm_head"])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_tied_head_alone_is_the_embedding(tmp_path, tensors, wanted, name, metadata):
    state = {f"transformer.{key}": t for key, t in tensors.items()}
    state[f"{name}.weight"] = state.pop("transformer.wte.weight")
    check(folder(tmp_path, state, {"transformer.wte.weight": f"{name}.weight"} if metadata else None), wanted)


def test_a_tied_head_that_differs_is_refused_and_an_untied_one_is_used(tmp_path, tensors, wanted):
    twice, moved = 2 * tensors["wte.weight"], tensors["wte.weight"].clone()
    moved[0, 0] += 7
    for head in (moved, twice):
        path = folder(tmp_path, tensors | {"lm_head.weight": head})
        both_refuse(r"lm_head\.weight differs from wte\.weight", path)
    check(edit_config(path, tie_word_embeddings=False), 2 * wanted)


def test_what_save_model_writes_of_a_tied_model_is_read(tmp_path, wanted, tensors):
    model = load(save_pretrained(tmp_path / "plain", SMALL, tensors))
    outer = torch.nn.Module()
    outer.transformer, outer.lm_head = model, torch.nn.Linear(8, 11, bias=False)
    outer.lm_head.weight = model.wte.weight
    save_model(outer, str(folder(tmp_path / "saved") / "model.safetensors"))
    check(tmp_path / "saved", wanted)


def test_a_head_of_its_own_that_shares_memory_with_the_embedding_is_read_by_its_other_name(tmp_path, tensors, wanted):
    state = dict(tensors)
    state["lm_head.weight"] = state.pop("wte.weight")
    path = folder(tmp_path, state, {"wte.weight": "lm_head.weight", "other": "ln_f.bias"}, tie_word_embeddings=False)
    check(path, wanted)
    both_refuse(r"1 of .* are missing: wte\.weight", folder(tmp_path, state, tie_word_embeddings=False))


NESTS = {
    "Lightning": lambda state: {"state_dict": state, "epoch": 3, "optimizer_states": [{"state": {}}]},
    "a loop of one's own": lambda state: {"model": state, "epoch": 3, "best": torch.tensor(1.0)},
    "torch's tutorials": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "DeepSpeed": lambda state: {"module": state, "global_steps": 7},
    "twice": lambda state: {"state_dict": {"model": state}},
}


@pytest.mark.parametrize("nest", NESTS)
def test_a_state_dict_is_found_among_what_a_training_run_saves(tmp_path, tensors, wanted, nest):
    path = folder(tmp_path)
    torch.save(NESTS[nest]({f"model.transformer.{name}": t for name, t in tensors.items()}), path / "last.ckpt")
    assert torch.equal(load(path / "last.ckpt", dtype="float64")(torch.tensor(IDS)), wanted)
    (path / "last.ckpt").rename(path / "pytorch_model.bin")
    check(path, wanted)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
        "base_model.model.transformer.h.0.attn.c_attn.base_layer.weight",
        "transformer.h.1.mlp.c_fc.lora_B.default.weight",
        "base_model.model.transformer.wte.modules_to_save.default.weight",
    ],
)
def test_an_adapter_s_tensor_is_called_one(tmp_path, tensors, name):
    path = folder(tmp_path, tensors | {name: torch.zeros(2, 2)})
    both_refuse(r"is an adapter's \(LoRA\), not yet merged; merge it", path)


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_with_an_adapter_is_called_one(tmp_path, tensors, beside):
    path = folder(tmp_path, tensors if beside else None)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "ann/gpt2"}))
    save_file({"base_model.model.h.0.attn.c_attn.lora_A.weight": torch.zeros(2)}, path / "adapter_model.safetensors")
    where = r"beside model\.safetensors" if beside else "without its base model 'ann/gpt2'"
    both_refuse(f"holds an adapter .* {where}.*merge it into its base", path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"
STAND_INS = {
    "Git-LFS pointer": LFS,
    "web page": b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>",
    "web page, with a mark": b"\xef\xbb\xbf<html>",
    "empty": b"",
}


@pytest.mark.parametrize("what", STAND_INS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "model.safetensors.index.json", "a shard"])
def test_what_lies_in_a_file_s_place_is_named_by_both_readers_alike(data, tmp_path, file, what):
    path = shutil.copytree(data / "variants" / "sharded-safetensors", tmp_path / "model")
    (path / ("model-00002-of-00003.safetensors" if file == "a shard" else file)).write_bytes(STAND_INS[what])
    said = []
    for reader in (load, reference.load):
        with pytest.raises(CheckpointError, match=f"is (a |an )?{what.partition(',')[0]}") as caught:
            reader(path)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("what", STAND_INS)
@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model.bin.index.json", "ckpt.pt"])
def test_what_lies_in_a_pickle_s_place_is_named(tmp_path, file, what):
    (folder(tmp_path) / file).write_bytes(STAND_INS[what])
    refused(CheckpointError, f"is (a |an )?{what.partition(',')[0]}", load, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", b"PK\x03\x04" + bytes(99), "a zip archive, as torch.save writes it: name it pytorch"),
        ("model.safetensors", b"GGUF\x03\0\0\0" + bytes(99), "a GGUF file"),
        ("model.safetensors", b"Entry not found", "it is 15 bytes of text: 'Entry not found'"),
        ("pytorch_model.bin", b"\x40\0\0\0\0\0\0\0{" + bytes(99), "a safetensors file: name it model.safetensors"),
        ("pytorch_model.bin", b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file, as TensorFlow writes it"),
        ("pytorch_model.bin", b"\x1f\x8b\x08" + bytes(99), "a compressed file: unpack it"),
        ("pytorch_model.bin", b"Invalid username or password.", "29 bytes of text: 'Invalid username"),
    ],
)
def test_weights_of_another_format_are_told_by_their_first_bytes(tmp_path, file, content, words):
    (folder(tmp_path) / file).write_bytes(content)
    for reader in (load, reference.load) if file.endswith("safetensors") else (load,):
        refused(CheckpointError, f"is cut off or no .*; it is .*{words.removeprefix('it is ')}", reader, tmp_path)


def test_half_a_pickle_is_called_cut_off(tmp_path, tensors):
    file = folder(tmp_path) / "pytorch_model.bin"
    torch.save(tensors, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(CheckpointError, r"pytorch_model\.bin is cut off", load, tmp_path)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("last.ckpt", r"of other names there is last\.ckpt: a file can be named itself"),
        ("tf_model.h5", r"of other names there is tf_model\.h5"),
        ("checkpoint-500/model.safetensors", "there is one in checkpoint-500 below it"),
    ],
)
def test_a_folder_without_weights_says_what_else_it_has(tmp_path, there, words):
    (folder(tmp_path) / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes(b"x")
    both_refuse(f"there is none of .*{words}", tmp_path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_json_is_read_with_a_mark_and_with_crlf(data, tmp_path, file, mark):
    path = shutil.copytree(data / "variants" / "sharded-safetensors", tmp_path / "model")
    text = json.dumps(json.loads((path / file).read_text()), indent=1)
    (path / file).write_bytes(mark + text.replace("\n", "\r\n").encode())
    load(path)
    reference.load(path)


@pytest.mark.parametrize("field", [{"quantization_config": {"load_in_8bit": True}}, {"pruned_heads": {"0": [1]}}])
def test_a_config_whose_weights_are_not_gpt_2_s_is_refused_by_name(tmp_path, tensors, wanted, field):
    both_refuse(f"{next(iter(field))}=.* is not honoured", folder(tmp_path, tensors, **field), ConfigError)
    check(folder(tmp_path, tensors, None, SMALL, **dict.fromkeys(field)), wanted)
