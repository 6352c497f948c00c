"""The model of these tests: tiny on the compiled engine, without an end token."""

import pytest

from kvproof.bench.requests.arms import load_endless
from kvproof.bench.requests.jobs import tokenizer_of


@pytest.fixture(scope="session")
def endless():
    return load_endless("tiny", "float32")


@pytest.fixture(scope="session")
def tokenizer():
    return tokenizer_of("tiny")
