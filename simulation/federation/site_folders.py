"""Site folders of virtual sites: each as a hospital would have it, and the keys by which
coordinator and sites know each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.wire import signing
from server.config import enrolled_sites
from server.ledger import state_store
from simulation.federation.partition import Partition

COORDINATOR, STATION_KEY = "coordinator", "station.key"


def enrol(coordinator: Path, homes: Mapping[str, Path]) -> str:
    """Make what keys are missing (those that are there stay), and list the sites' public halves;
    the coordinator's public key."""
    listed = {name: signing.ensure(home / STATION_KEY).public for name, home in homes.items()}
    state_store.write(coordinator / enrolled_sites.SITES, enrolled_sites.text(listed).encode())
    return signing.ensure(coordinator / enrolled_sites.KEY).public


@dataclass(frozen=True)
class SiteTemplate:
    """What the site files of a simulation have in common."""

    study: str
    data: Path
    source: str
    """The source mapping; empty: the one that fits."""
    minimum: int
    images: Path | None = None
    cache: Path | None = None
    """One folder for the prepared images of all sites, which share their files; None: each site its
    own."""
    noise_seed: int | None = None
    """What the sites draw their noise from."""
    secure: bool = False
    """The sites mask their sums, know one another's keys, and share noise where it is asked for: none
    is taken to be in league with the coordinator."""
    elsewhere: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    """Site -> the folder and the source mapping of its own data, where they are not those of the
    others."""


def write_sites(folder: Path, partition: Partition, template: SiteTemplate) -> dict[int, Path]:
    """A folder a site with `site.toml`, `patients.txt` and its key, as a hospital would have them;
    node id -> site file.

    Beside `folder`, in `coordinator/`, lie the coordinator's key and the list of the sites' public
    keys. Rewriting is harmless.
    """
    files: dict[int, Path] = {}
    homes = {}
    for n, name in enumerate(partition.sites, start=1):
        slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60]
        homes[name] = folder / f"{n:03d}-{slug or 'site'}"
    pinned = enrol(folder.parent / COORDINATOR, homes)
    study = template.study
    if study.endswith((".toml", ".py")):
        study = str(Path(study).resolve())
    for n, (name, ids) in enumerate(partition.sites.items(), start=1):
        data, source = template.elsewhere.get(name, (template.data, template.source))
        lines: dict[str, object] = {
            "name": name,
            "data": str(data.resolve()),
            "studies": [study],
            "source": source,
            "patients": "patients.txt",
            "minimum": template.minimum,
            "coordinator": pinned,
            "key": STATION_KEY,
            "pooled": bool(name) and name == partition.pooled_site,
        }
        for key, path in (("images", template.images), ("cache", template.cache)):
            if path:
                lines[key] = str(path.resolve())
        peers = {}
        if template.secure:
            peers = {
                other: signing.load(home / STATION_KEY).public
                for other, home in homes.items()
                if other != name
            }
        text = "".join(f"{k} = {_toml(v)}\n" for k, v in lines.items()) + _privacy(
            template.noise_seed, peers, images=template.images is not None
        )
        state_store.write(homes[name] / "patients.txt", ("\n".join(ids) + "\n").encode())
        files[n] = homes[name] / "site.toml"
        state_store.write(files[n], text.encode())
    return files


def _privacy(noise_seed: int | None, peers: Mapping[str, str], *, images: bool) -> str:
    """The table of a site's policy: folds may be small, trees are grown openly and as fine as they
    come. Noise that can
    be made again hides nobody, so that no protection is demanded beside it."""
    seed = "" if noise_seed is None else f"noise_seed = {noise_seed}\n"
    require = 'require = "secagg"\nanswer_margin = 0.0\n' if peers and noise_seed is None else ""
    require += "colluders = 0\n" if peers else ""
    require += 'modalities = ["table", "image"]\n' if peers and images else ""
    known = "".join(f"{_toml(k)} = {_toml(v)}\n" for k, v in peers.items())
    loose = "small_folds = true\nopen_trees = true\nsmallest_leaf = 0\n"
    return f"[privacy]\n{loose}{seed}{require}" + (f"[privacy.peers]\n{known}" if known else "")


def _toml(value: object) -> str:
    if isinstance(value, str):
        plain = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{plain}"'
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else str(value)
