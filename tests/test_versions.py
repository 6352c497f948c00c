"""pyproject claims the versions that VERSIONS.md says were tried; what a newer Triton would decide, kernels decide."""

import ast
import re
from pathlib import Path

import pytest
import torch
from triton.runtime.jit import JITFunction

from kvproof.kernels.aot.variants import VARIANTS, launches_of
from kvproof.kernels.attention import merge_state
from kvproof.kernels.backend import interpreting
from kvproof.kernels.ladder.__main__ import RUNGS

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
TABLE = (ROOT / "tests" / "VERSIONS.md").read_text(encoding="utf-8")
PEERS = {"transformers", "onnxruntime", "onnx", "openvino", "ctranslate2", "llama-cpp-python", "gguf"}
NOT_TRIED = {"setuptools", "ruff", "pyright", "pre-commit", *PEERS}  # as the table says
FLOORS = {name: x for name, x in re.findall(r'"([\w-]+)>=([\d.]+)', PYPROJECT) if name not in NOT_TRIED}


def tried(row: str) -> dict[str, tuple[int, ...]]:
    """The versions in one row of the table, by package; Python's, too."""
    (line,) = [line for line in TABLE.splitlines() if line.startswith(f"| {row} | ")]
    cells = [cell.strip() for cell in line.split("|")[2:7]]
    named = [*zip(("python", "torch", "triton", "numpy"), cells, strict=False), *map(str.split, cells[4].split(", "))]
    return {name: numbers(x) for name, x in named}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", version))


def test_a_version_is_compared_number_by_number():
    assert numbers("2.11.0") > numbers("2.9.1")
    assert numbers("3.10.13")[:2] == (3, 10)


@pytest.mark.parametrize("package", FLOORS)
def test_a_floor_is_the_version_that_was_tried(package):
    floor, oldest = numbers(FLOORS[package]), tried("oldest")[package]
    assert oldest[: len(floor)] == floor
    assert not any(oldest[len(floor) :])
    assert tried("newest")[package] >= oldest


def test_the_pythons_that_are_claimed_lie_between_those_that_were_tried():
    claimed = [numbers(x) for x in re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)]
    first, last = tried("oldest")["python"][:2], tried("newest")["python"][:2]
    assert claimed == [(3, minor) for minor in range(first[1], last[1] + 1)]
    assert f'requires-python = ">={first[0]}.{first[1]}"' in PYPROJECT


def launches_in(text: str) -> list[set[str | None]]:
    """The keywords of each launch, name[grid](...), in a module's text; None stands for **."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [{keyword.arg for keyword in call.keywords} for call in calls if isinstance(call.func, ast.Subscript)]


@pytest.mark.parametrize("name", [name for name in RUNGS if name != "decode"])  # which all kernels' test has
def test_a_rung_says_whether_a_product_is_contracted_with_a_sum(name):
    found = launches_in((ROOT / "kernels" / "ladder" / f"{name}.py").read_text(encoding="utf-8"))
    assert found
    assert all("enable_fp_fusion" in keywords for keywords in found)


def test_no_launch_of_the_kernels_leaves_that_to_triton():
    folder = ROOT / "kernels"
    # ptx runs its users' launches; cpu has none
    paths = [path for path in folder.rglob("*.py") if not {"ptx", "cpu"} & {*path.relative_to(folder).parts}]
    found = [keywords for path in paths for keywords in launches_in(path.read_text(encoding="utf-8"))]
    assert len(found) > len(RUNGS)
    assert all(keywords & {"enable_fp_fusion", None} for keywords in found)
    assert launches_in("f[8](x, num_warps=1)") == [{"num_warps"}]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_contracts_nothing(name):
    for fused in (True, False):
        options = [launch.options for launch in launches_of(VARIANTS[name], fused=fused)]
        assert options
        assert all(x["enable_fp_fusion"] is False for x in options)


@pytest.mark.skipif(interpreting(), reason="the interpreter compiles nothing")
def test_a_merge_contracts_nothing(monkeypatch, device):
    told, usual = [], JITFunction.run
    monkeypatch.setattr(JITFunction, "run", lambda *args, **kwargs: (told.append(kwargs), usual(*args, **kwargs))[1])
    o, lse = torch.ones(2, 16, device=device), torch.zeros(2, device=device)
    merge_state(o, lse, o, lse)
    assert told
    assert all(x["enable_fp_fusion"] is False for x in told)
