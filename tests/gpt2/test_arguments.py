"""What a Python caller may pass by mistake is one ValueError in one line, before anything is allocated."""

from functools import partial

import numpy as np
import pytest
import torch

from kvproof.gpt2 import Config, StaticCache, cache, generate, load, sampling
from kvproof.gpt2.generate import to_ids
from kvproof.gpt2.paged import PagedCache
from kvproof.gpt2.perplexity import sliding_nll

CONFIG = Config(n_vocab=5, n_ctx=8, n_embd=4, n_head=1, n_layer=1, n_inner=4)
# What is no whole number, none of it None, which many arguments may be.
NOT_WHOLE = {
    "float": 2.5, "whole float": 2.0, "text": "1", "bytes": b"1", "dict": {}, "set": {1}, "list": [1],
    "array": np.arange(1), "iterator": iter([1]), "bool": True, "NumPy's bool": np.True_, "complex": 1j,
    "NumPy's float": np.float64(2), "tensor of floats": torch.tensor(2.0), "tensor of truth": torch.tensor(True),
    "tensor without value": torch.empty((), dtype=torch.int64, device="meta"), "object": object(), "NaN": float("nan"),
}  # fmt: skip
NONE = {"None": None}
NEGATIVE = {"negative": -1, "huge": -(2**70)}
HUGE = {"huge": 2**70}
NOT_REAL = {name: value for name, value in NOT_WHOLE.items() if "float" not in name and name != "NaN"}
NOT_REAL |= {"infinite": float("inf"), "NaN": float("nan"), "tensor of NaN": torch.tensor(float("nan"))}
NOT_STOP = {
    **NONE, "number": 1, "bytes": b"a", "list of a number": [1], "list of None": [None], "dict": {"a": 1}, "set": {"a"},
    "iterator": iter(["a"]), "empty text": [""], "half a character": "\ud800", "no UTF-8": ["a", "\udcff"],
}  # fmt: skip
NOT_PROMPTS = {
    **NONE, "number": 5, "bytes": b"ab", "list of bytes": [b"ab"], "bytearray": bytearray(b"ab"),
    "view": memoryview(b"ab"), "dict": {0: 1}, "set": {1, 2}, "list of a set": [{1}], "iterator": iter([1]),
    "generator": (i for i in [1]),
    "bools": [True, False], "array of truth": np.array([True]), "floats": [1.0, 2.0], "list of floats": [[1.5]],
    "array of floats": np.zeros(3), "tensor of floats": torch.zeros(1, 3), "three axes": np.zeros((1, 1, 1), int),
    "no axes": np.array(3), "tensor without axes": torch.tensor(3), "None inside": ["a", None],
    "ids and a number": [[1], 2], "lists too deep": [[[1]]], "half a character": "a\ud800", "nothing": [],
    "an empty one": [[]],
}  # fmt: skip
NOT_CALLABLE = {"text": "print", "number": 1, "list": [print]}
NOT_FLAG = {**NONE, "text": "no", "number": 0, "one": 1, "float": 1.0, "tensor": torch.tensor(True)}


def generating(name):
    return lambda model, value: generate(model, "A", **({"max_new_tokens": 1} | {name: value}))


def caching(kind, name):
    return lambda model, value: kind(**({"config": CONFIG, "batch": 1, "capacity": 2} | {name: value}))


def scoring(name):
    return lambda model, value: sliding_nll(**({"model": model, "ids": [1, 2, 3]} | {name: value}))


