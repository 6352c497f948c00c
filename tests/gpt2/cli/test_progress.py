"""A command that works for long says so on a terminal, and there alone."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvproof.gpt2.cli import progress

FOLDER = str(Path(progress.__file__).parent)  # the module alone, without torch
HEAD = (
    f"import sys, time\nsys.path.insert(0, {FOLDER!r})\nimport progress\nprogress.DELAY, progress.PERIOD = 0.2, 0.1\n"
)


def on_a_terminal(body: str) -> tuple[str, str]:
    """(standard output, what a terminal as standard error got) of a program."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", HEAD + body], stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    got = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's end of a terminal
            break
        got += part
    out, _ = child.communicate()
    os.close(ours)
    assert child.returncode == 0, got
    return out, got.decode()


COUNTING = (
    "with progress.Progress('prompts', 8, 2) as line:\n"
    "    for at in range(6):\n        time.sleep(0.15)\n        line.update()\n        line.print(f'out {at}')\n"
)


def test_a_terminal_sees_what_is_at_work_and_keeps_nothing_of_it():
    out, screen = on_a_terminal(COUNTING)
    assert out == "".join(f"out {at}\n" for at in range(6))
    assert "prompts, 5 of 8, 0 s, about 0 s left" in screen
    last = screen.rsplit("\r", 2)
    assert last[1].strip() == last[2] == "", "the line is taken away"


def test_tokens_per_second_are_shown_where_tokens_are_counted():
    body = (
        "with progress.Progress('requests', 8, tokens=lambda: 100) as line:\n    line.update(4)\n    time.sleep(0.6)\n"
    )
    _, screen = on_a_terminal(body)
    rate, rest = screen.split("requests, 4 of 8, ", 1)[1].split(" tokens/s, ", 1)
    assert 100 / 2 < float(rate) <= 100 / 0.2
    assert "about" in rest


@pytest.mark.parametrize("to", ["pipe", "file"])
def test_a_log_gets_nothing(tmp_path, to):
    with open(tmp_path / "log", "w+b") as log:
        stderr = subprocess.PIPE if to == "pipe" else log
        run = subprocess.run([sys.executable, "-c", HEAD + COUNTING], stdout=subprocess.PIPE, stderr=stderr)
        log.seek(0)
        assert (run.stderr or log.read()) == b""
    assert run.returncode == 0
    assert run.stdout.count(b"\n") == 6


@pytest.mark.parametrize("body", ["pass", "line.print('x')", "line.update()"])
def test_what_is_done_at_once_shows_nothing(body):
    _, screen = on_a_terminal(f"with progress.Progress('work', 1) as line:\n    {body}\n")
    assert screen == ""


def test_work_that_never_returns_to_python_is_not_silent_either():
    _, screen = on_a_terminal("with progress.Progress('one call'):\n    time.sleep(0.6)\n")
    assert "one call, 0 s" in screen


def test_no_thread_wakes_while_something_is_timed():
    program = (
        "drawn, draw = [], progress.Progress.draw\n"
        "progress.Progress.draw = lambda line: (drawn.append(1), draw(line))\n"
        "with progress.Progress('work') as line:\n"
        "    time.sleep(0.5)\n    with line.still():\n        time.sleep(0.1); before = len(drawn); time.sleep(0.5)\n"
        "        print(len(drawn) - before)\n    time.sleep(0.5)\n    print(len(drawn) - before > 1)\n"
    )
    assert on_a_terminal(program)[0] == "0\nTrue\n"


def test_an_exception_takes_the_line_away_too():
    program = (
        "try:\n    with progress.Progress('work'):\n        time.sleep(0.5); raise KeyboardInterrupt\n"
        "except KeyboardInterrupt:\n    print('interrupted', file=sys.stderr)\n"
    )
    assert on_a_terminal(program)[1].replace("\r\n", "\n").endswith("\rinterrupted\n")


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59.9, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_seconds_are_said_as_people_say_them(seconds, words):
    assert progress.clock(seconds) == words


def test_a_line_longer_than_the_terminal_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    line = progress.Progress("x" * 50)
    line.shown, line.begun, written = True, time.monotonic() - 10, []
    monkeypatch.setattr(line, "_put", written.append)
    line.draw()
    assert written == ["\r" + "x" * 19]
