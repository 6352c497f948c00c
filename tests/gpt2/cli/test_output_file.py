"""A file that the user names: what stands at its path stays what it is, and is whole or as it was."""

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from kvproof.gpt2.cli import output_file

WRITES = output_file.check_writable, partial(output_file.write, data="x")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_permissions_that_any_new_file_gets(tmp_path):
    output_file.write(tmp_path / "a", "é")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").read_bytes() == "é".encode()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666])
def test_a_regular_file_is_replaced_and_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "a"
    path.write_text("a longer text than before")
    path.chmod(mode)
    with path.open() as reader:
        output_file.write(path, "new")
        assert reader.read() == "a longer text than before", "whoever reads it reads one file, not two"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, who alone may give files away")
def test_a_regular_file_keeps_its_owner(tmp_path):
    path = tmp_path / "a"
    path.touch()
    os.chown(path, 1234, 2345)
    output_file.write(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid, path.read_text()) == (1234, 2345, "new")


@pytest.mark.parametrize("target", ["there", "missing", "relative", "chain"])
def test_of_a_link_the_target_is_written(tmp_path, target):
    goal, link = tmp_path / "folder" / "goal", tmp_path / "link"
    goal.parent.mkdir()
    if target != "missing":
        goal.write_text("old")
    link.symlink_to("folder/goal" if target == "relative" else goal)
    if target == "chain":
        (tmp_path / "second").symlink_to(link)
        link = tmp_path / "second"
    output_file.check_writable(link)
    output_file.write(link, "new")
    assert link.is_symlink()
    assert (goal.read_text(), goal.is_symlink()) == ("new", False)


def test_a_file_with_a_second_name_keeps_it(tmp_path):
    (tmp_path / "a").write_text("a long old text")
    os.link(tmp_path / "a", tmp_path / "b")
    output_file.write(tmp_path / "a", "new")
    assert (tmp_path / "b").read_text() == "new"


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_device_stays_one(path):
    before = os.stat(path)
    output_file.check_writable(path)
    output_file.write(path, "x" * 100_000)
    assert stat.S_ISCHR(os.stat(path).st_mode)
    assert os.stat(path).st_ino == before.st_ino


def test_a_pipe_s_reader_gets_it_all(tmp_path):
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    output_file.check_writable(path)
    output_file.write(path, b"x" * 300_000)
    reader.join()
    assert got == [b"x" * 300_000]
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("to", ["file", "pipe"])
def test_this_process_s_own_output_is_written_after_what_was_printed(tmp_path, name, to):
    if name == "link":
        (tmp_path / "link").symlink_to("/dev/stdout")
        name = str(tmp_path / "link")
    program = f"print('first'); write({name!r}, 'second\\n'); print('third')"
    folder = str(Path(output_file.__file__).parent)
    program = f"import sys\nsys.path.insert(0, {folder!r})\nfrom output_file import write\n{program}"
    with open(tmp_path / "out", "w") as out:
        run = subprocess.run([sys.executable, "-c", program], stdout=out if to == "file" else subprocess.PIPE)
    assert run.returncode == 0
    assert (run.stdout or (tmp_path / "out").read_bytes()) == b"first\nsecond\nthird\n"


@pytest.mark.parametrize(
    ("path", "number", "words"),
    [
        ("folder", errno.EISDIR, "name a file in it"),
        ("missing/file", errno.ENOENT, "make the folder .*missing first"),
        ("file/under", errno.ENOTDIR, "Not a directory"),
        ("loop", errno.ELOOP, "symbolic links"),
        ("socket", errno.ENXIO, "it is a socket"),
        ("x" * 300, errno.ENAMETOOLONG, "too long"),
        ("", errno.EISDIR, "name a file in it"),
    ],
)
def test_what_cannot_be_written_is_known_before_and_named(tmp_path, monkeypatch, path, number, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        server.bind("socket")
        before = names(tmp_path)
        for call in WRITES:
            with pytest.raises(OSError, match=words) as error:
                call(tmp_path / path)
            assert error.value.errno == number
            assert error.value.filename == str(tmp_path / path)
        assert names(tmp_path) == before


def refusing(monkeypatch, number: int, where):
    """An os.open that refuses to write where `where(path, flags)`: as root, permissions refuse nothing."""
    real = os.open

    def refuse(path, flags, *rest, **options):
        if flags & os.O_WRONLY and where(str(path), flags):
            raise OSError(number, os.strerror(number), path)
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_takes_no_new_file_is_known_before(tmp_path, monkeypatch, number):
    refusing(monkeypatch, number, lambda path, flags: flags & os.O_CREAT)
    for call in (*WRITES, output_file.check_folder):
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            call(tmp_path / "a")
        assert error.value.errno == number
    assert not names(tmp_path)


def test_a_file_is_written_over_where_its_folder_takes_no_new_one(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("a long old text")
    refusing(monkeypatch, errno.EROFS, lambda path, flags: flags & os.O_CREAT)
    output_file.check_writable(path)
    output_file.write(path, "new")
    assert path.read_text() == "new"


def test_a_file_that_may_not_be_written_is_not_replaced_either(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")
    refusing(monkeypatch, errno.EACCES, lambda name, flags: name == str(path))
    for call in WRITES:
        with pytest.raises(PermissionError):
            call(path)
    assert path.read_text() == "old"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for call in WRITES:
        with pytest.raises(OSError, match="No space left"):
            call(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("folder", ["new/deep", "there"])
def test_a_folder_is_checked_and_not_made(tmp_path, folder):
    (tmp_path / "there").mkdir()
    output_file.check_folder(tmp_path / folder)
    assert names(tmp_path) == ["there"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="name a folder"):
        output_file.check_folder(tmp_path / "file" / "in")
