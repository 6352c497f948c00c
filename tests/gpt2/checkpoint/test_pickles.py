"""Checkpoints that are pickles: read as data, refused where they are a program, every mistake by name."""

import collections
import io
import json
import pickletools
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from kvproof.gpt2 import CheckpointError, ConfigError, load
from kvproof.gpt2.checkpoint import pickles

from ..._checkpoints import as_json, hostile_pickles, rewrite_archive, save_nanogpt, save_pretrained, tensors_of
from ..._refused import refused
from .._folders import SMALL, logits_of


def test_nanogpt_s_gelu_may_be_named_beside_it(tmp_path):
    folder = save_nanogpt(tmp_path / "nano", SMALL, tensors_of(SMALL))
    assert load(folder).config.gelu == "tanh"
    (folder / "config.json").write_text(json.dumps({"activation_function": "gelu", "n_layer": 99}))
    assert (load(folder).config.gelu, load(folder).config.n_layer) == ("exact", 2)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 39}))
    assert load(folder).config.eos_token_id == 39
    (folder / "config.json").write_text(json.dumps(["eos_token_id"]))
    assert load(folder).config.gelu == "tanh"


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_pickle_may_have_any_of_its_endings(tmp_path, suffix):
    file = save_nanogpt(tmp_path, SMALL, tensors_of(SMALL)) / "ckpt.pt"
    assert load(file.rename(tmp_path / f"mine{suffix}")).config.n_head == 25


def test_a_pickle_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    opened = Path.open

    def refuse(path, *args, **keywords):
        if path.name == "ckpt.pt":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **keywords)

    save_nanogpt(tmp_path, SMALL, tensors_of(SMALL))
    monkeypatch.setattr(Path, "open", refuse)
    refused(CheckpointError, r"ckpt\.pt cannot be read: Permission denied", load, tmp_path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"block_size": None}, "model_args .* lacks block_size"),
        ({"bias": "no"}, "holds model_args, but not nanoGPT's"),
        ({"n_layer": 10**9}, "more than 4096 layers"),
        ({"n_embd": "50"}, "n_embd is '50'"),
        ({"vocab_size": 10**15}, "wte.weight has shape"),
        ({"n_layer": 3}, "12 of 40 tensors are missing"),
    ],
)
def test_model_args_that_are_not_the_model_s_are_named(tmp_path, args, words):
    refused((CheckpointError, ConfigError), words, load, save_nanogpt(tmp_path, SMALL, tensors_of(SMALL), **args))


def test_a_file_of_torch_before_1_6_loads_too(tmp_path):
    tensors = tensors_of(SMALL)
    want = logits_of(save_pretrained(tmp_path / "hf", SMALL, tensors))
    (tmp_path / "hf" / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "hf" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(logits_of(tmp_path / "hf"), want)


@pytest.fixture
def pickled(tmp_path):
    """A function that writes a state dict as pytorch_model.bin beside its config."""

    def save(state, **options):
        (tmp_path / "config.json").write_text(json.dumps(as_json(SMALL)))
        torch.save(state, tmp_path / "pytorch_model.bin", **options)
        return tmp_path

    return save


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", hostile_pickles(Path("canary")))
def test_a_hostile_pickle_runs_nothing_and_is_named(pickled, tmp_path, name, zipped):
    canary = tmp_path / "canary"
    program = hostile_pickles(canary)[name]
    folder = pickled(tensors_of(SMALL))
    file = folder / "pytorch_model.bin"
    if zipped:
        rewrite_archive(file, lambda entry, raw: program if entry.endswith("/data.pkl") else raw)
    else:
        file.write_bytes(program)
    refused(CheckpointError, r"pytorch_model\.bin|tensors are missing", load, folder)
    assert not canary.exists()


def test_calls_that_torch_would_allow_are_refused_before_it_runs(pickled, tmp_path):
    more = ("endless", "more than 1000000 steps")
    for name, words in (("bytearray of a terabyte", r"calls for builtins\.bytearray, and is not run"), more):
        (pickled({}) / "pytorch_model.bin").write_bytes(hostile_pickles(tmp_path)[name])
        refused(CheckpointError, words, load, tmp_path)


@pytest.mark.parametrize(
    ("program", "what"),
    [
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "STACK_GLOBAL"),
        (b"(ios\nsystem\n.", r"os\.system"),
        (b"\x80\x02\x82\x01.", "1"),
        (b"\x80\x02\x83\x01\x00.", "1"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "1"),
    ],
    ids=["STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"],
)
def test_every_opcode_that_names_a_function_is_refused_before_torch_runs_it(pickled, tmp_path, program, what):
    (pickled({}) / "pytorch_model.bin").write_bytes(program)
    refused(CheckpointError, f"calls for {what}, and is not run", load, tmp_path)


