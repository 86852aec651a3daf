"""The fonts of the PDF: DejaVu, which comes with matplotlib, embedded; and text in the form in which a PDF can draw it."""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from common.errors import RunError

SANS, BOLD, OBLIQUE, BOTH, MONO = "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono"


@cache
def register() -> None:
    """Once a process. S02 where matplotlib's fonts are not there."""
    spec = find_spec("matplotlib")
    folder = Path((spec.origin if spec else None) or "").parent / "mpl-data" / "fonts" / "ttf"
    try:
        for name in (SANS, BOLD, OBLIQUE, BOTH, MONO):
            pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))
    except OSError as error:
        raise RunError("S02", f"the fonts of report.pdf are not in '{folder}' ({error}); install matplotlib again") from error
    pdfmetrics.registerFontFamily(SANS, normal=SANS, bold=BOLD, italic=OBLIQUE, boldItalic=BOTH)
    pdfmetrics.registerFontFamily(MONO, normal=MONO, bold=MONO, italic=MONO, boldItalic=MONO)


def drawable(text: str) -> str:
    """Text from left to right as it is drawn: runs from right to left are turned round, and what no font holds is named in brackets."""
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(_character(c) for c in text)
    if not any(unicodedata.bidirectional(c) in ("R", "AL") for c in shown):
        return shown
    # a run goes from its first to its last letter of such a script; digits inside keep their order
    out = []
    for backwards, run in groupby(_runs(shown), key=lambda pair: pair[1]):
        piece = "".join(c for c, _ in run)
        out.append(_turned(piece) if backwards else piece)
    return "".join(out)


def _character(c: str) -> str:
    """Bold and mono fonts hold fewer characters than the plain one; what is not in all of them is named, too."""
    code = ord(c)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return " "
    if unicodedata.category(c) in ("Cf", "Cs", "Co", "Cn") and c != "\u00ad":
        return "" if unicodedata.category(c) == "Cf" else "\ufffd"
    if code in _held():
        return c
    if c == "\u202f":
        return "\u00a0"
    named = unicodedata.name(c, "").lower()
    return f"[{named}]" if named and "ideograph" not in named and "syllable" not in named else f"[U+{code:04X}]"


@cache
def _held() -> frozenset[int]:
    register()
    fonts: list[Any] = [pdfmetrics.getFont(n) for n in (SANS, BOLD)]
    held = [frozenset(f.face.charToGlyph) for f in fonts]
    return held[0] & held[1]


def _runs(text: str) -> list[tuple[str, bool]]:
    strong = [unicodedata.bidirectional(c) for c in text]
    out, backwards = [], False
    for i, c in enumerate(text):
        if strong[i] in ("R", "AL"):
            backwards = True
        elif strong[i] == "L":
            backwards = False
        elif backwards:
            # a neutral belongs to the run only if the run goes on after it
            following = next((s for s in strong[i:] if s in ("R", "AL", "L")), "L")
            backwards = following != "L"
        out.append((c, backwards))
    return out


def _turned(run: str) -> str:
    """Reversed, with digits and what is in brackets left readable."""
    pieces = ["".join(g) for _, g in groupby(run, key=str.isdecimal)]
    swapped = str.maketrans("()[]<>", ")(][><")
    return "".join(p if p.isdecimal() else p[::-1].translate(swapped) for p in reversed(pieces))
