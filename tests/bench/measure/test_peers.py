"""The peers compute what we compute: each is held to the NumPy oracle, on equal prompts and on ragged ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof import reference
from kvproof.bench.measure import peers
from kvproof.bench.measure.gate import ask_oracle
from kvproof.bench.measure.impls import forced_logits
from kvproof.gpt2.weights import checkpoint
from kvproof.reference.config import Config
from kvproof.reference.judge.parity import LOGIT_BARS, logit_error

from ..._checkpoints import VARIANTS, save_pretrained, tensors_of

CPU = torch.device("cpu")
HF = ("hf-dynamic", "hf-static", "hf-uncached")
STEPS = 4
LENGTHS = {"equal": (5, 5, 5), "ragged": (9, 1, 4)}


def skip_without(impl):
    for package in peers.PACKAGES[impl]:
        pytest.importorskip(package, reason=f"{impl} needs {package}; python -m pip install -e '.[peers]'")


@pytest.fixture(scope="module")
def truth():
    """Name of LENGTHS -> prompts of tiny, and what the oracle says of them."""
    params, config = reference.load(checkpoint("tiny"))
    rng = np.random.default_rng(0)
    prompts = {
        name: [rng.integers(config.n_vocab, size=n).tolist() for n in lengths] for name, lengths in LENGTHS.items()
    }
    return {name: (rows, ask_oracle(rows, params, config, STEPS)) for name, rows in prompts.items()}


def source_for(impl, prompts, name: str | Path = "tiny", dtype="float32"):
    skip_without(impl)
    return peers.peer_source(impl, name, dtype, CPU, len(prompts), max(map(len, prompts)) + STEPS - 1)


def error_of(source, prompts, truth):
    return logit_error(forced_logits(source, prompts, truth.ids), truth.logits)


@pytest.mark.parametrize("rows", LENGTHS)
@pytest.mark.parametrize(("impl", "dtype"), [(i, d) for i in HF for d in LOGIT_BARS] + [("onnx", "float32")])
def test_a_peer_gives_the_oracle_s_logits_each_time_it_starts(truth, impl, dtype, rows):
    prompts, said = truth[rows]
    source = source_for(impl, prompts, dtype=dtype)
    assert error_of(source, prompts, said) < LOGIT_BARS[dtype]
    backwards = type(said)(*(part[::-1].copy() for part in vars(said).values()))
    assert error_of(source, prompts[::-1], backwards) < LOGIT_BARS[dtype], "what it cached before is still seen"


@pytest.mark.parametrize("impl", HF)
@pytest.mark.parametrize("lost", ["position_ids", "attention_mask"])
def test_a_ragged_batch_without_positions_or_mask_is_far_from_the_oracle(truth, monkeypatch, impl, lost):
    prompts, said = truth["ragged"]
    source = source_for(impl, prompts)
    whole = source.model.forward

    def forward(*args, **kw):
        # A mask of ones, since without any transformers guesses from the positions where a row begins.
        kw[lost] = torch.ones_like(kw[lost]) if lost == "attention_mask" else None
        return whole(*args, **kw)

    monkeypatch.setattr(source.model, "forward", forward)
    assert error_of(source, prompts, said) > 100 * LOGIT_BARS["float32"]


@pytest.mark.parametrize("impl", HF)
def test_equal_prompts_go_to_transformers_without_a_mask(truth, monkeypatch, impl):
    prompts, _ = truth["equal"]
    source = source_for(impl, prompts)
    whole, seen = source.model.forward, []
    monkeypatch.setattr(source.model, "forward", lambda *args, **kw: seen.append((args, kw)) or whole(*args, **kw))
    source.prefill(prompts)
    logits = source.step(torch.tensor([1, 2, 3]))
    assert logits.shape == (3, source.model.config.vocab_size)
    assert all(kw.keys() == {source.cache_name, "use_cache", "logits_to_keep"} for _, kw in seen)
    assert [args[0].shape[1] for args, _ in seen] == ([5, 6] if impl == "hf-uncached" else [5, 1])
    assert {kw["use_cache"] for _, kw in seen} == {impl != "hf-uncached"}


def test_a_ragged_batch_with_the_padded_row_s_positions_is_far_from_the_oracle_in_onnx(truth, monkeypatch):
    prompts, said = truth["ragged"]
    source = source_for("onnx", prompts)
    run = source._run
    monkeypatch.setattr(source, "_run", lambda ids, at, last: run(ids, at.max(0, keepdims=True).repeat(3, 0), last))
    assert error_of(source, prompts, said) > 100 * LOGIT_BARS["float32"]


@pytest.mark.parametrize("impl", peers.PEERS)
def test_an_untied_head_the_exact_gelu_and_another_epsilon_are_honoured(tmp_path, impl):
    config = Config(
        n_vocab=33, n_ctx=20, n_embd=16, n_head=2, n_layer=2, n_inner=24, gelu="exact", layer_norm_epsilon=1e-2,
        tie_word_embeddings=False,
    )  # fmt: skip
    folder = save_pretrained(tmp_path / "untied", config, tensors_of(config))
    prompts = [[1, 2, 3], [4], [32, 31]]
    said = ask_oracle(prompts, *reference.load(folder), STEPS)
    assert error_of(source_for(impl, prompts, folder), prompts, said) < LOGIT_BARS["float32"]


def test_a_model_is_kept_and_its_head_shares_the_embedding_s_memory():
    skip_without("hf-dynamic")
    model = peers.hf_model("tiny", torch.float32, CPU)
    assert peers.hf_model("tiny", torch.float32, CPU) is model
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.config._attn_implementation == "sdpa"
    assert not model.training


@pytest.mark.parametrize("impl", peers.PEERS)
def test_a_peer_that_is_not_installed_says_how_to_install_it(monkeypatch, impl):
    monkeypatch.setattr(peers, "version", lambda package: None)
    assert peers.available()[impl] is None
    with pytest.raises(ImportError, match=rf"{peers.PACKAGES[impl][0]} is not here; .* -e '\.\[peers\]'"):
        peers.peer_source(impl, "tiny", "float32", CPU, 1, 4)


def test_half_precision_is_float32_in_onnx_and_itself_in_transformers():
    assert [peers.peer_dtype("onnx", d) for d in ("float32", "bfloat16", "float16")] == ["float32"] * 3
    assert peers.peer_dtype("hf-static", "bfloat16") == "bfloat16"


def test_onnx_refuses_what_it_cannot_compute():
    skip_without("onnx")
    with pytest.raises(ValueError, match=r"onnx came with .*float64 on cpu"):
        peers.peer_source("onnx", "tiny", "float64", CPU, 1, 4)
    with pytest.raises(ValueError, match="head_dim is 4; onnx takes multiples of 8"):
        peers.peer_source("onnx", VARIANTS / "plain", "float32", CPU, 1, 4)
