"""Bugs planted in the engine's own source, each in a copy that is compiled: a check of this suite rejects each of them,
for its own reason."""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from kvproof.kernels import cpu
from kvproof.reference.config import Config
from kvproof.reference.judge.cases import Case, check
from kvproof.reference.judge.parity import LOGIT_BARS, logit_error
from kvproof.reference.model import forward
from kvproof.reference.synthetic import random_tensors
from kvproof.reference.weights import nest

from ..._gpt2_models import random_prompts, torch_model
from . import _attending
from ._compiled import edited, engine_modules, planted
from ._planted_faults import FAULTS, MODELS, Fault
from .test_functions import check_exp2, check_gelu, check_norm, gelus, norms, powers
from .test_linear import Layer, check_parts, product, usual
from .test_linear import check as check_product
from .test_memory import check_bfloat16

CONFIG = Config(n_vocab=61, n_ctx=40, n_embd=24, n_head=2, n_layer=2, n_inner=40)
IN_THE_SUITE = {
    "causal_one_late", "l_not_shrunk", "8_bits_truncated", "sum_in_another_order_for_one_row",
    "layer_norm_over_n_less_1", "gelu_of_another_constant", "bfloat16_truncated",
}  # fmt: skip


def check_model(dtype: str = "float32"):
    """Raise AssertionError unless the engine's logits are the oracle's, and those of a sequence alone to the bit."""
    params = nest({name: array.astype(np.float64) for name, array in random_tensors(CONFIG, 0)})
    model, prompts = torch_model(CONFIG, 0, dtype, "numba"), random_prompts(61, (9, 3, 5))

    def logits(rows):
        cache = model.new_cache(len(rows), 12)
        first = model.prefill([prompts[row] for row in rows], cache)
        return torch.stack([first, model.decode(torch.tensor([7 + row for row in rows]), cache)])

    got = logits(range(3))
    for row, prompt in enumerate(prompts):
        want = forward(np.array([[*prompt, 7 + row]]), params, CONFIG)[0, -2:]
        error = logit_error(got[:, row].numpy(), want)
        assert error <= LOGIT_BARS[dtype], f"logits are wrong by {error:.3g}"
        assert torch.equal(logits([row])[:, 0], got[:, row]), f"sequence {row} has other bits than alone"


def product_of(modules, dtype: str):
    return usual(dtype) if modules is engine_modules() else product(modules, dtype)


def rejects(fault: Fault, modules):
    """Run a fault's check on an engine's files."""
    if isinstance(fault.check, Case):
        cache = "int8" if fault.check.int8 else None
        check(_attending.op(modules, fault.check.dtype, cache), fault.check, return_lse=False)
    elif fault.check.startswith("product"):
        dtype = fault.check.split()[1]
        function = product_of(modules, dtype)
        for n_in, rows in ((83, 15), (1100, 11), (2100, 5)):
            check_product(function, Layer(dtype, n_in, 7, rows))
    elif fault.check == "model":
        with patch.object(cpu, "Engine", modules.engine.Engine):
            check_model()
    else:
        {
            "parts": lambda: check_parts(product_of(modules, "float32"), "float32"),
            "norm": lambda: check_norm(norms(modules, "float32"), "float32", 17),
            "gelu": lambda: check_gelu(gelus(modules, "float32"), "float32", "tanh"),
            "exp2": lambda: check_exp2(powers(modules, "float32"), "float32"),
            "bfloat16": lambda: check_bfloat16(modules.memory, modules.pointers),
        }[fault.check]()


def test_every_fault_is_one_of_its_own_and_a_change_of_what_stands_once_in_its_file():
    assert len({fault[1:4] for fault in FAULTS.values()}) == len(FAULTS) >= 50
    for fault in FAULTS.values():
        edited(fault.file, fault.old, fault.new)
        assert fault.old != fault.new
    assert set(FAULTS) >= IN_THE_SUITE
    assert {fault.file for fault in FAULTS.values()} == {
        "attention", "forward", "functions", "linear", "phases", "pointers",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", [x if x in IN_THE_SUITE else pytest.param(x, marks=pytest.mark.exhaustive) for x in FAULTS]
)
def test_a_check_rejects(name, tmp_path, monkeypatch):
    fault = FAULTS[name]
    monkeypatch.setenv("KVPROOF_CACHE_DIR", str(tmp_path / "cache"))
    with (
        planted(tmp_path, (fault.file, fault.old, fault.new)) as modules,
        np.errstate(all="ignore"),
        pytest.raises(AssertionError, match=fault.reason),
    ):
        rejects(fault, modules)


@pytest.mark.parametrize("check", [
    pytest.param(x, marks=pytest.mark.exhaustive if isinstance(x, Case) else ()) for x in
    dict.fromkeys(fault.check for fault in FAULTS.values() if fault not in MODELS.values())
], ids=str)  # fmt: skip
def test_the_engine_without_a_fault_passes_the_same_checks(check):
    rejects(Fault(check, "", "", "", ""), engine_modules())


def test_the_model_without_a_fault_passes():
    check_model()
