"""Subgroups between hospitals (guard E09): the rows of `report.json` out of what the sites tell of
them (`common.metrics.subgroups`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.data.schema import Feature, Floats, Number, Schema
from common.metrics import subgroups
from common.metrics.site_aucs import SiteSums
from common.types import Arrays
from server.report.content.model_metrics import Model

Row = dict[str, Any]
_NAMES = ("counts", "concordant", "pairs", "spread")


def in_subgroups(
    arrays: Arrays, models: Sequence[Model], schema: Schema, preprocessing: Arrays
) -> list[Row]:
    """A row a group of the features in which any site tells one; None where none tells of it."""
    lead = next((m for m in subgroups.LEADS if f"subgroups/{m}/counts" in arrays), None)
    scored = next(
        (m for m in models if (m.evaluation, m.arm, m.name) == ("within_site", "federated", lead)),
        None,
    )
    if lead is None or scored is None:
        return []
    lead_arrays = {k: arrays[f"subgroups/{lead}/{k}"] for k in _NAMES}
    everybody, cuts = int(scored.counts.sum()), subgroups.cuts(schema, preprocessing)
    named = subgroups.named(schema, cuts)
    rows: list[Row] = []
    for feature in schema.features:
        # who is in no group that is told may be in any other; where everybody is, the others are
        # empty
        group_index = {group: i for i, (f, group) in enumerate(named) if f == feature}
        reported = int(lead_arrays["counts"][list(group_index.values())].sum())
        shown_groups = {
            g: i
            for g, i in group_index.items()
            if reported < everybody or lead_arrays["counts"][i].any()
        }
        if not reported or len(shown_groups) < 2:
            continue
        head = {
            "model": lead,
            "by": feature.name,
            "title": feature.title or feature.name,
            "note": _note(feature, cuts, reported, everybody),
        }
        rows += [
            {**head, "group": group, **_row(*(lead_arrays[k][i] for k in _NAMES))}
            for group, i in shown_groups.items()
        ]
    return rows


def _note(feature: Feature, cuts: dict[str, float], reported: int, everybody: int) -> str:
    cut = (
        f"cut at everybody's mean on the model's scale, {cuts[feature.name]:.4g} {feature.unit}"
        if isinstance(feature, Number)
        else ""
    )
    coverage = f"sites tell of {reported} of {everybody} patients" if reported < everybody else ""
    return "; ".join(filter(None, (cut, coverage)))


def _row(counts: Floats, concordant: Floats, pairs: Floats, spread: Floats) -> Row:
    if not counts.any():
        return {
            "n": None,
            "events": None,
            "auc": None,
            "low": None,
            "high": None,
            "estimable": False,
            "suppressed": True,
        }
    sums = SiteSums.from_sites(counts[None], concordant[None, None], pairs[None], spread[None])
    return {**sums.row(), "suppressed": False}
