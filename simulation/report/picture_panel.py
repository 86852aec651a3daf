"""Saliency panel, where the image network looks: each virtual site's own page, and, of patients who
were never born, a panel for the report."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from client.local_model.explain import page, panels, write
from client.local_model.model_folder import open_networks
from client.station.station import open_station
from common.data.cohort import Cohort
from simulation.federation.setting import Setting

PAGE = 6
"""Patients on a virtual site's own page of pictures."""
PANEL = 2
"""Patients of each site in the report of a synthetic cohort,"""
MOST = 12
"""and of all sites together."""


def own_pages(setting: Setting, sites: Sequence[Cohort]) -> list[dict[str, Any]]:
    """Each site's own page, in the site's folder: it is no part of the report, for it shows
    patients.

    Returns what a report may show: a few pictures of a synthetic cohort; none of a cohort of
    people, whatever was asked for.
    """
    model, shown = setting.folder / "model", list[dict[str, Any]]()
    if "image" not in json.loads((model / "model.json").read_bytes())["heads"]:
        return shown
    networks = open_networks(model)
    homes = {open_station(str(p)).site.name: p.parent for p in setting.sites.values()}
    for cohort in sites:
        if cohort.imaged.any():
            found = panels(cohort, networks, PAGE, lambda at, of: None)
            write(homes[cohort.site] / "images.html", page(cohort, networks, found).encode())
            for p in found[: min(PANEL, MOST - len(shown)) if setting.phantom else 0]:
                png = base64.b64encode(p.png).decode()
                shown.append(
                    {
                        "site": cohort.site,
                        "patient": f"generated patient {len(shown) + 1}",
                        "said": p.caption,
                        "png": png,
                    }
                )
    return shown
