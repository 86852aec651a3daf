"""Unusable columns of a table: what a draft leaves out of the features, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.table.cells import folded
from client.table.draft.column_profile import Column
from client.table.draft.column_roles import FollowUp, names_rows, other_outcome
from client.table.draft.feature_entries import quoted
from common.data.schema import Label, Schema
from common.study.outcomes import vital_status
from common.study.study import Study, denied_by

LEAK = 0.94
"""A single feature with a higher AUC is left out: guard L03 would stop the run at 0.95 on some of
its training rows."""


def refused(
    inputs: Mapping[str, Column],
    label: str,
    classes: Sequence[str],
    pairs: Sequence[FollowUp],
) -> dict[str, str]:
    """Columns that are no inputs whatever they hold: a follow-up, an id, and guard L02's, whose
    name or vocabulary is that of an outcome, or that encode the label."""
    schema = Schema(
        "draft",
        (),
        Label(label or "label", tuple(classes) if len(classes) > 1 else ("no", "yes")),
        ("baseline",),
    )
    denied = denied_by(Study("draft", "", schema, {}, source={"label": {"column": label}}))
    reason = (
        "an outcome, or it encodes the label (guard L02); if it only sounds so, say why in "
        "not_an_outcome"
    )
    reasons: dict[str, str] = {}
    for name, column in inputs.items():
        time = next((pair for pair in pairs if pair.time == name), None)
        event = next((pair for pair in pairs if pair.event == name), None)
        if time is not None:
            reasons[name] = "a follow-up time" + (
                f", to the event {quoted(time.event)}" if time.event else ""
            )
        elif event is not None:
            reasons[name] = f"the event of the follow-up time {quoted(event.time)}"
        elif names_rows(column):
            reasons[name] = "ids: of patients, examinations or rows; never an input"
        elif denied(name) or (column.kind == "choice" and vital_status(column.levels)):
            reasons[name] = reason
        elif other_outcome(name):
            reasons[name] = "another outcome: one is no input for another"
        elif told := next((t for t in _words(column) if denied(t)), ""):
            reasons[name] = f"one of its values, {quoted(told)}, tells an outcome"
    return reasons


def _words(c: Column) -> list[str]:
    """The levels of a choice that are long enough to be words: 'M' is as well a man, 'OS' an eye."""
    return [t for t in c.levels if len(t) > 3] if c.kind == "choice" else []


def same_rows(c: Column, site: Column) -> str:
    """A column each of whose values stands in one hospital alone names the hospital, or its parts."""
    if c.kind != "choice" and c.different != site.different:
        return ""  # each row's own measurement stands in one hospital alone, too
    filled = c.codes != (c.texts.index("").as_py() if c.empty else -1)
    both = np.unique(c.codes[filled].astype(np.int64) * len(site.texts) + site.codes[filled])
    if len(both) == len(c.counts) >= len(site.counts) > 2:
        return f"it names the hospital again, as {quoted(site.name)} does"
    return ""


def unusable(c: Column) -> str:
    if any(ord(letter) < 32 for letter in c.name):
        return "its name has control characters: rename it"
    rows = len(c)
    if (
        c.kind == "number"
        and c.different == rows >= 20
        and np.nanmax(c.values) - np.nanmin(c.values) == rows - 1
    ):
        return "it numbers the rows"
    return {
        "empty": "it holds nothing",
        "constant": "it holds one value only",
        "date": "dates; a time between two of them, in days, could be used",
        "text": f"free text, names or codes ({c.different} different ones); group the values "
        "with map to use it",
    }.get(c.kind, "")


def outcome(c: Column, classes: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    class_index = {folded(t): k for k, texts in enumerate(classes.values()) for t in texts}
    classes_of_texts = [class_index.get(folded(text), -1) for text in c.texts.to_pylist()]
    return np.array(classes_of_texts, np.int64)[c.codes]


def leak(c: Column, outcome: NDArray[np.int64], classes: int) -> str:
    """Guard L03 beforehand: the best AUC of this column alone, by its values or by being
    missing."""
    values = c.values
    if c.kind == "choice":
        order = {folded(t): k for k, t in enumerate(c.levels)}
        texts = c.texts.to_pylist()
        values = np.array(
            [np.nan if t in c.nulls else order.get(folded(t), np.nan) for t in texts], np.float64
        )
    x = values[c.codes]
    worst = 0.5
    for k in range(classes):
        y = outcome == k
        for use, scores in (
            (~np.isnan(x), x),
            (np.ones(len(x), np.bool_), np.isnan(x).astype(np.float64)),
        ):
            rows = use & (outcome >= 0)
            worst = max(worst, _auc(scores[rows], y[rows], sort=c.kind == "choice"))
    return (
        f"alone it predicts the label almost perfectly (AUC {worst:.2f}), so it probably encodes "
        "it (guard L03)"
        if worst > LEAK
        else ""
    )


def _auc(x: NDArray[np.float64], y: NDArray[np.bool_], *, sort: bool) -> float:
    """Of `x` for `y`, either direction; with `sort` the values of `x` are first put into the best
    order."""
    if min(int(y.sum()), int((~y).sum())) < 10:
        return 0.5
    _, levels = np.unique(x, return_inverse=True)
    positive, totals = np.bincount(levels, y), np.bincount(levels)
    if sort:
        best = np.argsort(positive / totals, kind="stable")
        positive, totals = positive[best], totals[best]
    negative = totals - positive
    below = np.cumsum(negative) - negative
    auc = float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
    return max(auc, 1 - auc)
