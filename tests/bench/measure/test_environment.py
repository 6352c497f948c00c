"""A record says truly where it was measured: the machine, the GPU as its driver shows it, commit and its changes."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch

from kvproof.bench.measure import environment as places
from kvproof.bench.measure.environment import collect_env, commit, cpu, datasheet_gb_per_s, environment

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "bench" / "measure" / "decode.schema.json").read_text(encoding="utf-8")
)
T4 = SimpleNamespace(name="Tesla T4", uuid="1234-5678", total_memory=15_828_320_256, L2_cache_size=4_194_304)


@pytest.fixture
def report(monkeypatch):
    """collect_env's report, without the second it takes."""
    monkeypatch.setattr(places, "collect_env", lambda: "PyTorch version: 0")


def check(record):
    jsonschema.validate(record, SCHEMA["$defs"]["environment"])
    json.dumps(record, allow_nan=False)


def test_the_cpu_s_environment_is_what_the_schema_says(report):
    here = environment(torch.device("cpu"))
    check(here)
    assert torch.__version__.startswith(here["versions"]["torch"])
    assert here["device"] == f"cpu: {here['cpu']['model']} ({torch.get_num_threads()} of {os.cpu_count()} threads)"
    assert here["gpu"] is None


CPUINFO = """\
processor\t: 0
model name\t: Fast CPU @ 2.00GHz
cpu MHz\t\t: 1999.5
physical id\t: 0
core id\t\t: 0
flags\t\t:

processor\t: 1
model name\t: Fast CPU @ 2.00GHz
cpu MHz\t\t: 3100.25
physical id\t: 0
core id\t\t: 0

processor\t: 2
model name\t: Fast CPU @ 2.00GHz
cpu MHz\t\t: 800.0
physical id\t: 1
core id\t\t: 0
"""


