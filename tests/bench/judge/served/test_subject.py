"""Right servers are never accused, in whatever form they answer; each fault of the corpus is, where it shows."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kvproof.bench.judge import __main__ as verify
from kvproof.bench.judge.contract.adapters import small_model
from kvproof.bench.judge.exam import ours
from kvproof.bench.judge.investigation import investigate
from kvproof.bench.judge.served.client import Client
from kvproof.bench.judge.served.rows import apart
from kvproof.bench.judge.served.server import Server
from kvproof.reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING

from ._corpus import ALL, MODELS, asked, fault_subject, replay, subject_of, texts_of
from ._judged import TEXTS, judged, oracle
from ._stub import Manner, Oracle, Replay, reply, served, text_of

MANNERS = {
    "plain": (Manner(), "prefill by echo"),
    "text": (Manner(ids=False), "takes text and no token ids"),
    "stepwise": (Manner(echo=False), "prefill is one request per position"),
    "stepwise text": (Manner(echo=False, ids=False), "prefill by one token after each prefix"),
    "vllm": (Manner(echo=False, extension=True), "prefill by prompt_logprobs"),
    "llama.cpp": (Manner(form="content", echo=False), "prefill is one request per position"),
    "processed": (Manner(processed=True, greedy=False), "processed, computed after temperature"),
    "strict": (Manner(strict=True), "refuses top_k, min_p and penalties"),
    "top 5": (Manner(top=5), "of 5 most probable tokens"),
    "top 1": (Manner(top=1), "of the chosen token alone"),
    "late echo": (Manner(late=True), "a bug of echo, not of the cache"),
    "warm cache": (Manner(cached=3), "came from the server's prefix cache"),
    "samples": (Manner(greedy=False), "raw: temperature does not change them"),
    "deaf to temperature": (Manner(greedy=True), "seems to ignore temperature"),
}


@pytest.mark.parametrize("name", MANNERS)
def test_a_right_server_is_cleared_in_float32_and_what_it_can_do_is_said(name):
    manner, says = MANNERS[name]
    found = judged(oracle(), manner)
    assert found.verdict.verdict == ROUNDING, found.verdict.reason
    assert any(says in note for note in found.notes), found.notes
    assert found.verdict.rungs[0].error > 0  # the paths are two, and were both run


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_half_precision_is_neither_accused_nor_cleared(dtype, impl):
    found = investigate(asked(replay(ours(MODELS, impl, 1), dtype), dtype, Manner(greedy=False)), dtype)
    assert found.verdict.verdict == INCONCLUSIVE
    assert "To settle it run the server in float32" in found.verdict.reason


def test_a_float32_server_with_half_precision_inside_is_not_accused():
    found = investigate(asked(replay(ours(MODELS, "sdpa", 1), "float16"), "float32", Manner(greedy=False)), "float32")
    assert found.verdict.verdict == INCONCLUSIVE
    assert "float32 with TF32 or float16 inside does" in found.verdict.reason


@pytest.mark.parametrize("jitter", [1e-7, 1e-3, 1e-2])
def test_a_server_that_answers_at_random_within_rounding_is_not_accused(jitter):
    found = judged(oracle(), Manner(jitter=jitter))
    assert found.verdict.verdict == (ROUNDING if jitter < 1e-6 else INCONCLUSIVE), found.verdict.reason
    assert any("decode of the same request again: differs by" in note for note in found.notes)


@pytest.mark.exhaustive
def test_clean_servers_are_never_accused():
    """Seeds, dtypes and manners: every word, counted."""
    words = []
    for seed in range(25):
        for dtype in ("float32", "bfloat16", "float16"):
            for manner in (Manner(greedy=False), Manner(ids=False, top=5), Manner(echo=False), Manner(processed=True)):
                model = replay(ours(MODELS, ("eager", "sdpa")[seed % 2], seed), dtype)
                words.append((dtype, investigate(asked(model, dtype, manner), dtype).verdict.verdict))
    counts = {word: words.count(word) for word in sorted(set(words))}
    print(f"\n{len(words)} clean servers: {counts}")
    assert set(counts) == {("float32", ROUNDING), ("bfloat16", INCONCLUSIVE), ("float16", INCONCLUSIVE)}


# Logits of these faults are the right ones on the exam's prompts, which the probes of an attention by itself reject.
UNSEEN = {
    *("strides_swapped", "blocks_capped", "mask_of_ten_thousand", "mask_of_a_billion", "mask_before_scale"),
    *("mask_added_twice", "mask_of_the_least_number", "empty_sequence", "torch_logits_at_padding"),
}
# These move log-probabilities by less than float16 inside would: the verdict says so.
HIDDEN = {
    *("half_sums", "scores_in_half", "lse_in_base_two", "cache_narrowed", "newest_row_unquantised", "other_gelu"),
    *("other_eps", "padding_wins", "torch_positions_off_by_one", "torch_half_sums", "torch_cache_narrowed"),
    *("torch_other_gelu", "torch_other_eps"),
}
SAMPLE = ("half_sums", "positions_off_by_one", "stale_slot", "ln_f_dropped", "strides_swapped", "torch_stale_slot")
SAMPLED = [
    pytest.param(fault, marks=[] if fault.name in SAMPLE else pytest.mark.exhaustive, id=fault.name) for fault in ALL
]


@pytest.mark.parametrize("fault", SAMPLED)
def test_a_fault_in_a_server_is_a_bug_where_its_logprobs_show_it(fault):
    subject = fault_subject(fault, "float32")
    found = investigate(subject, "float32").verdict
    expected = ROUNDING if fault.name in UNSEEN else INCONCLUSIVE if fault.name in HIDDEN else BUG
    assert found.verdict == expected, found.reason
    if expected == BUG:
        assert "generated token" in found.reason


def test_a_server_that_answers_out_of_its_last_sequence_is_made_to_compute_a_prefill():
    (fault,) = (fault for fault in ALL if fault.name == "read_before_write")
    model = replay(subject_of(fault), "float32")
    with served(model, Manner(remembers=True)) as url:
        server = Server(Client(url, timeout=30), None, texts_of(model)[0])
        (prompt,) = server.prompts(texts_of(model)[:1])
        rows = server.generate(prompt, 24).generated
        _, found = server.prefill(prompt, rows)
    assert apart(found, rows) > 1


def test_a_bug_in_bfloat16_is_called_where_it_is_larger_than_bfloat16_explains():
    found = investigate(fault_subject(ALL[0], "float32"), "float32").verdict
    model = replay(ours(MODELS, "eager", 1), "bfloat16")
    wrong = replace(model, decoded=[-rows for rows in model.decoded])
    assert investigate(asked(wrong, "bfloat16", Manner()), "bfloat16").verdict.verdict == BUG
    assert found.difference is not None


def test_two_servers_of_one_model_are_rounding_and_of_two_a_bug():
    right = oracle("float32")
    assert judged(oracle("float64"), trusted=right).verdict.verdict == ROUNDING
    other = Oracle(right.params | {"wte": {"weight": right.params["wte"]["weight"][::-1].copy()}}, right.config)
    found = judged(other, trusted=right)
    assert found.verdict.verdict == BUG
    assert found.verdict.reason.endswith("Asked: one server against another, through prefill and through decode.")


def test_a_trusted_server_s_decode_follows_the_other_s_tokens():
    """Half of the steps' tokens are no greedy ones of the trusted server, which is asked anew behind each."""
    right = oracle("float32")
    ids = [[7, 8, 9, *range(20, 29)], [3, 4, *range(40, 50)]]
    rows = [np.array([right.prefill(row[: i + 1])[-1] for i in range(len(row))]) for row in ids]
    scripted = Replay(ids, [0, 0], rows, rows)
    found = judged(scripted, trusted=right, texts=[text_of(row[:2]) for row in ids])
    assert found.verdict.verdict == ROUNDING, found.verdict.reason
    assert any("32 positions compared" in note for note in found.notes)
    assert any("are not the most probable" in note for note in judged(scripted, texts=[text_of(ids[0][:2])]).notes)


