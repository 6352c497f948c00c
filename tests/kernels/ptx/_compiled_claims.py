"""Tests that need Triton to compile, no GPU and no open route: the tests of a file run together in a child process.

pytest's own process may have a GPU, and conftest.py opens a route in it.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from ... import _child


@cache
def outcomes(file: str) -> dict[str, str]:
    """Every test of the file -> the traceback of its failure, or nothing."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "error", *_child.words(file)]
    child = _child.run(command, capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def in_child(module: dict[str, Any]) -> None:
    """The last line of a test file, in_child(globals()): in pytest its tests report what the child found."""
    tests = {name: x for name, x in module.items() if name.startswith("test_")}
    if module["__name__"] != "__main__":
        module |= {name: reporter(module["__file__"], name) for name in tests}
        return
    found = dict.fromkeys(tests, "")
    for name, test in tests.items():
        try:
            test()
        except BaseException:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


def reporter(file: str, name: str) -> Callable[[], None]:
    def test():
        if failure := outcomes(file)[name]:
            pytest.fail(failure, pytrace=False)

    return test


def raised(kind: type[BaseException], words: str, function: Callable, *args, **kwargs) -> None:
    """Assert that the call raises `kind` with a message that the pattern `words` matches."""
    with pytest.raises(kind, match=words):
        function(*args, **kwargs)
