"""What the impls of a cell share."""

import numpy as np
import torch

from kvproof.bench.measure.interleaved import Models


def test_a_checkpoint_is_loaded_once_for_each_dtype_and_framework():
    models = Models("tiny", torch.device("cpu"))
    assert models.torch("float32") is models.torch("float32")
    assert models.torch("float64").dtype == torch.float64
    (params, config), again = models.numpy("float64"), models.numpy("float64")
    assert again[0] is params
    assert config.n_vocab == models.torch("float32").config.n_vocab
    assert np.array_equal(params["wte"]["weight"], models.torch("float64").wte.weight.detach().numpy())