def test_an_echo_that_contradicts_a_prefill_of_the_prefix_alone_accuses_nobody():
    found = judged(oracle(), Manner(echo_wrong=0.9)).verdict
    assert found.verdict == INCONCLUSIVE
    assert "But a prefill of that prefix alone agrees with decode: either echo gives other numbers" in found.reason


@pytest.mark.parametrize(("manner", "says"), [
    (Manner(processed=True, strict=True, own_top_k=4), "processed, and it refuses to be asked without its own"),
    (Manner(own_top_k=4), "candidates add up to 1 without the others: top_k or top_p is on at the server"),
])  # fmt: skip
def test_candidates_that_a_server_leaves_out_accuse_nobody(manner, says):
    found = judged(oracle(), manner).verdict
    assert found.verdict == INCONCLUSIVE
    assert says in found.reason


class Scripted(Oracle):
    """Generates 20, 21, ... behind each prompt, whatever is probable."""

    def next(self, ids):
        return 20 + len([i for i in ids if i >= 20]) if len(ids) < 30 else None


@pytest.mark.parametrize("pair", [(22, 23), (23, 24), (24, 25)])
@pytest.mark.parametrize("echo", [True, False], ids=["echo", "stepwise"])
def test_a_text_that_is_split_otherwise_is_compared_as_far_as_it_is_not(pair, echo):
    manner = Manner(ids=False, echo=echo, merges=(*pair, 50))
    found = judged(Scripted(*small_model("float32")), manner)
    assert found.verdict.verdict == ROUNDING, found.verdict.reason
    at = f"the text of 8 generated tokens is split into others from token {pair[0] - 20 + (not echo) * 2}"
    assert any(at in note for note in found.notes), found.notes


def no_cold_field(handler, path, body):
    """Refuses what forbids a prefix cache."""
    refused = bool(body) and bool({"cache_prompt", "cache_salt"} & set(body))
    if refused:
        reply(handler, {"error": "unknown field"}, 400)
    return refused


