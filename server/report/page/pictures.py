"""Images, their part of the page: who has them, where regions come from, what the fusion makes of
them.

Pictures of people stay at their site. Only a synthetic cohort's report holds any.
"""

from __future__ import annotations

import re
from typing import Any

from server.report.content import wording
from server.report.content.rows import Report, rows
from server.report.content.wording import Row, finite, number, whole

Context = dict[str, Any]
SOURCES = {
    "expert": "outlined by an expert",
    "predicted": "found by the segmentation network",
    "whole": "the whole field of view",
}
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_COUNTS = ("patients", "with_table", "with_image", "labelled_with_image", "expert_outlines")


def pictures(report: Report) -> Context | None:
    """None where no site holds an image, or the report says nothing of images."""
    images = report.get("images")
    if not images:
        return None
    return {
        "adds": [wording.name(r.get("told")) for r in rows(images, "adds")],
        "fusion": _fusion(images.get("fusion")),
        "sites": [
            {
                "name": wording.name(s.get("name")),
                **{k: whole(s.get(k)) for k in _COUNTS},
                "scanners": ", ".join(
                    f"{wording.name(m)} {whole(n)}" for m, n in (s.get("scanners") or {}).items()
                )
                or "-",
                "missing": ", ".join(
                    f"{wording.name(c.get('channel'))} {whole(c.get('patients'))}"
                    for c in rows(s, "channels_missing")
                )
                or "-",
            }
            for s in rows(images, "sites")
        ],
        "roi": [_source(r) for r in rows(images, "roi_source")],
        "explanation": _explanation(images.get("explanation")),
        "panel": _panel(report, images),
        "withheld": not report.get("synthetic"),
    }


def _panel(report: Report, images: Row) -> list[Context]:
    """Generated patients alone: whatever else is in the report, a cohort that is not declared
    synthetic shows nobody."""
    if report.get("synthetic") is not True:
        return []
    out = []
    for p in rows(images, "pictures"):
        png = str(p.get("png") or "")
        if png and _BASE64.fullmatch(png):
            out.append(
                {
                    "png": png,
                    "patient": f"{wording.name(p.get('site'))}, {wording.name(p.get('patient'))}",
                    "said": wording.name(p.get("said")),
                }
            )
    return out


def _source(r: Row) -> Context:
    known = bool(r.get("estimable")) and finite(r.get("auc")) is not None
    return {
        "model": wording.model(wording.name(r.get("model"))),
        "source": SOURCES.get(str(r.get("roi_source")), wording.name(r.get("roi_source"))),
        **{k: whole(r.get(k)) for k in ("n", "events")},
        "auc": f"{number(r.get('auc'))} ({wording.interval(r.get('low'), r.get('high'))})"
        if known
        else wording.NOT_ESTIMABLE,
        "missing": not known,
    }


def _fusion(fusion: Row | None) -> str:
    if not fusion:
        return ""
    weights = [number(v, 2) for v in fusion.get("image_log_odds") or []]
    several = "s" if len(weights) > 1 else ""
    return (
        f"In the final fusion, one unit of the image model's log-odds counts {', '.join(weights)} "
        f"unit{several} beside the "
        f"clinical model's, fitted on the out-of-fold predictions of {whole(fusion.get('cases'))} "
        "patients with an image; "
        "0 would mean that it is not used."
    )


def _explanation(e: Row | None) -> str:
    if not e or finite(e.get("inside")) is None:
        return ""
    ratio = (
        f"{number(e.get('ratio'), 2)} times chance ({number(e.get('low'), 2)} to "
        f"{number(e.get('high'), 2)})"
    )
    return (
        f"Grad-CAM of the reported log-odds: {wording.percent(e.get('inside'))} of its energy "
        "lies inside the expert's lesions, "
        f"{wording.percent(e.get('chance'))} would by chance; {ratio}, "
        f"{wording.count(e.get('cases'), 'patient')}. "
        "Only these sums left the sites; the pictures are in each site's own folder."
    )
