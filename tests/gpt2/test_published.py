"""The real models, held to what others published about them. They need a network once, and 550 MB to 6 GB a model.

Run: pytest -m hub. Sources are named in data/goldens/published_gpt2.json, entry by entry.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof.gpt2 import GPT2, generate, load

pytestmark = pytest.mark.hub

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
PUBLISHED = json.loads((GOLDENS / "published_gpt2.json").read_text(encoding="utf-8"))
GREEDY = {
    model: [entry for entry in PUBLISHED["greedy"] if entry["model"] == model]
    for model in ("gpt2 (124M)", "gpt2-medium (355M)", "gpt2 (124M, fp16 on GPU)")
}
IMPLS = ("eager", "sdpa", *(["triton"] if torch.cuda.is_available() else []))  # emulated, it is too slow for this


@pytest.fixture(scope="module")
def gpt2(device) -> GPT2:
    return load("gpt2", device=device)


@pytest.fixture(scope="module")
def medium(device) -> GPT2:
    return load("gpt2-medium", device=device)


def batch():
    """llm.c's first batch as (4, 65) ids: its x, and the last column of its y."""
    with np.load(GOLDENS / "llmc_debug_batch.npz") as file:
        return torch.from_numpy(np.concatenate([file["x"], file["y"][:, -1:]], 1))


def name(entry):
    return entry["prompt"][:20]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("entry", GREEDY["gpt2 (124M)"] + GREEDY["gpt2-medium (355M)"], ids=name)
def test_a_model_writes_what_it_wrote_elsewhere(request, entry, impl):
    model = request.getfixturevalue("medium" if "medium" in entry["model"] else "gpt2")
    (done,) = generate(model.with_impl(impl), entry["prompt"], max_new_tokens=entry["n_new"])
    assert done.prompt_ids == entry["prompt_ids"]
    assert done.ids == entry["continuation_ids"]
    assert done.text == entry["continuation"]


@pytest.mark.parametrize("impl", IMPLS)
def test_gpt2_writes_the_same_in_one_ragged_batch(gpt2, impl):
    entries = GREEDY["gpt2 (124M)"]
    longest = max(entry["n_new"] for entry in entries)
    rows = generate(gpt2.with_impl(impl), [entry["prompt"] for entry in entries], max_new_tokens=longest)
    for entry, row in zip(entries, rows, strict=True):
        assert row.ids[: entry["n_new"]] == entry["continuation_ids"]


@pytest.mark.gpu
@pytest.mark.parametrize("impl", IMPLS)
def test_gpt2_in_half_precision_writes_what_it_wrote_elsewhere(impl):
    entries = GREEDY["gpt2 (124M, fp16 on GPU)"]
    model = load("gpt2", dtype="float16", device="cuda", impl=impl)
    rows = generate(model, [entry["prompt"] for entry in entries], max_new_tokens=entries[0]["n_new"])
    assert [row.ids for row in rows] == [entry["continuation_ids"] for entry in entries]


def test_the_loss_is_transformerlens(gpt2, device):
    entry = PUBLISHED["loss"][0]
    got = gpt2.loss(torch.tensor([entry["ids"]], device=device)).item()
    assert abs(got - entry["loss"]) < 4e-5  # their own bar; theirs holds on one side only


def test_the_loss_is_llm_c_s_on_its_batch(gpt2, device):
    # PyTorch's float32 made this number: 20 steps of float32 at 5.27, where llm.c itself allows 1e-2.
    assert abs(gpt2.loss(batch().to(device)).item() - PUBLISHED["loss"][1]["loss"]) < 1e-5


def test_the_loss_is_llm_c_s_on_five_batches_of_its_validation_split(gpt2, device):
    with np.load(GOLDENS / "llmc_debug_batch.npz") as file:
        tokens = torch.from_numpy(file["val_tokens"][:1281].astype(np.int64))
    batches = [
        torch.stack([tokens[i : i + 65] for i in range(start, start + 256, 64)]) for start in range(0, 1280, 256)
    ]
    got = np.mean([gpt2.loss(ids.to(device)).item() for ids in batches])
    assert abs(got - PUBLISHED["loss"][2]["loss"]) < 1e-4  # llm.c's own C, which prints six decimals


@pytest.mark.parametrize("size", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"])
def test_sizes_are_the_published_ones(size):
    model = load(size, dtype="bfloat16")  # half the memory, and nothing is computed
    config = model.config
    assert [config.n_layer, config.n_head, config.n_embd] == PUBLISHED["configs"][size]
    if size in PUBLISHED["param_counts"]:
        assert sum(p.numel() for p in model.parameters()) == PUBLISHED["param_counts"][size]
