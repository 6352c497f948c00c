"""Tests of the PTX machine's compiled side, in a process of their own.

Triton decides once per process whether it interprets, and the one pytest runs in may. So a file's claims are checked
together in a child, where Triton compiles and sees no GPU; in pytest, each test answers for its claim.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import cached_property

import pytest

from ... import _child


class Claims:
    """Decorates the tests of one file, which ends with: if __name__ == "__main__": claim.main()."""

    def __init__(self, file: str):
        self.file = file
        self.functions: dict[str, Callable[[], None]] = {}

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        name = function.__name__
        self.functions[name] = function

        def test():
            if self.outcomes[name]:
                pytest.fail(self.outcomes[name], pytrace=False)

        test.__name__ = name
        return test

    @cached_property
    def outcomes(self) -> dict[str, str]:
        """Every claim of the file -> the traceback of its failure, or nothing."""
        environment = os.environ | {"TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-W", "error", *_child.words(self.file)]
        child = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert child.returncode == 0, child.stderr
        return json.loads(child.stdout.splitlines()[-1])

    def main(self) -> None:
        """Check every claim, here, and print the outcomes."""
        outcomes = dict.fromkeys(self.functions, "")
        for name, function in self.functions.items():
            try:
                function()
            except BaseException:
                outcomes[name] = traceback.format_exc()
        print(json.dumps(outcomes))


def raised(kind: type[BaseException], words: str, function: Callable, *args, **kwargs) -> None:
    """Assert that the call raises `kind` with a message that the pattern `words` matches."""
    with pytest.raises(kind, match=words):
        function(*args, **kwargs)
