"""The renderer: hostile text stays text, pictures are legible on both papers, and each mark has its value in words."""

import html
import re

import pytest

from .._records import EVIL

pytest.importorskip("matplotlib", reason="matplotlib is not here; python -m pip install -e '.[plots]'")

from matplotlib.figure import Figure

from kvproof.bench.report import page
from kvproof.bench.report.canvas import LOOKS
from kvproof.bench.report.svg import svg


@pytest.mark.parametrize("piece", [
    lambda t: page.prose(t), lambda t: page.bullets([t]), lambda t: page.section(t, t), lambda t: page.details(t, t),
    lambda t: page.definitions({t: t}), lambda t: page.code(t), lambda t: page.table([t, t], [t, [t, t], [t]], t),
    lambda t: page.figure(page.Html("<svg></svg>"), t), lambda t: page.tag("p", t, title=t),
    lambda t: page.Html("<b></b>") + t, lambda t: page.page(t, t),
])  # fmt: skip
def test_hostile_text_is_text_in_every_piece(piece):
    made = piece(EVIL)
    assert "<script>document" not in made
    assert "<img" not in made
    assert "\"'&" not in made
    assert "document.title=&#x27;taken" in made


def test_a_short_row_spans_the_table_and_a_text_heads_a_group():
    made = page.table(["impl", "ms", "GB/s"], ["tiny", ["sdpa", "1", "2"], ["naive", "refused"]], "times")
    assert '<th scope="rowgroup" colspan="3"><span>tiny</span></th>' in made
    assert '<th scope="row">naive</th><td class="wide" colspan="2">refused</td>' in made
    assert made.count('scope="col"') == 3


@pytest.mark.parametrize("colour", sorted({str(look["color"]).lower() for look in LOOKS.values()} | {"#f0e442"}))
@pytest.mark.parametrize("mode", page.PAPER)
def test_every_colour_of_the_pictures_stands_out_from_both_papers(colour, mode):
    for ratio in (3.0, 4.5):
        seen = page.readable(colour, page.PAPER[mode], ratio)
        assert page.contrast(seen, page.PAPER[mode]) >= ratio
        assert seen == colour or page.contrast(colour, page.PAPER[mode]) < ratio
    assert page.contrast(page.INK[mode], page.PAPER[mode]) > 12


def test_contrast_is_the_standard_s():
    assert page.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert page.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def drawn(hovers: bool = True) -> Figure:
    """Four points, the third of them outside the axes and the last outside the figure, and a bar."""
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    (line,) = axes.plot([1, 2, 3, 4], [1, 2, 4.2, 900], "o-", color="#0072B2", label=EVIL)
    (bar,) = axes.bar([1], [0.5], color="#E69F00", hatch="//")
    axes.set_ylim(0, 4)
    axes.legend()
    axes.text(1, 3, "grey", color="0.8")
    if hovers:
        line.set_gid("line")
        bar.set_gid("bar")
        figure.hovers = {"line": ["one", EVIL, "cut", "far"], "bar": ["half"]}  # type: ignore[attr-defined]
    return figure


def test_each_mark_gets_its_own_words_though_some_are_cut():
    made = svg(drawn(), "A picture", "of four points")
    uses = re.findall(r'<use[^>]*class="point[^>]*>.*?</use>', made)
    assert [html.unescape(re.search("<title>(.*?)</title>", use)[1]) for use in uses] == ["one", EVIL]  # type: ignore[index]
    x = [float(re.search(r' x="([\d.]+)"', use)[1]) for use in uses]  # type: ignore[index]
    assert x == sorted(x)
    assert [re.search('tabindex="(.*?)"', use)[1] for use in uses] == ["0", "-1"]  # type: ignore[index]
    assert re.search(r'<path[^>]*class="point[^>]*><title>half</title></path>', made)
    assert re.search(r"^<svg[^>]*><title>A picture</title><desc>of four points</desc>", made)
    assert "<script" not in made


def test_ink_and_paper_follow_the_page_and_colours_are_classes():
    made = svg(drawn(), "A picture")
    assert not re.findall("#(?:000000|ffffff|0072b2|e69f00|cccccc)", made)
    assert "stroke-0072b2" in made
    assert "fill-e69f00" in made
    assert re.search('<text[^>]*fill="currentColor" fill-opacity="0.7"[^>]*>grey<', made), "too pale a grey is darkened"
    both = page.page("p", made)
    light, dark = re.findall(r"\.fill-e69f00\{fill:(#\w+)\}", both)
    assert dark == "#e69f00"
    assert page.contrast(light, "#ffffff") >= 3 > page.contrast(dark, "#ffffff")


def test_pictures_are_the_same_bytes_each_time_and_share_no_id():
    one, other = svg(drawn(), "A picture"), svg(drawn(hovers=False), "Another")
    assert one == svg(drawn(), "A picture")
    ids = re.findall(' id="(.*?)"', one + other)
    assert len(ids) == len(set(ids)) > 4
    for made in (one, other):
        assert set(re.findall(r'(?:url\(|href=")#([^)"]*)', made)) <= set(re.findall(' id="(.*?)"', made))
        assert not re.findall("http|DOCTYPE|<!--|style=|xmlns", made)


@pytest.mark.parametrize(("gid", "texts", "fault"), [
    ("line", ["one"], "1 texts for 4 markers"), ("bar", ["a", "b"], "2 texts for one bar"),
    ("nobody", [], "no drawn artist"),
])  # fmt: skip
def test_words_that_fit_no_mark_are_refused(gid, texts, fault):
    figure = drawn()
    figure.hovers = {gid: texts}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=fault):
        svg(figure, "A picture")
