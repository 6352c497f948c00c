"""python -m kvproof.bench.requests: each job from its command to its record, faults planted, runs resumed."""

import json

import pytest

from kvproof.bench.measure import records
from kvproof.bench.requests import jobs, quiet
from kvproof.bench.requests.__main__ import main
from kvproof.bench.requests.arms import EngineArm
from kvproof.gpt2.engine.blocks import BlockManager

SHORT = ["throughput", "--model", "tiny", "--requests", "3", "--prompt-tokens", "2,6", "--new-tokens", "2,5"]
ARMS = ["--arms", "engine-2,generate-2", "--loaded"]
LIVE = ["memory", "--requests", "60", "--warm-up", "40", "--running", "4", "--blocks", "10"]


@pytest.fixture(autouse=True)
def _one_model(endless, monkeypatch):
    monkeypatch.setattr(jobs, "load_endless", lambda name, dtype: endless)


def read(path):
    return records.read(path, records.REQUESTS)


def test_throughput_records_each_round_and_prints_a_table(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    assert main([*SHORT, *ARMS, "--repeats", "2", "--results", str(path)]) == 0
    first, second = read(path)
    assert (first["round"], second["round"], first["run"] == second["run"]) == (0, 1, True)
    assert [row["arm"] for row in second["arms"]] == ["generate-2", "engine-2"]
    assert first["command"].endswith("--results run.jsonl")
    assert first["cell"]["loaded"]
    said = capsys.readouterr().out
    assert "ok  3 requests have the tokens of their lone runs" in said
    assert "LOADED" in said
    asked = sum(first["cell"]["requests"]["new_tokens"])
    for row in (*first["arms"], *second["arms"]):
        assert row["tokens_per_s"] == pytest.approx(asked / row["seconds"])


def test_a_run_that_was_killed_goes_on_with_the_rounds_it_lacks(tmp_path, monkeypatch, capsys):
    path, usual = tmp_path / "run.jsonl", jobs.Cell.round

    def killed(self, number, between):
        if number == 1:
            raise KeyboardInterrupt
        return usual(self, number, between)

    command = [*SHORT, *ARMS, "--repeats", "3", "--results", str(path)]
    monkeypatch.setattr(jobs.Cell, "round", killed)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    before = read(path)
    assert [record["round"] for record in before] == [0]
    monkeypatch.setattr(jobs.Cell, "round", usual)
    assert main(command) == 0
    assert [record["round"] for record in read(path)] == [0, 1, 2]
    assert read(path)[0] == before[0]
    capsys.readouterr()
    monkeypatch.setattr(jobs.Cell, "prove", lambda *_: pytest.fail("nothing is missing"))
    assert main(command) == 0
    assert "3 interleaved rounds" in capsys.readouterr().out


def test_other_requests_are_another_run(tmp_path):
    path = tmp_path / "run.jsonl"
    for seed in ("0", "1"):
        assert main([*SHORT, *ARMS, "--repeats", "1", "--seed", seed, "--results", str(path)]) == 0
    assert len({record["run"] for record in read(path)}) == 2


def test_an_arm_with_one_wrong_token_is_not_timed_and_leaves_no_record(tmp_path, monkeypatch, capsys):
    from contextlib import contextmanager

    usual, path = EngineArm.ready, tmp_path / "run.jsonl"

    @contextmanager
    def planted(self, asks):
        with usual(self, asks) as call:

            def wrong():
                found = call()
                found[1][0] += 1
                return found

            yield wrong

    monkeypatch.setattr(EngineArm, "ready", planted)
    assert main([*SHORT, *ARMS, "--results", str(path)]) == 1
    assert not path.exists()
    said = capsys.readouterr().out
    assert "RED 1 of 3 requests differ from their lone runs (WRONG): request 1 at new token 0" in said
    assert "nothing is timed" in said


@pytest.mark.exhaustive
def test_speculation_measures_five_kinds_of_text_against_no_drafts(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    command = ["speculation", "--model", "tiny", "--tokens", "6", "--batch", "2", "--draft", "4", "--repeats", "1"]
    assert main([*command, "--loaded", "--results", str(path)]) == 0
    found = {record["cell"]["text"]: record for record in read(path)}
    assert list(found) == ["repetitive", "json", "prose", "prose, sampled", "random ids, sampled"]
    for record in found.values():
        plain, drafting = record["arms"]
        assert (plain["arm"], drafting["arm"]) == ("engine-2", "engine-2-draft-4")
        assert plain["tokens_per_step"] == 1
        assert 1 <= drafting["tokens_per_step"] <= 5
        assert plain["drafts"] is None
    assert found["repetitive"]["arms"][1]["tokens_per_step"] > 1.5
    assert "bar 0.95" in capsys.readouterr().out


def test_memory_counts_blocks_and_holds_a_sample_to_its_lone_runs(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    assert main([*LIVE, "--results", str(path)]) == 0
    (record,) = read(path)
    found = record["memory"]
    assert (found["leaked"], found["differ"], found["blocks"]) == (0, 0, 10)
    assert 0 < found["most_blocks"] <= 10
    assert found["checked"] == 100
    assert [done for done, _ in found["resident"]][:3] == [0, 40, 43]
    assert found["resident"][-1][0] == 100
    assert "0 blocks leaked" in capsys.readouterr().out


def test_blocks_in_use_are_counted_in_the_midst_of_a_step(tmp_path):
    path = tmp_path / "run.jsonl"
    assert main(["memory", "--requests", "30", "--warm-up", "1", "--running", "1", "--results", str(path)]) == 0
    assert read(path)[0]["memory"]["most_blocks"] == 2  # of 24 + 8 - 1 tokens, which no sequence keeps when it ended


def test_a_block_that_is_not_given_back_is_counted_as_leaked(monkeypatch, capsys):
    usual, calls = BlockManager.release, []

    def forgets(self, table):
        calls.append(table)
        if len(calls) == 70:
            self.own(table.blocks[0])
        usual(self, table)

    monkeypatch.setattr(BlockManager, "release", forgets)
    assert main(LIVE) == 1
    assert "MISSED 1 blocks leaked" in capsys.readouterr().out


def test_a_request_with_a_token_too_few_is_seen_whichever_it_is(monkeypatch, capsys):
    from kvproof.bench.requests.memory import Life

    usual = Life.take

    def short(self, ask, result, check):
        if self.done == 52:  # the 53rd: one in two is in the sample
            result.ids.pop()
        usual(self, ask, result, check)

    monkeypatch.setattr(Life, "take", short)
    assert main([*LIVE, "--requests", "200"]) == 1
    assert "MISSED 1 of " in capsys.readouterr().out


def test_a_loaded_machine_is_refused_before_a_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(quiet, "measure", lambda: 0.8)
    monkeypatch.setattr(jobs, "load_endless", lambda *_: pytest.fail("it was loaded"))
    assert main([*SHORT, "--arms", "engine-2"]) == 2
    assert "others use 0.80 of" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    (["throughput", "--arms", "engin-8"], "'engin-8' is not known; choose of engine-8"),
    (["throughput", "--arms", "engine-0"], "'engine-0' is not known"),
    (["throughput", "--repeats", "0"], "--repeats is 0; it must be 1 or more"),
    (["through"], "invalid choice"),
])  # fmt: skip
def test_wrong_usage_is_refused_in_words(capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_arms_of_transformers_without_it_say_what_to_leave_out(monkeypatch, capsys):
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    assert main([*SHORT, "--arms", "engine-2,peers", "--loaded"]) == 2
    assert "or --arms engine-2" in capsys.readouterr().err


def test_a_file_of_other_records_is_refused(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps({"schema": "kvproof/decode/1"}) + "\n")
    assert main([*SHORT, *ARMS, "--results", str(path)]) == 2
    assert "this kvproof writes kvproof/requests/1" in capsys.readouterr().err
