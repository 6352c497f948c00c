"""onnxruntime as a peer: positions of ragged rows, what it refuses, and that int8 weights are int8."""

import numpy as np
import pytest

from kvproof.bench.measure import peers
from kvproof.bench.measure.peers.onnx_peer import onnx_model
from kvproof.bench.measure.peers.weights import float_weights
from kvproof.reference.judge.parity import LOGIT_BARS

from ...._checkpoints import VARIANTS
from ._truth import CPU, error_of, said_of, skip_without, source_for


def test_a_ragged_batch_with_the_padded_row_s_positions_is_far_from_the_oracle(monkeypatch):
    prompts, said = said_of("ragged")
    source = source_for("onnx", prompts)
    run = source._run
    monkeypatch.setattr(source, "_run", lambda ids, at, last: run(ids, at.max(0, keepdims=True).repeat(3, 0), last))
    assert error_of(source, prompts, said) > 100 * LOGIT_BARS["float32"]


def test_it_refuses_heads_that_its_attention_does_not_take():
    skip_without("onnx")
    with pytest.raises(ValueError, match="head_dim is 4; onnx takes multiples of 8"):
        peers.peer_source("onnx", VARIANTS / "plain", "float32", CPU, 1, 4)


def test_with_int8_weights_no_matrix_is_left_in_float32():
    skip_without("onnx")
    config, tensors = float_weights("tiny")
    graph = onnx_model(config, tensors, int8=True).graph
    wide = {name for name, array in tensors.items() if array.dtype == np.float32 and array.ndim == 2}
    assert wide == {"wpe.weight", "wte.scales"}
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DynamicQuantizeMatMul") == 4 * config.n_layer + 1
    assert not {"MatMul", "Gemm"} & set(kinds)
