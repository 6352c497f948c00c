"""What is kept of machine code on the disk: nothing damaged or of others is run, and no failure ends a launch."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from kvproof.kernels.ptx.native import disk

from ._ir import start

KEY, CODE, NAMES = "0" * 64, b"\x7fELF\n" + bytes(range(256)), ["f", "warp"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KVPROOF_CACHE_DIR", str(tmp_path))
    return tmp_path / "ptx"


def ended(child, words: str | None = None) -> tuple[int, str, str]:
    out, error = child.communicate(words, timeout=60)
    return child.returncode, out.strip(), error.strip()


def used(path: Path, ago: float) -> None:
    """Make a file look as if it was last used so many seconds ago."""
    then = time.time() - ago
    os.utime(path, (then, then))


def test_what_is_written_is_read(folder):
    assert disk.read(KEY) is None
    assert disk.write(KEY, CODE, NAMES) == ""
    assert disk.read(KEY) == (CODE, NAMES)
    assert [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())] == [0o700, 0o600]


def test_no_cut_and_no_bit_of_a_file_goes_unseen():
    disk.write(KEY, CODE, NAMES)
    path = disk.path_of(KEY)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            assert disk.read(KEY) is None, at
    path.write_bytes(whole + b"\0")
    assert disk.read(KEY) is None
    disk.write(KEY, CODE, NAMES)
    assert disk.read(KEY) == (CODE, NAMES)


def test_a_file_under_another_key_s_name_is_not_read():
    disk.write(KEY, CODE, NAMES)
    disk.path_of(KEY).rename(disk.path_of("1" * 64))
    assert disk.read("1" * 64) is None


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


OPENED = {
    "a file": lambda path: path.chmod(0o620),
    "a folder": lambda path: path.parent.chmod(0o777),
    "a link": linked,
}


@pytest.mark.parametrize("way", OPENED)
def test_what_others_may_have_written_is_not_read(way):
    disk.write(KEY, CODE, NAMES)
    OPENED[way](disk.path_of(KEY))
    assert disk.read(KEY) is None


def test_nothing_is_kept_in_a_folder_that_others_may_write_into(folder):
    folder.mkdir()
    folder.chmod(0o777)
    assert disk.write(KEY, CODE, NAMES) == f"others may write into {folder}"
    assert [*folder.iterdir()] == []


def test_of_too_many_bytes_those_go_that_were_used_longest_ago(monkeypatch):
    keys = [str(n) * 64 for n in range(8)]
    for age, key in enumerate(keys):
        disk.write(key, CODE, NAMES)
        used(disk.path_of(key), 7200 + age)
    assert disk.read(keys[7])  # is used now
    monkeypatch.setattr(disk, "MOST", 8 * disk.path_of(KEY).stat().st_size)
    disk.write("8" * 64, CODE, NAMES)
    assert [key[0] for key in (*keys, "8" * 64) if disk.read(key)] == ["0", "1", "2", "3", "7", "8"]


def test_a_writer_that_is_killed_leaves_no_half_of_a_file(folder):
    killed = start(folder.parent, "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)")
    assert ended(killed)[0] == -signal.SIGKILL
    (half,) = folder.iterdir()
    assert half.stat().st_size > 0
    assert half.name.startswith(disk.TEMPORARY)
    assert ended(start(folder.parent)) == (0, "42 1", "")
    assert half.exists(), "its writer may still be at work"
    used(half, 2 * disk.HOUR)
    disk.write(KEY, CODE, NAMES)
    assert not half.exists()
    assert ended(start(folder.parent)) == (0, "42 0", "")


FAILURES = {
    "File too large": "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))",
    "No space left on device": "import errno\ndef full(*a): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
    "os.replace = full",
}


@pytest.mark.parametrize("why", FAILURES)
def test_a_disk_that_takes_no_more_is_said_once_and_costs_nothing_but_time(folder, why):
    again = '\ncode.compiled(b"other", lambda: ["define i64 @f() { ret i64 1 }"])'
    code, out, error = ended(start(folder.parent, FAILURES[why] + again))
    assert (code, out) == (0, "42 2")
    assert error.count("\n") == 0
    assert error.startswith("kvproof: machine code of the PTX machine is not kept for later processes: ")
    assert why in error
    assert [*folder.iterdir()] == []
    assert ended(start(folder.parent)) == (0, "42 1", "")


def test_a_folder_that_is_only_read_serves_what_it_has():
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "ptx"
        assert ended(start(base)) == (0, "42 1", "")
        for path in (base, folder, *folder.iterdir()):
            os.chmod(path, 0o555)
        another = (
            "os.setuid(12345)\n" if os.geteuid() == 0 else ""
        )  # root may write anywhere; what is root's is trusted
        assert ended(start(base, another)) == (0, "42 0", "")
        code, out, error = ended(start(base, f"{another}code.digest_of = lambda key, level: 'other'"))
        assert (code, out) == (0, "42 1")
        assert "Permission denied" in error
        for path in (base, folder):
            os.chmod(path, 0o755)


def test_two_processes_at_once_compile_one_key_and_both_are_right(folder):
    meet = "os.replace = lambda *paths, usual=os.replace: (print('ready', flush=True), input(), usual(*paths))"
    children = [start(folder.parent, meet) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"  # both have written, and neither has renamed
    assert [ended(child, "\n") for child in children] == [(0, "42 1", "")] * 2
    (path,) = folder.iterdir()
    assert path.suffix == ".code"
    assert ended(start(folder.parent)) == (0, "42 0", "")
