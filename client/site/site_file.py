"""One hospital as it knows itself: `site.toml`, the file that site IT owns."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from client.site.privacy_policy import Policy, parse
from common.errors import UsageError
from common.wire.signing import PUBLIC


@dataclass(frozen=True)
class Site:
    """Relative paths are taken from the folder of the file."""

    name: str
    """By which the site is known in plans and reports."""
    data: Path
    """Folder or file that holds the site's tables."""
    studies: tuple[str, ...]
    """Studies that the site takes part in: names, or paths of study files."""
    source: str = ""
    """Name of the source mapping; empty: recognised from the files."""
    patients: Path | None = None
    """A text file with one patient id a line, where the table holds more patients than the site's own."""
    minimum: int = 10
    """Fewest patients in any sum that leaves the site (P01)."""
    pooled: bool = False
    """True where the site stands for several institutions together: it is then never left out by itself and never ranked."""
    coordinator: str = ""
    """Public key of the coordinator whose plans are answered, 64 hex digits: pinned when the site was enrolled."""
    key: Path | None = None
    """The site's own private key (PEM, mode 600), by which it signs what it answers; made by `python -m deploy enroll`."""
    log: Path = Path("station.log")
    """Where refusals and errors are written in full; only their codes leave."""
    images: Path | None = None
    """Folder that holds the site's images; None: `data`, where that is a folder."""
    state: Path = Path("state")
    """Folder for what the station must not lose: the answers that it has given. For one station."""
    privacy: Policy = Policy()
    """The table `[privacy]`."""
    cache: Path = Path("cache")
    """Folder for what is prepared of the images. It holds pictures of patients, and may be deleted: it is then filled again."""


def load(path: Path) -> Site:
    """Read `site.toml`; every fault of the file is named at once."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("C01", f"site file '{path}' cannot be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("C01", f"site file '{path}' is not valid TOML: {error}") from error
    known = {f.name for f in fields(Site)}
    faults = []
    for key in sorted(set(raw) - known):
        near = difflib.get_close_matches(key, known, 1)
        faults.append(
            f"{path}: unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else f"; allowed: {', '.join(sorted(known))}")
        )
    for key in ("name", "data", "studies"):
        if key not in raw:
            faults.append(f"{path}: '{key}' is missing")
    for key, kind in (
        ("name", str),
        ("data", str),
        ("source", str),
        ("patients", str),
        ("coordinator", str),
        ("key", str),
        ("log", str),
        ("images", str),
        ("cache", str),
        ("state", str),
        ("minimum", int),
    ):
        if key in raw and type(raw[key]) is not kind:
            faults.append(f"{path}: {key} = {raw[key]!r} must be a {'whole number' if kind is int else 'text'}")
    if not isinstance(raw.get("pooled", False), bool):
        faults.append(f"{path}: pooled = {raw['pooled']!r} must be true or false")
    studies = raw.get("studies", [])
    if not isinstance(studies, list) or not all(isinstance(s, str) for s in studies) or not studies:
        faults.append(f"{path}: studies = {studies!r} must be a list of study names")
    if isinstance(raw.get("minimum"), int) and raw["minimum"] < 1:
        faults.append(f"{path}: minimum = {raw['minimum']} must be at least 1")
    if isinstance(raw.get("name"), str) and (not raw["name"].strip() or any(ord(c) < 32 for c in raw["name"])):
        faults.append(f"{path}: name = {raw['name']!r} is empty or has control characters")
    if isinstance(raw.get("coordinator"), str) and not PUBLIC.fullmatch(raw["coordinator"]):
        faults.append(f"{path}: coordinator = {raw['coordinator']!r} must be a public key of 64 hex digits")
    table = raw.get("privacy", {})
    privacy, wrong = parse(table) if isinstance(table, dict) else (Policy(), [f"privacy = {table!r} must be a table, [privacy]"])
    faults += [f"{path}: {fault}" for fault in wrong]
    if faults:
        raise UsageError("C01", *faults)
    base = path.parent
    return Site(
        name=raw["name"],
        data=base / raw["data"],
        studies=tuple(s if not s.endswith((".toml", ".py")) else str(base / s) for s in studies),
        source=raw.get("source", ""),
        patients=base / raw["patients"] if "patients" in raw else None,
        minimum=raw.get("minimum", 10),
        pooled=raw.get("pooled", False),
        coordinator=raw.get("coordinator", ""),
        key=base / raw["key"] if "key" in raw else None,
        log=base / raw.get("log", "station.log"),
        images=base / raw["images"] if "images" in raw else None,
        privacy=privacy,
        cache=base / raw.get("cache", "cache"),
        state=base / raw.get("state", "state"),
    )
