"""The Triton kernel under models of transformers, run by the PTX machine: the code that a GPU would run."""

import pytest
import torch

from kvproof.kernels.huggingface import decode, register_with_transformers
from kvproof.kernels.huggingface.keywords import Scores
from kvproof.kernels.huggingface.masks import live_slots

from ._models import BAR, OWN, error


@pytest.mark.parametrize(("family", "kind"), [("gemma2", "dynamic"), ("gpt_oss", "static")])
def test_a_ragged_batch_decodes_as_each_sequence_alone(family, kind):
    register_with_transformers("triton")
    try:
        assert error(family, kind, lengths=(7, 2)) < BAR
    finally:
        register_with_transformers()


@pytest.mark.exhaustive
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("family", OWN)
def test_every_model_and_cache_decodes_as_each_sequence_alone(family, kind, side):
    register_with_transformers("triton")
    try:
        lengths = (5, 5, 5) if side == "right" and OWN[family].get("sliding_window") else (11, 7, 3)
        assert error(family, kind, side, lengths=lengths) < BAR
    finally:
        register_with_transformers()


@pytest.mark.parametrize("layout", ["head first", "slot first"])
def test_a_cache_of_either_layout_is_read_through_a_table_of_slots_in_place(layout):
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 1, 8, generator=rng)
    k, v = (torch.randn(2, 2, 9, 8, generator=rng) for _ in range(2))
    if layout == "slot first":
        k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    shown = torch.tensor([[c == "x" for c in row] for row in (".x.xxx...", "..xxxx.x.")])
    for x in (k, v):
        x.transpose(1, 2)[~shown] = torch.nan
    sinks, live = torch.randn(4, generator=rng), live_slots(shown[:, None, None], 2, 9)
    scores = Scores(0.3, None, None, sinks)
    pages = decode.as_pages(k, v, decode.slot_table(live, 9))
    assert [x.data_ptr() for x in pages[:2]] == [x.data_ptr() for x in (k, v)]
    ours, compiled = (decode.decode(impl, q, k, v, live, scores) for impl in ("triton", "numba"))
    assert torch.isfinite(ours).all()
    assert torch.allclose(ours, compiled, atol=1e-6)


def test_sequences_that_are_no_whole_slots_apart_are_refused():
    k = torch.zeros(2, 1, 9, 8)
    live = live_slots(torch.tensor([[c == "x" for c in row] for row in (".x.", "xxx")])[:, None, None], 2, 3)
    odd = k.as_strided((2, 1, 3, 8), (28, 28, 8, 1))
    with pytest.raises(ValueError, match="a sequence must follow the last one by whole slots"):
        decode.decode("triton", torch.zeros(2, 1, 1, 8), odd, odd, live, Scores(1.0, None, None, None))
