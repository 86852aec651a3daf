"""Elements of the report's page as data for Typst: tags, classes and text, charts as SVG of their
own, pictures as files.

Our own HTML is well nested (a test), so the standard library's parser is enough.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import unicodedata
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import typst
from fontTools.ttLib import TTFont

from common.errors import RunError

Element = dict[str, Any]
"""`tag`, `class` (a list), `inside` (elements and strings), and the attributes that Typst reads."""

LONGEST_WORD = 14
"""Letters that stay on one line; a longer word may be broken after each eighth."""
EDGE = 6
"""Units of a chart's drawing left and right of its box."""
_TURNED = re.compile(r"translate\((\S+) (\S+)\) rotate\(-90\)")
_PICTURE = b"#image(bytes(json(bytes(sys.inputs.picture))))"
_VOID = {"meta", "br", "link", "img", "hr", "input", "wbr", "svg"}
_UNSEEN_TAGS = {"head", "nav", "style", "script", "title", "footer"}
_UNSEEN_CLASSES = {"hidden", "skip"}
_SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_DRAWING = re.compile(r"\b(fill|stroke[a-z-]*):|--tone:")


class Page(HTMLParser):
    """`body`, the page's elements; `targets` that a link may have; `colours` of the style sheet's
    print rules by name."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.body: Element = {"tag": "body", "class": [], "inside": []}
        self._open = [self.body]
        style = html.partition("<style>")[2].partition("</style>")[0]
        self.colours = dict(
            re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", style.partition("@media print")[2])
        )
        self._chart_style = _chart_style(style, self.colours)
        self._charts: list[str] = _SVG.findall(html)
        self.targets: list[str] = []
        self.feed(_SVG.sub("<svg>", html))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        element: Element = {"tag": tag, "class": attributes.get("class", "").split(), "inside": []}
        for name in ("id", "href", "scope"):
            if name in attributes:
                element[name] = attributes[name]
        if tag in ("h1", "h2", "h3", "h4") and "id" in element:
            self.targets.append(element["id"])
        if tag in ("td", "th"):
            element["colspan"] = int(attributes.get("colspan", 1))
        elif tag == "svg":
            element |= self._chart(self._charts.pop(0))
        elif tag == "img":
            element |= {
                "alt": drawable(attributes.get("alt", "")),
                "bytes": _picture(attributes.get("src", "")),
            }
        if tag not in _UNSEEN_TAGS and not _UNSEEN_CLASSES.intersection(element["class"]):
            self._open[-1]["inside"].append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if self._open[-1]["tag"] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        pieces = re.split(
            rf"(\S{{{LONGEST_WORD + 1},}})", re.sub(r"[ \t\r\n\f]+", " ", drawable(data))
        )
        for k, piece in enumerate(pieces):
            parts = _broken(piece) if k % 2 else [piece]
            for part in parts:
                self._open[-1]["inside"] += (
                    [{"tag": "wbr", "class": [], "inside": []}] if part is not parts[0] else []
                )
                self._open[-1]["inside"] += [part] if part else []

    def _chart(self, inline: str) -> Element:
        """An inline SVG with its name space and style in itself, its size, and its description as
        the alternative."""
        root = ElementTree.fromstring(drawable(inline))
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        labels = []
        for text in root.findall("text"):
            root.remove(text)
            turned = _TURNED.match(text.attrib.get("transform", ""))
            x, y = turned.groups() if turned else (text.attrib["x"], text.attrib["y"])
            shown = (text.text or "") + "".join(inner.tail or "" for inner in text)
            labels.append(
                {
                    "class": text.attrib["class"].split(),
                    "x": float(x) + EDGE,
                    "y": float(y),
                    "turned": bool(turned),
                    "words": shown,
                }
            )
        chart = root.attrib.get("class") == "chart"
        if chart:  # the last tick's number stands over the edge
            width += 2 * EDGE
            root.attrib["viewBox"] = f"{-EDGE} 0 {width} {height}"
        ElementTree.SubElement(root, "style").text = self._chart_style
        root.attrib["xmlns"] = "http://www.w3.org/2000/svg"
        bar = root.find("rect")
        return {
            "class": root.attrib.get("class", "").split(), "drawn": ElementTree.tostring(root,
            "unicode"),
            "width": width, "height": height, "labels": labels,
            "alt": (root.findtext("desc") or root.findtext("title") or "chart") if chart else "",
            "share": float(bar.attrib["width"]) if bar is not None else 0.0,
        }  # fmt: skip


def _picture(source: str) -> list[int]:
    """Bytes of a picture; none where Typst cannot read it: the page's words are still worth
    printing."""
    try:
        blob = list(base64.b64decode(source.partition("data:image/png;base64,")[2], validate=True))
        typst.compile(
            _PICTURE,
            format="svg",
            ignore_system_fonts=True,
            sys_inputs={"picture": json.dumps(blob)},
        )
    except (binascii.Error, typst.TypstError):
        return []
    return blob


def _broken(word: str) -> list[str]:
    """Pieces of eight letters, none parted from the marks that stand on it."""
    return re.findall(
        r"(?:.[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u064b-\u065f\u200c\u200d\ufe00-\ufe0f]*){1,8}",
        word,
    )


def _chart_style(style: str, colours: dict[str, str]) -> str:
    """The page's rules for drawings without CSS variables, which an SVG renderer outside a browser
    does not know."""
    screen = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", style)
    rules = []
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", screen):
        if _DRAWING.search(body):
            plain = body.replace("--tone:", "color:").replace("var(--tone)", "currentColor")
            rules.append(
                selector.strip()
                + "{"
                + re.sub(r"var\(--([a-z-]+)\)", lambda m: colours[m[1]], plain)
                + "}"
            )
    return "".join(rules)


def drawable(text: str) -> str:
    """Text as the report's font can draw it: what it holds no letter for is named in brackets, what
    has no shape is left out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_letter, text))


@cache
def _letter(c: str) -> str:
    code, category = ord(c), unicodedata.category(c)
    if category == "Cc":
        return c if c in "\t\n\r" else " "
    if category in ("Cs", "Co", "Cn"):
        return "\ufffd"
    if code in _held() and (category != "Cf" or c in "\u00ad\u200c\u200d"):
        return c
    if category == "Cf":
        return ""
    if c == "\u202f":
        return "\u00a0"
    name = unicodedata.name(c, "").lower()
    return (
        f"[{name}]"
        if name and "ideograph" not in name and "syllable" not in name
        else f"[U+{code:04X}]"
    )


def fonts() -> Path:
    """The folder of DejaVu, which comes with matplotlib. S02 where it is not there."""
    spec = find_spec("matplotlib")
    folder = Path((spec.origin if spec else None) or "").parent / "mpl-data" / "fonts" / "ttf"
    if not (folder / "DejaVuSans.ttf").is_file():
        raise RunError(
            "S02", f"the fonts of report.pdf are not in '{folder}'; install matplotlib again"
        )
    return folder


@cache
def _held() -> frozenset[int]:
    """Characters that the plain font and the bold one both hold."""
    with (
        TTFont(fonts() / "DejaVuSans.ttf") as plain,
        TTFont(fonts() / "DejaVuSans-Bold.ttf") as bold,
    ):
        return frozenset(plain.getBestCmap()) & frozenset(bold.getBestCmap())
