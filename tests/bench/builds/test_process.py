"""bench/builds/process.py: processes import the build that they are of, and say how they end."""

import os

import pytest

from kvproof.bench.builds.process import CACHES, ENGINE, HERE, Build, BuildFailed, fresh, workers

from ._checkout import checkout

SHOWS = "import os\nwith open({file!r}, 'a') as file:\n    print({what}, file=file)\ndecode_attention = None\n"


def test_a_checkout_of_any_name_is_imported_as_this_project_with_its_own_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv(ENGINE, "numpy")
    seen = tmp_path / "seen"
    text = SHOWS.format(
        what=f"os.path.realpath(__file__), os.getenv('TRITON_INTERPRET'), os.getenv('{ENGINE}')", file=str(seen)
    )
    engines = {"one": {}, "other": {ENGINE: "native"}}
    builds = {name: Build(name, checkout(tmp_path / name, text), env) for name, env in engines.items()}
    with workers(builds) as at:
        for worker in at.values():
            assert worker.ask("ready") == {}
        left = [worker.process for worker in at.values()]
    assert all(process.poll() is not None for process in left)
    (one, *of_one), (other, *of_other) = sorted(line.split() for line in seen.read_text().splitlines())
    assert (one, of_one) == (str(tmp_path / "one/kernels/attention.py"), ["None", "None"])
    assert (other, of_other) == (str(tmp_path / "other/kernels/attention.py"), ["None", "native"])


def test_a_fresh_process_has_caches_of_its_own_each_time(tmp_path):
    seen = tmp_path / "seen"
    text = SHOWS.format(what=f"*map(os.getenv, {CACHES})", file=str(seen))
    build = Build("it", checkout(tmp_path / "it", text), {})
    for _ in range(2):
        with fresh(build):
            pass
    folders = seen.read_text().split()
    assert len({*folders}) == 4
    assert not any(map(os.path.exists, folders))


@pytest.mark.parametrize(
    ("attention", "words"),
    [("raise RuntimeError('no such luck')", "no such luck"), ("import os; os._exit(3)", "exit code 3")],
)
def test_a_process_that_raises_or_ends_is_told_with_its_build(tmp_path, attention, words):
    build = Build("older", checkout(tmp_path / "it", attention), {})
    with pytest.raises(BuildFailed, match=f"(?s)^older: .*{words}"), workers({"it": build}):
        pass


def test_a_record_names_the_commit_and_no_folder():
    about = Build("this", HERE, {ENGINE: "numpy"}).about()
    assert {*about} == {"title", "commit", "dirty", "env"}
    assert str(HERE) not in str(about)
