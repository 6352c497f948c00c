"""random:NAME is the goldens' recipe, bit for bit, in every size."""

import importlib.util

import numpy as np
import pytest

from kvproof.reference.config import Config
from kvproof.reference.synthetic import SEED, SIZES, draw, random_config, random_tensors, recipe
from kvproof.reference.weights import expected_shapes

from .._reference_models import DATA, SEEDS


@pytest.fixture(scope="module")
def recipe_script():
    spec = importlib.util.spec_from_file_location("synth_gpt2", DATA / "goldens" / "synth_gpt2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "sha256"), [("syn-tiny", "92b01db2"), ("syn-hd32", "0a498034")])
def test_files_made_from_our_tensors_have_the_goldens_hash(recipe_script, tmp_path, name, sha256):
    tensors = random_tensors(Config.from_dict(recipe_script.config(name)), SEEDS[name])
    assert recipe_script.write_safetensors(tmp_path / "model.safetensors", tensors).startswith(sha256)


def test_random_gpt2_is_syn_small(recipe_script):
    assert random_config("random:gpt2") == Config.from_dict(recipe_script.config("syn-small"))
    assert recipe_script.CONFIGS["syn-small"][0] == SEED
    ours = {name: (shape, std, centre) for name, shape, std, centre in recipe(random_config("gpt2"))}
    for name in ("wpe.weight", "h.0.ln_1.weight", "h.3.attn.c_proj.weight", "h.11.mlp.c_proj.weight", "ln_f.bias"):
        shape, std, centre = ours[name]
        theirs = recipe_script.draw(SEED, name, shape, std, centre)
        np.testing.assert_array_equal(draw(f"{SEED}:{name}", *ours[name]), theirs)


@pytest.mark.exhaustive
def test_every_byte_of_random_gpt2_is_syn_smalls(recipe_script, tmp_path):
    tensors = random_tensors(random_config("gpt2"))
    assert recipe_script.write_safetensors(tmp_path / "model.safetensors", tensors).startswith("384ebe14")


@pytest.mark.parametrize(
    ("name", "millions"),
    [("distilgpt2", 81.9), ("gpt2", 124.4), ("gpt2-medium", 354.8), ("gpt2-large", 774.0), ("gpt2-xl", 1557.6)],
)
def test_each_size_has_its_published_number_of_parameters(name, millions):
    config = random_config(name)
    shapes = {key: shape for key, shape, _, _ in recipe(config)}
    assert shapes == expected_shapes(config)
    assert round(sum(int(np.prod(shape)) for shape in shapes.values()) / 1e6, 1) == millions
    assert config.head_dim == 64


def test_tensors_have_the_mean_and_deviation_of_the_recipe():
    sample = draw("any", (200_000,), 0.15, 1.0)
    assert sample.dtype == np.float32
    assert abs(sample.mean() - 1) < 4 * 0.15 / np.sqrt(200_000)
    assert abs(sample.std() - 0.15) < 1e-3


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=f"'gpt3'; there are {', '.join(SIZES)}"):
        random_config("random:gpt3")
