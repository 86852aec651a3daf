"""Beeswarm plots of SHAP values: which feature moved whose predicted log-odds, a point a patient.
They stay beside the patients.

Values are the heads' own (`explain`: linear SHAP, XGBoost's TreeSHAP, integrated gradients), the
picture is the shap library's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from client.local_model.model_folder import Model
from common.data.cohort import Cohort
from common.data.schema import Floats, Number
from common.federated.learner import Head, TableHead
from common.runtime.atomic_files import durable

SHOWN = 20
"""Features, the one that moves most first; the others are added up."""
_WIDTH, _LINE = 8.0, 0.4
"""Inches."""


def beeswarms(model: Model, cohort: Cohort, heads: Sequence[Head]) -> dict[str, bytes]:
    """File name -> PNG, one a head of the table and class, of the cases with a table row; nothing
    where there are none."""
    rows = cohort.where(cohort.tabled)
    out: dict[str, bytes] = {}
    if not len(rows):
        return out
    classes = rows.schema.label.classes
    for head in heads:
        if not isinstance(head, TableHead):
            continue
        values = head.explain(model.state, rows)[:, : len(rows.schema.features)]
        # contrasts with the first class, of which two classes have one, or one a class
        first = len(classes) - values.shape[2]
        for k in range(values.shape[2]):
            name = (
                f"shap-{head.name}.png"
                if len(classes) == 2
                else f"shap-{head.name}-{first + k}.png"
            )
            out[name] = _plot(
                f"{head.name}: log-odds of {classes[first + k]}", values[:, :, k], rows
            )
    return out


def write(model: Model, cohort: Cohort, folder: Path) -> list[str]:
    """Write the plots, readable by their owner alone; the files' names."""
    plots = beeswarms(model, cohort, model.heads)
    for name, png in plots.items():
        durable(
            folder / name,
            png,
            "free space or mend permissions, and start again",
            mode=0o600,
            folder=0o700,
        )
    return list(plots)


def _plot(title: str, values: Floats, rows: Cohort) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import shap
    from matplotlib import pyplot

    names = [
        f"{f.name} ({f.unit})" if isinstance(f, Number) else f.name for f in rows.schema.features
    ]
    figure, axes = pyplot.subplots(figsize=(_WIDTH, 1.5 + _LINE * min(len(names), SHOWN)))
    try:
        told = shap.Explanation(values=values, data=rows.values, feature_names=names)
        shap.plots.beeswarm(told, max_display=SHOWN, ax=axes, show=False, plot_size=None)
        axes.set_title(title)
        axes.set_xlabel("SHAP value: what the feature adds to the log-odds")
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120, bbox_inches="tight")
    finally:
        pyplot.close(figure)
    return png.getvalue()