def test_two_threads_of_one_core_are_one_core_and_the_fastest_clock_counts(monkeypatch):
    texts = {"/proc/cpuinfo": CPUINFO, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"}
    monkeypatch.setattr(places, "read_text", texts.get)
    here = cpu()
    assert (here["model"], here["cores"], here["mhz"]) == ("Fast CPU @ 2.00GHz", 2, 3100.25)
    assert here["governor"] == "powersave"


def test_what_a_system_does_not_tell_is_null_and_never_empty(monkeypatch, report):
    monkeypatch.setattr(places, "read_text", lambda path: "")
    here = environment(torch.device("cpu"))
    check(here)
    assert (here["cpu"]["cores"], here["cpu"]["mhz"], here["cpu"]["governor"]) == (None, None, None)
    assert here["cpu"]["model"]


def fake_smi(folder: Path, answer: str, code: int = 0):
    """An nvidia-smi that writes its arguments down and answers so."""
    folder.mkdir(exist_ok=True)
    script = folder / "nvidia-smi"
    script.write_text(f'#!/bin/sh\necho "$@" > "{folder}/asked"\necho "{answer}"\nexit {code}\n')
    script.chmod(0o755)


@pytest.fixture
def cuda(monkeypatch, tmp_path, report):
    """A machine whose one GPU is a T4, with an empty PATH but for the folder given back."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: T4)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_a_gpu_is_asked_for_by_its_uuid_and_told_in_full(cuda):
    fake_smi(cuda, "580.65.06, 1590, 5001, 70.00")
    here = environment(torch.device("cuda", 0))
    check(here)
    assert here["device"] == "cuda: Tesla T4"
    assert here["gpu"] == {
        "name": "Tesla T4",
        "driver": "580.65.06",
        "sm_clock_mhz": 1590,
        "memory_clock_mhz": 5001,
        "power_limit_w": 70,
        "memory_bytes": 15_828_320_256,
        "l2_bytes": 4_194_304,
        "datasheet_gb_per_s": 320,
    }
    asked = (cuda / "asked").read_text()
    assert "--id=GPU-1234-5678 " in asked
    assert "driver_version,clocks.max.sm,clocks.max.memory,power.limit" in asked


@pytest.mark.parametrize(("answer", "code", "driver", "clock"), [
    (None, 0, None, None),
    ("580.65.06, [N/A], [Not Supported], N/A", 0, "580.65.06", None),
    ("No devices were found", 6, None, None),
    ("something else", 0, None, None),
    ("580.65.06, 1590, 5001, [N/A]", 0, "580.65.06", 1590),
])  # fmt: skip
def test_what_nvidia_smi_does_not_tell_is_null(cuda, answer, code, driver, clock):
    if answer is not None:
        fake_smi(cuda, answer, code)
    here = environment(torch.device("cuda", 0))
    check(here)
    shown = here["gpu"]
    assert (shown["driver"], shown["sm_clock_mhz"], shown["power_limit_w"]) == (driver, clock, None)
    assert (shown["memory_bytes"], shown["datasheet_gb_per_s"]) == (T4.total_memory, 320)
    assert here["commit"] is None, "git is not on this PATH"


@pytest.mark.parametrize(("name", "bandwidth"), [
    ("Tesla V100-SXM2-16GB", 900),
    ("NVIDIA A100-SXM4-40GB", 1555),
    ("NVIDIA A100-PCIE-40GB", 1555),
    ("NVIDIA A100-SXM4-80GB", 2039),
    ("NVIDIA A100 80GB PCIe", 1935),
    ("NVIDIA A10G", 600),
    ("NVIDIA L4", 300),
    ("NVIDIA H100 80GB HBM3", 3350),
    ("NVIDIA H100 PCIe", 2039),
    ("NVIDIA H200", 4800),
    ("NVIDIA B200", 8000),
    ("NVIDIA GeForce RTX 3090", 936),
    ("NVIDIA GeForce RTX 4090", 1008),
    ("NVIDIA GeForce RTX 5090", 1792),
    ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ("NVIDIA GH200 480GB", None),
    ("NVIDIA GeForce RTX 3090 Ti", None),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ("NVIDIA L40", None),
    ("Tesla T40", None),
    ("NVIDIA GB200", None),
    ("Tesla V100S-PCIE-32GB", None),
])  # fmt: skip
def test_a_gpu_in_the_table_has_its_datasheet_s_bandwidth_and_one_that_only_resembles_it_has_none(name, bandwidth):
    assert datasheet_gb_per_s(name) == bandwidth


def git(folder, *words):
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    run = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def test_the_commit_and_its_changes_are_told_apart(tmp_path):
    file = tmp_path / "bench" / "environment.py"
    file.parent.mkdir()
    file.write_text("1")
    assert commit(file) == (None, None)
    git(tmp_path, "init", "-q")
    (tmp_path / "other").write_text("1")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "one")
    assert commit(file) == (None, None), "a repository that lies around it, but does not track it"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "two")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag does not replace the commit")
    sha = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit(file) == (sha, False)
    (tmp_path / "results.jsonl").write_text("{}")
    assert commit(file) == (sha, False), "what a run writes is not a change of what runs"
    (tmp_path / "other").write_text("2")
    assert commit(file) == (sha, True)


@pytest.fixture
def fresh():
    """collect_env without what an earlier call kept, and without what this test makes it keep."""
    collect_env.cache_clear()
    yield
    collect_env.cache_clear()


def test_the_report_is_torch_s_asked_for_once_and_without_the_user_s_home(monkeypatch, fresh):
    from torch.utils import collect_env as torchs

    calls = []
    monkeypatch.setenv("HOME", "/home/someone")
    text = "PyTorch version: 2\nPython: /home/someone/.venv/bin/python"
    monkeypatch.setattr(torchs, "get_pretty_env_info", lambda: calls.append(1) or text)
    assert collect_env() == collect_env() == "PyTorch version: 2\nPython: ~/.venv/bin/python"
    assert len(calls) == 1


def test_a_report_that_fails_says_why_and_stops_nothing(monkeypatch, fresh):
    from torch.utils import collect_env as torchs

    monkeypatch.setattr(torchs, "get_pretty_env_info", lambda: [][0])
    assert collect_env() == "torch.utils.collect_env failed: IndexError('list index out of range')"


def test_torch_s_own_report_is_what_comes(fresh):
    assert f"PyTorch version: {torch.__version__}" in collect_env()
