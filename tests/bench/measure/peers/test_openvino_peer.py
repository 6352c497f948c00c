"""OpenVINO as a peer: its cache stays in place, masks and positions of ragged rows count, int8 weights stay int8."""

import numpy as np
import pytest

from kvproof.bench.measure.peers import openvino_peer
from kvproof.reference.judge.parity import LOGIT_BARS

from ._truth import error_of, said_of, skip_without, source_for


@pytest.fixture(autouse=True)
def _here():
    skip_without("openvino")


def test_every_layer_s_cache_is_joined_with_its_attention():
    made = openvino_peer.compiled("tiny", "float32", False, 1)
    assert openvino_peer.fused_attentions(made.model) == made.config.n_layer


def test_a_graph_whose_caches_would_be_copied_is_refused(monkeypatch):
    past = openvino_peer.Graph.past

    def negated(self, name):  # so that the plugin sees no cache
        gathered, variable = past(self, name)
        return self.op.negative(self.op.negative(self.op.abs(gathered))), variable

    openvino_peer.compiled.cache_clear()
    monkeypatch.setattr(openvino_peer.Graph, "past", negated)
    with pytest.raises(RuntimeError, match="openvino joined 0 of 6 layers' caches"):
        openvino_peer.compiled("tiny", "float32", False, 1)


def test_with_int8_weights_the_products_take_int8():
    model = openvino_peer.compiled("tiny", "float32", True, 1).model
    ops = [op for op in model.get_runtime_model().get_ops() if op.get_rt_info()["layerType"].value == "FullyConnected"]
    assert len(ops) == 4 * 6 + 1
    assert {op.input(1).get_element_type().get_type_name() for op in ops} == {"i8"}


def test_it_has_the_threads_that_it_is_given():
    assert [openvino_peer.compiled("tiny", "float32", False, n).model.get_property("INFERENCE_NUM_THREADS")
            for n in (1, 2)] == [1, 2]  # fmt: skip


@pytest.mark.parametrize("lost", ["positions", "mask"])
def test_a_ragged_batch_without_positions_or_mask_is_far_from_the_oracle(monkeypatch, lost):
    prompts, said = said_of("ragged")
    source = source_for("openvino", prompts)
    infer = source.request.infer

    class Request:
        def __getattr__(self, name):
            return getattr(request, name)

        def infer(self, feeds, **how):
            M = feeds["ids"].shape[1]
            past = source.filled - M
            spoilt = {
                "positions": np.arange(past, source.filled)[None].repeat(3, 0),
                "mask": np.triu(np.full(feeds["mask"].shape, openvino_peer.MASKED), 1 + past),  # padding is seen
            }
            return infer(feeds | {lost: spoilt[lost]}, **how)

    request = source.request
    monkeypatch.setattr(source, "request", Request())
    assert error_of(source, prompts, said) > 100 * LOGIT_BARS["float32"]
