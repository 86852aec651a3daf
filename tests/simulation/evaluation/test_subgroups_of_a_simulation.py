"""Guard E09: no cell under 10 is told, and none can be worked out from the rest."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.data.cohort import Cohort
from common.data.schema import Choice, Label, Number, Schema
from common.metrics.subgroups import LEAST
from simulation.evaluation.predictions import Comparison, Scores
from simulation.evaluation.subgroups import subgroups, suppressed
from simulation.evaluation.sums import Sums


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=8))
def test_what_is_taken_out_cannot_be_worked_out(cells):
    rows = [{"n": events + others, "events": events, "auc": 0.7} for events, others in cells]
    out = suppressed(rows)
    for key, least in (
        ("n", lambda r: r["n"]),
        ("events", lambda r: min(r["events"], r["n"] - r["events"])),
    ):
        gone = [r for r, o in zip(rows, out, strict=True) if o[key] is None]
        assert all(least(r) >= LEAST for r, o in zip(rows, out, strict=True) if o[key] is not None)
        # the total minus what is told is the sum of what is gone: more than one cell, and no small
        # sum
        assert (
            not gone
            or len(gone) == len(rows)
            or (len(gone) > 1 and sum(r[key] for r in gone) >= LEAST)
        )
    assert all(o["suppressed"] == (o["n"] is None or o["events"] is None) for o in out)


def test_groups_by_choice_by_median_and_by_site():
    schema = Schema(
        "s",
        (Number("age", "years", 0, 120, "t"), Choice("sex", ("f", "m"), "t")),
        Label("y", ("no", "yes")),
        ("t",),
    )
    rng = np.random.default_rng(0)
    sites = []
    for name in ("A", "B"):
        n = 120
        labels = (rng.random(n) < 0.4).astype(np.int64)
        values = np.stack(
            [rng.integers(40, 90, n).astype(float), rng.integers(0, 2, n).astype(float)], 1
        )
        values[:3, 1] = np.nan
        sites.append(Cohort(name, schema, tuple(f"{name}{i:03}" for i in range(n)), values, labels))
    labels = np.concatenate([c.labels for c in sites])
    p = np.clip(0.3 + 0.3 * labels + rng.normal(0, 0.2, len(labels)), 0.01, 0.99)
    scores = Scores(np.stack([1 - p, p], 1), np.full(len(labels), 0.5), np.ones(len(labels), bool))
    names = np.concatenate([np.full(len(c), c.site) for c in sites])
    key = ("clinical", "federated", "within_site")
    comparison = Comparison(
        labels,
        names,
        np.zeros(len(labels), np.int64),
        tuple(i for c in sites for i in c.ids),
        {key: [scores]},
        {},
    )
    rows = subgroups(Sums(comparison, 100, 0), sites)
    by = {b: [r for r in rows if r["by"] == b] for b in ("age", "sex", "site")}
    assert "cut at the median of those judged" in by["age"][0]["note"]
    assert sum(r["n"] for r in by["age"]) == len(labels)
    assert [r["group"] for r in by["sex"]] == ["f", "m", "not known"]
    gone = [r for r in by["sex"] if r["n"] is None]
    # six are not known: they go, and another group with them
    assert "not known" in [r["group"] for r in gone]
    assert len(gone) == 2
    assert all(r["estimable"] and r["low"] < r["auc"] < r["high"] for r in by["site"])
    assert rows == subgroups(Sums(comparison, 100, 0), sites)
    assert (
        subgroups(
            Sums(Comparison(labels, names, comparison.parts, comparison.ids, {}, {}), 100, 0), sites
        )
        == []
    )