@pytest.mark.parametrize(("manner", "word"), [
    (Manner(cached=2), INCONCLUSIVE), (Manner(cached=2, echo=False, extension=True), INCONCLUSIVE),
    (Manner(cached=2, echo=False), INCONCLUSIVE), (Manner(cached=2, before=no_cold_field), INCONCLUSIVE),
    (Manner(echo=False, before=no_cold_field), INCONCLUSIVE), (Manner(echo=False, strict=True), INCONCLUSIVE),
    (Manner(cached=0, echo=False, before=no_cold_field), ROUNDING), (Manner(cached=0, echo=False), ROUNDING),
    (Manner(echo=False), ROUNDING), (Manner(before=no_cold_field), ROUNDING), (Manner(cached=0), ROUNDING),
])  # fmt: skip
def test_equal_bits_that_a_prefix_cache_may_have_given_clear_nobody(manner, word):
    model = Replay([[1, 2, 3, 4, 5, 6]], [1], [np.eye(4, 20)], [np.eye(4, 20)])
    texts = [text_of([1, 2])]
    assert judged(model, Manner(), texts=texts, steps=4).verdict.verdict == ROUNDING
    found = judged(model, manner, texts=texts, steps=4).verdict
    assert found.verdict == word, found.reason
    advice = "prefill may have come from the prefix cache. To settle it let the server say how many tokens were cached"
    assert (advice in found.reason) == (word == INCONCLUSIVE)


@pytest.mark.parametrize("trusted", [None, oracle()], ids=["alone", "against another"])
def test_agreeing_tokens_are_counted_at_positions_that_were_compared(trusted):
    found = judged(oracle(), Manner(), trusted)
    counted = int(next(note for note in found.notes if "positions compared" in note).split("; ")[1].split()[0])
    assert found.verdict.difference is not None
    assert (found.verdict.difference.agree, found.verdict.difference.of) == (counted, counted)


def test_company_that_is_refused_is_said():
    def before(handler, path, body):
        refused = bool(body) and body["prompt"] in (TEXTS[0][::-1], [11, 10, 9, 8, 7])
        if refused:
            reply(handler, {"error": "too many"}, 400)
        return refused

    found = judged(oracle(), Manner(before=before))
    assert found.verdict.verdict == ROUNDING
    assert any("1 of 2 other requests failed: " in note for note in found.notes), found.notes


@pytest.mark.parametrize(("where", "verdict"), [("decoded", BUG), ("both", INCONCLUSIVE)])
def test_nan_is_a_bug_where_one_path_alone_has_it(where, verdict):
    rows = np.random.default_rng(0).normal(size=(4, 20))
    broken = np.where(np.arange(4)[:, None] == 2, np.nan, rows)
    model = Replay([[1, 2, 3, 4, 5, 6]], [1], [broken], [rows if where == "decoded" else broken])
    found = judged(model, Manner(), texts=[text_of([1, 2])], steps=4).verdict
    assert found.verdict == verdict, found.reason


@pytest.mark.parametrize("written", [str, lambda x: f"{x}/", lambda x: x.replace("127.0.0.1", "LocalHost"), str.upper])
def test_a_server_is_not_compared_with_itself(written, capsys):
    with served(oracle()) as url:
        other = written(url).replace("HTTP", "http").replace("/V1", "/v1")
        assert verify.main(["--url", url, "--against", other, "--against-model", "stub", "--dtype", "float32"]) == 3
    assert "--url and --against are one server of one model" in capsys.readouterr().err


def test_two_models_of_one_server_are_compared(capsys):
    def before(handler, path, body):
        if body is None:
            reply(handler, {"data": [{"id": "one"}, {"id": "two"}]})
        return body is None

    words = ["--model", "one", "--against-model", "two", "--dtype", "float32", "--steps", "2", "--prompt", TEXTS[0]]
    with served(oracle(), Manner(before=before)) as url:
        assert verify.main(["--url", url, "--against", url, *words]) == 0


def test_the_command_gives_a_report_a_record_and_a_page(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    words = ["--dtype", "float32", "--steps", "4", "--prompt", TEXTS[0], "--html", str(tmp_path / "page.html")]
    with served(oracle()) as url:
        assert verify.main(["--url", url, *words]) == 0
        said = capsys.readouterr().out
        assert verify.main(["--url", url, *words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert verify.main(["--url", url, "--steps", "4", "--json"]) == 2
        assumed = json.loads(capsys.readouterr().out)
    assert said.startswith(f"ROUNDING: {url} against its own prefill, float32")
    assert "note: log-probabilities are raw" in said
    assert found["verdict"] == "ROUNDING"
    assert found["rungs"][0]["dtype"] == "float32"
    assert any("positions compared" in note for note in found["notes"])
    assert "its own prefill" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert assumed["notes"][0].startswith("no --dtype came, so bfloat16 is assumed")
