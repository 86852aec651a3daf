"""Site folders of virtual sites: each as a hospital would have it, and the keys by which coordinator and sites know each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from common.wire import signing
from server.config import enrolled_sites
from server.ledger import state_store
from simulation.federation.partition import Partition

COORDINATOR, KEY = "coordinator", "station.key"


def enrol(coordinator: Path, homes: Mapping[str, Path]) -> str:
    """Make what keys are missing (those that are there stay), and list the sites' public halves; the coordinator's public key."""
    listed = {name: signing.ensure(home / KEY).public for name, home in homes.items()}
    state_store.write(coordinator / enrolled_sites.SITES, enrolled_sites.text(listed).encode())
    return signing.ensure(coordinator / enrolled_sites.KEY).public


def write_sites(
    folder: Path,
    partition: Partition,
    *,
    data: Path,
    study: str,
    source: str,
    minimum: int,
    images: Path | None = None,
    cache: Path | None = None,
    noise_seed: int | None = None,
    secure: bool = False,
    elsewhere: Mapping[str, tuple[Path, str]] = MappingProxyType({}),
) -> dict[int, Path]:
    """A folder a site with `site.toml`, `patients.txt` and its key, as a hospital would have them; node id -> site file.

    Beside `folder`, in `coordinator/`, lie the coordinator's key and the list of the sites' public keys. Rewriting is harmless.

    `cache`: one folder for the prepared images of all sites, which share their files; None: each site its own.
    `noise_seed`: what the sites draw their noise from. `secure`: the sites mask their sums, and know one another's keys.
    `elsewhere`: site -> the folder and the source mapping of its own data, where they are not those of the others.
    """
    out: dict[int, Path] = {}
    homes = {
        name: folder / f"{n:03d}-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-').lower()[:60] or 'site'}"
        for n, name in enumerate(partition.sites, start=1)
    }
    pinned = enrol(folder.parent / COORDINATOR, homes)
    ref = str(Path(study).resolve()) if study.endswith((".toml", ".py")) else study
    for n, (name, ids) in enumerate(partition.sites.items(), start=1):
        home = homes[name]
        its_data, its_source = elsewhere.get(name, (data, source))
        lines = {
            "name": name,
            "data": str(its_data.resolve()),
            "studies": [ref],
            "source": its_source,
            "patients": "patients.txt",
            "minimum": minimum,
            "coordinator": pinned,
            "key": KEY,
            "pooled": bool(name) and name == partition.pooled_site,
            **({"images": str(images.resolve())} if images else {}),
            **({"cache": str(cache.resolve())} if cache else {}),
        }
        state_store.write(home / "patients.txt", ("\n".join(ids) + "\n").encode())
        peers = {other: signing.load(there / KEY).public for other, there in homes.items() if other != name} if secure else {}
        text = "".join(f"{k} = {_toml(v)}\n" for k, v in lines.items()) + _privacy(noise_seed, peers)
        state_store.write(home / "site.toml", text.encode())
        out[n] = home / "site.toml"
    return out


def _privacy(noise_seed: int | None, peers: Mapping[str, str]) -> str:
    """The table of a site's policy; noise that can be made again hides nobody, so that no protection is demanded beside it."""
    if noise_seed is None and not peers:
        return ""
    seed = "" if noise_seed is None else f"noise_seed = {noise_seed}\n"
    require = 'require = "secagg"\n' if peers and noise_seed is None else ""
    known = "".join(f"{_toml(k)} = {_toml(v)}\n" for k, v in peers.items())
    return f"[privacy]\n{seed}{require}" + (f"[privacy.peers]\n{known}" if known else "")


def _toml(value: object) -> str:
    if isinstance(value, str):
        plain = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{plain}"'
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else str(value)
