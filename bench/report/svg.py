"""A matplotlib figure as inline SVG: legible on light and dark paper, exact values on hover, no address in it."""

import hashlib
import io
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np

from .page import Html

XLINK = "{http://www.w3.org/1999/xlink}href"
# What an SVG attribute can say; style attributes would need a laxer content security policy. Fonts are the page's.
ATTRIBUTES = re.compile("(clip-rule|fill|fill-.*|font-(size|style|weight)|opacity|stroke|stroke-.*|text-anchor)")
TEXT_OPACITY = 0.7  # grey text is thinned ink, and thinner than this it is hard to read


def svg(figure, title: str, description: str = "") -> Html:
    """A figure as one <svg> element for page(), the same bytes every time.

    figure  a matplotlib Figure; figure.hovers, where it has them, maps an artist's gid to its texts, one a marker of
            a Line2D or PathCollection, or a single one for a bar
    title, description  what the picture is, for those who do not see it

    Black and greys become the page's ink, white its paper; other colours get classes that page() makes readable on
    both papers. Raises ValueError where a gid's texts and markers differ in number.
    """
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kvproof"}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    root = ElementTree.fromstring(buffer.getvalue())
    for gid, texts in getattr(figure, "hovers", {}).items():
        _label(root, figure, gid, texts)
    prefix = "s" + hashlib.sha256(title.encode() + buffer.getvalue()).hexdigest()[:8]
    _clean(root, prefix)
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "group", "fill": "currentColor"}
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        if text:
            element = ElementTree.Element(tag)
            element.text = text
            root.insert(place, element)
    return Html(re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode")))


def _label(root: ElementTree.Element, figure, gid: str, texts: list[str]) -> None:
    """Give each of an artist's markers its text; those outside the axes are not seen and get none."""
    artists = figure.findobj(lambda artist: artist.get_gid() == gid)
    group = next((element for element in root.iter() if element.get("id") == gid), None)
    if not artists or group is None:
        raise ValueError(f"figure.hovers names {gid!r}, which no drawn artist has; use artist.set_gid")
    artist, points = artists[0], _positions(artists[0])
    if points is None:  # a bar is one path
        shapes = [element for element in group.iter() if element.tag.endswith("}path")]
        if len(texts) != 1 or not shapes:
            raise ValueError(f"{gid!r} has {len(texts)} texts for one bar; give it one")
        _make_point(shapes[-1], texts[0], first=True)
        return
    if len(texts) != len(points):
        raise ValueError(f"{gid!r} has {len(texts)} texts for {len(points)} markers; give it one each")
    # Saving was done at 72 dots an inch, and y runs down. A marker is known by its place: saving drops and adds some.
    places = points * 72 / figure.dpi
    places[:, 1] = figure.get_figheight() * 72 - places[:, 1]
    left, low, right, high = artist.axes.bbox.padded(1).extents
    seen = (points >= (left, low)).all(1) & (points <= (right, high)).all(1)
    uses = [element for element in group.iter() if element.tag.endswith("}use")]
    drawn = np.array([[float(use.get("x", 0)), float(use.get("y", 0))] for use in uses]).reshape(-1, 2)
    first, free = True, np.ones(len(uses), bool)
    for place, text in zip(places[seen], np.array(texts, object)[seen], strict=True):
        distance = np.where(free, np.abs(drawn - place).max(1), np.inf)
        if not distance.size or distance.min() > 0.05:
            raise ValueError(f"{gid!r} has no marker for {text!r}; draw it with one at every point")
        nearest = int(distance.argmin())
        free[nearest] = False
        _make_point(uses[nearest], text, first)
        first = False
    group.set("class", "points")


def _positions(artist) -> Any:
    """Display coordinates (n, 2) of a line's or a scatter's markers; None for a bar."""
    if hasattr(artist, "get_xydata"):
        return artist.get_transform().transform(artist.get_xydata())
    if hasattr(artist, "get_offset_transform"):
        return artist.get_offset_transform().transform(np.ma.filled(artist.get_offsets(), np.nan))
    return None


def _make_point(element: ElementTree.Element, text: str, first: bool) -> None:
    """The first point of an artist is a stop of the Tab key, the others are reached from it by the arrow keys."""
    element.attrib |= {"class": "point", "tabindex": "0" if first else "-1", "role": "img"}
    title = ElementTree.SubElement(element, "title")
    title.text = text


def _clean(root: ElementTree.Element, prefix: str) -> None:
    """Drop metadata and namespaces, keep only ids that are referred to, under the prefix, and repaint everything."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for declaration in element.attrib.pop("style", "").split(";"):
            name, _, value = declaration.partition(":")
            if ATTRIBUTES.fullmatch(name.strip()):
                element.set(name.strip(), value.strip().removesuffix("px"))
        if XLINK in element.attrib:
            href = element.attrib.pop(XLINK)
            element.set("href", f"#{prefix}{href[1:]}" if href.startswith("#") else href)
        for name, value in element.attrib.items():
            if value.startswith("url(#"):
                element.set(name, f"url(#{prefix}{value[5:]}")
            elif name in ("d", "x", "y", "transform"):
                element.set(name, re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", value)).strip())
        if "id" in element.attrib:
            named = element.attrib.pop("id")
            if element.tag in ("path", "clipPath", "pattern", "linearGradient"):
                element.set("id", prefix + named)
        for property in ("fill", "stroke"):
            _repaint(element, property)


def _repaint(element: ElementTree.Element, property: str) -> None:
    """Colours for two papers: black and greys are ink, the paler the thinner; white is paper; others get a class."""
    colour = element.get(property, "").lower()
    if not re.fullmatch("#[0-9a-f]{6}", colour):
        return
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    if colour == "#ffffff":
        name = f"{property}-paper"
    elif red == green == blue:
        opacity = float(element.get(f"{property}-opacity", 1)) * (1 - red / 255)
        if element.tag in ("text", "tspan"):
            opacity = max(opacity, TEXT_OPACITY)
        element.set(property, "currentColor")
        if opacity < 1:
            element.set(f"{property}-opacity", f"{opacity:.3g}")
        return
    else:
        name = f"{'text' if element.tag in ('text', 'tspan') else property}-{colour[1:]}"
    del element.attrib[property]  # page() has a rule for the class
    element.set("class", f"{element.get('class', '')} {name}".strip())
