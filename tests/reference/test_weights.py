"""Six spellings of one model load alike; what is no such model ends in an error that names what is wrong."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kvproof import gpt2
from kvproof.reference import forward, load, weights
from kvproof.reference.config import Config, ConfigError
from kvproof.reference.weights import CheckpointError, canonical_name, check_tensors, drop_tied_head, expected_shapes

from .._checkpoints import edit_config, read_safetensors, write_safetensors
from .._reference_models import DATA, F32_BAR, SAFETENSORS_SPELLINGS, error
from .._refused import refused

VARIANTS = DATA / "variants"
expected = np.load(VARIANTS / "expected.npz")


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("spelling", "key"), SAFETENSORS_SPELLINGS.items())
def test_each_spelling_gives_the_expected_logits(spelling, key, dtype):
    params, config = load(VARIANTS / spelling, dtype)
    assert "lm_head" not in params  # a tied one is dropped
    logits = forward(expected["input_ids"], params, config)
    assert logits.dtype == dtype
    assert error(logits, expected[key]) <= F32_BAR


def test_a_file_or_an_index_loads_like_its_folder():
    for file in ("plain/model.safetensors", "sharded-safetensors/model.safetensors.index.json"):
        params, config = load(str(VARIANTS / file))
        assert error(forward(expected["input_ids"], params, config), expected["logits_f32"]) <= F32_BAR


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("wte.weight", "wte.weight"),
        ("transformer.h.3.attn.c_attn.bias", "h.3.attn.c_attn.bias"),
        ("_orig_mod.transformer.wpe.weight", "wpe.weight"),
        ("module._orig_mod.lm_head.weight", "lm_head.weight"),
        ("transformer.h.3.attn.bias", None),
        ("h.11.attn.masked_bias", None),
        ("h.0.attn.c_proj.bias", "h.0.attn.c_proj.bias"),
        ("model.transformer.h.3._orig_mod.attn.c_attn.bias", "h.3.attn.c_attn.bias"),
        ("base_model.model.lm_head.weight", "lm_head.weight"),
        ("model.transformer.h.3._orig_mod.attn.masked_bias", None),
        ("model.score.weight", "model.score.weight"),
        ("growth.weight", "growth.weight"),
    ],
)
def test_canonical_name(name, canonical):
    assert canonical_name(name) == canonical


def config(**changes):
    return Config.from_dict(json.loads((VARIANTS / "plain" / "config.json").read_text()) | changes)


def shapes(**changes):
    """(name, shape) pairs of a good checkpoint with some replaced, or left out where the shape is None."""
    pairs = expected_shapes(config()) | {name.replace("__", "."): shape for name, shape in changes.items()}
    return [(name, shape) for name, shape in pairs.items() if shape is not None]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (shapes(ln_f__weight=None), "1 of 40 tensors are missing: ln_f.weight"),
        (shapes(h__3__ln_1__weight=(8,)), "h.3.ln_1.weight does not belong to a GPT-2 with 3 layers"),
        (shapes(score__weight=(2, 8)), "score.weight does not belong"),
        ([*shapes(), ("transformer.ln_f.bias", (8,))], "twice, as ln_f.bias and as transformer.ln_f.bias"),
        ([*shapes(), ("ln_f.bias", (8,))], "twice"),
        (shapes(wte__weight=(12, 8)), r"wte.weight has shape \(12, 8\); the config needs \(11, 8\)"),
        (shapes(h__0__attn__c_attn__weight=(24, 8)), "it is transposed"),
        (shapes(h__2__mlp__c_proj__weight=(8, 32)), "it is transposed"),
        (shapes(lm_head__weight=(8, 11)), r"lm_head.weight has shape \(8, 11\)"),
    ],
)
def test_tensors_that_do_not_match_the_config_are_named(found, words):
    refused(CheckpointError, words, check_tensors, found, config())


def test_an_untied_config_needs_its_head():
    refused(CheckpointError, r"missing: lm_head\.weight", check_tensors, shapes(), config(tie_word_embeddings=False))
    assert "lm_head.weight" in check_tensors(shapes(lm_head__weight=(11, 8)), config(tie_word_embeddings=False))


@pytest.fixture
def folder(tmp_path):
    """A function that copies one spelling to where it may be damaged."""
    return lambda spelling: shutil.copytree(VARIANTS / spelling, tmp_path / spelling)


def test_a_tied_head_of_the_same_numbers_in_another_dtype_is_refused():
    wte = np.ones((11, 8), np.float32)
    tensors = {"wte.weight": wte, "lm_head.weight": wte.astype(np.float16)}
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        drop_tied_head({name: name for name in tensors}, config(), tensors.__getitem__)


def test_a_tied_head_is_compared_without_a_mask_of_all_of_it():
    wte = np.zeros((50_000, 8), np.float32)
    tensors = {"wte.weight": wte, "lm_head.weight": wte.copy()}
    tracemalloc.start()
    try:
        drop_tied_head({name: name for name in tensors}, config(vocab_size=50_000), tensors.__getitem__)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < wte.size / 8  # bytes; a mask has wte.size of them


def change(**fields):
    """A damage to the header entry of wte.weight."""

    def damage(header, data):
        header["wte.weight"] |= fields
        return header, data

    return damage


BROKEN = "cut off or no safetensors file"
SECOND_BIAS = b', "ln_f.bias": {"dtype": "F32", "shape": [8], "data_offsets": [0, 0]}}'


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda header, data: (header, data[:-1]), BROKEN),
        (lambda header, data: (b"{", data), BROKEN),
        (lambda header, data: (b"[" * 100_000, data), BROKEN),
        (lambda header, data: (b"\xff", data), BROKEN),
        (lambda header, data: (header | {"wte.weight": 3}, data), BROKEN),
        (lambda header, data: (json.dumps(header).encode()[:-1] + SECOND_BIAS, data), BROKEN),
        (change(dtype="I32"), "wte.weight in .* has dtype I32; weights are F64, F32, F16, BF16"),
        (change(dtype="F64"), BROKEN),
        (change(shape=[11.0, 8]), BROKEN),
        (change(shape=[-11, -8]), BROKEN),
        (change(shape=[8, 11]), "transposed"),
        (change(data_offsets=[0, 10**12]), BROKEN),
        (change(data_offsets=[352, 0]), BROKEN),
        (change(data_offsets=[0, 11000]), BROKEN),
    ],
)
def test_a_damaged_file_ends_in_a_named_error(folder, damage, words):
    path = folder("plain")
    header, data = damage(*read_safetensors(path / "model.safetensors"))
    write_safetensors(path / "model.safetensors", header, data)
    refused(CheckpointError, words, load, path)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "model.safetensors is empty; fetch it again"),
        *((size, BROKEN) for size in (5, 8, 100)),
        (9000, BROKEN + ".*; 9000 of its [0-9]+ bytes are there: fetch it again"),
    ],
)
def test_a_file_cut_short_ends_in_a_named_error(folder, size, words):
    path = folder("plain")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    refused(CheckpointError, words, load, path)


def test_shards_that_their_index_does_not_describe_are_refused(folder):
    path = folder("sharded-safetensors")
    file = path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    good = dict(index["weight_map"])
    for weight_map, words in (
        (good | {"transformer.wte.weight": "model-00002-of-00003.safetensors"}, "disagree about tensor"),
        ({k: v for k, v in good.items() if "wpe" not in k}, "disagree about tensor transformer.wpe.weight"),
        (good | {"transformer.wte.weight": "model-00009-of-00003.safetensors"}, "00009-of-00003.* is missing"),
        (good | {"transformer.wte.weight": "../plain/model.safetensors"}, "no weight_map"),
        (["a"], "no weight_map"),
        (good | {"transformer.wte.weight": 3}, "no weight_map"),
        # Nothing but the index asks for a mask buffer, so nothing else would miss it.
        (
            good | {"h.0.attn.bias": "model-00001-of-00003.safetensors"},
            "00001-of-00003.safetensors disagree about tensor h.0.attn.bias",
        ),
    ):
        file.write_text(json.dumps({"weight_map": weight_map}))
        refused(CheckpointError, words, load, path)
    file.write_text(json.dumps(["a"]))
    refused(CheckpointError, "no weight_map", load, path)


@pytest.mark.parametrize("where", ["absolute", "..", "below"])
def test_a_shard_that_is_there_but_not_beside_its_index_is_refused(folder, where):
    path = folder("sharded-safetensors")
    file, shard = path / "model.safetensors.index.json", "model-00001-of-00003.safetensors"
    (path / "below").mkdir()
    shutil.copy(path / shard, path / "below")
    shutil.copy(path / shard, path.parent)
    name = {"absolute": str(path / shard), "..": f"../{shard}", "below": f"below/{shard}"}[where]
    index = json.loads(file.read_text())
    names = {key: name if value == shard else value for key, value in index["weight_map"].items()}
    assert name in names.values()
    assert (path / name).is_file()
    file.write_text(json.dumps({"weight_map": names}))
    refused(CheckpointError, "no weight_map", load, path)


def test_a_folder_where_a_shard_should_be_is_named(folder):
    path = folder("sharded-safetensors")
    (path / "model-00002-of-00003.safetensors").unlink()
    (path / "model-00002-of-00003.safetensors").mkdir()
    refused(CheckpointError, r"00002-of-00003\.safetensors is cut off or no safetensors file", load, path)


def test_a_config_that_cannot_be_read_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    path = folder("plain")
    (path / "config.json").write_text("[" * 100_000)
    refused(CheckpointError, r"config\.json is not JSON", load, path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    refused(CheckpointError, r"config\.json cannot be read: Permission denied", load, path)


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path, monkeypatch):
    shutil.copytree(VARIANTS / "plain", tmp_path / "model")

    def refuse(path, framework):  # as safetensors does for a file without permission; root would be let in
        raise FileNotFoundError(f"No such file or directory: {path}")

    monkeypatch.setattr(weights, "safe_open", refuse)
    refused(PermissionError, r"Permission denied: .*model\.safetensors", load, tmp_path / "model")


def test_a_path_that_is_no_checkpoint_says_what_is_missing(folder, tmp_path):
    refused(CheckpointError, r"there is no .*nowhere", load, tmp_path / "nowhere")
    words = r"none of model\.safetensors, model\.safetensors\.index\.json in .*variants"
    refused(CheckpointError, words, load, VARIANTS)
    refused(CheckpointError, "reads safetensors only", load, VARIANTS / "nanogpt-ckpt")
    path = folder("plain")
    for text, words in (("{", "is not JSON"), ("[1]", "does not hold a JSON object")):
        (path / "config.json").write_text(text)
        refused((CheckpointError, ConfigError), words, load, path)
    (path / "config.json").unlink()
    refused(CheckpointError, r"config\.json is missing", load, path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not honoured"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=True is not honoured"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False is not honoured"),
        ({"add_cross_attention": True}, "add_cross_attention=True is not honoured"),
        ({"activation_function": "relu"}, "activation_function 'relu' is not honoured"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_head": 3}, "n_embd 8 is no multiple of n_head 3"),
        ({"vocab_size": "11"}, "n_vocab is '11'"),
        ({"n_embd": [8]}, r"n_embd is \[8\]"),
        ({"n_embd": {}}, r"n_embd is \{\}"),
        ({"n_embd": None}, "config.json lacks n_embd"),
        ({"n_positions": None, "n_ctx": None}, "config.json lacks n_positions"),
        ({"n_inner": 0}, "n_inner is 0"),
        ({"n_layer": 10**9}, "n_layer is 1000000000; more than 4096 layers are no GPT-2"),
        ({"n_layer": True}, "n_layer is True"),
        ({"n_vocab": 1, "vocab_size": -(10**4000)}, "n_vocab is -1000"),
        ({"activation_function": ["gelu"]}, r"activation_function \['gelu'\] is not honoured"),
        ({"activation_function": "g" * 10**6}, r"activation_function 'g+\.\.\.g+' is not honoured"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5'; it must be a number between 0 and 1"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon is 1000"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon is -1e-05"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; it must be true or false"),
        ({"eos_token_id": ["7"]}, r"eos_token_id is \['7'\]; it must be a token id, a list of them or null"),
        ({"eos_token_id": [7, -1]}, r"eos_token_id is \[7, -1\]"),
        ({"eos_token_id": {"a": 7}}, r"eos_token_id is \{'a': 7\}"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
    ],
)
def test_a_config_we_do_not_honour_is_refused_by_name(folder, changes, words):
    path = edit_config(folder("plain"), **changes)
    for reader in (load, gpt2.load):
        refused(ConfigError, words, reader, path)


def test_a_config_made_by_hand_is_held_to_the_two_gelus_and_to_numbers_short_enough_to_print():
    refused(ConfigError, "gelu is 'gelu_new'; it must be 'tanh' or 'exact'", Config, gelu="gelu_new")
    refused(ConfigError, r"n_layer is .* digits", config, n_layer=10**5000)  # a pickle can hold it, JSON cannot


def test_config_fields_reach_the_mathematics(folder):
    path = folder("plain")
    raw = json.loads((path / "config.json").read_text())
    plain = forward(expected["input_ids"], *load(path))
    for changes in ({"activation_function": "gelu"}, {"layer_norm_epsilon": 1e-3}):
        (path / "config.json").write_text(json.dumps(raw | changes))
        assert error(forward(expected["input_ids"], *load(path)), plain) > F32_BAR


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"n_positions": None}, "n_ctx", 16),
        ({"n_positions": 16, "n_ctx": 99}, "n_ctx", 16),
        *(({"activation_function": f"gelu_{name}"}, "gelu", "tanh") for name in ("new", "pytorch_tanh", "fast")),
        ({"activation_function": "gelu"}, "gelu", "exact"),
        ({"n_inner": 5}, "n_inner", 5),
        ({"n_inner": None}, "n_inner", 32),  # four times n_embd
    ],
)
def test_a_field_of_config_json_means_what_transformers_means_by_it(changes, field, value):
    assert getattr(config(**changes), field) == value


def test_only_the_two_dtypes_of_the_oracle_are_taken():
    with pytest.raises(ValueError, match="dtype is float16; the reference computes in float64 or float32"):
        load(VARIANTS / "plain", np.float16)
