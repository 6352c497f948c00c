"""Rows of which a server tells the most probable tokens alone: what is known of the others, and where rows belong."""

import math

import numpy as np
import pytest

from kvproof.bench.judge.served.answers import Row, Token
from kvproof.bench.judge.served.client import ServerError
from kvproof.bench.judge.served.limits import limit
from kvproof.bench.judge.served.rows import apart, arrays, compared, earlier, one_late, same_context
from kvproof.bench.judge.served.server import Prompt


def row(token, *top, logprob=None):
    """A row whose most probable tokens are 0, 1, ... with these log-probabilities."""
    known: dict[Token, float] = dict(enumerate(top))
    return Row(token, known.get(token, logprob), known, min(top) if top else None)


def test_a_token_that_one_list_leaves_out_is_apart_by_no_more_than_is_certain():
    a = Row(0, -1.0, {0: -1.0, 5: -2.5}, -2.5)
    within, beyond = Row(0, -1.0, {0: -1.0, 1: -2.0}, -2.0), Row(0, -1.0, {0: -1.0, 1: -3.0}, -3.0)
    assert compared(a, within).apart == 0.5  # of token 1: a says at most -2.5, b says -2.0
    assert compared(within, a).apart == 0.5
    assert compared(a, beyond).apart == 0.5  # of token 5: b says at most -3.0
    assert set(compared(a, beyond).tokens) == {0, 1, 5}
    improbable = Row(0, -1.0, {0: -1.0, 5: -6.0}, -6.0)
    assert compared(improbable, Row(0, -1.0, {0: -1.0}, -1.0)).apart == 0  # it may be just as improbable there
    assert compared(a, Row(0, -1.25, {}, None)).apart == 0.25  # without a list there is no bound


@pytest.mark.parametrize("other", [
    Row("a", -1.0, {"a": -1.0, "b": -2.0}, -2.0), Row("a", None, {"a": -1.0}, -1.0), Row("a", -1.0, {}, None),
    Row(0, -1.0, {0: -1.0, "b": -2.0}, -2.0),
])  # fmt: skip
def test_ids_and_texts_are_never_compared(other):
    ids = row(0, -1.0, -2.0)
    for a, b in ((ids, other), (other, ids)):
        with pytest.raises(ServerError, match="named by ids and by texts"):
            compared(a, b)


def test_ids_are_never_glued_to_a_text_as_digits():
    assert Prompt("a").followed_by([Row("7", None, {}, None)]) == Prompt("a7")
    with pytest.raises(ServerError, match="a token came as the id 7 alone"):
        Prompt("a").followed_by([Row("b", None, {}, None), Row(7, None, {}, None)])


def test_a_nan_is_infinitely_far_apart():
    assert apart([row(0, math.nan, -2.0)], [row(0, -1.0, -2.0)]) == math.inf


def test_rows_that_come_one_position_late_are_told_from_wrong_ones():
    rng = np.random.default_rng(0)
    decoded = [row(int(i % 4), *rng.normal(-3, 1, 4)) for i in range(6)]
    before, late = decoded[0], [*decoded[1:], row(0, *rng.normal(-3, 1, 4))]
    assert one_late(before, late, decoded, 1e-6)
    assert apart(earlier(before, late), decoded) == 0
    wrong = [row(int(i % 4), *rng.normal(-3, 1, 4)) for i in range(6)]
    assert not one_late(before, wrong, decoded, 1e-6)
    assert not one_late(before, decoded, decoded, 1e-6)
    assert not one_late(None, late, decoded, 1e-6)


def test_rows_of_two_generations_are_compared_up_to_the_first_other_token():
    a = [row(i, -1.0, -2.0) for i in (0, 1, 1)]
    assert same_context(a, a) == 3
    assert same_context(a, [row(i, -1.0, -2.0) for i in (0, 0, 1)]) == 2
    assert same_context(a, a[:1]) == 1


def test_arrays_are_filled_with_what_is_there():
    one, two = compared(row(0, -0.5), row(0, -0.25)), compared(row(0, -0.5, -1.0), row(0, -0.5, -1.5))
    a, b = arrays([[one], [two, two]])
    assert a.shape == b.shape == (2, 2, 2)
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()
    np.testing.assert_allclose(np.abs(a - b).max(-1), [[0.25, 0.25], [0.5, 0.5]])
    assert np.exp(b[0, 0]).sum() == pytest.approx(1)  # a token alone stands against all others


def test_half_precision_is_allowed_its_own_roundings_and_float32_those_of_float16():
    assert limit("float32", 5.0) == limit("float16", 5.0) == pytest.approx(80 * 5 * 2**-11)
    assert limit("bfloat16", 5.0) == 8 * limit("float16", 5.0)
    assert limit("bfloat16", 0.01) == limit("bfloat16", 1.0)
