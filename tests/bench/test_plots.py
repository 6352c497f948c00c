"""Pictures: their marks are the records' numbers, what is not believed is not drawn, what cannot be drawn says why."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not here; python -m pip install -e '.[plots]'")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kvproof.bench import plots
from kvproof.bench.measure.records import check
from kvproof.bench.report import __main__ as report
from kvproof.bench.report.canvas import LOOKS, value_axis
from kvproof.bench.report.pictures import PICTURES, pictures

from ._records import SWEEP, caption, named, noisy, of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def drawn() -> dict:
    return dict(pictures(SWEEP))


def test_a_full_sweep_fills_every_picture(drawn):
    assert list(drawn) == list(PICTURES)
    for name, figure in drawn.items():
        assert not isinstance(figure, str), f"{name}: {figure}"
        assert "cpu: EPYC; torch 2.9; commit d04c962a." in caption(figure)
        for axes in figure.axes:
            assert axes.get_xlabel(), name
            assert axes.get_ylabel(), name
            assert (axes.get_xscale() == "log") == ("(log)" in axes.get_xlabel()), name
            assert (axes.get_yscale() == "log") == ("(log)" in axes.get_ylabel()), name


def test_every_mark_has_one_text_per_marker_or_one_per_bar(drawn):
    for figure in drawn.values():
        for gid, texts in figure.hovers.items():
            (artist,) = figure.findobj(lambda artist, gid=gid: artist.get_gid() == gid)
            assert len(texts) == (1 if isinstance(artist, Rectangle) else len(artist.get_xdata()))


def test_steps_are_the_records_medians_and_long_lines_keep_their_ends_marked(drawn):
    figure = drawn["time-per-token"]
    found = next(r for r in SWEEP if r["cell"]["new_tokens"] == 30)
    (axes,) = figure.axes
    for impl in ("naive", "eager", "sdpa"):
        steps = 1e3 * np.median([run["steps_s"] for run in of(found, impl)["runs"]], axis=0)
        (line,) = [line for line in axes.lines if line.get_label() == impl]
        np.testing.assert_allclose(line.get_ydata(), steps)
        np.testing.assert_array_equal(line.get_xdata(), np.arange(6, 35))
        ((points, texts),) = named(figure, f"{impl}, ")
        assert len(texts) == 20
        assert list(points.get_xdata()[[0, -1]]) == [6, 34]
        assert texts[-1].startswith(f"{impl}, 34 tokens: {steps[-1]:.4g} ms")


def test_cumulative_time_starts_with_the_prefill_and_ends_with_the_total(drawn):
    figure = drawn["cumulative-time"]
    found = next(r for r in SWEEP if r["cell"]["new_tokens"] == 30)
    for line in (line for line in figure.axes[0].lines if line.get_label() in LOOKS):
        assert line.get_ydata()[0] == pytest.approx(3)
        assert line.get_ydata()[-1] == pytest.approx(of(found, line.get_label())["total_ms"]["median"])


def test_the_cut_panel_says_how_many_points_lie_outside():
    found = noisy(new=30)
    of(found, "sdpa")["runs"][1]["steps_s"][3] = 0.5
    of(found, "naive")["runs"][2]["steps_s"][7] = 0.4
    figure = PICTURES["outliers"]([found])
    whole, cut = figure.axes
    assert "2 of 261 points lie outside" in cut.get_title()
    assert whole.get_ylim()[1] > 500
    assert cut.get_ylim()[1] < 20
    assert named(figure, "sdpa, run 2, 9 tokens: 500 ms")
    assert named(figure, "naive, run 3, 13 tokens: 400 ms")


@pytest.mark.parametrize(("name", "over"), [("throughput-context", "context"), ("batches", "batch")])
def test_sweeps_hold_the_medians_of_cells_that_differ_in_one_thing(drawn, name, over):
    figure = drawn[name]
    fixed = {"new_tokens": 10, "batch": 1, "context": 5}
    cells = [r for r in SWEEP if all(r["cell"][k] == v for k, v in fixed.items() if k != over)]
    expected = {r["cell"][over]: r for r in sorted(cells, key=lambda r: r["cell"][over])}
    left = next(line for line in figure.axes[0].lines if line.get_label() == "sdpa")
    assert list(left.get_xdata()) == list(expected)
    steps = [of(r, "sdpa")["step_ms"]["median"] for r in expected.values()]
    np.testing.assert_allclose(left.get_ydata(), steps if over == "batch" else [1e3 / ms for ms in steps])
    if over == "batch":
        right = next(line for line in figure.axes[1].lines if line.get_label() == "sdpa")
        rates = [of(r, "sdpa")["tokens_per_s"]["median"] for r in expected.values()]
        np.testing.assert_allclose(right.get_ydata(), rates)


@pytest.mark.parametrize(("values", "scale", "label"), [((1, 19), "linear", "ms"), ((1, 21), "log", "ms (log)")])
def test_an_axis_starts_at_zero_or_says_that_it_is_logarithmic(values, scale, label):
    axes = Figure().subplots()
    value_axis(axes, "ms", values)
    assert (axes.get_yscale(), axes.get_ylabel()) == (scale, label)
    assert scale == "log" or axes.get_ylim()[0] == 0


def test_throughput_counts_every_sequence_of_the_batch():
    cells = [noisy(batch=8, context=c, impls=("sdpa",)) for c in (5, 60)]
    (line,) = [x for x in PICTURES["throughput-context"](cells).axes[0].lines if x.get_label() == "sdpa"]
    np.testing.assert_allclose(line.get_ydata(), [8e3 / of(r, "sdpa")["step_ms"]["median"] for r in cells])


def test_bars_start_at_zero_and_are_as_high_as_the_records_say(drawn):
    figure = drawn["generation-lengths"]
    for new in (5, 10, 30):
        found = next(r for r in SWEEP if (r["cell"]["new_tokens"], r["cell"]["batch"]) == (new, 1))
        bars = named(figure, f"sdpa, {new} new tokens: ")
        heights = [bar.get_height() for bar, _ in bars]
        assert heights == pytest.approx([of(found, "sdpa")[k]["median"] for k in ("total_ms", "speedup")])
        assert all(bar.get_y() == 0 for bar, _ in bars)
        assert "x (95 % " in bars[1][1][0]
    assert all(axes.get_ylim()[0] == 0 and axes.get_yscale() == "linear" for axes in figure.axes)


def predicted_within(factor, impl="naive"):
    """The sweep, its predicted steps as measured, but for one impl's, which are off by a factor."""
    found = copy.deepcopy(SWEEP)
    for r in found:
        for row in r["impls"]:
            if row["predicted"]:
                row["predicted"]["step_ms"] = row["step_ms"]["median"] / (factor if row["impl"] == impl else 1)
    return found