@pytest.mark.parametrize("place", range(5))
def test_each_program_of_a_file_of_torch_before_1_6_is_looked_at(pickled, tmp_path, place):
    file = pickled({"a": torch.zeros(1)}, _use_new_zipfile_serialization=False) / "pytorch_model.bin"
    stream, ends = io.BytesIO(file.read_bytes()), [0]
    for _ in range(5):
        collections.deque(pickletools.genops(stream), maxlen=0)
        ends.append(stream.tell())
    raw, hostile = stream.getvalue(), hostile_pickles(tmp_path)["bytearray of a terabyte"]
    file.write_bytes(raw[: ends[place]] + hostile + raw[ends[place + 1] :])
    refused(CheckpointError, r"calls for builtins\.bytearray, and is not run", load, tmp_path)


def test_torch_is_told_to_load_weights_only_even_behind_the_look_at_the_opcodes(pickled, tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "check_program", lambda program, file: None)
    folder = pickled({})
    for name in ("os.system", "os.system in a dict", "eval"):
        program = hostile_pickles(tmp_path / "canary")[name]
        rewrite_archive(folder / "pytorch_model.bin", lambda _, raw, new=program: new if raw[:1] == b"\x80" else raw)
        refused(CheckpointError, r"no pickle of tensors alone \(UnpicklingError\)", load, folder)
        assert not (tmp_path / "canary").exists()


def test_pickled_shards_that_their_index_does_not_describe_are_refused(data, tmp_path):
    folder = shutil.copytree(data / "variants" / "sharded-bin", tmp_path / "model")
    file = folder / "pytorch_model-00001-of-00003.bin"
    good = torch.load(file, weights_only=True)
    for stray in ("transformer.wpe.weight", 3):  # in two shards; not even a name
        torch.save(good | {stray: torch.zeros(16, 8)}, file)
        refused(CheckpointError, "disagree about tensor", load, folder)
    file.unlink()
    refused(CheckpointError, r"00001-of-00003\.bin is missing", load, folder)


def test_an_archive_that_torch_does_not_write_is_refused(pickled):
    folder = pickled(tensors_of(SMALL))
    rewrite_archive(folder / "pytorch_model.bin", lambda entry, raw: raw, zipfile.ZIP_DEFLATED)
    refused(CheckpointError, "doubled, compressed or missing", load, folder)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("entry", ["pytorch_model/version", "pytorch_model/VERSION", "other/data.pkl"])
def test_an_archive_with_an_entry_that_torch_could_read_for_another_is_refused(pickled, entry):
    folder = pickled(tensors_of(SMALL))
    load(folder)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "a") as archive:
        assert "pytorch_model/version" in archive.namelist()
        archive.writestr(entry, b"3\n")
    refused(CheckpointError, "doubled, compressed or missing", load, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wte.weight": torch.zeros(1, 1).expand(40, 50)}, "claims 2000 elements and stores fewer"),
        ({"wte.weight": torch.zeros(40, 50, dtype=torch.int32)}, "has dtype torch.int32; weights are floats"),
        ({"wte.weight": "words"}, "wte.weight in .* is no tensor but str"),
        ({"wte.weight": torch.zeros(40, 50).to_sparse()}, "calls for torch._utils._rebuild_sparse_tensor"),
        ({5: torch.zeros(1)}, "holds no dictionary of tensors by name"),
        ({"module.wte.weight": torch.zeros(40, 50)}, "twice, as wte.weight and as module.wte.weight"),
        ({"lm_head.weight": torch.zeros(40, 50)}, "lm_head.weight differs from wte.weight"),
        ({"model_args": [1]}, "holds model_args, but not nanoGPT's"),
    ],
)
def test_a_pickle_that_holds_something_else_is_named(pickled, change, words):
    refused((CheckpointError, ConfigError), words, load, pickled(tensors_of(SMALL) | change))


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.eye(2, device="meta")], ids=["sparse", "meta"])
def test_a_tensor_without_plain_numbers_is_refused_even_behind_the_look_at_the_opcodes(tensor):
    with pytest.raises(CheckpointError, match=r"wte\.weight in ckpt\.pt is no tensor"):
        pickles.check_tensor("wte.weight", tensor, Path("ckpt.pt"))


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (7, "holds int, no dictionary of tensors"),
        (["wte.weight"], "holds list, no dictionary of tensors"),
        ({"param_groups": [1], "state": {}}, "holds 'param_groups', 'state' and no dictionary of tensors by name"),
        ({"model": {}, "state_dict": {}}, "holds 'state_dict' and 'model'; save the model's alone"),
        ({"epoch": 3}, "nor one under state_dict, model, model_state_dict"),
    ],
)
def test_a_pickle_without_one_state_dict_says_what_it_holds(pickled, saved, words):
    refused(CheckpointError, words, load, pickled(saved))


@pytest.mark.parametrize("model", [None, 7, ["wte.weight"]])
def test_a_nanogpt_file_whose_model_is_no_dictionary_is_named(tmp_path, model):
    file = save_nanogpt(tmp_path, SMALL, tensors_of(SMALL)) / "ckpt.pt"
    torch.save(torch.load(file, weights_only=True) | {"model": model}, file)
    refused(CheckpointError, r"ckpt\.pt holds no dictionary of tensors by name", load, file)
