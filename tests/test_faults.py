"""Every planted fault is rejected, and the honest path it was made from is not."""

import numpy as np
import pytest
from attention_battery import check_attention
from reference_models import F32_BAR, F64_BAR, error, goldens, synthetic

from kvproof.reference import forward
from kvproof.reference.faults import FAULTS, cached_logits, decode

BARS = {np.float64: F64_BAR, np.float32: F32_BAR}
attention_faults = [fault for fault in FAULTS if fault.kind == "attention"]
model_faults = [fault for fault in FAULTS if fault.kind == "model"]


def run(path, dtype):
    """Error of a cached path in `dtype` against the float64 oracle without a cache."""
    config = synthetic("syn-hd32")[1]
    ids = goldens("syn-hd32")["prompt_B"][:64].reshape(2, 32)
    oracle = forward(ids, synthetic("syn-hd32")[0], config)
    return error(path(ids, synthetic("syn-hd32", dtype)[0], config), oracle)


def test_the_catalogue_names_each_fault_once():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == len(attention_faults) + len(model_faults)


@pytest.mark.parametrize("dtype", BARS, ids=["float64", "float32"])
def test_the_honest_cached_path_passes(dtype):
    assert run(cached_logits, dtype) <= BARS[dtype]


@pytest.mark.parametrize("dtype", BARS, ids=["float64", "float32"])
@pytest.mark.parametrize("fault", model_faults, ids=lambda fault: fault.name)
def test_a_wrong_model_stands_above_the_bars_of_both_dtypes(fault, dtype):
    found = run(fault.apply, dtype)
    assert np.isfinite(found)  # a fault that shows as NaN would be found by anyone
    assert found > F32_BAR > F64_BAR


def test_the_honest_attention_passes_the_battery():
    check_attention(decode)


@pytest.mark.parametrize("fault", attention_faults, ids=lambda fault: fault.name)
def test_a_wrong_attention_is_rejected_by_the_battery(fault):
    with pytest.raises(AssertionError):
        check_attention(fault.apply)