def test_break_even_is_marked_where_the_records_say():
    figure = PICTURES["break-even"](predicted_within(1))
    for kind, tokens in (("measured", 8), ("predicted", 12)):
        ((star, _),) = named(figure, f"sdpa, break-even {kind}: {tokens} new tokens")
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (tokens, 1)
    ((line, _),) = named(figure, "predicted, 5 new tokens")
    assert line.get_ydata()[-1] == pytest.approx((3 + 2.0 * 29) / (3 + 1.4 * 29))
    assert not named(figure, "naive")


def test_the_predicted_speedup_is_of_one_impl_also_where_another_was_quicker():
    found = [
        copy.deepcopy(r)
        for r in SWEEP
        if (r["cell"]["batch"], r["cell"]["context"]) == (1, SWEEP[0]["cell"]["context"])
    ]
    found[0]["break_even"]["cached"] = "eager"
    ((line, _),) = named(dict(pictures(found))["break-even"], "predicted, 5 new tokens")
    rows = {row["impl"]: row["predicted"] for row in found[0]["impls"]}
    assert line.get_ydata()[0] == pytest.approx(rows["naive"]["total_ms"] / rows["sdpa"]["total_ms"])


def test_without_naive_there_is_no_speedup_to_draw():
    found = [noisy(new=new, impls=("eager", "sdpa")) for new in (5, 10)]
    for r in found:
        for each in r["impls"]:
            each["speedup"] = None
    drawn = dict(pictures(found))
    assert "timed beside naive" in str(drawn["break-even"])
    assert "timed beside naive" in str(drawn["generation-lengths"])
    assert named(drawn["time-per-token"], "sdpa")


def test_a_break_even_that_was_not_reached_is_said_and_has_no_star():
    found = predicted_within(1)
    for r in found:
        r["break_even"]["measured_new_tokens"] = None
    figure = PICTURES["break-even"](found)
    assert "measured none, predicted 12" in figure.axes[0].get_title()
    assert not named(figure, "sdpa, break-even measured")


@pytest.mark.parametrize(("impl", "times", "star"), [("naive", 1.2, 1), ("naive", 1.4, 0), ("sdpa", 0.7, 0)])
def test_a_model_that_is_wrong_about_either_time_marks_no_break_even(impl, times, star):
    figure = PICTURES["break-even"](predicted_within(times, impl))
    assert len(named(figure, "sdpa, break-even predicted")) == star
    assert ("no prediction" in figure.axes[0].get_title()) == (not star)


