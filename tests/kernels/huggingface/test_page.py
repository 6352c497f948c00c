"""The page's call runs."""

import re
import sys
from pathlib import Path

import pytest

from ... import _child

pytest.importorskip("transformers", reason="needs transformers; python -m pip install -e '.[dev]'")

PAGE = Path(__file__).parents[3] / "kernels" / "huggingface" / "README.md"


def test_the_call_of_the_page_runs(tmp_path):
    call = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert call
    (tmp_path / "call.py").write_text(call[1], encoding="utf-8")
    run = _child.run([sys.executable, tmp_path / "call.py"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "torch.Size([1, 18])"
