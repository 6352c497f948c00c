"""The modules of anybody's model, recorded by the paths at which they stand in it."""

import numpy as np
import pytest
import torch
from torch import nn

from kvproof.bench.judge.tracing.module_tape import align, capture_modules

IDS = torch.tensor([[1, 2, 3], [4, 0, 1]])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)

    def forward(self, ids):
        return self.head(self.wte(ids))


def recorded(model, *runs):
    with capture_modules([model]) as tape, torch.no_grad():
        for ids in runs:
            model(ids)
    return tape


def test_every_module_is_recorded_by_its_path_and_none_after_the_end():
    model = Model()
    tape = recorded(model, IDS)
    assert list(tape.calls) == ["wte", "head", "Model"]
    assert np.array_equal(tape.calls["wte"][0], model.wte(IDS).detach().double().numpy())
    assert np.array_equal(tape.ids[0], IDS.numpy())
    model(IDS)
    assert len(tape.calls["head"]) == 1


@pytest.mark.parametrize(("runs", "expected"), [
    ([IDS[:, :1], IDS[:, 1:2], IDS[:, 2:]], ("all", "all", [0, 1, 2])),
    ([IDS[:, :1], IDS[:, :2], IDS], ("end", "last", [0, 1, 2])),
], ids=["a token at a time", "growing prefixes"])  # fmt: skip
def test_runs_are_aligned_by_the_tokens_that_they_were_given(runs, expected):
    model = Model()
    which_a, which_b, positions = align(recorded(model, IDS), recorded(model, *runs), 3)
    assert (which_a, which_b, positions[0].tolist()) == expected


def test_runs_of_other_tokens_do_not_go_together():
    model = Model()
    with pytest.raises(ValueError, match="other tokens"):
        align(recorded(model, IDS), recorded(model, IDS + 1 - IDS // 4), 3)
