import copy
import json
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.report.charts import charts, figures, survival_curves
from server.report.content import wording
from server.report.content.index import Index
from server.report.page import page
from server.report.page.comparison_tables import headline, sites, table
from tests.server.report.made_report import RESEARCH, make

# ---- what every page must be ---------------------------------------------------------------------

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Reader(HTMLParser):
    """Checks nesting as it goes; keeps elements, their text and their attributes."""

    def __init__(self):
        super().__init__()
        self.stack, self.found, self.faults = [], [], []

    def handle_starttag(self, tag, attrs):
        element = {
            "tag": tag,
            "attrs": dict(attrs),
            "text": "",
            "inside": [e["tag"] for e in self.stack],
            "children": [],
        }
        if self.stack:
            self.stack[-1]["children"].append(element)
        self.found.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack[-1]["tag"] != tag:
            self.faults.append(
                f"</{tag}> closes {self.stack[-1]['tag'] if self.stack else 'nothing'}"
            )
        else:
            self.stack.pop()
        if tag in ("td", "th"):
            self.handle_data(" ")

    def handle_data(self, data):
        for e in self.stack:
            e["text"] += data


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.faults, reader.faults[:3]
    assert not reader.stack
    return reader.found


def sound(html):
    """Well nested, self-contained, without script, and usable by keyboard and screen reader;
    returns its elements."""
    found = read(html)
    ids = [e["attrs"]["id"] for e in found if "id" in e["attrs"]]
    assert len(ids) == len(set(ids)), sorted(i for i in ids if ids.count(i) > 1)
    for e in found:
        tag, attrs = e["tag"], e["attrs"]
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form"), tag
        if tag == "img":
            assert attrs.pop("src").startswith("data:image/png;base64,")
            assert attrs["alt"]
        for name, value in attrs.items():
            assert not name.startswith("on"), name
            assert name not in ("src", "srcset", "action", "xlink:href"), name
            if name == "href":
                assert value.startswith("#"), value
                assert value[1:] in ids, value
            if name in ("aria-labelledby", "aria-describedby"):
                assert set(value.split()) <= set(ids), value
        if tag == "table":
            assert "caption" in [c["tag"] for c in e["children"]], e["text"][:80]
            rows = [
                r
                for part in e["children"]
                for r in part["children"]
                if part["tag"] in ("thead", "tbody")
            ]
            widths = {sum(int(c["attrs"].get("colspan", 1)) for c in r["children"]) for r in rows}
            assert len(widths) <= 1, (e["text"][:80], widths)
        if tag == "th":
            assert attrs.get("scope") in ("row", "col", "rowgroup"), e["text"]
        if tag == "svg" and attrs.get("aria-hidden") != "true":
            assert attrs.get("role") == "img"
            assert [c["tag"] for c in e["children"][:2]] == ["title", "desc"]
            assert all(c["text"].strip() for c in e["children"][:2])
        if attrs.get("class") == "scroll":
            assert attrs.get("tabindex") == "0"
            assert attrs.get("aria-label")
    levels = [int(e["tag"][1]) for e in found if e["tag"] in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels
    assert (
        html.count("http:")
        == html.count("https:")
        == html.count("@import")
        == html.count("url(#") - html.count('clip-path="url(#')
        == 0
    )
    assert 'lang="en"' in html
    assert "viewport" in html
    text = "".join(e["text"] for e in found if e["tag"] == "body")
    for word in ("None", "nan", "undefined", "inf "):
        assert not any(
            t == word.strip() for t in text.replace("(", " ").replace(")", " ").split()
        ), word
    return found


def text_of(html):
    return " ".join(next(e for e in read(html) if e["tag"] == "body")["text"].split())


CASES = {
    "usual": make(),
    "nothing estimable": make(estimable=0),
    "one site": make(site_names=("Alster",), estimable=1, evaluations=("within_site",)),
    "no leave-one-site-out": make(evaluations=("within_site",)),
    "only leave-one-site-out": make(evaluations=("leave_one_site_out",)),
    "four classes": make(classes=("nsclc", "breast", "melanoma", "other")),
    "no survival": make(survival=False),
    "forty sites": make(site_names=tuple(f"Hospital {k}" for k in range(40)), estimable=33),
    "long names": make(
        site_names=tuple(
            f"{k} Universitaetsklinikum{'x' * 70} of the Very Long Name {k}" for k in range(4)
        )
    ),
    "empty": {},
}


@pytest.mark.parametrize("name", CASES)
def test_every_report_makes_a_sound_page(name):
    html = page.render(CASES[name])
    sound(html)
    assert html == page.render(json.loads(json.dumps(CASES[name])))


def test_markup_in_any_string_is_text():
    evil = "<script>alert(1)</script><b a=\"'&amp;"

    def poison(value, key=""):
        if isinstance(value, dict):
            named = key in ("overrides", "not", "pooled", "predictions", "configuration", "auc")
            return {(evil + k if named else k): poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        return (
            value
            if not isinstance(value, str)
            or key in ("arm", "evaluation", "metric", "model", "a", "b")
            else value + evil
        )

    report = make(site_names=("S" + evil, "T"))
    html = page.render({**poison(report), "results": report["results"]})
    sound(html)
    assert "<script" not in html
    assert "alert(1)" in html
    assert "<b a=" not in html


def _paths(value, at=()):
    yield at
    for k, v in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from _paths(v, (*at, k))


SMALL = make(
    site_names=("Alster", "Birkdale"),
    estimable=1,
    models=("clinical", "logistic"),
    evaluations=("within_site",),
)
PATHS = [p for p in _paths(SMALL) if p]


SHAPES = list({tuple("#" if isinstance(k, int) else k for k in p): p for p in PATHS}.values())
"""One path of each shape: a hole in one row is a hole in any."""


def _with_holes(holes):
    """`holes`: (path, whether the key goes; else its value becomes None)."""
    report = copy.deepcopy(SMALL)
    for path, remove in holes:
        at = report
        for k in path[:-1]:
            at = (
                at.get(k)
                if isinstance(at, dict)
                else at[k]
                if isinstance(at, list) and k < len(at)
                else None
            )
        if isinstance(at, dict) and remove:
            at.pop(path[-1], None)
        elif isinstance(at, dict) or (isinstance(at, list) and path[-1] < len(at)):
            at[path[-1]] = None
    return report


@pytest.mark.parametrize("nth", range(len(SHAPES) // 4 + 1))
def test_any_value_may_be_none_or_missing(nth):
    """Some at a time, far from each other in the report."""
    some = SHAPES[nth :: len(SHAPES) // 4 + 1]
    sound(page.render(_with_holes([(path, False) for path in some])))
    page.render(_with_holes([(path, True) for path in some]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.booleans()), min_size=1, max_size=40))
def test_many_values_may_be_none_or_missing(holes):
    sound(page.render(_with_holes(holes)))


# ---- page 1 --------------------------------------------------------------------------------------


def test_page_one_says_what_must_be_said():
    report = make() | {
        "synthetic": True,
        "virtual": "The sites are virtual.",
        "permuted_labels": 0,
        "alarms": ["E11: suspect leakage"],
    }
    text = text_of(page.render(report)).split("2 Patients: who was read")[0]
    n, events = sum(s["n"] for s in report["sites"]), sum(s["events"] for s in report["sites"])
    for sentence in (
        RESEARCH, "A method benchmark, not a decision aid.", "were generated", "The sites are "
                                                                               "virtual.",
                                                                               "shuffled within "
                                                                               "sites (seed 0)",
        "E11: suspect leakage", "L03 (a single feature", "stage_x", "staged before <M>",
        f"{n} with a known label, {events} events",
        "What it must not be used for", "Accuracy says next to nothing here",
    ):  # fmt: skip
        assert sentence in text, sentence
    assert " Accuracy 0" not in text


def test_the_headline_is_the_federated_auc_with_its_interval_beside_local_and_pooled():
    report = make()
    index = Index(report)
    card = headline(report, index, "within_site")
    row = index.get("clinical", "federated", "within_site", "auc")
    assert card["value"] == f"{row['value']:.3f}"
    assert card["interval"] == f"{row['low']:.3f} to {row['high']:.3f}"
    assert [a["arm"] for a in card["arms"]] == ["Federated", "Local", "Pooled"]
    figures_ = dict(card["differences"])
    assert figures_["Federated minus local"].figure == "+0.030 (-0.010 to +0.070)"
    assert figures_["Federated minus local"].verdict.endswith("no difference shown")
    assert figures_["Pooled minus local"].verdict == "the interval excludes zero: pooled higher"
    assert "patients" in figures_["Federated minus local"].same
    assert not card["other_patients"]
    index.rows["clinical", "local", "within_site", "all", "auc"] = {**row, "n": 10}
    assert headline(report, index, "within_site")["other_patients"]


def test_a_limit_that_excludes_zero_is_not_written_as_zero():
    row = {
        "a": "x",
        "b": "y",
        "difference": -0.0038,
        "low": -0.0085,
        "high": -0.0002,
        "n": 9,
        "events": 3,
        "sites": 1,
        "estimable": True,
    }
    assert wording.difference(row).figure == "-0.0038 (-0.0085 to -0.0002)"
    assert wording.difference(row).same == "same 9 patients (3 events) of 1 site"
    assert wording.difference(row).verdict.endswith("y higher")
    assert wording.difference({**row, "low": None}).verdict.startswith("no interval")
    assert wording.difference({**row, "estimable": False}) == (
        "not estimable",
        "same 9 patients (3 events) of 1 site",
        "not estimable",
    )
    assert (
        wording.difference({**row, "difference": -1e-9, "high": 0.0002}).figure
        == "0.000 (-0.009 to 0.000)"
    )


# ---- tables --------------------------------------------------------------------------------------


def _row(value, n=100, **more):
    figures_ = {
        "value": value,
        "low": value,
        "high": value,
        "n": n,
        "events": 20,
        "estimable": value is not None,
    }
    return {"model": "m", "evaluation": "within_site", "site": "all", **figures_, **more}


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("auc", (0.7, 0.9, 0.8), (0, 1, 0)),
        ("brier", (0.1, 0.2, 0.3), (1, 0, 0)),
        ("log_loss", (0.4, 0.2, 0.3), (0, 1, 0)),
        ("calibration_slope", (0.7, 1.6, 1.2), (0, 0, 1)),
        ("calibration_intercept", (-0.1, 0.3, -0.2), (1, 0, 0)),
        ("auc", (None, 0.6, 0.5), (0, 1, 0)),
        ("brier", (None, 0.6, 0.5), (0, 0, 1)),
        ("auc", (0.9, None, None), (0, 0, 0)),
        ("auc", (0.8, 0.8, 0.8), (0, 0, 0)),
        ("auc", (0.8, 0.8001, 0.7), (1, 1, 0)),
        ("no_information_rate", (0.8, 0.9, 0.7), (0, 0, 0)),
    ],
)
def test_the_best_is_marked_among_estimable_rows_only(metric, values, best):
    report = {
        "results": [
            _row(v, arm=a, metric=metric)
            for a, v in zip(("federated", "local", "pooled"), values, strict=True)
        ]
    }
    out = table(Index(report), "within_site")
    column = [m.name for m in out["metrics"]].index(metric)
    cells = [r["cells"][column] for r in out["rows"]]
    assert tuple(int(c["best"]) for c in cells) == best
    assert [c["missing"] for c in cells] == [
        "not estimable" if v is None and metric != "no_information_rate" else "" for v in values
    ]


def test_rows_on_fewer_patients_are_not_compared():
    report = {
        "results": [
            _row(v, n, arm=a, metric="auc")
            for a, v, n in (("federated", 0.8, 100), ("local", 0.9, 50), ("pooled", 0.7, 100))
        ]
    }
    assert [r["cells"][0]["best"] for r in table(Index(report), "within_site")["rows"]] == [
        True,
        False,
        False,
    ]


def test_accuracy_stands_beside_the_no_information_rate():
    names = [m.name for m in wording.METRICS]
    assert names.index("no_information_rate") == names.index("accuracy") + 1


def test_sites_keep_their_order_and_say_why_they_have_no_figure():
    report = make(site_names=("Zeta", "Alpha", "Mid"), estimable=2)
    out = sites(report, Index(report), "within_site")
    assert [r["site"] for r in out["rows"]] == ["Zeta", "Alpha", "Mid"]
    assert out["rows"][2]["cells"] == ["not estimable", "no model", "not estimable"]
    assert out["rows"][2]["n"] == "22"
    assert "fewer than 3 estimable sites: no summary across sites" in out["said"][0]
    assert "Zeta, 0.710" in out["said"][0]
    assert (
        "prediction interval for a new, similar site 0.550 to 0.940"
        in sites(make(), Index(make()), "within_site")["said"][0]
    )


def test_how_it_was_evaluated_is_told():
    text = text_of(page.render(make())).split("11 How it was evaluated Splits")[-1]
    for sentence in (
        "P01 (2 times): a sum covers fewer patients than the site's minimum", "refused (1 time): "
                                                                              "the site's guard "
                                                                              "refused",
        "OUTSIDE the bound", "the sites can be told apart", "no better than chance",
        "Carcinoembryonic antigen 0.880 below the limit",
        "t 0.970 above the limit", "Logistic regression for 40 predictions, Gradient boosting "
                                   "(trees) for 1 prediction",
        "image models and fusion: not run", "ab" * 32, "cd" * 32, "5.45 MB", "995 bytes",
        "All positive", "not estimable",
    ):  # fmt: skip
        assert sentence in text, sentence


# ---- figures -------------------------------------------------------------------------------------


def test_what_an_attack_finds_stands_beside_what_privacy_costs():
    report = make()
    text = (
        text_of(page.render(report))
        .split("What privacy costs")[-1]
        .split("11 How it was evaluated")[0]
    )
    for word in (
        "What an attack finds",
        "0.531 (0.512 to 0.553)",
        "0.021 (0.008 to 0.043)",
        "2.97",
        "calibrated",
        "not estimable",
    ):
        assert word in text, word
    assert "Logistic regression: at least 0.87 of 2.98 (20000 releases)" in text
    assert "Canaries in whole fits" in text
    assert "0.41 2.99 1e-05 one patient, added or removed 1000 250, 169 167 95 %" in text
    alone = text_of(page.render({**report, "utility": [], "privacy": []}))
    assert "What an attack finds" in alone
    assert "What privacy costs" not in alone
    assert "see results" in alone
    assert "What an attack finds" not in text_of(
        page.render({**report, "audit": [], "canary": [], "one_run": []})
    )


def test_what_an_epsilon_is_of_is_said_where_there_is_noise():
    report = make()
    text = text_of(page.render(report))
    for word in (
        "Unit: A patient",
        "Adjacency: Cohorts that differ by one patient",
        "rounded to whole steps",
        "Released: The noisy sums",
        "Accountant: Gaussian sums by their exact law",
        "it hides nobody" if report["setting"] == "simulation" else "operating system of the site",
    ):
        assert word in text, word
    quiet = report | {"utility": [], "privacy": [], "audit": [], "canary": []}
    quiet["configuration"] = report["configuration"] | {"noise": 0.0}
    assert "What an epsilon is of" not in text_of(page.render(quiet))
    quiet["configuration"] = report["configuration"] | {"noise": 3.0}
    assert "Accountant: not recorded" in text_of(page.render(quiet))


def test_without_any_privacy_it_is_said_what_was_not_protected():
    report = make() | {
        "setting": "simulation",
        "utility": [],
        "privacy": [],
        "audit": [],
        "canary": [],
        "one_run": [],
    }
    settings_ = report["configuration"]
    text = text_of(
        page.render(report | {"configuration": settings_ | {"secure": False, "noise": 0.0}})
    )
    for sentence in (
        "not masked",
        "no noise was added",
        "No attack on membership was tried",
        "a site refuses a sum over too few",
        "one machine",
    ):
        assert sentence in text, sentence
    text = text_of(
        page.render(report | {"configuration": settings_ | {"secure": True, "noise": 2.0}})
    )
    assert "masked their sums" in text
    assert "added noise" in text
    assert "is not recorded" in text_of(page.render({**report, "configuration": None}))


def test_the_four_curves_say_in_words_what_they_draw():
    drawn = figures.curves(make(), "within_site")
    assert [f.title.split()[0] for f in drawn] == [
        "Receiver",
        "Precision",
        "Calibration",
        "Decision",
    ]
    assert "federated 50\u00a0%, local 50\u00a0%, pooled 50\u00a0%" in drawn[0].text
    assert all(arm in f.svg for f in drawn for arm in ("federated", "local", "pooled"))
    assert all(f.text.replace("'", "&#39;") in str(f.svg) for f in drawn)
    assert figures.curves(make(classes=("a", "b", "c", "d")), "within_site") == []


def test_the_forest_leaves_out_what_is_not_estimable():
    (figure,) = figures.sites(
        make(site_names=("Yes", "Also", "Third", "Never"), estimable=3), "within_site"
    )
    assert "Yes" in figure.svg
    assert "Never" not in figure.svg
    assert "Mean over sites" in figure.svg
    assert figures.sites(make(estimable=0), "within_site") == []


def test_many_sites_are_drawn_in_several_plots():
    found = figures.sites(
        make(site_names=tuple(f"Site {k}" for k in range(40)), estimable=40), "within_site"
    )
    assert len(found) == 3
    assert "part 3 of 3" in found[-1].title
    assert "Mean over sites" in found[-1].svg


def test_numbers_at_risk_are_those_at_the_start_of_the_interval():
    out = survival_curves.survival(make())
    assert out.times == ["0", "500", "1000", "1500"]
    # 500 days: 16 intervals of 30 days are over
    assert dict(out.at_risk)["M0"] == [
        "200",
        str(200 - 3 * 16),
        str(200 - 3 * 33),
        str(200 - 3 * 50),
    ]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks_lie_within_the_axis_evenly(low, span):
    axis = charts.Axis("x", low, low + span)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)
    gaps = [b - a for a, b in pairwise(ticks)]
    assert max(gaps) - min(gaps) < 1e-6 * max(gaps) + 1e-8


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), max_size=30))
def test_thinning_keeps_the_ends_and_never_leaves_the_line(path):
    path = sorted(path)
    thin = charts._thin(path)
    assert len(thin) <= len(path)
    if path:
        assert thin[0] == tuple(round(v, 1) for v in path[0])
        assert thin[-1] == tuple(round(v, 1) for v in path[-1])
    # a vertical or horizontal run loses only inner points
    assert {x for x, _ in thin} <= {round(x, 1) for x, _ in path}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not estimable"),
        (float("nan"), "not estimable"),
        (True, "not estimable"),
        (-0.0001, "0.000"),
        (0.5, "0.500"),
    ],
)
def test_a_number_is_written_or_said_not_to_be_estimable(value, text):
    assert wording.number(value) == text