DOORS = {
    "max_new_tokens": (generating("max_new_tokens"), NOT_WHOLE | NONE | NEGATIVE),
    "top_k": (generating("top_k"), NOT_WHOLE | NEGATIVE),
    "seed": (generating("seed"), NOT_WHOLE | NEGATIVE | HUGE),
    "chunk": (generating("chunk"), NOT_WHOLE | NEGATIVE),
    "first_row": (generating("first_row"), NOT_WHOLE | NONE | NEGATIVE | HUGE),
    "temperature": (generating("temperature"), NOT_REAL | NONE | NEGATIVE),
    "top_p": (generating("top_p"), NOT_REAL | NEGATIVE),
    "stop": (generating("stop"), NOT_STOP),
    "stream": (generating("stream"), NOT_CALLABLE),
    "kv_cache": (generating("kv_cache"), NOT_FLAG),
    "cache": (generating("cache"), NOT_WHOLE),
    "prompts": (lambda model, value: generate(model, value, max_new_tokens=1), NOT_PROMPTS),
    "model": (lambda _, value: generate(value, "A"), NOT_WHOLE | NONE),
    "load name": (lambda _, value: load(value), {**NONE, "number": 5, "bytes": b"tiny", "dict": {}, "list": ["tiny"]}),
    "load dtype": (lambda _, value: load(dtype=value), NOT_WHOLE | NONE | {"int8": torch.int8}),
    "load device": (lambda _, value: load(device=value), {**NONE, "float": 2.5, "bool": True, "bytes": b"cpu"}),
    "load impl": (lambda _, value: load(impl=value), NOT_WHOLE | NONE),
    "load invariant": (lambda _, value: load(invariant=value), NOT_FLAG),
    "load weights": (lambda _, value: load(weights=value), NOT_WHOLE | {"one": 1, "other name": "int4"}),
    "new_cache batch": (lambda model, value: model.new_cache(value, 4), NOT_WHOLE | NONE | NEGATIVE | HUGE),
    "new_cache capacity": (lambda model, value: model.new_cache(1, value), NOT_WHOLE | NEGATIVE | HUGE),
    "new_cache page": (lambda model, value: model.new_cache(1, 4, value), NOT_WHOLE | NEGATIVE | HUGE),
    "new_cache kv_dtype": (lambda model, value: model.new_cache(1, 4, None, value), NOT_WHOLE | {"name": "int4"}),
    "pages": (caching(PagedCache, "pages"), NOT_WHOLE | NEGATIVE | HUGE),
    "PagedCache seed": (caching(PagedCache, "seed"), NOT_WHOLE | NONE | NEGATIVE),
    "PagedCache config": (caching(PagedCache, "config"), NOT_WHOLE | NONE),
    "StaticCache dtype": (caching(StaticCache, "dtype"), NOT_WHOLE | NONE | {"name": "float32", "int": torch.int8}),
    "StaticCache device": (caching(StaticCache, "device"), NOT_WHOLE | NONE),
    "StaticCache impl": (caching(StaticCache, "impl"), NOT_WHOLE | NONE),
    "set_lengths": (lambda model, value: model.new_cache(1, 4).set_lengths([value]), NOT_WHOLE | NONE | NEGATIVE),
    "lengths": (lambda model, value: model.new_cache(1, 4, 2).set_lengths(value), NONE | {"number": 1, "set": {1}}),
    "free": (lambda model, value: model.new_cache(1, 4, 2).free(value), NOT_WHOLE | NONE | NEGATIVE | HUGE),
    "prefill": (lambda model, value: model.prefill(value, model.new_cache(1, 4)), NOT_PROMPTS),
    "prefill's cache": (lambda model, value: model.prefill([[1]], value), NOT_WHOLE | NONE),
    "decode": (lambda model, value: model.decode(value, model.new_cache(1, 4)), NOT_WHOLE | NONE),
    "forward": (lambda model, value: model(value), NOT_WHOLE | NONE),
    "loss": (lambda model, value: model.loss(value), NOT_WHOLE | NONE),
    "perplexity": (scoring("ids"), NOT_PROMPTS | {"text": "a text"}),
    "perplexity stride": (scoring("stride"), NOT_WHOLE | NEGATIVE),
    "perplexity window": (scoring("window"), NOT_WHOLE | NEGATIVE),
    "perplexity progress": (scoring("progress"), NOT_CALLABLE),
    "perplexity model": (scoring("model"), {"name": "tiny", **NONE}),
    "keys": (lambda _, value: sampling.keys(value, 1, 1), NOT_WHOLE | NEGATIVE | HUGE),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_each_mistake_is_one_value_error_before_anything_is_allocated(monkeypatch, tiny, door):
    call, mistakes = DOORS[door]
    if "lengths" not in door and door not in ("free", "prefill", "decode"):  # these are asked of a cache

        def allocated(*_):
            raise AssertionError("memory was taken before the call was checked")

        monkeypatch.setattr(cache, "layers", allocated)
    for name, value in mistakes.items():
        try:
            call(tiny, value)
        except ValueError as error:
            said = str(error)
        else:
            pytest.fail(f"{door} took {name}")
        assert said, f"{door} is silent on {name}"
        assert len(said) < 250, f"{door} on {name} is long: {said}"
        assert "\n" not in said, f"{door} on {name} takes lines: {said}"


WHOLE = (3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8))


@pytest.mark.parametrize("three", WHOLE, ids=lambda value: f"{type(value).__module__} {getattr(value, 'dtype', '')}")
def test_a_whole_number_of_any_library_is_one(tiny, three):
    settings = {"temperature": 1.0, "seed": 3, "top_k": 3, "max_new_tokens": 3, "chunk": 3, "first_row": 3}
    given = {name: three for name in settings if name != "temperature"} | {"temperature": np.float32(1)}
    assert generate(tiny, "A king", **given) == generate(tiny, "A king", **settings)
    held = tiny.new_cache(three, three, three)
    assert (held.batch, held.capacity, held.page, type(held.capacity)) == (3, 3, 3, int)
    held.set_lengths([three] * 3)
    assert held.host_lengths == [3, 3, 3]
    assert [type(n) for n in held.host_lengths] == [int] * 3


@pytest.mark.parametrize(
    "prompts",
    [
        [1, 2], (1, 2), [[1, 2]], range(1, 3), np.array([1, 2]), np.array([[1, 2]], np.uint16), torch.tensor([1, 2]),
        [np.int64(1), torch.tensor(2)], [torch.tensor([1, 2])], [np.array([1, 2], np.int32)],
    ],
)  # fmt: skip
def test_ids_come_in_any_sequence(tiny, prompts):
    assert to_ids(tiny, prompts) == [[1, 2]]


@pytest.mark.parametrize("door", [partial(generate, prompts=""), lambda tiny: tiny.prefill([[]], tiny.new_cache(1, 4))])
def test_the_advice_for_an_empty_prompt_works(tiny, door):
    with pytest.raises(ValueError, match="needs at least one token") as error:
        door(tiny)
    ids = [int(str(error.value).partition("ids [")[2].partition("]")[0])]
    assert ids == [tiny.tokenizer.eot]
    assert generate(tiny, ids, max_new_tokens=1)[0].prompt_ids == ids
