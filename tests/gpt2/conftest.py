"""What these tests share: the embedded model, loaded once a module, and the hub's stand-in."""

import pytest

from kvproof.gpt2 import load

from ._hub_server import HubServer, repositories


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture
def server():
    with HubServer(repositories()) as server:
        yield server
