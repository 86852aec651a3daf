"""Saliency report: where in a site's own pictures the image network's reported log-odds come from.
It stays at the site.

One self-contained page with Grad-CAM over the middle of each patient's largest lesion, and the
patient's predictions; above them, where they are asked for, the figures of the run's report, as
data (`client.local_model.run_figures`). It names patients and shows them: it is written for its
owner alone, nothing in fedmets reads it back, and no HTML from elsewhere is ever in it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from client.local_model.model_folder import Networks
from client.local_model.run_figures import RunFigures
from common.data.cohort import UNKNOWN, Cohort
from common.errors import DataError, RunError
from common.learners.image import with_images
from common.networks.gradcam_maps import energy, heatmaps
from common.runtime.atomic_files import fresh

_TEMPLATE = Path(__file__).parent / "template"


@dataclass(frozen=True)
class Panel:
    """One patient: the slice, the map on it, the lesion's outline, and what is said beside it."""

    patient: str
    truth: str
    prediction: str
    region: str
    inside: float
    chance: float
    png: bytes

    @property
    def picture(self) -> str:
        return base64.b64encode(self.png).decode()

    @property
    def caption(self) -> str:
        """What stands beside the picture."""
        share = "the map is flat"
        if np.isfinite(self.inside):
            share = f"{self.inside:.0%} of the map inside the outline, {self.chance:.0%} by chance"
        text = f"true class {self.truth}; image model: {self.prediction}; region {self.region}"
        return text + (f"; {share}" if self.region != "whole" else "")


def explain(
    cohort: Cohort,
    networks: Networks,
    path: Path,
    most: int,
    tell: Callable[[int, int], None],
    run: RunFigures | None = None,
) -> int:
    """Write the page for at most `most` patients, spread over the classes, below the figures of
    `run`; returns how many. D09 where no case has an image."""
    shown = panels(cohort, networks, most, tell)
    write(path, page(cohort, networks, shown, run).encode())
    return len(shown)


def panels(
    cohort: Cohort, networks: Networks, most: int, tell: Callable[[int, int], None]
) -> list[Panel]:
    """At most `most` patients, spread over the classes. D09 where no case has an image."""
    rows = with_images(cohort)
    if not len(rows):
        raise DataError(
            "D09", f"site '{cohort.site}': no case has an image; there is nothing to explain"
        )
    return list(_panels(rows.where(_spread(rows, most)), networks, tell))


def _spread(rows: Cohort, most: int) -> Any:
    """The first cases of each class in turn."""
    turn = np.zeros(len(rows))
    for k in set(rows.labels.tolist()):
        cases = np.flatnonzero(rows.labels == k)
        turn[cases] = np.arange(len(cases))
    mask = np.zeros(len(rows), np.bool_)
    mask[np.argsort(turn, kind="stable")[:most]] = True
    return mask


def _panels(rows: Cohort, networks: Networks, tell: Callable[[int, int], None]) -> Any:
    from common.networks.datasets import Cases
    from common.networks.devices import choose, repeatable

    networks.demand(rows.schema)
    image, device, classes = networks.image, choose(), rows.schema.label.classes
    crops = image.crops(networks.state, rows)
    probs = image.predict(networks.state, rows)
    cases = Cases(crops, crops.counts, cast(Any, rows.pictures), rows.labels, None)
    with repeatable(device):
        network = image.built(networks.state, rows.schema, device)
        for i, patient in enumerate(rows.ids):
            tell(i, len(rows))
            x, present, mean, _ = cases.batch(np.array([i]), device, None)
            target = int(probs[i, 1:].argmax()) + 1
            maps = heatmaps(network, x, present, mean, target).cpu().numpy()
            values = x.float().cpu().numpy()
            inside, chance = energy(maps, values[:, -1])
            truth = "unknown" if rows.labels[i] == UNKNOWN else classes[rows.labels[i]]
            prediction = f"{classes[target]} {probs[i, target]:.2f}"
            yield Panel(
                patient,
                truth,
                prediction,
                crops.sources[i],
                inside,
                chance,
                _png(values[0], maps[0]),
            )
    tell(len(rows), len(rows))


def _png(values: Any, heat: Any) -> bytes:
    """Every channel's slice through the middle of the lesion (or of the crop), the last with the
    map on it; the lesion outlined."""
    from matplotlib.figure import Figure

    lesion = values[-1]
    z = int(lesion.sum(axis=(1, 2)).argmax()) if lesion.any() else values.shape[1] // 2
    planes = [values[c, z] for c in range(len(values) - 1)]
    figure = Figure(figsize=(1.6 * (len(planes) + 1), 1.6), dpi=110)
    for n, plane in enumerate([*planes, planes[-1]], start=1):
        axes = figure.add_axes(((n - 1) / (len(planes) + 1), 0, 0.99 / (len(planes) + 1), 1))
        axes.imshow(plane, cmap="gray", interpolation="nearest")
        if n == len(planes) + 1 and heat[z].max() > 0:
            axes.imshow(
                heat[z],
                cmap="inferno",
                alpha=0.55,
                interpolation="bilinear",
                vmin=0,
                vmax=float(heat.max()),
            )
        if lesion[z].max() > 0 and lesion[z].min() < 0.5 <= lesion[z].max():
            axes.contour(lesion[z], [0.5], colors="deepskyblue", linewidths=0.8)
        axes.set_axis_off()
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def page(
    cohort: Cohort, networks: Networks, shown: list[Panel], run: RunFigures | None = None
) -> str:
    """The page as HTML; `run`: what its report says, set above the pictures.

    Everything on it is text in the site's own template. Its policy lets it load nothing, send
    nothing and run nothing; styles are the template's alone.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    assert cohort.schema.imaging is not None
    style = (_TEMPLATE / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        site=cohort.site,
        policy=policy(style),
        style=Markup(style),
        run=run,
        channels=", ".join(c.name for c in cohort.schema.imaging.channels),
        first_class=cohort.schema.label.classes[0],
        model=networks.sha256[:12],
        panels=shown,
    )


def policy(style: str) -> str:
    """Content-Security-Policy of a page that shows patients, whose one style sheet is `style`."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )


def write(path: Path, blob: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        with fresh(aside) as f:
            f.write(blob)
        os.replace(aside, path)
    except OSError as error:
        raise RunError(
            "S03", f"'{path}' cannot be written ({error.strerror}); free space or mend permissions"
        ) from error
