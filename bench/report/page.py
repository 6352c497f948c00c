"""One self-contained HTML page: the renderer of every report of this project.

Each function gives a piece of safe HTML. What is no Html already is text, from anywhere, and is escaped. Nothing on
the page has an address outside it, and a content security policy holds it to that.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence

PAPER, INK = {"light": "#ffffff", "dark": "#15171a"}, {"light": "#1c1e21", "dark": "#e4e6e8"}
CONTRAST = {"fill": 3.0, "stroke": 3.0, "text": 4.5}  # WCAG 2.2, 1.4.11 and 1.4.3

STYLE = """
:root{color-scheme:light dark;--paper:PAPER_L;--ink:INK_L;--soft:#5b6168;--line:#d5d8dc;--wash:#f4f5f7;--link:#0b5cad}
@media screen and (prefers-color-scheme:dark){:root{--paper:PAPER_D;--ink:INK_D;--soft:#a3a9b1;--line:#3a3f45;
--wash:#1f2226;--link:#7ab7ff}}
*{box-sizing:border-box}
html{background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;
-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:72rem;padding:1rem clamp(.8rem,3vw,2rem) 4rem;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:.6rem 0}h2{font-size:1.25rem;margin:2.4rem 0 .6rem}h3{margin:1.4rem 0 .4rem}
p,ul,dl{max-width:46rem}li{margin:.25rem 0}a{color:var(--link)}
.lead{font-size:1.15rem}nav{margin:.8rem 0;font-size:.9rem}nav a{margin-right:.9rem;white-space:nowrap}
.scroll{overflow-x:auto;max-width:100%}:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
caption{caption-side:top;text-align:left;color:var(--soft);padding:0 0 .5rem}
caption span{display:inline-block;position:sticky;left:0;max-width:min(46rem,92vw)}
th,td{padding:.28rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
thead th{white-space:normal;border-bottom:2px solid var(--soft);vertical-align:bottom}tbody th{font-weight:400}
th:first-child,td.wide{text-align:left}
th[scope=row],thead th:first-child{position:sticky;left:0;background:var(--paper)}
th[scope=rowgroup]{background:var(--wash);font-weight:600}th[scope=rowgroup] span{position:sticky;left:.6rem}
td.wide{white-space:normal;min-width:24rem}small{color:var(--soft);font-size:.85em}
td small{display:block;line-height:1.2}
figure{margin:1.6rem 0;break-inside:avoid}figcaption{color:var(--soft);font-size:.9rem;max-width:46rem}
svg{display:block;width:100%;min-width:40rem;max-width:60rem;height:auto;stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:"DejaVu Sans",Verdana,system-ui,sans-serif}
.fill-paper{fill:var(--paper)}.stroke-paper{stroke:var(--paper)}
.point{outline:none}.point.on{outline:2px solid currentColor;outline-offset:2px}
#tip{position:fixed;z-index:9;max-width:min(22rem,92vw);padding:.3rem .6rem;border-radius:.3rem;font-size:.85rem;
background:var(--ink);color:var(--paper);pointer-events:none}
pre{background:var(--wash);padding:.7rem .9rem;border-radius:.3rem;font-size:.85rem;line-height:1.45;margin:.6rem 0}
details{margin:.6rem 0}summary{cursor:pointer}dt{font-weight:600;margin-top:.5rem}dd{margin:0}
@media print{nav{display:none}body{max-width:none;padding:0}.scroll{overflow:visible}table{font-size:6.5pt}
th,td{padding:1pt 3pt}th[scope]{position:static}svg{min-width:0}details::details-content{content-visibility:visible}
pre{white-space:pre-wrap}}
"""

# The value nearest to the pointer within a finger's width; a focused one too. Without it, <title> shows the same.
SCRIPT = """
(() => {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip"; tip.setAttribute("role", "status"); tip.hidden = true;
  let on = null;
  const hide = () => { tip.hidden = true; if (on) on.classList.remove("on"); on = null; };
  const show = (point) => {
    if (point !== on) { hide(); on = point; on.classList.add("on"); tip.textContent = on.getAttribute("aria-label"); }
    tip.hidden = false;
    const at = on.getBoundingClientRect(), box = tip.getBoundingClientRect();
    const left = Math.min(at.left + at.width / 2 - box.width / 2, document.documentElement.clientWidth - box.width - 4);
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = (at.top - box.height - 8 > 0 ? at.top - box.height - 8 : at.bottom + 8) + "px";
  };
  for (const title of document.querySelectorAll("svg title")) {
    title.parentNode.setAttribute("aria-label", title.textContent); title.remove();
  }
  for (const svg of document.querySelectorAll("svg")) {
    const points = [...svg.querySelectorAll(".point")];
    const near = (event) => {
      let best = null, least = 20;
      for (const point of points) {
        const r = point.getBoundingClientRect(), x = event.clientX, y = event.clientY;
        const out = Math.hypot(Math.max(r.left - x, 0, x - r.right), Math.max(r.top - y, 0, y - r.bottom));
        const far = out + Math.hypot((r.left + r.right) / 2 - x, (r.top + r.bottom) / 2 - y) / 1e3;
        if (far < least) { least = far; best = point; }
      }
      if (best) show(best); else hide();
    };
    svg.addEventListener("pointermove", near); svg.addEventListener("pointerdown", near);
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    svg.addEventListener("focusin", (event) => { if (event.target.matches(".point")) show(event.target); });
    svg.addEventListener("focusout", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const group = event.target.closest(".points");
      if (event.key === "Escape") hide();
      if (!step || !group) return;
      const row = [...group.querySelectorAll(".point")], next = row[row.indexOf(event.target) + step];
      if (next) { event.preventDefault(); next.focus(); }
    });
  }
  addEventListener("scroll", () => { if (on) show(on); }, { passive: true, capture: true });
})();
"""


class Html(str):
    """Text that is HTML already and safe; any other text is escaped where it enters the page."""

    def __add__(self, other: object) -> "Html":
        return join([self, other])


def safe(part: object) -> Html:
    """A part as HTML: what is Html stays, anything else is text; None is nothing."""
    return part if isinstance(part, Html) else Html("" if part is None else html.escape(str(part)))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other, each made safe."""
    return Html(safe(between).join(safe(part) for part in parts))


def tag(name: str, *parts: object, **attributes: str) -> Html:
    """An element; an attribute that Python keeps for itself is spelled with a trailing underscore (class_)."""
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(v)}"' for key, v in attributes.items())
    return Html(f"<{name}{words}>{join(parts)}</{name}>")


def prose(*sentences: object, **attributes: str) -> Html:
    """A paragraph; class_="lead" sets it larger."""
    return tag("p", join(sentences, " "), **attributes)


def bullets(items: Iterable[object]) -> Html:
    return tag("ul", *(tag("li", item) for item in items))


def section(heading: str, *parts: object) -> Html:
    """A part of the page with its heading, which the page's navigation points to."""
    slug = re.sub("[^a-z0-9]+", "-", heading.lower()).strip("-")
    return tag("section", tag("h2", heading, id=slug), *parts)


def details(summary: object, *parts: object) -> Html:
    return tag("details", tag("summary", summary), *parts)


def definitions(pairs: Mapping[str, object]) -> Html:
    return tag("dl", *(tag("dt", name) + tag("dd", value) for name, value in pairs.items()))


def code(text: str) -> Html:
    """A command or a program's output, as it is."""
    return tag("pre", tag("code", text), class_="scroll", tabindex="0")


def figure(picture: Html, caption: object) -> Html:
    """A picture made by svg() with its caption; on a narrow screen it scrolls inside its box."""
    label = re.sub("<[^>]*>", "", safe(caption))
    box = tag("div", picture, class_="scroll", tabindex="0", role="region", aria_label=html.unescape(label))
    return tag("figure", box, tag("figcaption", caption))


def table(header: Sequence[object], rows: Iterable[object], caption: object) -> Html:
    """A table that scrolls inside its box. The first column names the rows.

    rows  sequences of cells, the last of which spans what a short row leaves over; a single text heads a group
    """
    bodies: list[list[Html]] = [[]]
    for row in rows:
        if isinstance(row, str):
            head = tag("th", tag("span", row), scope="rowgroup", colspan=str(len(header)))
            bodies.append([tag("tr", head)])
            continue
        name, *cells = row  # type: ignore[misc]
        tds = [tag("td", cell) for cell in cells]
        if cells and len(row) < len(header):  # type: ignore[arg-type]
            tds[-1] = tag("td", cells[-1], class_="wide", colspan=str(len(header) - len(cells)))
        bodies[-1].append(tag("tr", tag("th", name, scope="row"), *tds))
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in header)))
    inner = tag("table", tag("caption", tag("span", caption)), head, *(tag("tbody", *body) for body in bodies if body))
    label = html.unescape(re.sub("<[^>]*>", "", safe(caption)))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=label)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, 0 to 1 (WCAG 2.2)."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable(colour: str, paper: str, ratio: float) -> str:
    """The colour, mixed with as little black (white on dark paper) as lets it stand out from the paper."""
    pole = 0 if luminance(paper) > 0.18 else 255
    channels = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    mixes = ("#" + "".join(f"{round(c + (pole - c) * part / 64):02x}" for c in channels) for part in range(65))
    return next(mixed for mixed in mixes if contrast(mixed, paper) >= ratio)


