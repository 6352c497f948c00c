"""The journal: a run cut off at any byte goes on, a foreign file is refused unchanged, syncs come in groups."""

import json
import os
import time

import pytest

from kvproof.gpt2 import Completion
from kvproof.gpt2.jobs import journal, prompts

PROMPTS = ["né", "a\u2028b", 'quoted "x"', "😀 long", "last"]
SETTINGS = {"seed": 1, "stop": ["\n"]}


def fake(start, part):
    return [Completion([1], [start + i, 7], f"é text {start + i}\n", "length") for i in range(len(part))]


def resume(path, complete=fake, **groups):
    """One start of the program on its output file; returns the number of lines written."""
    wrote = []
    asked = (prompts.question(i, prompt, SETTINGS) for i, prompt in enumerate(PROMPTS))
    done, size = journal.lines_done(path, prompts.PromptForm(), asked)
    chunks = prompts.in_batches(PROMPTS, SETTINGS, 2, complete, done)
    journal.write_journal(path, size, chunks, wrote.append, **groups)
    return sum(wrote)


def test_a_run_cut_off_at_any_byte_is_completed_without_losing_or_repeating_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a thousand of them take seconds
    path = tmp_path / "out.jsonl"
    assert resume(path) == 5
    whole = path.read_bytes()
    assert [json.loads(line)["index"] for line in whole.splitlines()] == [0, 1, 2, 3, 4]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert resume(path) == 5 - whole[:cut].count(b"\n")
        assert path.read_bytes() == whole


def test_a_half_written_batch_is_computed_whole_again():
    calls = []

    def complete(start, part):
        calls.append((start, len(part)))
        return fake(start, part)

    lines = "".join(prompts.in_batches(PROMPTS, SETTINGS, 2, complete, done=3))
    assert calls == [(2, 2), (4, 1)]
    assert [json.loads(line)["index"] for line in lines.splitlines()] == [3, 4]


def test_a_batch_is_on_the_disk_before_the_next_is_computed(tmp_path, monkeypatch):
    path, synced, sizes, sync = tmp_path / "out.jsonl", [], [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sync(fd), synced.append(path.stat().st_size)))

    def complete(start, part):
        sizes.append(path.stat().st_size)
        assert sizes[-1] == (synced[-1] if synced else 0)
        return fake(start, part)

    resume(path, complete, lines=1)
    assert len(synced) == 3
    assert sizes == sorted(set(sizes))


def line(index=0, prompt=PROMPTS[0], settings=SETTINGS):
    return journal.to_line(prompts.record(index, prompt, settings, fake(index, [prompt])[0])).encode()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (b"my notes", "line 1 is no result of this run"),
        (b"my notes\n", "line 1 is no result of kvproof"),
        (b"{}\n", "line 1 is no result of kvproof"),
        (line() + b"\x00\x00", "line 2 is no result of this run"),
        (line(index=1), "answers index '1', this run has '0'"),
        (line(prompt="other"), "answers prompt 'other'"),
        (line(settings={"seed": 2, "stop": ["\n"]}), "made with seed 2, this run has 1"),
        (line(settings={}), "made with seed None"),
        (b"\xef\xbb\xbf" + line(), "line 1 was rewritten by another program: it begins with a byte-order mark"),
        (line().replace(b"\n", b"\r\n"), "line 1 was rewritten by another program: it ends in CR LF"),
        (json.dumps(json.loads(line())).encode() + b"\n", "line 1 was rewritten .* in another form"),
        (line().replace(b": ", b":"), "line 1 was rewritten .* in another form"),
        (line() + b"\n", "line 2 is no result of kvproof"),
        (b"".join(line(i, p) for i, p in enumerate([*PROMPTS, "more"])), "more than this run's 5 prompts"),
        (b"".join(line(i, p) for i, p in enumerate(PROMPTS)) + b"{", "more than this run's 5 prompts"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path, held, message):
    path = tmp_path / "out.jsonl"
    path.write_bytes(held)
    with pytest.raises(journal.OutputMismatch, match=message):
        resume(path)
    assert path.read_bytes() == held


def test_syncs_come_in_groups_of_lines_or_of_time_and_at_the_end(tmp_path, monkeypatch):
    path, synced, now, sync = tmp_path / "out.jsonl", [], [0.0], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sync(fd), synced.append(path.read_bytes().count(b"\n"))))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen = []

    def chunks():
        for i in range(10):
            now[0] = 5.0 if i == 7 else now[0]  # a long step
            yield f"{i}\n"
            seen.append(path.read_bytes().count(b"\n"))

    journal.write_journal(path, 0, chunks(), lambda n: None, lines=4, seconds=1.0)
    assert synced == [4, 8, 10]
    assert seen == list(range(1, 11)), "a kill of the process alone loses no line that came"


def test_what_was_written_is_synced_when_the_run_fails(tmp_path, monkeypatch):
    path, synced, sync = tmp_path / "out.jsonl", [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sync(fd), synced.append(path.read_bytes())))

    def chunks():
        yield "a\n"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.write_journal(path, 0, chunks(), lambda n: None)
    assert synced == [b"a\n"]
