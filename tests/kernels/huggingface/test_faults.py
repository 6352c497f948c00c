"""Planted faults: each wrong bridge moves the logits, or is refused, in a run that the right one passes."""

import pytest

from kvproof.kernels.huggingface import register_with_transformers

from ._faults import FAULTS
from ._models import BAR, error


def worst(fault) -> float:
    """The error of a fault's run; one that is refused, or would read what is not there, is as large as any."""
    try:
        return error(fault.family, fault.kind, fault.side, lengths=fault.lengths)
    except ValueError:
        return float("inf")


@pytest.fixture(autouse=True)
def _registered():
    register_with_transformers()
    yield
    register_with_transformers()


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_bridge_is_rejected(name, monkeypatch):
    fault = FAULTS[name]
    assert worst(fault) < BAR
    with monkeypatch.context() as patch:
        patch.setattr(fault.module, fault.name, fault.wrong(getattr(fault.module, fault.name)))
        register_with_transformers()  # what is registered by its value, too
        assert worst(fault) > 100 * BAR
