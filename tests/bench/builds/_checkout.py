"""A checkout of nothing but what a worker imports, so that its process starts in a tenth of a second."""

from pathlib import Path

LAUNCH = "import time\ndef execute():\n    time.sleep(0.02)\n"


def checkout(root: Path, attention: str = "decode_attention = None\n", tests: str = "") -> Path:
    """Write one at root: the text of kernels/attention.py and of tests/test_it.py."""
    for name, text in {
        "kernels/attention.py": attention,
        "kernels/ptx/__init__.py": "",
        "kernels/ptx/launch.py": LAUNCH,
        "tests/test_it.py": tests,
        "pyproject.toml": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
