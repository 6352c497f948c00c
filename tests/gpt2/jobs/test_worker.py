"""A worker: each line's answer is generate's for it alone, whatever stands beside it; a bad line is an error row."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvproof.gpt2 import generate, load
from kvproof.gpt2.engine import Engine
from kvproof.gpt2.generate import Cached, forced_logits
from kvproof.gpt2.jobs import worker as module
from kvproof.gpt2.jobs.body import KNOWN, BadRequest
from kvproof.gpt2.jobs.job import Job, new_job
from kvproof.gpt2.jobs.line import read_line
from kvproof.gpt2.jobs.logprobs import DECIMALS, log_softmax
from kvproof.gpt2.jobs.render import failure
from kvproof.gpt2.jobs.worker import Worker

from ..._engine import ENGINE
from ..._refused import refused
from ._lines import LINE, OUTPUT, line

pytestmark = ENGINE
CHECK = jsonschema.Draft202012Validator(OUTPUT)
WORDS = ["ROMEO:", "Once upon a time", "The king", "A", "There was a miller who had three sons, and", "O"]


@cache
def job(**settings) -> Job:
    return new_job("tiny", impl="numba", **settings)


@cache
def shared(**settings) -> Worker:
    return Worker(job(**settings), running=4)


def complete(lines, worker=None, repeats=None) -> list[dict]:
    """The output of lines of input, each checked against the schema."""
    found = list((worker or shared()).complete(enumerate(lines), repeats))
    assert [index for index, _ in found] == list(range(len(lines)))
    answers = [json.loads(text) for _, text in found]
    for answer in answers:
        CHECK.validate(answer)
    return answers


def choices(answer) -> list[dict]:
    assert answer["error"] is None
    return answer["response"]["body"]["choices"]


def test_an_answer_is_what_generate_gives_for_it_alone(tiny):
    settings = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 5, "stop": ["e", "\n"]}
    for word, answer in zip(WORDS, complete([line(prompt=w, max_tokens=30, **settings) for w in WORDS]), strict=True):
        (want,) = generate(tiny, word, max_new_tokens=30, **settings)
        (got,) = choices(answer)
        assert (got["text"], got["finish_reason"]) == (want.text, want.finish_reason)
        read, made = len(want.prompt_ids), len(want.ids)
        usage = {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
        assert answer["response"]["body"]["usage"] == usage


def test_defaults_are_openai_s(tiny):
    (answer,) = complete([line()])
    (want,) = generate(tiny, "ROMEO:", max_new_tokens=16, temperature=1.0, seed=0)
    assert choices(answer)[0]["text"] == want.text


def test_a_choice_draws_from_the_request_s_seed_or_from_the_job_s_by_its_line(tiny):
    seeds: list[dict[str, Any]] = [{}, {"seed": 9}]
    lines = [line(prompt=["A", "O"], n=2, max_tokens=8, **more) for more in seeds]
    job_s, own = complete(lines, shared(seed=3))[0:2]
    again = complete([b"no", *lines], shared(seed=3))[1:]
    for place, prompt in enumerate("AAOO"):
        settings = {"max_new_tokens": 8, "temperature": 1.0}
        for answer, seed, row in (
            (job_s, 3, place << 32), (own, 9, place), (again[0], 3, (place << 32) + 1), (again[1], 9, place),
        ):  # fmt: skip
            (want,) = generate(tiny, prompt, seed=seed, first_row=row, **settings)
            assert choices(answer)[place]["index"] == place
            assert choices(answer)[place]["text"] == want.text
    assert choices(again[0]) != choices(job_s)


def test_ids_are_prompts_too_and_come_back_where_asked_for(tiny):
    ids = [tiny.tokenizer.encode(word) for word in WORDS[:2]]
    texts, numbers = (
        complete_raw(line(prompt=prompt, max_tokens=6, return_token_ids=True)) for prompt in (WORDS[:2], ids)
    )
    assert texts == numbers
    for word, got in zip(WORDS, numbers, strict=False):
        (want,) = generate(tiny, word, max_new_tokens=6, temperature=1.0, seed=0, first_row=got["index"] << 32)
        assert (got["prompt_token_ids"], got["token_ids"]) == (want.prompt_ids, want.ids)


def complete_raw(data: bytes, worker=None) -> list[dict]:
    ((_, text),) = (worker or shared()).complete([(0, data)])
    return choices(json.loads(text))


def test_echo_puts_the_prompt_before_the_text(tiny):
    for prompt, text in (("ROMEO:", "ROMEO:"), (tiny.tokenizer.encode("é ROMEO"), "é ROMEO")):
        plain, echoed = (complete([line(prompt=prompt, max_tokens=4, echo=echo)])[0] for echo in (False, True))
        assert choices(echoed)[0]["text"] == text + choices(plain)[0]["text"]
    (answer,) = complete([line(prompt=["A", "B"], n=2, echo=True, max_tokens=1)])
    assert [one["text"][0] for one in choices(answer)] == ["A", "A", "B", "B"]


def test_logprobs_are_those_of_the_logits_that_a_lone_run_has(tiny):
    (answer,) = complete([line(max_tokens=12, logprobs=3, seed=1, stop="zzz")])
    (want,) = generate(tiny, "ROMEO:", max_new_tokens=12, temperature=1.0, seed=1)
    source = Cached(tiny, tiny.new_cache(1))
    logits = forced_logits(source, [want.prompt_ids], torch.tensor([want.ids]))[0].numpy()
    rows, found = log_softmax(logits[:, : tiny.tokenizer.n_vocab]), choices(answer)[0]["logprobs"]
    assert found["token_logprobs"] == [round(float(rows[i, t]), DECIMALS) for i, t in enumerate(want.ids)]
    assert "".join(found["tokens"]) == want.text
    assert [best[token] for best, token in zip(found["top_logprobs"], found["tokens"], strict=True)] == found[
        "token_logprobs"
    ]


def test_a_stop_string_cuts_the_logprobs_where_it_cuts_the_text(tiny):
    (want,) = generate(tiny, "ROMEO:", max_new_tokens=30, temperature=0)
    text = cast(str, want.text)
    stop = text[8:11]
    (answer,) = complete([line(max_tokens=30, logprobs=0, temperature=0, stop=stop)])
    (got,) = choices(answer)
    assert got["finish_reason"] == "stop"
    assert got["text"] == text[: text.find(stop)]
    assert "".join(got["logprobs"]["tokens"]).startswith(got["text"])
    assert max(got["logprobs"]["text_offset"]) < len(got["text"])


def lines_of_all_kinds() -> list[bytes]:
    good = [
        line(str(i), prompt=WORDS[i % 6], max_tokens=1 + 7 * i % 23, logprobs=i % 3 or None, n=1 + i % 2)
        for i in range(9)
    ]
    return [x for pair in zip(good, [b"no\n", line("x", temperature=-1)] * 4 + [b"no\n"], strict=True) for x in pair]


@pytest.mark.parametrize(
    "options",
    [
        {"running": 1}, {"running": 3, "page": 8}, {"running": 32, "step_tokens": 32}, {"running": 8, "draft": 4},
        {"running": 8, "draft": 4, "draft_from": "all", "blocks": 70},
    ],
)  # fmt: skip
def test_bytes_do_not_depend_on_how_the_engine_runs(options):
    lines = lines_of_all_kinds()
    whole = list(shared().complete(enumerate(lines)))
    worker = Worker(job(), **options)
    assert list(worker.complete(enumerate(lines))) == whole
    rest = list(enumerate(lines))[9:]
    assert list(worker.complete(rest)) == whole[9:], "wherever it begins"


def test_a_bad_line_is_an_error_row_and_the_job_goes_on(tiny):
    lines = [
        b"no\n", line("a", prompt=[tiny.config.n_vocab]), line("b", prompt="a " * 900, max_tokens=400), line("c"),
        line("a"), line("d", prompt=[-1]), line("e", max_tokens=0), line("f", max_tokens=2**31 - 1),
    ]  # fmt: skip
    answers = complete(lines, repeats={4: 1})
    errors = {i: answer["error"] for i, answer in enumerate(answers) if answer["error"]}
    assert {i: error["code"] for i, error in errors.items()} == {
        0: "invalid_json", 1: "invalid_value", 2: "context_length_exceeded", 4: "duplicate_custom_id",
        5: "invalid_value", 6: "invalid_value", 7: "context_length_exceeded",
    }  # fmt: skip
    assert errors[1]["message"].startswith(f"line 2: prompt holds token id {tiny.config.n_vocab}; this model's ids are")
    assert "fit; lower max_tokens or shorten the prompt" in errors[2]["message"]
    assert "custom_id 'a' came first in line 2; give each line its own" in errors[4]["message"]
    assert [answer["custom_id"] for answer in answers] == [None, "a", "b", "c", "a", "d", "e", "f"]
    for i in errors:
        assert answers[i]["response"]["status_code"] == 400
        assert answers[i]["response"]["body"]["error"]["message"] == errors[i]["message"]


def test_logits_that_hold_nan_are_an_error_row_that_does_not_say_what_ran_beside(monkeypatch):
    model = load("tiny", impl="numba")
    model.wpe.weight[20:] = float("nan")
    monkeypatch.setattr(module, "load", lambda *_, **__: model)
    lines = [line("a", max_tokens=5), line("b", prompt="E" + " E" * 17, max_tokens=4), line("c", max_tokens=5)]
    worker = Worker(job(), running=2)
    answers = complete(lines, worker)
    assert [answer["response"]["status_code"] for answer in answers] == [200, 500, 200]
    said = "line 2: choice 0: the logits after 3 new tokens hold NaN or inf; try a wider dtype, or look at the weights"
    assert answers[1]["error"] == {"code": "model_error", "message": said}
    assert answers[1]["response"]["body"]["error"]["type"] == "server_error"
    assert worker.errors == 1
    assert json.loads(dict(worker.complete([(1, lines[1])]))[1]) == answers[1]


def test_special_tokens_are_text_unless_the_job_allows_them(tiny):
    data = line(prompt="<|endoftext|>", max_tokens=2, return_token_ids=True)
    assert complete_raw(data)[0]["prompt_token_ids"] == tiny.tokenizer.encode("<|endoftext|>")
    assert len(complete_raw(data)[0]["prompt_token_ids"]) > 1
    allowed = complete_raw(data, shared(allow_special=True))
    assert allowed[0]["prompt_token_ids"] == [tiny.tokenizer.eot]


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "float64"},
        {"weights": "int8"},
        {"kv_dtype": "int8"},
        pytest.param({"dtype": "bfloat16"}, marks=pytest.mark.exhaustive),  # compiled for this test alone
    ],
)
def test_each_kind_of_model_answers_with_logprobs(settings):
    answers = complete([line(max_tokens=6, logprobs=1, temperature=0)], shared(**settings))
    assert len(choices(answers[0])[0]["logprobs"]["tokens"]) == 6
    assert answers[0]["job"] | settings == answers[0]["job"]


def test_a_model_without_a_tokenizer_answers_in_ids(monkeypatch):
    model = load("tiny", impl="numba")
    model.tokenizer = None
    monkeypatch.setattr(module, "load", lambda *_, **__: model)
    worker = Worker(job())
    ((_, text),) = worker.complete([(0, line(prompt=[1, 2], max_tokens=3, return_token_ids=True, temperature=0))])
    (want,) = generate(model, [1, 2], max_new_tokens=3)
    assert choices(json.loads(text))[0]["token_ids"] == want.ids
    bad = [
        line(prompt=[1]),
        line(prompt="x", return_token_ids=True),
        line(prompt=[1], return_token_ids=True, echo=True),
    ]
    assert all(answer["error"] for answer in complete(bad, worker))


def test_a_worker_is_refused_what_would_change_bytes_or_never_end():
    refused(
        ValueError,
        "60 blocks of 16 slots hold 960 tokens.*n_ctx 1024; give 64 blocks or more",
        Worker,
        job(),
        blocks=60,
    )
    other = Job(**{**job().__dict__, "files": "0" * 16})
    refused(ValueError, "the files of model 'tiny' have digest .* here, the job's have 0000000000000000", Worker, other)
    sdpa = Job(**{**job().__dict__, "impl": "sdpa"})
    refused(ValueError, "impl 'sdpa' gives a sequence other bits", Worker, sdpa)


def test_a_worker_that_is_left_in_the_middle_answers_again():
    worker = Worker(job(), running=2)
    lines = lines_of_all_kinds()
    half = worker.complete(enumerate(lines))
    first = [next(half) for _ in range(3)]
    cast(Any, half).close()
    assert isinstance(worker.engine, Engine)
    assert not worker.engine.busy
    assert list(worker.complete(enumerate(lines)))[:3] == first


def test_the_call_in_the_readme_runs(capsys):
    page = (Path(module.__file__).parent / "README.md").read_text(encoding="utf-8")
    (call,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(call, {})
    index, answer = capsys.readouterr().out.split(" ", 1)
    CHECK.validate(json.loads(answer))
    assert (index, json.loads(answer)["error"]) == ("0", None)


WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([0, 1, 2**64, 1e308]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
BODY = st.fixed_dictionaries(
    {"prompt": WILD | st.text(st.characters(), max_size=9) | st.lists(st.integers(-1, 1100), max_size=4)},
    optional=dict.fromkeys(KNOWN[1:], WILD),
)
FIELDS = st.fixed_dictionaries({}, optional={"custom_id": WILD, "method": WILD, "url": WILD, "body": WILD | BODY})


@settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(FIELDS | BODY.map(lambda body: {**LINE, "body": body}) | WILD, st.binary(max_size=3))
def test_whatever_a_line_holds_its_requests_are_taken_by_the_engine_or_it_is_refused(fields, noise):
    worker = shared()
    for data in (json.dumps(fields).encode(), json.dumps(fields).encode() + noise, noise):
        read = read_line(0, data)
        try:
            requests = worker.requests(read)
        except BadRequest as error:
            CHECK.validate(json.loads(failure(worker.job, read, error)))
            continue
        assert requests
        for request in requests:
            worker.engine.check(request)
