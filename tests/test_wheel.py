"""The wheel: one top-level name, all that runs, and nothing of others touched."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("reference", "kernels", "gpt2", "bench")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built from a copy, since setuptools leaves a build folder behind."""
    out, copy = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("clone")
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    run = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(copy)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    (path,) = out.glob("kvproof-*.whl")
    return path


def test_the_wheel_holds_one_top_level_name_and_the_checkpoint(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"kvproof"}
    for needed in ("model.safetensors", "config.json", "vocab.bpe"):
        assert f"kvproof/gpt2/checkpoints/tiny/{needed}" in names
    assert "kvproof/gpt2/data/vocab.bpe" in names
    assert "kvproof/bench/measure/decode.schema.json" in names
    modules = {f"kvproof/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert modules <= set(names), "a folder is not among pyproject's packages"
    assert not [name for name in names if "corpus" in name or "tests" in name]
    assert wheel.stat().st_size < 6e6


def test_the_wheel_lives_beside_hugging_face_s_kernels_and_leaves_it_unharmed(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"

    def pip(*words):
        run = subprocess.run([python, "-m", "pip", *words, "-q"], capture_output=True, text=True, cwd=tmp_path)
        if "install" in words and "No matching distribution found for kernels" in run.stderr:
            pytest.skip("no package registry is reachable to install Hugging Face's kernels from")
        assert run.returncode == 0, run.stderr

    def files(package):
        program = (
            f"import importlib.metadata as m, json; print(json.dumps([str(f.locate()) for f in m.files('{package}')]))"
        )
        run = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
        return {os.path.realpath(path) for path in json.loads(run.stdout)}

    pip("install", "--no-deps", "kernels", str(wheel))
    theirs, ours = files("kernels"), files("kvproof")
    assert not theirs & ours
    find = "from importlib.util import find_spec as f; print(f('kernels').origin, f('kvproof.kernels').origin)"
    where = subprocess.run(
        [python, "-c", find], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.split()
    assert where[0] in theirs
    assert where[1] in ours
    pip("uninstall", "-y", "kvproof")
    assert all(Path(path).exists() for path in theirs)
    assert not Path(where[1]).exists()
