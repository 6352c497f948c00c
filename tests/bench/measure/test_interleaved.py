"""What a peer's parity decides: red by rounding is timed aloud, wrong is not timed, quantised is shown."""

import json

import numpy as np
import pytest
import torch

from kvproof.bench.decode import main
from kvproof.bench.measure import gate, interleaved, peers, records
from kvproof.bench.measure.impls import torch_source
from kvproof.gpt2 import attention, load

QUICK = ["--device", "cpu", "--new-tokens", "4", "--repeats", "1"]


class Spoilt:
    """A source whose logits are changed on their way out."""

    def __init__(self, source, change):
        self.source, self.change = source, change

    def prefill(self, prompts):
        return self.change(self.source.prefill(prompts))

    def step(self, ids):
        return self.change(self.source.step(ids))


@pytest.fixture
def peer(monkeypatch):
    """peer(change) makes "onnx" our own sdpa, its logits changed so; it takes int8 weights as ours do."""

    def install(change):
        def source(impl, name, dtype, device, batch, capacity, weights=None):
            return Spoilt(torch_source(load(name, dtype=dtype, weights=weights), batch, capacity), change)

        monkeypatch.setattr(peers, "require", lambda impl: None)
        monkeypatch.setattr(peers, "peer_source", source)

    return install


def run(capsys, *words) -> tuple[int, dict, str]:
    code = main(["--impl", "onnx", "--json", *QUICK, *words])
    record = json.loads(capsys.readouterr().out)
    records.check(record, "the record")
    main(["--impl", "onnx", *QUICK, *words])
    return code, {row["impl"]: row for row in record["impls"]} | {"cell": record["cell"]}, capsys.readouterr().out


def larger(logits):
    return logits * (1 + 2e-4)


def other_tokens(logits):
    return logits.roll(1, -1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # in which its float32 stands in
def test_a_peer_whose_rounding_is_red_is_timed_with_the_word_in_its_row(capsys, peer, dtype):
    peer(larger)
    code, rows, out = run(capsys, "--dtype", dtype)
    assert code == 1
    assert not rows["onnx"]["parity_before"]["green"]
    assert rows["onnx"]["runs"]
    assert rows["onnx"]["refused"] is None
    (line,) = [line for line in out.splitlines() if line.startswith("onnx  ")]
    assert line.endswith("RED")
    assert out.count("RED") == 2, "its parity line and its row, no other's"


def test_a_peer_that_decodes_other_tokens_is_not_timed_and_the_others_are(capsys, peer):
    peer(other_tokens)
    code, rows, out = run(capsys)
    assert code == 1
    assert [len(rows[impl]["runs"]) for impl in ("naive", "sdpa", "onnx")] == [1, 1, 0]
    assert "onnx         RED, not timed" in out


@pytest.mark.parametrize("change", [larger, other_tokens])
def test_a_red_peer_is_never_what_the_cache_is_judged_by(capsys, peer, change, monkeypatch):
    peer(change)
    main(["--impl", "onnx", "--json", *QUICK])
    assert json.loads(capsys.readouterr().out)["break_even"]["cached"] == "sdpa"


def test_with_one_of_ours_red_nothing_is_timed(capsys, peer, monkeypatch):
    peer(lambda logits: logits)
    monkeypatch.setitem(attention.DECODE_STEP, "sdpa", lambda q, cache, layer: 0 * q)
    code, rows, out = run(capsys)
    assert code == 1
    assert not any(rows[impl]["runs"] for impl in ("naive", "sdpa", "onnx"))
    assert "nothing is timed" in out


def test_int8_weights_are_a_part_of_the_cell_and_a_peer_s_error_is_shown_without_a_bar(capsys, peer):
    peer(lambda logits: logits)
    code, rows, out = run(capsys, "--weights", "int8")
    assert code == 0
    assert rows["cell"]["weights"] == "int8"
    shown = rows["onnx"]["parity_before"]
    assert (shown["green"], shown["bar"]) == (True, None)
    assert 1e-3 < shown["error"] < 1e-1
    assert 0 < shown["kl"] < 1e-2
    assert shown["error"] == pytest.approx(rows["cell"]["quantisation"]["error"], rel=1e-3), "this peer's are ours"
    assert rows["sdpa"]["parity_before"]["bar"] == 5e-5
    assert rows["cell"]["weight_bytes"] == sum(
        array.nbytes for name, array in load("tiny", weights="int8").state_dict().items() if name != "wpe.weight"
    )
    assert "quantisation, no bar" in out


def test_a_quantised_peer_without_numbers_is_red_and_not_timed(capsys, peer):
    peer(lambda logits: logits * float("nan"))
    code, rows, out = run(capsys, "--weights", "int8")
    assert code == 1
    assert not rows["onnx"]["runs"]
    assert "its logits are no numbers" in out


def test_an_impl_without_int8_weights_says_so_and_the_others_go_on(capsys):
    assert main(["--impl", "numpy", "--weights", "none,int8", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "numpy       is left out: it has no int8 weights" in out
    assert out.count("\nnumpy  ") == 1


def test_an_unknown_kind_of_weights_is_exit_code_2(capsys):
    with pytest.raises(SystemExit):
        main(["--weights", "int4"])
    assert "'int4' is not known; choose of none, int8" in capsys.readouterr().err


def test_quantisation_is_the_divergence_of_what_the_logits_say():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 5))
    truth = gate.Truth(logits.argmax(-1), logits, np.ones((2, 3)))
    same = gate.quantisation(logits + 7, truth)
    assert (same.kl, same.flips) == (pytest.approx(0, abs=1e-15), 0), "a constant says nothing"
    other = rng.normal(size=logits.shape)
    p, q = (torch.from_numpy(x).log_softmax(-1) for x in (logits, other))
    wanted = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") / 6
    assert gate.quantisation(other, truth).kl == pytest.approx(float(wanted))


def test_a_comparison_of_quantised_models_has_both_oracles():
    models = interleaved.Models("tiny", torch.device("cpu"), "int8")
    found = interleaved.Comparison(models, [[5, 6, 7]], 2, "float32")
    difference = np.abs(found.truth.logits[:, 0] - found.unquantised.logits[:, 0]).max()
    assert 1e-3 < difference < 1


def test_an_impl_that_computes_in_another_dtype_says_so():
    found = interleaved.Comparison(interleaved.Models("tiny", torch.device("cpu")), [[5, 6, 7]], 2, "bfloat16")
    assert found.note("numpy") == "computes in float32, since it has no bfloat16 here"
    assert found.note("sdpa") is None