def _colours(body: str) -> str:
    """Style rules of the pictures' colour classes, for both papers."""
    rules = {"light": "", "dark": ""}
    for kind, digits in sorted(set(re.findall(r"\b(fill|stroke|text)-([0-9a-f]{6})\b", body))):
        for mode in rules:
            colour = readable(f"#{digits}", PAPER[mode], CONTRAST[kind])
            rules[mode] += f".{kind}-{digits}{{{'fill' if kind == 'text' else kind}:{colour}}}"
    return f"{rules['light']}@media screen and (prefers-color-scheme:dark){{{rules['dark']}}}"


def page(title: str, *parts: object) -> str:
    """The whole page, to be written to a file as UTF-8."""
    body = join(parts)
    links = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body)
    nav = tag("nav", join((tag("a", Html(text), href=f"#{slug}") for slug, text in links), " "), aria_label="Contents")
    style = STYLE + _colours(body)
    for mode in PAPER:
        end = mode[0].upper()
        style = style.replace(f"PAPER_{end}", PAPER[mode]).replace(f"INK_{end}", INK[mode])
    sha = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in (("style", style), ("script", SCRIPT))
    }
    policy = (
        f"default-src 'none'; style-src 'sha256-{sha['style']}'; script-src 'sha256-{sha['script']}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{safe(title)}</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n<main>\n{tag('h1', title)}\n{nav}\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
