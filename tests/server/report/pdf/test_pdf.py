"""report.pdf: the same content as the page, readable whatever a report holds, and the same bytes each time."""

import base64
import copy
import hashlib
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from server.report import write
from server.report.page import page
from server.report.pdf import pdf
from server.report.pdf.fonts import drawable
from server.report.pdf.tree import read as tree
from tests.server.report.made_report import make
from tests.server.report.page.test_page import PATHS, _with_holes, sound, text_of

NAMES = (
    "<b>Markup</b> & 'quotes'", "\u05de\u05e8\u05db\u05d6 \u05e8\u05e4\u05d5\u05d0\u05d9 2024", "\u0645\u0633\u062a\u0634\u0641\u0649",
    "\U0001f3e5 Klinik Gr\u00f6\u00dfe \u00b5\u2265\u03a9 \u6771\u4eac", "x" * 300, "Universitaetsklinikum " * 40, "A\tB\nC\x00D", "\ud800",
)  # fmt: skip


def made(report):
    return PdfReader(io.BytesIO(pdf.typeset(page.render(report), report)))


def words(reader):
    return " ".join(" ".join(p.extract_text() for p in reader.pages).split())


def test_it_says_what_the_page_says():
    report = make()
    reader, text = made(report), words(made(report))
    assert reader.metadata.author == "fedmets"
    assert "colorectal_metastasis" in reader.metadata.title
    assert reader.metadata.creation_date.isoformat().startswith("2026-11-22T18:34:44")
    assert reader.trailer["/Root"]["/Lang"] == "en"
    for n, p in enumerate(reader.pages, start=1):
        foot = p.extract_text()
        assert f"page {n}" in foot
        assert "ab" * 16 in foot
        # the number of pages is drawn once, and named on each
        assert f"of {len(reader.pages)}" in foot
    titles = [o.title for o in reader.outline if not isinstance(o, list)]
    assert len(titles) == len(page.SECTIONS) - 1
    assert titles[0].startswith("1 Headline")
    body = tree(page.render(report))
    for table in (e for e in body.walk() if e.tag == "table"):
        for cell in (c for c in table.walk() if c.tag == "td" and c.text.isascii() and 0 < len(c.text) < 24 and not c.first("span")):
            assert cell.text.replace(" ", "") in text.replace(" ", ""), cell.text


def test_the_front_page_is_the_first():
    text = " ".join(made(make()).pages[0].extract_text().split())
    for said in ("Has the cancer spread?", "Research use only", "no difference shown", "What it must not be used for"):
        assert said in text
    assert "2 Patients" not in text


def test_it_is_tagged():
    report = make()
    root = made(report).trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    roles, alternatives, scopes = {}, [], set()

    def walk(element):
        element = element.get_object()
        if isinstance(element, dict) and "/S" in element:
            roles[element["/S"]] = roles.get(element["/S"], 0) + 1
            alternatives.extend([element["/Alt"]] if "/Alt" in element else [])
            cells = [kid.get_object() for kid in element["/K"]] if element["/S"] == "/TR" else []
            heads = [cell for cell in cells if cell["/S"] == "/TH"]
            wanted = "/Row" if len(heads) < len(cells) else "/Column"
            assert {head["/A"]["/Scope"] for head in heads} <= {wanted}
            scopes.update(head["/A"]["/Scope"] for head in heads)
            for kid in element["/K"]:
                walk(kid)

    walk(root["/StructTreeRoot"]["/K"][0])
    assert {"/Document", "/H1", "/H2", "/H3", "/P", "/L", "/LI", "/Table", "/TR", "/TH", "/TD", "/Figure", "/Caption"} <= set(roles)
    assert scopes == {"/Row", "/Column"}
    assert roles["/H1"] == 1
    assert len(alternatives) == roles["/Figure"]
    assert any("patients read" in a for a in alternatives)


CASES = {
    "usual": make(),
    "nothing estimable": make(estimable=0),
    "hostile names": make(site_names=NAMES, estimable=6),
    "four classes": make(classes=("nsclc", "breast", "melanoma", "other")),
    "empty": {},
    "long": {**make(), "question": "Why? " * 800, "alarms": ["alarm " * 400] * 30, "configuration": {"k" * 400: "v" * 9000}},
    "broken picture": {**make(), "synthetic": True, "images": {"pictures": [{"site": "A", "patient": "1", "said": "x", "png": "AAAA"}]}},
    "deployment": {**make(), "setting": "deployment", "subgroups": None, "curves": None, "flow": None, "images": None},
}


@pytest.mark.parametrize("name", CASES)
def test_every_report_is_set_and_gives_the_same_bytes(name, tmp_path):
    report = CASES[name]
    first = write.write(tmp_path, report)
    blobs = {n: (tmp_path / n).read_bytes() for n in first}
    assert first == {n: hashlib.sha256(b).hexdigest() for n, b in blobs.items()}
    again = write.write(tmp_path, json.loads(blobs["report.json"]))
    assert again == first
    assert len(PdfReader(io.BytesIO(blobs["report.pdf"])).pages) >= 1


def test_two_hundred_sites():
    report = make(site_names=tuple(f"Hospital {k}" for k in range(200)), estimable=150)
    text = words(made(report))
    assert all(f"Hospital {k}" in text for k in range(200))
    # a table that goes on repeats its header
    assert text.count("Unknown label") > 3


def test_letters_that_a_font_lacks_are_named_and_hebrew_is_turned():
    assert drawable("Gr\u00f6\u00dfe \u03a9 \u2265") == "Gr\u00f6\u00dfe \u03a9 \u2265"
    assert drawable("\U0001f3e5 A") == "[hospital] A"
    assert drawable("\u6771") == "[U+6771]"
    assert drawable("\u05d0\u05d1\u05d2 (ab) 12") == "\u05d2\u05d1\u05d0 (ab) 12"
    assert drawable("a\x00b\u200bc") == "a bc"


def test_a_hole_leaves_its_place_saying_so():
    report = {k: v for k, v in make().items() if k not in ("flow", "sites", "configuration", "participation", "state_hash")}
    text = words(made(report))
    for said in ("is not recorded", "No site is in this report", "The configuration is not recorded", "MISSING", "not recorded"):
        assert said in text
        assert said in text_of(page.render(report))


@pytest.mark.parametrize("key", sorted(make()))
def test_any_key_may_be_gone(key):
    report = copy.deepcopy(make(site_names=("Alster", "Birkdale"), estimable=1))
    del report[key]
    html = page.render(report)
    sound(html)
    assert pdf.typeset(html, report).startswith(b"%PDF")


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
    report = make() | {"setting": "deployment", "flow": None, "totals": {"labelled": 700, "events": 90}}
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
        {"site": "Alster", "patient": "generated patient 1", "said": "region expert", "png": base64.b64encode(out.getvalue()).decode()}
    ]
    report = make() | {"images": {"pictures": shown}, "synthetic": True}
    sound(page.render(report))
    assert "generated patient 1" in words(made(report))
    real = page.render(report | {"synthetic": False})
    assert "<img" not in real
    assert "pictures of people stay at their site" in real
