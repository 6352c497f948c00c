"""One run at a time writes a file of results; its lock leaves nothing behind."""

import fcntl
import sys

import pytest

from kvproof.gpt2 import generate
from kvproof.gpt2.__main__ import main
from kvproof.gpt2.cli import generate as cli_generate
from kvproof.gpt2.cli.lock import OutputBusy, locked

from ... import _child
from .test_generate import WORDS, job, printed


def test_a_second_run_on_the_same_output_stops_at_once_and_harms_nothing(tmp_path, capsys, monkeypatch):
    command, out = job(tmp_path, "\n".join(WORDS[:4]), "--max-tokens", "4", "--batch", "2", "--impl", "sdpa")
    whole, seconds = printed(command, capsys), []
    command += ["--output", str(out)]

    def with_a_second_run_inside(*args, **options):
        if options["first_row"] == 0:  # before anything is written
            program = [sys.executable, "-m", "kvproof.gpt2", *command]
            run = _child.run(program, capture_output=True, text=True)
            seconds.append((run.returncode, run.stdout, run.stderr))
        elif options["first_row"] == 2:  # and after; to the lock, another opening of the file is another run
            seconds.append((main(command), *capsys.readouterr()))
        return generate(*args, **options)

    monkeypatch.setattr(cli_generate, "generate", with_a_second_run_inside)
    assert main(command) == 0
    refused = f"kvproof: another run is writing {out}; wait for it, or name another --output\n"
    assert seconds == [(2, "", refused)] * 2
    assert out.read_text(encoding="utf-8") == whole


def test_a_lock_ends_with_its_run_and_leaves_no_empty_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with locked(path):
        assert path.exists()
        with pytest.raises(OutputBusy), locked(path):
            pass
        assert path.exists()
    assert not path.exists()
    with locked(path):
        path.write_text("kept")
    with locked(path):
        assert path.read_text() == "kept"
    assert path.read_text() == "kept"


def test_a_lock_on_a_file_that_its_holder_took_away_is_taken_anew(tmp_path, monkeypatch):
    path, flock = tmp_path / "out.jsonl", fcntl.flock

    def lost(fd, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()  # as the other run does, between our opening and locking it
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", lost)
    with locked(path), pytest.raises(OutputBusy), locked(path):
        pass


def test_a_link_outlives_a_run_that_wrote_nothing(tmp_path):
    (tmp_path / "link").symlink_to("goal")
    with locked(tmp_path / "link"):
        pass
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "goal").exists()
