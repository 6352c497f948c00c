"""Generation: golden greedy ids with and without the cache, seeds, stops, streaming, and every mistake by name."""

import copy
import dataclasses
import re
import sys

import numpy as np
import pytest
import torch

from kvproof.gpt2 import CacheMismatch, ContextFull, generate
from kvproof.gpt2.generate import Outbox
from kvproof.gpt2.stream import TextStream

from .._gpt2_models import CACHED, IMPLS, golden_model, random_prompts, small_model
from .._reference_models import goldens
from .._refused import refused


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["syn-tiny", "syn-hd32"])
def test_greedy_ids_are_the_goldens(name, impl, device):
    model, golden = golden_model(name, "float32", device).with_impl(impl), goldens(name)
    (done,) = generate(model, golden["greedy_A_prompt"].tolist(), max_new_tokens=len(golden["greedy_A_out"]))
    assert done.ids == golden["greedy_A_out"].tolist()
    assert done.finish_reason == "length"


@pytest.mark.parametrize("impl", ["naive", "eager", "sdpa"])
def test_greedy_ids_are_the_goldens_up_to_the_end_of_the_context(impl):
    model, golden = golden_model("syn-hd32", "float32").with_impl(impl), goldens("syn-hd32")
    (done,) = generate(model, golden["greedy_fill_prompt"].tolist(), max_new_tokens=64)
    assert done.ids == golden["greedy_fill_out"].tolist()


def test_the_kernel_decodes_at_the_end_of_the_context(device):
    model, golden = golden_model("syn-hd32", "float32", device).with_impl("triton"), goldens("syn-hd32")
    prompt, out = golden["greedy_fill_prompt"].tolist(), golden["greedy_fill_out"].tolist()
    (done,) = generate(model, prompt + out[:-2], max_new_tokens=2)
    assert done.ids == out[-2:]


@pytest.mark.parametrize("impl", CACHED)
def test_greedy_float32_ids_are_the_same_with_and_without_the_cache(impl, device):
    model, _ = small_model(3, 16, "float32", device)
    prompts = random_prompts(61, [40, 7, 1])
    with_cache = generate(model.with_impl(impl), prompts, max_new_tokens=8)
    without = generate(model.with_impl(impl), prompts, max_new_tokens=8, kv_cache=False)
    assert [done.ids for done in with_cache] == [done.ids for done in without]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.3}, {"temperature": 0.9, "top_k": 20, "top_p": 0.9}])
def test_the_same_seed_gives_the_same_tokens_cached_or_not_alone_or_not(settings):
    model, _ = small_model(3, 16)
    prompts = random_prompts(61, [40, 7, 1])
    first, again, uncached, other = (
        [done.ids for done in generate(model, prompts, max_new_tokens=20, seed=seed, kv_cache=cache, **settings)]
        for seed, cache in [(7, True), (7, True), (7, False), (8, True)]
    )
    assert first == again == uncached
    assert (first != other) == bool(settings)
    (alone,) = generate(model, prompts[0], max_new_tokens=20, seed=7, **settings)
    assert alone.ids == first[0]
    if settings:
        twins = generate(model, [prompts[0], prompts[0]], max_new_tokens=20, seed=7, **settings)
        assert twins[0].ids != twins[1].ids, "each row has its own stream"


def test_without_a_seed_every_run_differs():
    model, _ = small_model(3, 16)
    runs = [generate(model, [5], max_new_tokens=30, temperature=2.0)[0].ids for _ in range(2)]
    assert runs[0] != runs[1]


def test_prompts_may_be_texts_ids_or_tensors(tiny):
    ids = tiny.tokenizer.encode("Once upon")
    row, array = torch.tensor(ids), np.array(ids)
    forms = ["Once upon", ["Once upon"], ids, [ids], (ids,), row, row[None], [row], array, array[None], list(array)]
    results = [generate(tiny, form, max_new_tokens=5) for form in forms]
    assert all(result == results[0] for result in results)
    assert results[0][0].prompt_ids == ids
    assert results[0][0].text == tiny.tokenizer.decode(results[0][0].ids)


def test_endoftext_ends_a_row_and_not_its_neighbours(tiny):
    prompts = ["Once upon a time", "ROMEO:"]
    free = generate(tiny, prompts, max_new_tokens=12)
    end = next(token for token in free[0].ids[2:] if token not in free[1].ids)
    ending = tiny.with_impl("sdpa")
    ending.config = dataclasses.replace(tiny.config, eos_token_id=end)
    stopped = generate(ending, prompts, max_new_tokens=12)
    cut = free[0].ids.index(end)
    assert stopped[0].ids == free[0].ids[:cut]
    assert stopped[0].finish_reason == "stop"
    assert stopped[1] == free[1]
    assert stopped[1].finish_reason == "length"


