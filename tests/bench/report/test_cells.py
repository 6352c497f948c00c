"""What may stand in a picture: figures that are believed, beside those they may be compared with; the rest is said."""

import copy

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not here; python -m pip install -e '.[plots]'")

from kvproof.bench.report.pictures import PICTURES, pictures

from .._records import GREEN, RED, SWEEP, caption, named, noisy, noisy_row, of


@pytest.mark.parametrize(("change", "reason"), [
    ({"emulated": "PTX machine"}, "run by the PTX machine, no GPU's time"),
    ({"refused": "40 GB/s is above 1.1 x 35 GB/s"}, "refused: 40 GB/s is above"),
    ({"runs": [], "step_ms": None, "total_ms": None}, "parity red, not timed"),
    ({"parity_after": GREEN | {"green": False}}, "parity red after timing"),
    ({"parity_before": RED, "parity_after": RED}, "parity red: its rounding exceeds the bar"),
])  # fmt: skip
def test_what_is_not_believed_is_left_out_of_every_picture_and_said(change, reason):
    found = copy.deepcopy([SWEEP[0], SWEEP[1], noisy(batch=2), noisy(context=60)])
    for r in found:
        of(r, "eager").update(change)
    for name, figure in pictures(found):
        assert not named(figure, "eager"), name
        assert "eager" not in [text.get_text() for text in figure.legends[0].get_texts()], name
        assert reason.split(":")[0] in caption(figure), name
    of(found[0], "eager").update(noisy_row("eager", found[0]["cell"], np.random.default_rng(0)))
    assert named(PICTURES["generation-lengths"](found), "eager"), "the other cells' rows are still drawn"


def test_a_refused_figure_s_reason_stands_in_the_caption():
    found = noisy()
    of(found, "eager")["refused"] = "40 GB/s is above 1.1 x 35 GB/s"
    assert "Left out: eager (refused: 40 GB/s is above 1.1 x 35 GB/s)." in caption(PICTURES["roofline"]([found]))


def test_what_one_cell_cannot_fill_is_named_with_the_option_that_would():
    reasons = {name: figure for name, figure in pictures([noisy()]) if isinstance(figure, str)}
    assert set(reasons) == {"throughput-context", "break-even", "batches"}
    assert "sweep --batch" in reasons["batches"]
    assert "sweep --new-tokens" in reasons["break-even"]
    red = noisy()
    for r in red["impls"]:
        r["emulated"] = "PTX machine"
    assert all(isinstance(figure, str) for _, figure in pictures([red]))


def test_cells_that_cannot_be_compared_have_panels_of_their_own():
    other = copy.deepcopy(SWEEP)
    for r in other:
        r["cell"]["dtype"], r["key"] = "bfloat16", "bf16 " + r["key"]
        of(r, "eager")["dtype"] = "float32"
    eighth = copy.deepcopy(SWEEP)
    for r in eighth:
        r["cell"]["weights"] = "int8"
    figure = PICTURES["throughput-context"]([*SWEEP, *other, *eighth])
    titles = ["tiny, float32", "tiny, bfloat16", "tiny, float32, int8 weights"]
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == titles
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert "eager computes in float32." in caption(figure)


def test_a_single_run_has_no_interval_and_is_still_drawn():
    found = copy.deepcopy(SWEEP)
    for r in found:
        for each in r["impls"]:
            each["runs"] = each["runs"][:1]
            for figure in ("step_ms", "total_ms", "tokens_per_s", "speedup"):
                each[figure] |= {"low": None, "high": None}
    for name, figure in pictures(found):
        assert figure.hovers, name
        assert not any("95 %" in text for texts in figure.hovers.values() for text in texts), name
