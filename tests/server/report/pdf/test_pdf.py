"""report.pdf: the same content as the page, readable whatever a report holds, and the same bytes
each time."""

import base64
import copy
import hashlib
import io
import json
import re
from collections import Counter
from html import escape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from server.report import write
from server.report.page import page
from server.report.pdf import pdf
from server.report.pdf.elements import Page, drawable
from tests.server.report.made_report import make
from tests.server.report.page.test_page import PATHS, _with_holes, read, sound, text_of

TYPST = '#panic("x") [a] $x$ *b* _c_ `d` @ref <lab> \\u{41} // c /* d */ ~ -- #{"'
NAMES = (
    "<b>Markup</b> & 'quotes'", "\u05de\u05e8\u05db\u05d6 \u05e8\u05e4\u05d5\u05d0\u05d9 2024",
    "\u0645\u0633\u062a\u0634\u0641\u0649",
    "\U0001f3e5 Klinik Gr\u00f6\u00dfe \u00b5\u2265\u03a9 \u6771\u4eac", "x" * 300,
    "Universitaetsklinikum " * 40, "A\tB\nC\x00D", "\ud800",
    TYPST, "\u202eevil\u202c", "a\u0301\u0300" * 30, "\u0628\u0650\u0633\u0652",
)  # fmt: skip


def made(report):
    return PdfReader(io.BytesIO(pdf.typeset(page.render(report), report)))


def words(reader):
    return " ".join(" ".join(p.extract_text() for p in reader.pages).split())


def strings(element):
    """Of the page's elements and drawings; a word in pieces is whole again."""
    out = ""
    for inner in element["inside"]:
        if isinstance(inner, str):
            out += inner
        elif inner["tag"] != "wbr":
            yield from [out] if out else []
            out = ""
            yield from strings(inner)
    yield from [out] if out else []
    yield from (label["words"] for label in element.get("labels", []))


def test_it_says_what_the_page_says():
    report = make()
    reader, text = made(report), words(made(report))
    assert reader.metadata.author == "fedmets"
    assert "colorectal_metastasis" in reader.metadata.title
    assert reader.metadata.creation_date.isoformat().startswith("2026-11-22T18:34:44")
    assert reader.trailer["/Root"]["/Lang"] == "en"
    for n, p in enumerate(reader.pages, start=1):
        foot = p.extract_text()
        assert f"page {n} of {len(reader.pages)}" in foot
        assert "ab" * 16 in foot
    titles = [o.title for o in reader.outline if not isinstance(o, list)]
    assert len(titles) == len(page.SECTIONS) - 1
    assert titles[0].startswith("1 Headline")
    foot = (
        rf"colorectal_metastasis,postresectionrun(ab)*·researchuseonly·page\d+of{len(reader.pages)}"
    )
    letters = re.sub(foot, "", text.replace(" ", ""))
    html = page.render(report)
    for string in strings(Page(html).body):
        for sentence in string.split(". "):
            assert "".join(sentence.split()) in letters, sentence
    for cell in (e for e in read(html) if e["tag"] == "td" and not e["children"]):
        assert "".join(cell["text"].split()) in letters, cell["text"]


def test_the_front_page_is_the_first():
    text = " ".join(made(make()).pages[0].extract_text().split())
    for said in (
        "Has the cancer spread?",
        "Research use only",
        "no difference shown",
        "What it must not be used for",
    ):
        assert said in text
    assert "2 Patients" not in text


def structure(reader):
    """Elements of the structure in the order of reading, each with those in it."""

    def inside(element):
        kids = element.get("/K", [])
        kids = [k.get_object() for k in (kids if isinstance(kids, list) else [kids])]
        return [k for k in kids if isinstance(k, dict) and "/S" in k]

    waiting = inside(reader.trailer["/Root"]["/StructTreeRoot"])
    while waiting:
        element = waiting.pop(0)
        kids = inside(element)
        waiting = kids + waiting
        yield element, kids


def scopes(cells):
    return [cell["/A"][0]["/Scope"] for cell in cells if cell["/S"] == "/TH"]