def test_the_roofline_shows_achieved_bandwidth_over_flops_per_byte():
    figure = PICTURES["roofline"]([noisy()])
    ((point, (text,)),) = named(figure, "sdpa, ")
    weights, head, live = 6_320_000 / 4, 2049 * 128, 10
    flops = 2 * (weights - head) + 4 * 128 * 6 * live + 2 * head
    assert point.get_xdata()[0] == pytest.approx(flops / 6.5e6)
    assert point.get_ydata()[0] == of(noisy(), "sdpa")["gb_per_s"]
    assert "20% of reading" in text
    roof = next(line for line in figure.axes[0].lines if line.get_color() == "k")
    np.testing.assert_allclose(roof.get_ydata(), np.minimum(35, 80 / roof.get_xdata()))


def test_the_roofline_has_a_roof_of_the_engine_s_products_where_they_were_measured():
    plain, found = noisy(), noisy(impls=("naive", "sdpa", "numba"))
    found["constants"]["engine"] = {"overhead_us": 200.0, "gflops": 50.0}
    check(found, "the record")
    assert "roof of numba" not in PICTURES["roofline"]([plain]).keys
    figure = PICTURES["roofline"]([found])
    assert {"numba", "roof of numba"} <= set(figure.keys)
    roof = next(line for line in figure.axes[0].lines if line.get_linestyle() == ":")
    np.testing.assert_allclose(roof.get_ydata(), np.minimum(35, 50 / roof.get_xdata()))
    assert "products 80 Gflop/s,\nof numba 50" in figure.axes[0].get_title()


def test_predictions_count_the_cells_within_thirty_percent():
    found = noisy(impls=("naive", "sdpa"))
    for impl, factor in (("naive", 1.29), ("sdpa", 1.31)):
        measured, predicted = of(found, impl), of(found, impl)["predicted"]
        predicted["step_ms"] = measured["step_ms"]["median"] * factor
        predicted["total_ms"] = measured["total_ms"]["median"] / factor
    step, total = PICTURES["predictions"]([found]).axes
    assert step.get_title().startswith("one decode step: 1 of 2 cells within ±30 %")
    assert total.get_title().startswith("prefill and decode: 2 of 2")


def test_no_text_leaves_the_picture_and_no_title_meets_its_neighbour():
    other = [r | {"environment": r["environment"] | {"device": "cuda: NVIDIA H100 80GB"}} for r in SWEEP]
    for name in ("roofline", "break-even"):
        figure = PICTURES[name]([*SWEEP, *other])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [axes.title.get_window_extent() for axes in figure.axes]
        assert not boxes[0].overlaps(boxes[1]), name
        for box in (*boxes, figure.legends[0].get_window_extent(), figure._supxlabel.get_window_extent()):
            assert box.x0 >= 0, name
            assert box.x1 <= figure.bbox.x1, name
            assert box is boxes[0] or not box.overlaps(boxes[0]), name


def test_looks_differ_without_colour():
    marks = [look["marker"] for look in LOOKS.values()]
    assert len(set(marks)) == len(marks)


def test_the_command_draws_beside_the_file_and_names_what_it_leaves_out(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    found = noisy(new=4, impls=("sdpa",))
    found["impls"][0].update({"predicted": None, "speedup": None, "gb_per_s": None})
    path.write_text(json.dumps(found) + "\n")
    assert plots.main([str(path)]) == 0
    out = capsys.readouterr().out
    written = sorted(tmp_path.glob("run/*.png"))
    assert len(written) == 3
    assert all(str(picture) in out for picture in written)
    assert "batches is left out: no 2 cells differ in sequences in the batch alone" in out


def test_the_loss_curves_of_tiny_are_drawn(tmp_path):
    assert plots.main([str(ROOT / "gpt2/checkpoints/tiny/loss.jsonl"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "loss.png").stat().st_size > 10_000


@pytest.mark.parametrize("text", [None, "", "{}\n", "no json\n", '{"schema": "kvproof/decode/1"}\n', '{"tokens": 1}\n'])
@pytest.mark.parametrize(("command", "main"), [("bench/plots.py", plots.main), ("bench/report", report.main)])
def test_a_file_that_holds_no_records_is_one_line_and_exit_code_2(tmp_path, capsys, command, main, text):
    path = tmp_path / "run.jsonl"
    if text is not None:
        path.write_text(text)
    assert main([str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{command}: ")
    assert err.count("\n") == 1
    assert not path.with_suffix(".html").exists()
