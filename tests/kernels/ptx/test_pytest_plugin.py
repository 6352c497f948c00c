"""The plugin as a project would use it: its fixture, failure texts, artefacts, and the example of its docstring."""

import json
from functools import partial
from types import SimpleNamespace

import pytest

from kvproof.kernels.ptx import pytest_plugin

from ... import _plugin
from .algebra._fpsan import needs_fpsan

pytest_plugins = "pytester"


run_pytest = partial(_plugin.run_pytest, pytest_plugin)
example = _plugin.example(pytest_plugin, "before it writes it:")


def test_the_module_imports_nothing_but_pytest_and_the_standard_library():
    assert _plugin.imported(pytest_plugin) == "['kvproof']"


def test_names_that_a_file_system_confuses_get_files_of_their_own(tmp_path):
    paths = {pytest_plugin.write_records(tmp_path, f"t.py::test[{x}]", [{}]) for x in ("a/b", "a:b", "a" * 300)}
    assert len(paths) == 3
    assert all(len(path.name) < 150 for path in paths)


def test_the_example_for_a_kernel_passes_and_records_its_runs(pytester):
    program = example
    assert len([line for line in program.splitlines() if line.strip()]) == 11
    run_pytest(pytester, program, "--kvproof-json", "found").assert_outcomes(passed=1)
    (path,) = (pytester.path / "found").iterdir()
    (record,) = json.loads(path.read_text())["found"]
    assert (record["assertion"], record["passed"], len(record["runs"])) == ("check_kernel", True, 12)
    assert {run["total"]["stored"] for run in record["runs"]} == {1200}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", at < n)\n", ")\n", "*OutOfBounds: *out +1200 bytes, 0 past its end*test_it.py:9*seed=None"),
        ("tl.load(x + at", "tl.load(out + at", "*Uninitialised: *out[[]*test_it.py:9*"),
        ("BLOCK=128", "BLOCK=64", "*assert False*"),
        ("* BLOCK +", "* (BLOCK - 1) +", "*Race: a race at out[[]127]*test_it.py:9*"),
    ],
)
def test_the_example_for_a_kernel_goes_red_when_something_is_wrong(pytester, old, new, message):
    program = example
    assert program.count(old) == 1
    result = run_pytest(pytester, program.replace(old, new))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E  {message}"])
    assert "kernels/ptx" not in result.stdout.str()  # the traceback ends at the user's own line


def test_a_kernel_s_fault_is_recorded(pytester):
    run_pytest(pytester, example.replace(", at < n)\n", ")\n"), "--kvproof-json", "found")
    (path,) = (pytester.path / "found").iterdir()
    (record,) = json.loads(path.read_text())["found"]
    assert record["passed"] is False
    assert record["fault"].startswith("OutOfBounds: ")


def test_under_the_interpreter_a_kernel_is_not_checked_but_fails_with_what_to_unset(pytester, monkeypatch):
    class InterpretedFunction:
        """What Triton makes of a jitted function under its interpreter."""

    monkeypatch.setattr("kvproof.kernels.ptx.compile.tl", SimpleNamespace(sum=InterpretedFunction()))
    result = run_pytest(pytester, example)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Refused: TRITON_INTERPRET is set, so nothing is compiled; unset it and*"])


ALGEBRA = """
import torch
import triton
import triton.language as tl


@triton.jit
def scaled(x, out, FIRST: tl.constexpr):
    i = tl.arange(0, 32)
    v = tl.load(x + i)
    tl.store(out + i, (v + v * v) if FIRST else v * (v + 1.0))


def test_it(same_algebra):
    x, out = torch.arange(32.0), torch.empty(32)
    same_algebra((scaled, 1, (x, out, True)), (scaled, 1, (x, out, False)))
"""


@needs_fpsan
def test_the_fixture_of_algebra_records_what_it_compared_and_what_differs(pytester):
    run_pytest(pytester, ALGEBRA, "--kvproof-json", "found").assert_outcomes(passed=1)
    (path,) = (pytester.path / "found").iterdir()
    (record,) = json.loads(path.read_text())["found"]
    assert record == {"assertion": "same_algebra", "passed": True, "compared": ["out"], "outside": []}
    result = run_pytest(pytester, ALGEBRA.replace("v + 1.0", "v + 2.0"), "--kvproof-json", "found")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E  *DifferentAlgebra: Different: in scaled and scaled, out[[]1] is 0x*"])
    assert "kernels/ptx" not in result.stdout.str()
    (record,) = json.loads(path.read_text())["found"]
    assert record["passed"] is False
    assert record["fault"].startswith("DifferentAlgebra: Different: ")
