"""The lines of a record that a terminal shows."""

import pytest

from kvproof.bench.report.table import row_line, short, span, texts

from .._records import RED, of, steady


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (1.5, "1.5"), (999.4, "999"), (12345.6, "12346")])
def test_a_figure_has_three_digits_that_count_and_no_exponent(value, text):
    assert short(value) == text


def test_an_interval_without_an_end_is_blank():
    assert span(1, 2.5, 9) == "  1 - 2.5"
    assert span(1, None, 9) == " " * 9


def test_a_refused_row_gives_the_reason_and_no_figure():
    assert row_line({"impl": "triton", "refused": "too fast"}).split() == ["triton", "REFUSED:", "too", "fast"]


def test_a_red_peer_s_row_has_its_figures_and_the_word_or_the_word_alone():
    row = of(steady({"naive": 2.0, "onnx": 1.0}, onnx={"parity_before": RED, "parity_after": RED}), "onnx")
    assert row_line(row) == row_line(row | {"parity_before": row["parity_before"] | {"green": True}}) + "  RED"
    assert row_line(row | {"runs": []}).split() == ["onnx", "RED,", "not", "timed"]


def test_impls_that_wrote_the_same_text_share_it():
    rows = [{"impl": impl, "text": text, "runs": [1]} for impl, text in (("naive", "a"), ("sdpa", "b"), ("eager", "a"))]
    assert list(texts({"impls": [*rows, {"impl": "triton", "text": "c", "runs": []}]})) == [
        "naive, eager wrote:\na\n", "sdpa wrote:\nb\n",
    ]  # fmt: skip
