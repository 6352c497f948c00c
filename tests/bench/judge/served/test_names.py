"""Tokens are compared by names that mean the same to both paths, whatever a server calls them."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from kvproof.bench.judge.investigation import investigate
from kvproof.bench.judge.served.client import Client, ServerError
from kvproof.bench.judge.served.server import Server
from kvproof.bench.judge.served.subject import ServedSubject
from kvproof.reference.judge.verdict import ROUNDING

from ._judged import STEPS, TEXTS, judged, oracle
from ._stub import Manner, completion, reply, served

NAMES = {  # how a server names tokens, and whether it takes them so
    "ids": Manner(),
    "llama.cpp": Manner(form="content", echo=False),
    "llama.cpp with echo": Manner(form="content"),
    "ids in answers alone": Manner(form="content", ids=False),
    "texts": Manner(ids=False),
    "texts, stepwise": Manner(ids=False, echo=False),
}


@pytest.mark.parametrize(("first", "second"), list(permutations(NAMES, 2)))
def test_two_servers_of_one_model_are_rounding_however_each_names_tokens(first, second):
    with served(oracle(), NAMES[first]) as a, served(oracle(), NAMES[second]) as b:
        servers = [Server(Client(url, timeout=30), None, TEXTS[0]) for url in (a, b)]
        found = investigate(ServedSubject(servers[0], servers[1], TEXTS, STEPS, "float32"), "float32")
    assert found.verdict.verdict == ROUNDING, found.verdict.reason
    assert any("32 positions compared" in note for note in found.notes), found.notes


def other_names(handler, path, body):
    """Answers with tokens that each have one more character."""
    if body:
        found = completion(oracle(), Manner(ids=False, echo=False), body, np.random.default_rng(0))
        logprobs = found["choices"][0]["logprobs"]
        logprobs["tokens"] = [f"_{token}" for token in logprobs["tokens"]]
        logprobs["top_logprobs"] = [{f"_{key}": x for key, x in top.items()} for top in logprobs["top_logprobs"]]
        reply(handler, found)
    return bool(body)


def test_servers_that_name_no_token_alike_are_refused():
    with served(oracle(), Manner(ids=False, echo=False)) as a, served(oracle(), Manner(before=other_names)) as b:
        servers = [Server(Client(url, timeout=30), None, TEXTS[0]) for url in (a, b)]
        with pytest.raises(ServerError, match=r"name no token alike .*: do both serve one model"):
            ServedSubject(servers[0], servers[1], TEXTS, STEPS, "float32")


def test_servers_that_split_texts_otherwise_are_refused():
    with served(oracle()) as first, served(oracle(), Manner(before=other_ids)) as second:
        servers = [Server(Client(url, timeout=30), None, TEXTS[0]) for url in (first, second)]
        with pytest.raises(ServerError, match="other tokens: compare one model"):
            ServedSubject(servers[0], servers[1], TEXTS, STEPS, "float32")


def other_ids(handler, path, body):
    if body and isinstance(body["prompt"], str):
        body["prompt"] = body["prompt"][:1] + body["prompt"]
    return False


@pytest.mark.parametrize("manner", [
    Manner(), Manner(ids=False), Manner(form="content"), Manner(echo=False, extension=True),
], ids=["echo", "echo of texts", "llama.cpp", "vllm"])  # fmt: skip
@pytest.mark.parametrize("kept", [0, 1])
def test_a_prompt_s_rows_that_do_not_join_to_a_later_prompt_are_refused(manner, kept):
    """Of prompts longer than the first one, which the server is known by, no more than `kept` rows come."""

    def before(handler, path, body):
        if not body or len(body["prompt"]) <= len(TEXTS[0]) + 3 or not ({"echo", "prompt_logprobs"} & set(body)):
            return False
        found = completion(oracle(), manner, body, np.random.default_rng(0))
        choice = found["choices"][0]
        for field in choice["logprobs"]:
            choice["logprobs"][field] = choice["logprobs"][field][-1 - kept :]
        choice.pop("prompt_logprobs", None)
        reply(handler, found)
        return True

    with pytest.raises(ServerError, match=r"no tokens that join to .* pass another --prompt"):
        judged(oracle(), replace(manner, before=before))
