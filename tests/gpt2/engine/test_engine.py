"""The engine by the impl numba: each request's bytes, what is streamed, what is refused, what an interrupt leaves."""

import random
from functools import cache

import numpy as np
import pytest
import torch

from kvproof.gpt2 import GPT2, ContextFull, generate, load
from kvproof.gpt2.engine import Drafter, Engine, Request, Result

from ._requests import alone, assert_nothing_left, logits_alone, ragged, run_with_arrivals, same

EACH = 50  # requests of one run


@cache
def model() -> GPT2:
    return load("tiny", impl="numba")


def compare(engine: Engine, requests: list[Request], seed: int):
    """Run requests in every company that the engine can give them; each must have the bytes of its lone run."""
    found, aborted, most = run_with_arrivals(engine, requests, random.Random(seed), aborts=0.04, preempts=0.05)
    for i, (request, result) in enumerate(zip(requests, found, strict=True)):
        want = alone(model(), request)
        if i in aborted:
            assert result.ids == want.ids[: len(result.ids)], i
        else:
            assert same(result, want), i
            if result.logits is not None:
                assert np.array_equal(result.logits, logits_alone(model(), want)[: len(result.logits)]), i
    assert 0 < len(aborted) < len(requests) // 2
    assert engine.scheduler.preemptions > 0
    assert most <= engine.blocks.blocks
    assert_nothing_left(engine)


@pytest.mark.parametrize("page", [1, 16, 64])
@pytest.mark.parametrize("draft", [0, 5])
def test_every_request_has_the_bytes_of_its_lone_run(page, draft):
    seed = 2 * page + bool(draft)
    requests = ragged(random.Random(seed), EACH, 40, 260, 50, logits=0.2)
    drafter = Drafter(draft, of_all=True, always=True) if draft else 0
    engine = Engine(model(), running=9, page=page, blocks=310 // page + 1, step_tokens=48, draft=drafter)
    compare(engine, requests, seed)
    assert not draft or engine.drafter.drafted > engine.drafter.right > 20


@pytest.mark.parametrize(("weights", "kv_dtype"), [("int8", None), (None, "int8")])
def test_8_bits_keep_their_bits_in_company(weights, kv_dtype):
    model = load("tiny", impl="numba", weights=weights)
    requests = [Request([i % 3, *range(i)], 12, seed=i, temperature=0.5 * (i % 2), logits=True) for i in range(1, 20)]
    engine = Engine(
        model, running=5, page=4, blocks=40, step_tokens=16, draft=Drafter(3, always=True), kv_dtype=kv_dtype
    )
    for request, result in zip(requests, engine.generate(requests), strict=True):
        lone = Engine(model, running=1, kv_dtype=kv_dtype).generate([request])[0]
        assert same(result, lone)
        assert np.array_equal(result.logits, lone.logits)
        if kv_dtype is None:
            assert same(result, alone(model, request))


def test_a_beginning_that_others_have_computed_is_not_computed_again():
    trunk = [i % 40 for i in range(200)]
    engine = Engine(model(), page=16, step_tokens=512)
    engine.generate([Request(trunk, 2)])
    before = engine.blocks.used
    number = engine.add(Request([*trunk[:180], 1, 2, 3], 3))
    (span,) = engine.scheduler.plan()
    assert (span.start, len(span.ids)) == (180, 3)  # eleven whole blocks, and 4 tokens of the twelfth in a copy
    assert before == 0
    assert engine.abort(number)
    assert [event.result.finish_reason for event in engine.step() if event.result] == ["abort"]


def test_drafts_bring_several_tokens_a_step():
    prompt = [5, 6, 7, 8] * 20
    plain, quick = Engine(model()), Engine(model(), draft=Drafter(8, always=True))
    request = Request(prompt, 60, logits=True)
    (a,), (b,) = plain.generate([request]), quick.generate([request])
    assert same(a, b)
    assert np.array_equal(a.logits, b.logits)
    assert quick.steps < plain.steps == 60
    assert quick.drafter.right == 60 - quick.steps


@pytest.mark.parametrize("draft", [0, 4])
def test_the_listener_hears_what_generate_tells(draft):
    prompts = ["Once upon a time", "The king", "x y x y x y x"]
    settings = {"max_new_tokens": 30, "stop": ["king", "wo"], "temperature": 0.5, "seed": 4}
    told, heard = {0: [], 1: [], 2: []}, {0: [], 1: [], 2: []}
    for row, prompt in enumerate(prompts):
        generate(model(), prompt, stream=lambda _, *new, row=row: told[row].append(new), **settings)
    engine = Engine(model(), draft=Drafter(draft, always=True) if draft else 0)
    engine.generate([Request(prompt, **settings) for prompt in prompts], lambda row, *new: heard[row].append(new))
    assert heard == told


def test_events_bring_all_tokens_and_text_once():
    engine = Engine(model(), running=2)
    requests = [Request("Once upon a time", 9), Request("A dog", 5, stop="e"), Request([7], 1)]
    numbers = [engine.add(request) for request in requests]
    events = []
    while engine.busy:
        events += engine.step()
    assert engine.step() == []
    for number, request in zip(numbers, requests, strict=True):
        own, want = [event for event in events if event.request == number], alone(model(), request)
        assert [i for event in own for i in event.ids] == want.ids
        assert "".join(event.text for event in own) == want.text
        assert [event.result is not None for event in own] == [False] * (len(own) - 1) + [True]


def test_logits_that_are_no_numbers_end_their_request_alone():
    broken = load("tiny", impl="numba")
    with torch.no_grad():
        broken.wpe.weight[20] = torch.nan
    engine = Engine(broken, page=4)
    long, short = engine.generate([Request([1] * 15, 30), Request([2] * 3, 5)])
    assert (long.finish_reason, len(long.ids)) == ("error", 6)
    assert (
        long.error
        == "request 0: the logits after 6 new tokens hold NaN or inf; try a wider dtype, or look at the weights"
    )
    assert short.finish_reason == "length"
    assert same(short, alone(broken, Request([2] * 3, 5)))
    assert_nothing_left(engine)


def test_a_pass_that_fails_is_computed_again(monkeypatch):
    requests = ragged(random.Random(9), 12, 40, 100, 20)
    engine = Engine(model(), page=8, blocks=20, running=6, step_tokens=32, draft=Drafter(3, always=True))
    forward, calls = engine.runner.forward, []

    def failing(spans):
        calls.append(len(spans))
        logits = forward(spans)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return logits

    monkeypatch.setattr(engine.runner, "forward", failing)
    numbers, results = [engine.add(request) for request in requests], {}
    while engine.busy:
        try:
            results |= {event.request: event.result for event in engine.step() if event.result}
        except KeyboardInterrupt:
            continue
    assert len(calls) > 12
    assert all(same(results[n], alone(model(), r)) for n, r in zip(numbers, requests, strict=True))
    assert_nothing_left(engine)


def test_an_interrupted_generate_leaves_a_working_engine():
    def stop(*_):
        raise KeyboardInterrupt

    engine, request = Engine(model()), Request("Once", 8)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([request, request], stop)
    assert_nothing_left(engine)
    assert same(engine.generate([request])[0], alone(model(), request))


def refused(error, words, call):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("request_", "error", "words"), [
    (Request(""), ValueError, ("empty",)),
    (Request([]), ValueError, ("empty",)),
    (Request([1], 0), ValueError, ("max_new_tokens is 0", "1 or more")),
    (Request([1], 1025), ContextFull, ("1024",)),
    (Request([99999]), ValueError, ("99999", "2048")),
    (Request(["a", "b"]), ValueError, ("2 prompts", "a Request of each")),
    (Request([1], temperature=-1.0), ValueError, ("temperature is -1.0",)),
    (Request([1], top_p=2.0), ValueError, ("top_p is 2.0",)),
    (Request([1], seed=-1), ValueError, ("seed is -1",)),
    (Request([1], stop=("",)), ValueError, ("stop string is empty",)),
    (Request([1], logits=1), ValueError, ("logits is 1",)),
    (Request([1] * 200, 200), ValueError, ("399 tokens take 25 blocks of 16", "there are 20")),
    ("text", ValueError, ("a str came as a request", "Request(prompt")),
])  # fmt: skip
def test_wrong_requests_are_refused_at_once_and_change_nothing(request_, error, words):
    engine = Engine(model(), blocks=20)
    good = Request("Once", 4)
    number = engine.add(good)
    refused(error, words, lambda: engine.add(request_))
    refused(ValueError, ("1 requests are under way",), lambda: engine.generate([good]))
    results = {}
    while engine.busy:
        results |= {event.request: event.result for event in engine.step() if event.result}
    assert list(results) == [number]
    assert same(results[number], alone(model(), good))
    refused(error, words, lambda: engine.generate([good, request_]))
    assert not engine.busy
    assert_nothing_left(engine)


