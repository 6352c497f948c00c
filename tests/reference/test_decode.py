"""reference/decode.py by itself: right. What it shares with the kernel is in tests/kernels/test_decode.py."""

import numpy as np
import pytest

from kvproof.reference import decode
from kvproof.reference.judge.cases import check

from .._attention_battery import CASES as BATTERY
from .._attention_battery import check_attention
from ..kernels.attention._planted_kernels import decode_op
from ..kernels.test_decode import CASES, MORE


@pytest.mark.parametrize("case", [*CASES, *MORE], ids=str)
def test_the_twin_is_right_and_writes_only_the_new_rows(case):
    check(decode_op(decode), case)


def test_the_twin_passes_the_battery():
    check_attention(
        lambda q, k, v, lengths: decode.decode_attention(q, k, v, lengths), [x for x in BATTERY if not x.scale]
    )


@pytest.mark.parametrize("n", [-1, 9])
def test_the_twin_refuses_a_length_outside_the_cache(n):
    q, k = np.ones((1, 1, 4)), np.ones((1, 1, 8, 4))
    with pytest.raises(ValueError, match=rf"lengths are \[{n}\]; the cache has 8 slots, so each must be from 0 to 8"):
        decode.decode_attention(q, k, k, [n])
