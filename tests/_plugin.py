"""A pytest plugin of ours as a project would use it: the example of its docstring, a run with it, what it imports."""

import importlib.metadata
import subprocess
import sys
import textwrap
from types import ModuleType

INSTALLED = {entry.value for entry in importlib.metadata.entry_points(group="pytest11")}


def example(plugin: ModuleType, before: str) -> str:
    """The test file in the plugin's docstring, which follows the line that ends with `before`."""
    text = (plugin.__doc__ or "").split(f"{before}\n")[1].split("\nWith --kvproof-json")[0]
    return textwrap.dedent(text).strip() + "\n"


def options(plugin: ModuleType) -> list[str]:
    """pytest's options for a run with the plugin, by itself."""
    return [
        *([] if plugin.__name__ in INSTALLED else ["-p", plugin.__name__]),
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
    ]


def run_pytest(plugin: ModuleType, pytester, program: str, *words):
    """Run a test file under pytest, with the plugin."""
    pytester.makepyfile(test_it=program)
    return pytester.runpytest_inprocess(*options(plugin), *words)


def imported(plugin: ModuleType) -> str:
    """The packages beside pytest and the standard library that importing the plugin imports."""
    program = (
        "import sys, pytest; before = set(sys.modules)\n"
        f"import {plugin.__name__}\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
