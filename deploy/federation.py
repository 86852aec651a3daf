"""`federation.toml`: what a coordinator decides before anybody can join."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from common.errors import FedmetsError, UsageError
from common.study import load as studies

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Federation:
    """Written once by the coordinator, beside the kits afterwards; sites are added to it."""

    name: str
    """Lower-case letters, digits and '-'."""
    hosts: tuple[str, ...]
    """Names or addresses at which sites reach the coordinator; the first is the one that kits name."""
    studies: tuple[str, ...]
    """Studies that the federation may run: names, or paths of study files."""
    sites: tuple[str, ...]
    """Names by which sites are known, in plans and reports."""
    port: int = 443
    """Of the coordinator's proxy."""
    coordinator_image: str = "localhost/fedmets-coordinator:latest"
    """The container image that the coordinator's compose file names."""
    courier_image: str = "localhost/fedmets-courier:latest"
    """The courier's, in the sites' compose files."""
    station_image: str = "localhost/fedmets-station:latest"
    """The station's, in the sites' compose files."""


def load(path: Path) -> Federation:
    """Read the file; every fault at once (C01)."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("C01", f"federation file '{path}' cannot be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("C01", f"federation file '{path}' is not valid TOML: {error}") from error
    known = [f.name for f in fields(Federation)]
    faults = []
    for key in sorted(set(raw) - set(known)):
        near = difflib.get_close_matches(key, known, 1)
        faults.append(f"{path}: unknown key '{key}'; " + (f"did you mean '{near[0]}'?" if near else f"keys: {', '.join(known)}"))
    faults += [f"{path}: '{key}' is missing" for key in ("name", "hosts", "studies", "sites") if key not in raw]
    for key in ("hosts", "studies", "sites"):
        value = raw.get(key, ["x"])
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
            faults.append(f"{path}: {key} = {value!r} must be a list of texts, and not empty")
            raw[key] = []
        elif len(set(value)) < len(value):
            faults.append(f"{path}: {key} names one twice ({', '.join(value)})")
    for key in ("name", "coordinator_image", "courier_image", "station_image"):
        if key in raw and (not isinstance(raw[key], str) or not raw[key].strip()):
            faults.append(f"{path}: {key} = {raw[key]!r} must be a text")
    if isinstance(raw.get("name"), str) and not SLUG.fullmatch(raw["name"]):
        faults.append(f"{path}: name = {raw['name']!r} may have lower-case letters, digits and '-', at most 40")
    if type(raw.get("port", 443)) is not int or not 0 < raw.get("port", 443) < 65536:
        faults.append(f"{path}: port = {raw['port']!r} must be a number from 1 to 65535")
    faults += [f"{path}: host {h!r} is no host name and no address" for h in raw.get("hosts", []) if not HOST.fullmatch(h)]
    faults += [f"{path}: site {s!r} has control characters" for s in raw.get("sites", []) if any(ord(c) < 32 for c in s)]
    homes: dict[str, set[str]] = {}
    for site in raw.get("sites", []):
        homes.setdefault(slug(site), set()).add(site)
    faults += [f"{path}: sites {', '.join(sorted(s))} would share the folder '{home}'" for home, s in homes.items() if len(s) > 1]
    for name in raw.get("studies", []):
        try:
            studies.load(name)
        except FedmetsError as error:
            faults += [f"{path}: study '{name}': {f}" for f in error.faults]
    if faults:
        raise UsageError("C01", *faults)
    lists = {k: tuple(raw[k]) for k in ("hosts", "studies", "sites")}
    return Federation(**{**raw, **lists})


def slug(site: str) -> str:
    """The name of a site's folder."""
    return re.sub(r"[^a-z0-9]+", "-", site.lower()).strip("-")[:60] or "site"
