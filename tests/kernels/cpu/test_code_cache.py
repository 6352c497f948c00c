"""What is kept of the engine on the disk: nothing stale, damaged or of others is run, and no failure ends a run."""

import errno
import importlib.metadata
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kvproof.kernels.cpu import code_cache, machine_code

from ._stand_in import VARIANT


def another_version(package):
    real = importlib.metadata.version
    return lambda machine, patch: patch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name == package else real(name)
    )


def edit_a_source(machine, patch):
    path = machine.sources / "stand_in.py"
    path.write_text(path.read_text().replace("address + thread", "thread + address"))


CHANGES = {
    "a source edited": edit_a_source,
    "a source added": lambda machine, patch: (machine.sources / "more.py").write_text(""),
    "another numba": another_version("numba"),
    "another llvmlite": another_version("llvmlite"),
    "another kvproof": another_version("kvproof"),
    "another CPU": lambda machine, patch: patch.setattr(machine_code, "cpu_name", lambda: "znver9"),
    "a feature less": lambda machine, patch: patch.setattr(machine_code, "cpu_features", lambda: "+avx2,+fma"),
    "another machine": lambda machine, patch: patch.setattr(sys, "platform", "freebsd"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_compiled_from_or_for_something_else_is_not_run(machine, monkeypatch, change):
    machine.load()
    CHANGES[change](machine, monkeypatch)
    assert machine.load().origin == "compiled"
    assert len(machine.said) == 1, "nothing is wrong with the other entry"
    assert machine.load().origin == "disk"
    assert len(machine.entries()) == machine.compiled == 2


def flipped(text: bytes, at: int) -> bytes:
    return text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]


DAMAGES = {
    "empty": lambda text: b"",
    "cut in the first line": lambda text: text[:20],
    "cut in the header": lambda text: text[:200],
    "cut in the code": lambda text: text[:-1],
    "longer": lambda text: text + b"\0",
    "a bit of the first line": lambda text: flipped(text, 3),
    "a bit of the sum": lambda text: flipped(text, len(code_cache.MAGIC) + 2),
    "a bit of the header": lambda text: flipped(text, 100),
    "a bit of the code": lambda text: flipped(text, len(text) // 2),
    "the last bit": lambda text: flipped(text, len(text) - 1),
    "something else": lambda text: b"\x7fELF" + bytes(1000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_said_and_compiled_anew(machine, damage):
    machine.load()
    (path,) = machine.entries()
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    assert machine.load().origin == "compiled"
    assert machine.said[0] == f"{path} is damaged; the engine is compiled anew"
    assert len(machine.said) == 2
    assert machine.load().origin == "disk"
    assert machine.entries() == [path]


def test_no_bit_of_an_entry_can_change_unseen(machine):
    machine.load()
    (path,) = machine.entries()
    whole, key = path.read_bytes(), code_cache.key_of(machine_code.made_with(VARIANT), machine.sources)
    assert code_cache.read(path, key) == machine.load().code
    for at in range(0, len(whole), 7):
        path.write_bytes(flipped(whole, at))
        with pytest.raises(code_cache.Unusable, match="is damaged"):
            code_cache.read(path, key)


def test_an_entry_under_the_name_of_another_is_not_run(machine):
    machine.load()
    machine.load(VARIANT._replace(weight="int8"))
    int8, float32 = sorted(machine.entries(), key=lambda path: path.name.startswith("float32"))
    float32.write_bytes(int8.read_bytes())
    assert machine.load().origin == "compiled"
    assert machine.said[0] == (
        f"{float32} was made from other sources, by other versions or for another CPU; the engine is compiled anew"
    )


def of_another_user(path: Path, patch) -> str:
    """Make it another user's; where only root could, make this user another one."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        return "belongs to user 12345, not to you (0)"
    me = os.geteuid()
    patch.setattr(os, "geteuid", lambda: me + 1)
    return f"belongs to user {me}, not to you ({me + 1})"


def linked_from_elsewhere(path: Path, patch) -> str:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    return f"cannot be read ({os.strerror(errno.ELOOP)})"


def with_mode(mode: int):
    def change(path: Path, patch) -> str:
        path.chmod(mode)
        return f"can be written by other users (mode {mode:o})"

    return change


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
@pytest.mark.parametrize("change", [of_another_user, linked_from_elsewhere, with_mode(0o620), with_mode(0o602)])
def test_an_entry_that_others_may_have_written_is_not_run(machine, monkeypatch, change):
    machine.load()
    (path,) = machine.entries()
    with monkeypatch.context() as patch:
        why = change(path, patch)
        assert machine.load().origin == "compiled"
    assert machine.said[0] == f"{path} {why}; the engine is compiled anew"
    if change is not of_another_user or os.geteuid() == 0:  # else the folder is another user's, too
        assert len(machine.said) == 2
        assert machine.load().origin == "disk"


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
@pytest.mark.parametrize("change", [of_another_user, with_mode(0o770), with_mode(0o707)])
def test_a_folder_that_others_may_write_to_is_not_used(machine, monkeypatch, change):
    machine.load()
    why = change(machine.cache / "machine_code", monkeypatch)
    for _ in range(2):
        assert machine.load().origin == "compiled"
        assert machine.said[0].startswith(f"{machine.cache / 'machine_code'} {why}; ")
        assert machine.said[2].startswith(f"cannot keep the compiled engine: {machine.cache / 'machine_code'} {why}; ")
        assert len(machine.said) == 3


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
def test_an_entry_is_its_user_s_alone(machine):
    before = os.umask(0)
    try:
        machine.load()
    finally:
        os.umask(before)
    (path,) = machine.entries()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def under_a_file(machine, patch):
    machine.cache.write_text("")
    return os.strerror(errno.ENOTDIR)


def under_a_folder_of_the_system(machine, patch):
    patch.setenv("KVPROOF_CACHE_DIR", "/proc/kvproof")
    return os.strerror(errno.ENOENT)


def on_a_full_disk(machine, patch):
    def full(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "replace", full)
    return os.strerror(errno.ENOSPC)


def in_a_read_only_folder(machine, patch):
    def mkstemp(**options):  # root writes to any folder: a mode would not do
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    patch.setattr(tempfile, "mkstemp", mkstemp)
    return os.strerror(errno.EROFS)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("place", [under_a_file, under_a_folder_of_the_system, on_a_full_disk, in_a_read_only_folder])
def test_what_cannot_be_kept_is_said_and_runs(machine, monkeypatch, place):
    why = place(machine, monkeypatch)
    where = code_cache.folder()
    for _ in range(2):
        assert machine.load().origin == "compiled"
        assert machine.said[1:] == [
            f"cannot keep the compiled engine: {where}: {why}; it is compiled again at each start; set "
            "KVPROOF_CACHE_DIR to a folder that only you can write to"
        ]
    assert [path for path in machine.cache.rglob("*") if path.is_file()] == []


def test_an_entry_in_a_read_only_folder_is_read(machine, monkeypatch):
    """One that was last used long ago, which cannot be noted there."""
    machine.load()
    (path,) = machine.entries()
    os.utime(path, (0, 0))

    def utime(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", utime)
    assert machine.load().origin == "disk"
    assert machine.said == []


def test_without_a_home_the_engine_is_compiled_and_runs(machine, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("KVPROOF_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert machine.load().origin == "compiled"
    assert machine.said[-1].startswith("cannot keep the compiled engine: Could not determine home directory.; it is")


@pytest.mark.parametrize(
    ("platform", "environment", "found"),
    [
        ("linux", {}, "{home}/.cache/kvproof/machine_code"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/kvproof/machine_code"),
        ("linux", {"XDG_CACHE_HOME": "x"}, "{home}/.cache/kvproof/machine_code"),  # not absolute: as if unset
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "{home}/Library/Caches/kvproof/machine_code"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/kvproof/machine_code"),
        ("win32", {}, "{home}/AppData/Local/kvproof/machine_code"),
        ("linux", {"XDG_CACHE_HOME": "/x", "KVPROOF_CACHE_DIR": "/k"}, "/k/machine_code"),
        ("linux", {"KVPROOF_CACHE_DIR": "~/k"}, "{home}/k/machine_code"),
        ("linux", {"KVPROOF_CACHE_DIR": ""}, "{home}/.cache/kvproof/machine_code"),
    ],
)
def test_the_folder_is_the_one_asked_for_or_the_platform_s(monkeypatch, platform, environment, found):
    for name in ("KVPROOF_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert code_cache.folder() == Path(found.format(home=Path.home()))


def test_a_process_killed_while_it_writes_leaves_no_entry(machine):
    body = "import os\nfrom kvproof.kernels.cpu import code_cache\n"
    body += "code_cache.os.replace = lambda *paths: os.kill(os.getpid(), 9)\nload()"
    run = subprocess.run([sys.executable, "-c", machine.program(body)], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    assert machine.entries() == []
    (half,) = machine.cache.rglob(f"{code_cache.TEMPORARY}*")
    assert machine.load().origin == "compiled"
    assert machine.load().origin == "disk"
    assert half.exists(), "it may be of a process that is about to rename it"
    long_ago = time.time() - code_cache.UNUSED - 60
    os.utime(half, (long_ago, long_ago))
    machine.load(VARIANT._replace(weight="int8"))
    assert not half.exists()


def test_ctrl_c_while_it_writes_leaves_nothing(machine, monkeypatch):
    def interrupted(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            machine.load()
    assert list((machine.cache / "machine_code").iterdir()) == []
    assert machine.load().origin == "compiled"


def test_entries_that_have_long_been_unused_are_cleared_away(machine, monkeypatch):
    now, old = time.time(), []
    for variant, days in ((VARIANT, 31), (VARIANT, 29), (VARIANT._replace(weight="int8"), 31)):
        monkeypatch.setattr(machine_code, "cpu_name", lambda days=days: f"CPU {days}")
        before = set(machine.entries())
        machine.load(variant)
        old += set(machine.entries()) - before
        when = now - days * code_cache.DAY
        os.utime(old[-1], (when, when))
    monkeypatch.setattr(machine_code, "cpu_name", lambda: "CPU of today")
    machine.load()
    left = machine.entries()
    assert [path in left for path in old] == [False, True, True]
    assert len(left) == 3


def test_an_entry_that_is_used_is_not_cleared_away(machine, monkeypatch):
    machine.load()
    (path,) = machine.entries()
    long_ago = time.time() - code_cache.UNUSED - 60
    os.utime(path, (long_ago, long_ago))
    assert machine.load().origin == "disk"
    monkeypatch.setattr(machine_code, "cpu_name", lambda: "another")
    machine.load()
    assert path in machine.entries()
