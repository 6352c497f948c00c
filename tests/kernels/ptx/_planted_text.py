"""A module of a text, from a file, where Triton looks for the source of its kernels."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_text(path: Path, text: str, name: str) -> ModuleType:
    """Write the text to the path and import it under a name that nothing else sees."""
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module