def test_it_is_tagged():
    report = make()
    html, reader = page.render(report), made(report)
    assert reader.trailer["/Root"]["/MarkInfo"]["/Marked"]
    assert reader.pdf_header == "%PDF-1.7"
    assert (
        "<pdfuaid:part>1</pdfuaid:part>" in reader.trailer["/Root"]["/Metadata"].get_data().decode()
    )
    roles = Counter(element["/S"] for element, _ in structure(reader))
    wanted = {
        "/Document",
        "/H1",
        "/H2",
        "/H3",
        "/P",
        "/L",
        "/LI",
        "/Lbl",
        "/Table",
        "/TR",
        "/TH",
        "/TD",
        "/Figure",
        "/Caption",
        "/Link",
    }
    assert wanted <= set(roles)
    assert roles["/H1"] == 1
    alternatives = [
        element["/Alt"] for element, _ in structure(reader) if element["/S"] == "/Figure"
    ]
    assert sorted(alternatives) == sorted(e["text"] for e in read(html) if e["tag"] == "desc")
    assert any("patients read" in a for a in alternatives)
    heads = Counter(e["attrs"]["scope"] for e in read(html) if e["tag"] == "th")
    rows = [cells for element, cells in structure(reader) if element["/S"] == "/TR"]
    assert [scopes(cells) for cells in rows if cells[-1]["/S"] == "/TD"] == [["/Row"]] * heads[
        "row"
    ]
    in_heads = [scope for cells in rows if cells[-1]["/S"] == "/TH" for scope in scopes(cells)]
    assert in_heads == ["/Column"] * (heads["col"] + heads["rowgroup"])


