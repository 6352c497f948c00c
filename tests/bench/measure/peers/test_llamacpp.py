"""llama.cpp as a peer: the file that is written for it, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from kvproof.bench.measure import peers
from kvproof.bench.measure.peers import llamacpp
from kvproof.bench.measure.peers.weights import float_weights

from ...._checkpoints import save_pretrained, tensors_of
from ._truth import BAR, CPU, error_of, said_of, skip_without, source_for


def test_each_of_our_tensors_has_its_gguf_name():
    names = [
        llamacpp.gguf_name(name) for name in ("wte.weight", "ln_f.bias", "h.11.attn.c_proj.weight", "h.0.ln_2.bias")
    ]
    assert names == ["token_embd.weight", "output_norm.bias", "blk.11.attn_output.weight", "blk.0.ffn_norm.bias"]


def test_the_file_holds_the_matrices_in_the_dtype_asked_for_and_all_else_in_float32(tmp_path):
    skip_without("llamacpp")
    import gguf

    config, tensors = float_weights("tiny")
    llamacpp.write_gguf(tmp_path / "tiny.gguf", config, tensors, "Q8_0")
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    assert len(held) == len(tensors)
    for name, array in tensors.items():
        tensor = held[llamacpp.gguf_name(name)]
        quantised = array.ndim == 2 and name != "wpe.weight"
        assert tensor.tensor_type.name == ("Q8_0" if quantised else "F32")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        array = array.T if quantised and name.startswith("h.") else array
        assert np.abs(values - array).max() <= (np.abs(array).max() / 127 if quantised else 0)


def test_its_logits_err_by_a_table_of_gelu_in_float16_and_by_no_more_than_float32_beside_it():
    prompts, exact = said_of("ragged")
    source = source_for("llamacpp", prompts)
    assert error_of(source, prompts, exact) > BAR
    assert error_of(source, prompts, said_of("ragged", "llamacpp")[1]) < BAR


def test_it_refuses_another_gelu_and_rows_that_are_not_whole_blocks(tmp_path):
    skip_without("llamacpp")
    tiny, _ = float_weights("tiny")
    small = replace(tiny, n_vocab=9, n_ctx=16, n_embd=16, n_head=2, n_layer=1, n_inner=24)
    for change, weights, words in [
        ({"gelu": "exact"}, None, "gelu is 'exact'; llamacpp's GPT-2 has 'tanh' alone"),
        ({}, "int8", "n_embd 16 and n_inner 24 came; llamacpp's int8 takes multiples of 32"),
    ]:
        config = replace(small, **change)
        folder = save_pretrained(tmp_path / str(weights), config, tensors_of(config))
        with pytest.raises(ValueError, match=words):
            peers.peer_source("llamacpp", folder, "float32", CPU, 1, 4, weights)


def test_packed_weights_are_left_out_where_a_process_that_tries_them_dies(monkeypatch):
    skip_without("llamacpp")
    asked = []
    monkeypatch.setattr(llamacpp, "loaded", lambda *what: asked.append(what))
    for survives in (True, False):
        monkeypatch.setattr(llamacpp, "survives_packing", lambda survives=survives: survives)
        llamacpp.model("tiny", "float32", True)
        llamacpp.model("tiny", "float32", False)
    assert [what[-1] for what in asked] == [True, False, False, False]


def test_weights_that_are_left_unpacked_are_said_to_be(monkeypatch):
    skip_without("llamacpp")
    prompts, _ = said_of("equal")
    monkeypatch.setattr(llamacpp, "survives_packing", lambda: False)
    assert source_for("llamacpp", prompts, weights="int8").note == llamacpp.UNPACKED
    assert source_for("llamacpp", prompts).note is None