def test_impls_that_change_bits_in_company_are_refused_by_name():
    for impl in ("naive", "eager", "sdpa"):
        refused(
            ValueError, (f"impl '{impl}'", "numba", "invariant=True"), lambda impl=impl: Engine(model().with_impl(impl))
        )
    refused(ValueError, ("impl 'triton' came without invariant=True",), lambda: Engine(load("tiny", impl="triton")))
    refused(ValueError, ("model is 'tiny'", "load"), lambda: Engine("tiny"))


@pytest.mark.parametrize(("settings", "words"), [
    ({"running": 0}, ("running is 0", "1 or more")),
    ({"page": 0}, ("page is 0",)),
    ({"blocks": 0}, ("blocks is 0",)),
    ({"step_tokens": 3}, ("step_tokens is 3", "running, 32")),
    ({"draft": 17}, ("draft is 17", "0 ... 16")),
    ({"draft_from": "us"}, ("draft_from is 'us'", "'request' or 'all'")),
    ({"kv_dtype": "fp8"}, ("kv_dtype is 'fp8'",)),
])  # fmt: skip
def test_wrong_settings_are_refused(settings, words):
    refused(ValueError, words, lambda: Engine(model(), **settings))


def test_reset_forgets_what_was_computed():
    changed = load("tiny", impl="numba")
    engine, request = Engine(changed), Request(list(range(40)), 5)
    engine.generate([request])
    with torch.no_grad():
        changed.wpe.weight[:40] += 0.5
    assert len(engine.blocks.known(request.prompt)) == 2
    engine.reset()
    assert engine.blocks.known(request.prompt) == []
    assert same(engine.generate([request])[0], alone(changed, request))
    engine.add(request)
    refused(ValueError, ("reset came while 1 requests are under way",), engine.reset)


def test_the_pool_takes_the_memory_asked_for_and_no_more():
    engine = Engine(model(), blocks=7, page=16)
    assert sum(tensor.nbytes for tensor in engine.runner.memory) == 7 * 2 * 6 * 4 * 16 * 32 * 4
    assert Engine(model(), running=2).blocks.blocks == 2 * 64
    assert Engine(model(), running=2000).blocks.blocks == 2**30 // (2 * 6 * 4 * 16 * 32 * 4)


def test_results_are_what_generate_completes():
    names = ("prompt_ids", "ids", "text", "finish_reason")
    (a,), (b,) = generate(model(), "Once", max_new_tokens=3), Engine(model()).generate([Request("Once", 3)])
    assert isinstance(b, Result)
    assert [getattr(a, name) for name in names] == [getattr(b, name) for name in names]