CASES = {
    "usual": make(),
    "nothing estimable": make(estimable=0),
    "hostile names": make(site_names=NAMES, estimable=6),
    "four classes": make(classes=("nsclc", "breast", "melanoma", "other")),
    "empty": {},
    "long": {
        **make(),
        "question": "Why? " * 800,
        "alarms": ["alarm " * 400] * 30,
        "configuration": {"k" * 400: "v" * 9000},
    },
    "broken picture": {
        **make(),
        "synthetic": True,
        "images": {"pictures": [{"site": "A", "patient": "1", "said": "x", "png": "AAAA"}]},
    },
    "deployment": {
        **make(),
        "setting": "deployment",
        "subgroups": None,
        "curves": None,
        "flow": None,
        "images": None,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_every_report_is_set_and_the_usual_ones_give_the_same_bytes(name, tmp_path):
    report = CASES[name]
    first = write.write(tmp_path, report)
    blobs = {n: (tmp_path / n).read_bytes() for n in first}
    assert first == {n: hashlib.sha256(b).hexdigest() for n, b in blobs.items()}
    if name in ("usual", "deployment"):
        again = write.write(tmp_path, json.loads(blobs["report.json"]))
        assert again == first
    assert len(PdfReader(io.BytesIO(blobs["report.pdf"])).pages) >= 1


@pytest.mark.slow
def test_two_hundred_sites():
    report = make(site_names=tuple(f"Hospital {k}" for k in range(200)), estimable=150)
    text = words(made(report))
    assert all(f"Hospital {k}" in text for k in range(200))
    # a table that goes on repeats its header
    assert text.count("Unknown label") > 3


def test_letters_that_a_font_lacks_are_named():
    assert drawable("Gr\u00f6\u00dfe \u03a9 \u2265") == "Gr\u00f6\u00dfe \u03a9 \u2265"
    assert drawable("\U0001f3e5 A") == "[hospital] A"
    assert drawable("\u6771") == "[U+6771]"
    assert drawable("a\x00b\u200bc\u202ed") == "a bcd"
    for arabic_or_hebrew in ("\u0645\u0633\u062a\u0634\u0641\u0649", "\u05d0\u05d1\u05d2 (ab) 12"):
        assert drawable(arabic_or_hebrew) == arabic_or_hebrew


CELL = "<td>-</td>"
CELLS = page.render({}).count(CELL)
assert CELLS > 2


def with_cells(texts):
    """The page of an empty report, with these in its cells."""
    html = page.render({})
    for text in texts:
        html = html.replace(CELL, f"<td>{escape(text)}</td>", 1)
    return html


def several(text):
    return st.lists(text, min_size=1, max_size=CELLS)


@settings(max_examples=8, deadline=None)
@given(several(st.text(max_size=80)))
@example(["\u0628\u0650\u0633\u0652 a\u0301\u0300" * 9])
def test_any_text_is_set_and_none_of_it_left_out(texts):
    html = with_cells(texts)
    shown = "".join("".join(strings(Page(html).body)).split())
    for text in texts:
        assert "".join(drawable(text).split()) in shown
    assert pdf.typeset(html, {}).startswith(b"%PDF")


@settings(max_examples=8, deadline=None)
@given(
    several(
        st.text(
            st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=("Cc", "Cf")),
            max_size=80,
        )
    )
)
@example([TYPST, "\\" * 20])
def test_any_latin_text_comes_out_of_the_file_as_itself(texts):
    reader = PdfReader(io.BytesIO(pdf.typeset(with_cells(texts), {})))
    set_ = "".join(words(reader).split())
    for text in texts:
        assert "".join(text.split()) in set_


def test_a_hole_leaves_its_place_saying_so():
    report = {
        k: v
        for k, v in make().items()
        if k not in ("flow", "sites", "configuration", "participation", "state_hash")
    }
    text = words(made(report))
    for said in (
        "is not recorded",
        "No site is in this report",
        "The configuration is not recorded",
        "MISSING",
        "not recorded",
    ):
        assert said in text
        assert said in text_of(page.render(report))


SMALL = make(
    ("Alster", "Birkdale"), 1, evaluations=("within_site",), models=("clinical", "logistic")
)


@pytest.mark.parametrize("key", sorted(make()))
def test_any_key_may_be_gone(key):
    report = copy.deepcopy(SMALL)
    del report[key]
    sound(page.render(report))


@pytest.mark.parametrize("nth", range(4))
def test_a_quarter_of_the_keys_may_be_gone(nth):
    report = copy.deepcopy(SMALL)
    for key in sorted(make())[nth::4]:
        del report[key]
    assert pdf.typeset(page.render(report), report).startswith(b"%PDF")


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.booleans()), min_size=1, max_size=40))
def test_many_values_may_be_none_or_missing(holes):
    report = _with_holes(holes)
    assert pdf.typeset(page.render(report), report).startswith(b"%PDF")


def test_a_deployment_says_what_only_a_simulation_knows():
    report = make() | {"setting": "deployment"}
    report["results"] = [r for r in report["results"] if r["arm"] != "pooled"]
    assert "only a simulation can know it" in text_of(page.render(report))
    assert "only a simulation can know it" in words(made(report))


def test_counts_that_sites_keep_are_not_counted_as_none():
    report = make() | {
        "setting": "deployment",
        "flow": None,
        "totals": {"labelled": 700, "events": 90},
    }
    report["sites"] = [{**s, "patients": None, "n": None, "events": None} for s in report["sites"]]
    text = text_of(page.render(report))
    assert "700 with a known label, 90 events (12.9" in text
    assert "keeps it to itself, in its own log" in text
    assert " 0 patients" not in text
    assert "700 labelled, 90 events" in text
    without = text_of(page.render({k: v for k, v in report.items() if k != "totals"}))
    assert "not recorded with a known label" in without
    assert words(made(report))


def test_pictures_are_of_generated_patients_only():
    from matplotlib.figure import Figure

    out = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(out, format="png")
    shown = [
        {
            "site": "Alster",
            "patient": "generated patient 1",
            "said": "region expert",
            "png": base64.b64encode(out.getvalue()).decode(),
        }
    ]
    report = make() | {"images": {"pictures": shown}, "synthetic": True}
    sound(page.render(report))
    assert "generated patient 1" in words(made(report))
    real = page.render(report | {"synthetic": False})
    assert "<img" not in real
    assert "pictures of people stay at their site" in real
