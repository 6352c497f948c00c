"""Downloads that are cut off, killed, corrupted or run out of disk: whole in the end, or an error and nothing left."""

import signal
import time
from pathlib import Path

import pytest

from kvproof.gpt2 import hub
from kvproof.gpt2.checkpoint import hub_cache

from .._hub_server import LARGE, NEEDED, PLAIN, PROGRAM, VARIANTS, contents, fetch, start


def test_a_token_goes_to_the_hub_and_not_to_the_storage_it_points_to(server, tmp_path):
    fetch(server, tmp_path, "ann/plain", HF_TOKEN="hf_secret")
    assert any("/storage/" in path for _, path, _ in server.asked)
    assert server.trusted
    assert not any("/storage/" in path for path in server.trusted)


def test_a_connection_cut_halfway_is_taken_up_where_it_broke(server, tmp_path):
    server.cut = 1
    folder, _ = fetch(server, tmp_path, "ann/plain")
    assert contents(folder) == NEEDED
    first, second = (span for name, span in server.gets() if name == "model.safetensors")
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 4096
    assert server.sent < 1.2 * len(NEEDED["model.safetensors"])


def test_a_download_killed_halfway_is_taken_up_by_the_next_process(server, tmp_path):
    server.cut, server.stall = 1, True
    run = start(server, tmp_path, "ann/large")
    until = time.monotonic() + 30
    while not any(p.stat().st_size > 4096 for p in tmp_path.rglob("*.part")) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not list(tmp_path.rglob("model.safetensors"))
    folder, _ = fetch(server, tmp_path, "ann/large")
    assert contents(folder) == LARGE
    _, second = (span for name, span in server.gets() if name == "model.safetensors")
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 4096
    assert not list(tmp_path.rglob("*.part"))


def test_a_corrupted_file_is_an_error_and_nothing_of_it_stays(server, tmp_path):
    server.corrupt = True
    target = tmp_path / "model"
    _, err = fetch(server, tmp_path / "home", "ann/plain", target)
    assert "came corrupted" in err
    assert not list(tmp_path.rglob("model.safetensors"))
    assert all(path.stat().st_size <= 4096 for path in tmp_path.rglob("*") if path.is_file())  # nothing as large stays
    assert not target.exists()
    server.corrupt = False
    assert contents(fetch(server, tmp_path / "home", "ann/plain", target)[0]) == NEEDED


def test_a_disk_without_room_is_found_before_any_byte_of_the_weights_is_asked_for(server, tmp_path):
    small = PROGRAM.replace("try:", "hub_cache.shutil.disk_usage = lambda _: types.SimpleNamespace(free=9000)\ntry:", 1)
    _, err = fetch(server, tmp_path, "ann/plain", PROGRAM=small)
    assert "HF_HOME" in err
    assert not server.gets()


def test_a_disk_that_fills_up_leaves_no_part_of_the_file(server, tmp_path):
    full = PROGRAM.replace(
        "try:",
        "import huggingface_hub.file_download as library\n"
        "def http_get(url, stream, **_):\n    stream.write(b'half')\n    raise OSError(28, 'No space left on device')\n"
        "library.http_get = http_get\ntry:",
        1,
    )
    _, err = fetch(server, tmp_path, "ann/plain", PROGRAM=full)
    assert "is full" in err
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    copied = []

    def copyfile(source, target):
        if len(copied) == 1:
            raise OSError(28, "No space left on device")
        copied.append(Path(target).write_bytes(Path(source).read_bytes()))

    with monkeypatch.context() as patch:
        patch.setattr(hub_cache.shutil, "copyfile", copyfile)
        with pytest.raises(hub.HubError, match="No space left on device; make room"):
            hub_cache.copy_to(VARIANTS / "plain", tmp_path / "model")
    assert copied
    assert not list(tmp_path.iterdir())
    (tmp_path / "model").mkdir()  # an empty folder will do
    assert contents(hub_cache.copy_to(VARIANTS / "plain", tmp_path / "model")) == PLAIN
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(hub.HubError, match="not empty"):
        hub.fetch("gpt2", tmp_path / "model")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_an_error(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(hub.HubError, match="no weight_map"):
        hub_cache.shard_names(tmp_path / "index.json")