def test_a_stop_string_cuts_the_text_also_across_tokens(tiny):
    (free,) = generate(tiny, "ROMEO:", max_new_tokens=30)
    middle = free.text[len(free.text) // 2 :][:7]
    assert len(tiny.tokenizer.encode(middle)) > 1
    heard, stop = [], ["never written", middle]
    (done,) = generate(tiny, "ROMEO:", max_new_tokens=30, stop=stop, stream=lambda *event: heard.append(event))
    assert done.text == free.text[: free.text.index(middle)] == "".join(text for *_, text in heard)
    assert done.finish_reason == "stop"
    assert len(done.ids) < 30
    assert generate(tiny, "ROMEO:", max_new_tokens=30, stop=middle) == [done]


def test_streamed_pieces_are_the_text_token_by_token(tiny):
    heard = []
    done = generate(tiny, ["Once upon a time", "ROMEO:"], max_new_tokens=10, stream=lambda *event: heard.append(event))
    for row, completion in enumerate(done):
        assert [token for r, token, _ in heard if r == row] == completion.ids
        assert "".join(text for r, _, text in heard if r == row) == completion.text
    assert [row for row, _, _ in heard] == [0, 1] * 10


def test_text_held_back_for_a_stop_string_comes_at_the_end_without_a_token(tiny):
    (free,) = generate(tiny, "ROMEO:", max_new_tokens=8)
    last = tiny.tokenizer.decode(free.ids[-1:])
    heard, stop = [], last[-1] + "never"
    (done,) = generate(tiny, "ROMEO:", max_new_tokens=8, stop=stop, stream=lambda *event: heard.append(event))
    assert done == free
    assert [token for _, token, _ in heard] == [*free.ids, None]
    assert heard[-1] == (0, None, last[-1])
    assert "".join(text for *_, text in heard) == free.text


def test_the_stop_string_that_is_complete_first_wins_however_the_tokens_fall(tiny):
    for pieces in (["ab", "c"], ["abc"], ["a", "b", "c"]):
        stream = TextStream(tiny.tokenizer, ["abc", "b"])
        text = "".join(stream.push(token) for piece in pieces for token in tiny.tokenizer.encode(piece))
        assert (text, stream.stopped) == ("a", True)


def test_characters_that_span_tokens_are_never_torn(tiny):
    text = "naïve 日本 🤗!"
    stream = TextStream(tiny.tokenizer, [])
    pieces = [stream.push(token) for token in tiny.tokenizer.encode(text)]
    assert "".join(pieces) + stream.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces


generate_module = sys.modules[generate.__module__]  # the name kvproof.gpt2.generate is the function's


class LateOutbox(Outbox):
    """What CUDA's does, a step late, without a GPU."""

    def push(self, ids):
        arrived = self.flush()
        self.waiting = ids.tolist()
        return arrived

    def flush(self):
        waiting, self.waiting = self.waiting, None
        return [] if waiting is None else [waiting]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.2, "seed": 5}, {"stop": ["the", "I"]}])
def test_tokens_that_arrive_a_step_late_change_nothing(tiny, monkeypatch, settings):
    prompts = ["Once upon a time", "ROMEO:"]
    heard = {False: [], True: []}

    def run(late):
        return generate(tiny, prompts, max_new_tokens=12, stream=lambda *event: heard[late].append(event), **settings)

    on_time = run(False)
    monkeypatch.setattr(generate_module, "Outbox", LateOutbox)
    assert run(True) == on_time
    assert heard[True] == heard[False]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 0}])
def test_logits_that_are_not_finite_end_in_a_named_error(settings):
    model = copy.deepcopy(small_model(2, 16)[0])
    model.ln_f.weight[0] = float("nan")
    with pytest.raises(FloatingPointError, match="row 0: the logits after 0 new tokens hold NaN or inf"):
        generate(model, [1, 2], max_new_tokens=5, **settings)


