"""Perplexity by sliding windows: the golden sums, each token scored once, and the command."""

import json
import math

import numpy as np
import pytest
import torch

from kvproof.gpt2.__main__ import main
from kvproof.gpt2.perplexity import sliding_nll

from .._gpt2_models import golden_model
from .._reference_models import goldens


@pytest.mark.parametrize("stride", [512, 1024])
def test_perplexity_is_the_golden_one(stride):
    golden, seen = goldens("syn-hd32"), []
    total, count = sliding_nll(golden_model("syn-hd32"), golden["ppl_ids"].tolist(), stride, progress=seen.append)
    want_total, want_count = golden[f"ppl_stride{stride}_sum_count"]
    assert count == want_count
    assert abs(total - want_total) <= 1e-11 * want_total
    assert sum(seen) == 3000


@pytest.mark.parametrize("n", [2, 10, 11, 31])
@pytest.mark.parametrize("stride", [1, 3, 10])
def test_each_token_is_scored_once_with_the_past_its_window_holds(n, stride):
    model, window = golden_model("syn-tiny"), 10
    ids = np.random.default_rng(0).integers(11, size=n)
    want, count = 0.0, 0
    begin, end = 0, min(window, n)
    for i in range(1, n):
        if i >= end:
            begin, end = begin + stride, min(end + stride, n)
        if i > begin:
            logits = model(torch.from_numpy(ids[None, begin:i]))[0, -1]
            want, count = want + (logits.logsumexp(-1) - logits[ids[i]]).item(), count + 1
    total, scored = sliding_nll(model, ids.tolist(), stride, window)
    assert scored == count
    assert abs(total - want) < 1e-11 * want


def test_the_perplexity_command_says_what_the_function_gives(tmp_path, capsys, tiny):
    path = tmp_path / "tale.txt"
    path.write_text("Once upon a time there was a king.")
    ids = tiny.tokenizer.encode(path.read_text())
    total, count = sliding_nll(tiny, ids, 4, 8)
    assert main(["perplexity", "--file", str(path), "--stride", "4", "--window", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "nats_per_token": total / count, "perplexity": math.exp(total / count), "tokens_scored": count
    }  # fmt: skip
    assert main(["perplexity", "--file", str(path), "--stride", "4", "--window", "8"]) == 0
    assert f"{total / count:.6f} nats per token" in capsys.readouterr().out
