"""HTML page `report.html`: the run on one page that needs nothing else, for a clinician or a
reviewer. Made from the report alone.

`server.report.pdf.pdf` sets the same page on paper: whatever stands here stands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from server.report.charts import figures, survival_curves
from server.report.checklists import checklist, claim, tripod
from server.report.content import wording
from server.report.content.index import Index
from server.report.content.rows import Report
from server.report.content.wording import EVALUATIONS
from server.report.page.comparison_tables import confusion, differences, headline, sites, table
from server.report.page.final_model import final, noisy
from server.report.page.front import classes_of, first
from server.report.page.importance import importance
from server.report.page.methods import methods
from server.report.page.patients import patients
from server.report.page.pictures import pictures
from server.report.page.privacy import privacy
from server.report.page.ranking import ranking
from server.report.page.subgroups import lead, subgroups
from server.report.page.traceability import trace

Context = dict[str, Any]
SECTIONS = {
    "headline": "Headline",
    "flow": "Patients",
    "curves": "Curves",
    "comparison": "Models",
    "sites": "Sites",
    "subgroups": "Subgroups",
    "images": "Images",
    "importance": "Features",
    "survival": "Survival",
    "privacy": "Privacy",
    "methods": "How it was evaluated",
    "trace": "Traceability",
    "tripod": tripod.NAME,
    "claim": claim.NAME,
}
"""Id, which is also the name of its template, and the short title; numbered in this order."""


def render(report: Mapping[str, Any]) -> str:
    """One self-contained HTML file: no script, no asset from elsewhere; the same report gives the
    same bytes.

    `report`: as in report.json. A key that is missing or None leaves its place saying so ("not
    recorded", "not estimable").
    """
    return _template().render(**_context(report))


@cache
def _template() -> Template:
    here = FileSystemLoader(Path(__file__).parent / "template")
    env = Environment(
        loader=here,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return env.get_template("page.html")


def _context(report: Report) -> Context:
    index = Index(report)
    present = [e for e in EVALUATIONS if index.has(e)]
    drawn = next((e for e in present if figures.curves(report, e)), None)
    pictured = bool(report.get("images"))
    shown = {k: v for k, v in SECTIONS.items() if k != "claim" or pictured}
    return {
        **first(report),
        "sections": shown,
        "number": {k: str(n) for n, k in enumerate(shown, start=1)},
        "headlines": [headline(report, index, e) for e in present],
        "flow": patients(report),
        "tables": [table(index, e) for e in present],
        "ranked": [ranking(index, e) for e in present],
        "differences": [differences(report, e) for e in present],
        "sites": [
            sites(report, index, e) | {"figures": figures.sites(report, e, index.lead(e))}
            for e in present
        ],
        "final": final(report, index.lead(present[0])) if present else None,
        "noisy": noisy(report),
        "subgroups": subgroups(report),
        "subgroup_lead": lead(report),
        "images": pictures(report),
        "curves": figures.curves(report, drawn, index.lead(drawn)) if drawn else [],
        "drawn_model": wording.model(index.lead(drawn)) if drawn else "",
        "drawn_evaluation": EVALUATIONS[drawn] if drawn else "",
        "confusion": confusion(report, classes_of(report), present[0], index.lead(present[0]))
        if present
        else [],
        "importance": importance(report),
        "survival": survival_curves.survival(report),
        "privacy": privacy(report),
        "methods": methods(report, index),
        "trace": trace(report),
        "tripod": _items(report, "tripod", tripod.ITEMS),
        "claim": _items(report, "claim", claim.ITEMS),
    }


def _items(report: Report, name: str, items: Sequence[checklist.Item]) -> Context:
    found = checklist.lines(items, report, checklist.stated(report, name))
    return {"lines": found, "counted": checklist.counted(found)}
