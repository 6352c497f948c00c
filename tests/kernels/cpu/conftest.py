"""The stand-in for the engine, and a machine with an empty cache."""

import pytest

from ._stand_in import Machine


@pytest.fixture(scope="session")
def code(tmp_path_factory):
    """The stand-in's object file, compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        return Machine(tmp_path_factory.mktemp("code"), patch).load().code


@pytest.fixture
def machine(tmp_path, monkeypatch, code):
    return Machine(tmp_path, monkeypatch, code)
