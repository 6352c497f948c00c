"""Results on disk: valid or refused, whole or not there, none lost to another run."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvproof.bench import decode
from kvproof.bench.decode import main
from kvproof.bench.measure import records

RUN = ["--impl", "sdpa", "--device", "cpu", "--new-tokens", "2", "--repeats", "1"]


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("results") / "one.jsonl"
    assert main([*RUN, "--results", str(path)]) == 0
    (found,) = records.read(path)
    return found


def test_what_is_appended_is_read_back(record, tmp_path):
    path = tmp_path / "run.jsonl"
    for key in "abc":
        records.append(path, record | {"key": key})
    assert records.read(path) == [record | {"key": key} for key in "abc"]
    assert records.main([str(path)]) == 0


@pytest.mark.parametrize(("change", "place"), [
    ({"schema": "kvproof/decode/9"}, "$.schema"),
    ({"explanation": None}, "$.explanation"),
    ({"new": 1}, "$: "),
    ({"impls": []}, "$.impls"),
    ({"constants": {}}, "$.constants"),
])  # fmt: skip
def test_a_record_that_breaks_the_schema_is_refused_and_the_file_is_as_it_was(record, tmp_path, change, place):
    path = tmp_path / "run.jsonl"
    records.append(path, record)
    held = path.read_bytes()
    with pytest.raises(records.BadRecord) as error:
        records.append(path, record | change)
    assert place in str(error.value)
    assert path.read_bytes() == held


def test_a_record_of_quantised_weights_is_one_and_so_is_one_that_is_older_than_they_are(record):
    shown = {"green": True, "error": 0.01, "bar": None, "kl": 1e-4, "agree": 3, "of": 4, "faults": []}
    cell = record["cell"] | {"weights": "int8", "quantisation": shown}
    records.check(record | {"cell": cell, "impls": [record["impls"][0] | {"parity_before": shown}]}, "the record")
    with pytest.raises(records.BadRecord, match=r"\$\.cell\.weights"):
        records.check(record | {"cell": cell | {"weights": "int4"}}, "the record")
    old = {name: value for name, value in cell.items() if name not in ("weights", "quantisation")}
    records.check(record | {"cell": old}, "the record")


@pytest.mark.parametrize("line", ['{"half', "[]", '{"schema": "kvproof/decode/1"}'])
def test_a_bad_line_is_named(record, tmp_path, capsys, line):
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(record) + "\n" + line + "\n")
    with pytest.raises(records.BadRecord, match=r"run\.jsonl:2: "):
        records.read(path)
    assert records.main([str(path)]) == 1
    assert "run.jsonl:2" in capsys.readouterr().err


def test_nan_never_reaches_the_file(record, tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        records.append(tmp_path / "run.jsonl", record | {"constants": record["constants"] | {"gflops": float("nan")}})
    assert not (tmp_path / "run.jsonl").exists()


def test_the_file_is_replaced_whole_and_never_grown(record, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    records.append(path, record)
    held, seen = path.read_bytes(), []

    def killed(source, target):
        seen.append((path.read_bytes(), Path(source).read_bytes()))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        records.append(path, record | {"key": "b"})
    ((before, aside),) = seen
    assert before == path.read_bytes() == held
    assert aside.startswith(held)
    assert aside.count(b"\n") == 2
    monkeypatch.undo()
    records.append(path, record | {"key": "c"})
    assert [r["key"] for r in records.read(path)] == [record["key"], "c"]


def test_no_file_is_exit_code_2(tmp_path, capsys):
    assert records.main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


WITHOUT_TORCH = (  # gpt2's own __init__ brings it, and takes seconds
    "import sys, types, kvproof\ngpt2 = sys.modules['kvproof.gpt2'] = types.ModuleType('kvproof.gpt2')\n"
    "gpt2.__path__ = [f'{kvproof.__path__[0]}/gpt2']\n"
)
APPENDING = WITHOUT_TORCH + (
    "import json, sys\nfrom kvproof.bench.measure import records\n"
    "path, who = sys.argv[1:]\nrecord = json.load(sys.stdin)\n"
    "print('ready', flush=True)\n"
    "for at in range(15):\n    records.append(path, record | {'key': f'{who}-{at}'})\n"
)


def test_runs_that_append_to_one_file_lose_nothing(record, tmp_path):
    path = tmp_path / "run.jsonl"
    program = [sys.executable, "-c", APPENDING, str(path)]
    runs = [
        subprocess.Popen([*program, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for who in "abc"
    ]
    for run in runs:  # all at once
        assert run.stdin
        run.stdin.write(json.dumps(record))
        run.stdin.close()
    for run in runs:
        with run:  # waits, and closes its pipes
            assert run.wait() == 0
    kept = [r["key"] for r in records.read(path)]
    assert sorted(kept) == sorted(f"{who}-{at}" for who in "abc" for at in range(15))
    assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_lets_its_lock_go(record, tmp_path, sent):
    path = tmp_path / "run.jsonl"
    records.append(path, record)
    holding = WITHOUT_TORCH + (
        "import sys, time\nfrom pathlib import Path\nfrom kvproof.gpt2.cli.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", holding, str(path)], stdout=subprocess.PIPE) as run:
        assert run.stdout
        assert run.stdout.readline() == b"held\n"
        waiting = threading.Thread(target=records.append, args=(path, record | {"key": "b"}))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive(), "it waits for the lock"
        assert len(records.read(path)) == 1
        run.send_signal(sent)
        waiting.join(10)
    assert [r["key"] for r in records.read(path)] == [record["key"], "b"]


@pytest.mark.parametrize("rewritten", [
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.rstrip("\n"),
    lambda text: "\ufeff" + text.replace("\n", "\r\n").rstrip(),
], ids=["byte-order mark", "CR LF", "no last line end", "all three"])  # fmt: skip
def test_a_file_that_an_editor_rewrote_is_read_and_has_one_form_again(record, tmp_path, rewritten):
    path = tmp_path / "run.jsonl"
    lines = "".join(json.dumps(record | {"key": key}) + "\n" for key in "ab")
    path.write_bytes(rewritten(lines).encode())
    assert [r["key"] for r in records.read(path)] == ["a", "b"]
    records.append(path, record | {"key": "c"})
    assert path.read_text() == lines + json.dumps(record | {"key": "c"}) + "\n"


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "run.jsonl").write_bytes(b"\xff\xfe{\x00}\x00")
    with pytest.raises(records.BadRecord, match=r"run\.jsonl: no UTF-8 text"):
        records.read(tmp_path / "run.jsonl")


def test_a_link_s_target_takes_the_records(record, tmp_path):
    (tmp_path / "link").symlink_to("goal")
    for key in "ab":
        records.append(tmp_path / "link", record | {"key": key})
    assert (tmp_path / "link").is_symlink()
    assert [r["key"] for r in records.read(tmp_path / "goal")] == ["a", "b"]


def test_a_pipe_is_opened_once_for_all_records_and_a_device_stays_one(record, tmp_path):
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with records.sink(path) as keep:
        for key in "ab":
            keep(record | {"key": key})
    reader.join()
    assert [json.loads(line)["key"] for line in got[0].splitlines()] == ["a", "b"]
    records.append("/dev/null", record)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("where", "said"), [("no/run.jsonl", "make the folder"), (".", "Is a directory"), ("run.jsonl/x", "Not a dir")]
)
def test_a_file_that_cannot_be_written_is_known_before_the_first_cell(tmp_path, capsys, monkeypatch, where, said):
    (tmp_path / "run.jsonl").touch()
    monkeypatch.setattr(decode.Bench, "measure", None)
    assert main([*RUN, "--results", str(tmp_path / where)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_what_was_measured_is_printed_where_it_cannot_be_kept(record, capsys, monkeypatch, words):
    monkeypatch.setattr(decode.Bench, "measure", lambda bench, cell: record | {"key": bench.plan.key(cell)})
    assert main([*RUN, "--results", "/dev/full", *words]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["impls"] == record["impls"]
    assert "/dev/full: No space left on device; the last record is on standard output instead" in err


def test_a_run_whose_reader_has_enough_goes_on_measuring_for_its_file(record, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(
        decode.Bench, "measure", lambda bench, cell: measured.append(cell) or record | {"key": bench.plan.key(cell)}
    )
    monkeypatch.setattr(decode, "abandon_output", lambda: None)

    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(decode.Progress, "print", closed)
    sweep = [*RUN[:-4], "--new-tokens", "2,3", "--repeats", "1"]
    assert main([*sweep, "--results", str(tmp_path / "run.jsonl")]) == 0
    assert len(records.read(tmp_path / "run.jsonl")) == len(measured) == 2
    with pytest.raises(BrokenPipeError):
        main(sweep)
    assert len(measured) == 2
