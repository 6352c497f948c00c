"""The page to send: it says what was measured, marks what nobody should believe, and asks nothing of the net."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import pytest

from ..._browser import Visit, needs_browser
from .._records import EVIL, RED, steady

pytest.importorskip("matplotlib", reason="matplotlib is not here; python -m pip install -e '.[plots]'")

from matplotlib.figure import Figure

from kvproof.bench.report import __main__ as report
from kvproof.bench.report import pictures


@pytest.fixture(scope="module")
def records() -> list[dict]:
    emulated = {"emulated": "PTX machine", "predicted": None}
    return [
        steady({"naive": 3.0, "sdpa": 1.5, "triton": 300.0, "hf-dynamic": 1.2}, new, triton=emulated,
               hf_dynamic={"predicted": None}, model=f"tiny{EVIL}")
        for new in (4, 8)
    ] + [steady({"naive": 3.0, "sdpa": 0.1}, 8, sdpa={"refused": f"64 GB/s is above 1.1 x 35 {EVIL}"})]  # fmt: skip


@pytest.fixture(scope="module")
def written(records, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "results.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    assert report.main([str(path)]) == 0
    return path.with_suffix(".html")


def words(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)))


def rows_of(page: str, impl: str) -> list[str]:
    """The text of the rows of the first table that an impl heads."""
    first = page[page.index("<table>") : page.index("</table>")]
    return [text for text in map(words, first.split("<tr>")) if text.split()[:1] == [impl]]


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(written):
    text = written.read_text(encoding="utf-8")
    policy = re.search('content="([^"]*)"', text)[1]  # type: ignore[index]
    for name in ("style", "script"):
        (inside,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.S)
        sha = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{sha}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"<[^>]* style=", text)


def test_the_page_holds_every_row_and_its_figures(written):
    text = written.read_text(encoding="utf-8")
    assert len(rows_of(text, "naive")) == 3
    assert "3.00 2.91 … 3.09" in " ".join(rows_of(text, "naive")[0].split())
    assert all("PTX machine" in row for row in rows_of(text, "triton"))
    refused = rows_of(text, "sdpa")[2]
    assert "refused: 64 GB/s is above" in refused
    assert "0.100" not in refused
    for said in ("9.50 µs", "80.0 GFLOP/s", "16.8 MB: 35.0 GB/s", "python bench/decode.py --impl all", "d04c962a"):
        assert said in words(text)
    assert re.search(r"<title>sdpa[^<]*1\.5", text), "the exact value is on the mark"


def test_the_page_is_one_file_without_an_address(written):
    text = written.read_text(encoding="utf-8")
    assert len(text.encode()) < 2_000_000
    assert text.count("<svg") == text.count("</svg>") > 3
    assert all(link.startswith("#") for link in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert not re.findall(r"@import|url\((?!#)", text)
    assert '<html lang="en">' in text
    assert len(re.findall("<h1", text)) == 1


def test_the_markdown_has_every_figure_the_quickest_bold_and_a_reason_for_what_is_refused(tmp_path, capsys):
    one = steady({"naive": 2.0, "eager": 1.5, "sdpa": 1.0})
    one["impls"][0]["refused"] = "41.0 GB/s | above 1.1 x 35.0"
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (one, steady({"naive": 2.0, "numpy": 1.0}, new=20))))
    assert report.main([str(path), "--markdown"]) == 0
    head, _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head == "| cell | `naive` | `eager` | `sdpa` | `numpy` |"
    assert [line.replace("\\|", "").count("|") for line in (head, first, second)] == [6, 6, 6]
    cells = first.replace("\\|", "!").split(" | ")
    assert cells[1] == "41.0 GB/s ! above 1.1 x 35.0"
    rates = [row["tokens_per_s"]["median"] for row in one["impls"]]
    assert cells[2].startswith(f"{rates[1]:.0f} (")
    assert cells[3].startswith(f"**{rates[2]:,.0f}** (")
    assert second.split(" | ")[2:4] == ["", ""]


def test_a_red_peer_s_figures_bear_the_word_and_are_not_the_quickest(tmp_path, capsys):
    one = steady({"naive": 2.0, "sdpa": 1.0, "onnx": 0.5}, onnx={"parity_before": RED, "parity_after": RED})
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(one) + "\n")
    assert report.main([str(path), "--markdown"]) == 0
    _, _, line, _, caption, *_ = capsys.readouterr().out.splitlines()
    naive, sdpa, onnx = line.removesuffix(" |").split(" | ")[1:]
    assert sdpa.startswith("**")
    assert onnx.startswith(f"RED {one['impls'][2]['tokens_per_s']['median']:,.0f} (")
    assert "RED" not in naive + sdpa
    assert "RED: another library whose rounding exceeds the bar." in caption
    assert "onnx RED" in " ".join(words(report.report([one])).split())


def test_pictures_stop_before_the_page_is_too_big_to_send(records, monkeypatch):
    monkeypatch.setattr(pictures, "pictures", lambda _: iter([("first", Figure()), ("next", Figure()), ("no", "why")]))
    assert "<svg" in report.report(records)
    monkeypatch.setattr(report, "PICTURES_BYTES", 1)
    text = report.report(records)
    assert "<svg" not in text
    assert words(text).count("the page would grow too big to send") == 2
    assert "no: why" in text


# What a reader meets: the width, the least contrast of any text, what hovering and the arrow keys show.
PROBE = """
const level = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const light = (c) => 0.2126 * level(c[0]) + 0.7152 * level(c[1]) + 0.0722 * level(c[2]);
const parse = (s) => s.match(/[\\d.]+/g).map(Number);
let least = 99, worst = "";
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || !e.getClientRects().length || e.closest("script,title,desc")) continue;
  const style = getComputedStyle(e), svg = e.closest("svg");
  let below = e;
  while (below !== document.documentElement && (parse(getComputedStyle(below).backgroundColor)[3] === 0)) {
    below = below.parentElement;
  }
  const paper = parse(getComputedStyle(below).backgroundColor), ink = parse(svg ? style.fill : style.color);
  const solid = svg ? Number(style.fillOpacity) : 1;
  const [a, b] = [light(ink.map((c, i) => c * solid + paper[i] * (1 - solid))), light(paper)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < least) { least = ratio; worst = e.textContent; }
}
const group = [...document.querySelectorAll(".points")].find((g) => g.querySelectorAll(".point").length > 2);
const [one, two] = group.querySelectorAll(".point"), tip = () => document.getElementById("tip");
one.scrollIntoView(); one.focus();
const focused = tip().hidden ? null : tip().textContent;
one.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
const stepped = document.activeElement === two && tip().textContent;
two.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
const escaped = tip().hidden, box = one.getBoundingClientRect();
one.closest("svg").dispatchEvent(new PointerEvent("pointermove", { clientX: box.left - 1, clientY: box.top + 1 }));
document.body.dataset.probe = JSON.stringify({
  wide: document.documentElement.scrollWidth, window: innerWidth, least, worst, focused, stepped, escaped,
  hovered: tip().hidden ? null : tip().textContent, names: [one, two].map((p) => p.getAttribute("aria-label")),
  paper: getComputedStyle(document.documentElement).backgroundColor, title: document.title,
});
"""


def probed(visit: Visit) -> dict:
    found = re.search('data-probe="([^"]*)"', visit.dom)
    assert found, visit.console
    return json.loads(html.unescape(found[1]))


@pytest.mark.browser
@needs_browser
def test_chromium_opens_it_without_a_complaint_or_a_request(written):
    visit = Visit(written)
    assert visit.console == []
    assert visit.addresses == set()
    assert "aria-label" in visit.dom.partition("<svg")[2], "the script ran under the policy"
    assert re.search("<title>GPT-2 decoding", visit.dom), "no text of the records ran"


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1000, True)])
def test_chromium_shows_it_legibly_in_its_width_and_its_values_to_mouse_and_keyboard(written, width, dark):
    visit = Visit(written, width=width, dark=dark, probe=PROBE)
    seen = probed(visit)
    assert visit.console == []
    assert seen["window"] == width
    assert seen["wide"] <= width
    assert seen["paper"] == ("rgb(21, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert seen["least"] >= 4.5, seen["worst"]
    assert [seen["focused"], seen["stepped"]] == seen["names"]
    assert seen["escaped"]
    assert seen["hovered"]
    assert re.search(r"\d", seen["hovered"])
    assert seen["title"].startswith("GPT-2 decoding")


@pytest.mark.browser
@needs_browser
def test_the_browser_helper_sees_what_it_looks_for(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><div style='width:900px'>wide</div><img src='http://kvproof.invalid/x.png'>"
        "<script>console.error('boo')</script>"
    )
    visit = Visit(path, width=360, probe="document.body.dataset.probe = document.documentElement.scrollWidth")
    assert any("boo" in line for line in visit.console)
    assert visit.addresses == {"http://kvproof.invalid/x.png"}
    assert probed(visit) == 908
