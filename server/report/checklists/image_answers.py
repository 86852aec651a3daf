"""Answers to a checklist's items about images and the networks that read them; None where a run has
none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.checklists.answers import question
from server.report.content import wording
from server.report.content.index import Index
from server.report.content.rows import Report, rows
from server.report.content.wording import finite, whole


def _images(r: Report) -> Mapping[str, Any]:
    images = r.get("images")
    return images if isinstance(images, Mapping) else {}


def technology(r: Report) -> str | None:
    names = [wording.model(m) for m in Index(r).models]
    return (
        f"{question(r) or ''} Models: {', '.join(names)}, trained by federated learning.".strip()
        if names
        else None
    )


def regions(r: Report) -> str | None:
    found = list(
        dict.fromkeys(wording.name(x.get("roi_source")) for x in rows(_images(r), "roi_source"))
    )
    return f"Crops of the lesions; regions: {', '.join(found)}." if found else None


def scanners(r: Report) -> str | None:
    found: dict[str, int] = {}
    for s in rows(_images(r), "sites"):
        for maker, n in (s.get("scanners") or {}).items():
            found[maker] = found.get(maker, 0) + int(finite(n) or 0)
    return (
        f"Scanners: {', '.join(f'{m} {n}' for m, n in sorted(found.items()))}." if found else None
    )


def explained(r: Report) -> str | None:
    ways = ["Grad-CAM against the expert's lesions"] if _images(r).get("explanation") else []
    ways += ["mean absolute SHAP values"] if rows(r, "importance") else []
    return f"{' and '.join(ways)}, in sums over the sites." if ways else None


def robustness(r: Report) -> str | None:
    ways = ["by region of interest"] if rows(_images(r), "roi_source") else []
    ways += ["by subgroup"] if rows(r, "subgroups") else []
    ways += ["with unknown labels as either class"] if rows(r, "unknown_labels") else []
    return f"The AUC again {', '.join(ways)}." if ways else None


def annotated(r: Report) -> str | None:
    found = [finite(s.get("expert_outlines")) for s in rows(_images(r), "sites")]
    n = sum(v for v in found if v is not None)
    return f"{whole(n)} patients with regions outlined by an expert." if found else None


def training(r: Report) -> str | None:
    c = r.get("configuration")
    if not isinstance(c, Mapping) or not rows(r, "results"):
        return None
    told = [
        f"strategy {c.get('strategy')}" if c.get("strategy") else "",
        f"hyperparameters {c['hyper']}" if c.get("hyper") else "",
    ]
    return (
        f"{', '.join(t for t in told if t) or 'As configured'}; seed "
        f"{wording.name(r.get('seed'))}, {whole(r.get('exchanges'))} exchanges."
    )


def chosen(r: Report) -> str | None:
    if not rows(r, "chosen"):
        return None
    return (
        "The final models are trained on everybody for a fixed number of rounds; the clinical "
        "head by log loss on training rows."
    )


def ensembles(r: Report) -> str | None:
    if "fusion" not in Index(r).models:
        return "No ensemble." if rows(r, "results") else None
    return "The fusion adds the image model's log-odds to the clinical model's."
