"""Saliency report: where in a site's own pictures the image network's reported log-odds come from.
It stays at the site.

One self-contained page with Grad-CAM over the middle of each patient's largest lesion, and the
patient's predictions. It names patients and shows them: it is written for its owner alone, and
nothing in fedmets reads it back.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np

from client.local_model.model_folder import Networks
from common.data.cohort import UNKNOWN, Cohort
from common.errors import DataError, RunError
from common.learners.image import with_images
from common.networks.gradcam_maps import energy, heatmaps


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
    def caption(self) -> str:
        """What stands beside the picture."""
        share = "the map is flat"
        if np.isfinite(self.inside):
            share = f"{self.inside:.0%} of the map inside the outline, {self.chance:.0%} by chance"
        text = f"true class {self.truth}; image model: {self.prediction}; region {self.region}"
        return text + (f"; {share}" if self.region != "whole" else "")


def explain(
    cohort: Cohort, networks: Networks, path: Path, most: int, tell: Callable[[int, int], None]
) -> int:
    """Write the page for at most `most` patients, spread over the classes; returns how many. D09
    where no case has an image."""
    shown = panels(cohort, networks, most, tell)
    write(path, page(cohort, networks, shown).encode())
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


def figures(panels_shown: list[Panel]) -> str:
    """A figure a patient, as HTML."""
    cards = []
    for p in panels_shown:
        picture = base64.b64encode(p.png).decode()
        alt = f"Slices of patient {p.patient} and where the prediction comes from"
        cards.append(
            f'<figure><img alt="{escape(alt)}" '
            f'src="data:image/png;base64,{picture}"><figcaption><strong>{escape(p.patient)}</strong> '
            f"{escape(p.caption)}</figcaption></figure>"
        )
    return "".join(cards)


def legend(cohort: Cohort, networks: Networks) -> str:
    """What the pictures show, as HTML."""
    assert cohort.schema.imaging is not None
    channels = ", ".join(c.name for c in cohort.schema.imaging.channels)
    return f"""Channels from left to right: {escape(channels)}; then the last one with Grad-CAM of the patient's log-odds of the likeliest
class but the first against the first ({escape(cohort.schema.label.classes[0])}), after the mean over the crops. Blue: the lesion.
The final model is shown, which may have learnt from these patients. Model {escape(networks.sha256[:12])}."""


def page(cohort: Cohort, networks: Networks, shown: list[Panel]) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(cohort.site)}: where the image model looks</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }}
figure {{ margin: 0; border: 1px solid #8886; border-radius: .5rem; padding: .5rem; }}
img {{ width: 100%; image-rendering: auto; }}
.warn {{ border-left: .4rem solid #c33; padding: .2rem .8rem; }}
</style></head><body>
<h1>{escape(cohort.site)}: where the image model looks</h1>
<p class="warn"><strong>This page shows patients and names them. It belongs to the site and must not leave it.</strong>
Research use only; not a medical device.</p>
<p>{legend(cohort, networks)}</p>
<main>
{figures(shown)}
</main></body></html>
"""


def write(path: Path, blob: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as f:
            f.write(blob)
        os.replace(aside, path)
    except OSError as error:
        raise RunError(
            "S03", f"'{path}' cannot be written ({error.strerror}); free space or mend permissions"
        ) from error