def test_ids_of_a_padded_vocabulary_are_never_drawn(tiny):
    model = copy.copy(tiny)
    model._modules = dict(tiny._modules)
    model.wte = torch.nn.Embedding(2112, 128)
    with torch.no_grad():
        model.wte.weight[:2049] = tiny.wte.weight
        model.wte.weight[2049:] = 10 * tiny.wte.weight[:63]
    model.config = dataclasses.replace(tiny.config, n_vocab=2112)
    assert generate(model, "ROMEO:", max_new_tokens=8)[0].ids == generate(tiny, "ROMEO:", max_new_tokens=8)[0].ids
    assert max(generate(model, "ROMEO:", max_new_tokens=50, temperature=3.0, seed=0)[0].ids) < 2049


def test_a_cache_that_does_not_fit_is_left_alone():
    model, _ = small_model(2, 16)
    cache = model.new_cache(3, 20)
    model.prefill([[1, 2], [3], [4]], cache)
    refused(CacheMismatch, "1 sequences came for a cache of 3", generate, model, [1], max_new_tokens=2, cache=cache)
    with pytest.raises(ValueError, match="cache and chunk came, but nothing is cached"):
        generate(model, [[1]] * 3, max_new_tokens=2, cache=cache, kv_cache=False)
    refused(ValueError, "chunk is 0", generate, model, [[1]] * 3, max_new_tokens=2, cache=cache, chunk=0)
    assert cache.host_lengths == [2, 1, 1]


def test_the_same_memory_serves_a_second_run(tiny):
    cache = tiny.new_cache(1, 64)
    storages = [x.data_ptr() for x in (*cache.k, *cache.v)]
    first = generate(tiny, "ROMEO:", max_new_tokens=10, cache=cache)
    generate(tiny, "Once upon a time there was a king", max_new_tokens=20, cache=cache)
    assert generate(tiny, "ROMEO:", max_new_tokens=10, cache=cache) == first
    assert [x.data_ptr() for x in (*cache.k, *cache.v)] == storages


@pytest.mark.parametrize("kv_cache", [True, False])
@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "temperature is -0.1; it must be", {"temperature": -0.1}),
        (ValueError, "temperature is nan", {"temperature": float("nan")}),
        (ValueError, "top_p is 0; it must be above 0 and at most 1", {"top_p": 0}),
        (ValueError, "top_p is 1.5", {"top_p": 1.5}),
        (ValueError, "top_k is 0; it must be 1 or more", {"top_k": 0}),
        (ValueError, "seed is -1", {"seed": -1}),
        (ValueError, "max_new_tokens is 0", {"max_new_tokens": 0}),
        (ValueError, "prompt 0 is empty", {"prompts": [[]]}),
        (ValueError, "no prompts came", {"prompts": []}),
        (ValueError, "prompt 1 is empty", {"prompts": [[1], []]}),
        (ValueError, "prompt 0 holds token id 99", {"prompts": [99]}),
        (ValueError, "token ids are whole numbers", {"prompts": [[1.5, 2.0]]}),
        (ValueError, "token ids are whole numbers", {"prompts": torch.tensor([1.0])}),
        (ValueError, "text prompts came, but this model has no tokenizer", {"prompts": "hello"}),
        (ValueError, "a stop string is empty", {"stop": ["a", ""]}),
        (ValueError, "stop strings came, but the model has no tokenizer", {"stop": "x"}),
        (
            ContextFull,
            "60 new tokens after 120 do not fit n_ctx 160: 41 fit",
            {"prompts": [1] * 120, "max_new_tokens": 60},
        ),
        (
            ContextFull,
            "1 new tokens after 161 do not fit n_ctx 160: none fits",
            {"prompts": [1] * 161, "max_new_tokens": 1},
        ),
    ],
)
def test_mistakes_are_named_before_any_work(monkeypatch, error, message, change, kv_cache):
    model, _ = small_model(2, 16)
    monkeypatch.setattr(type(model), "logits", None)  # any work would call it
    arguments = {"prompts": [1, 2], "max_new_tokens": 4} | change
    refused(error, re.escape(message), generate, model, arguments.pop("prompts"), kv_cache=kv_cache, **arguments)


def test_a_cache_too_small_is_named_with_what_fits_and_that_much_fits():
    model, _ = small_model(2, 16)
    with pytest.raises(ContextFull, match="20 new tokens after 5 do not fit a cache of capacity 10: 6 fit"):
        generate(model, [1] * 5, max_new_tokens=20, cache=model.new_cache(1, 10))
    assert len(generate(model, [1] * 5, max_new_tokens=6, cache=model.new_cache(1, 10))[0].ids) == 6
    assert len(generate(model, [1] * 120, max_new_tokens=41)[0].ids) == 41  # to the last token of the context
