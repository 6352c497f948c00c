"""A trained model, SmolLM2-135M-Instruct: the same greedy text as transformers' own attention. 0.5 GB, minutes."""

import pytest
import torch

from kvproof.kernels.huggingface import load

from ..._smollm2 import convert

transformers = pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[dev]'")

ASKED = ("Write a short story about a lighthouse keeper who finds a message in a bottle.",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return convert(tmp_path_factory.mktemp("smollm2"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_two_hundred_greedy_tokens_are_those_of_eager_and_sdpa(folder, cache):
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(folder), load(folder, dtype=torch.float32).eval()
    found = []
    for implementation in ("kvproof", "eager", "sdpa"):
        model.set_attn_implementation(implementation)
        for text in ASKED:
            chat = [{"role": "user", "content": text}]
            given = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            ids = model.generate(**given, max_new_tokens=200, do_sample=False, cache_implementation=cache)
            assert ids.shape[1] == given["input_ids"].shape[1] + 200
            found.append(ids.tolist())
    assert found[0] == found[1] == found[2]
