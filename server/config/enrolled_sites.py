"""Enrolled sites, who may ask and who may answer: the coordinator's own key, and the public keys of
the sites that were enrolled.

A folder with `plan.key` (PEM, mode 600) and `sites.toml`, as a simulation writes it for its virtual
sites.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from common.errors import UsageError
from common.runtime import settings
from common.runtime.settings import BrokenRules, Form, Settings
from common.wire import signing
from common.wire.signing import Signer

KEY, SITES = "plan.key", "sites.toml"
PublicKey = Annotated[str, Form(signing.PUBLIC, "a public key of 64 hex digits")]


def _own_keys(listed: Mapping[str, str]) -> Mapping[str, str]:
    owners: dict[str, list[str]] = {}
    for site, public in listed.items():
        owners.setdefault(public, []).append(site)
    shared = [
        ("", f"has one key {k[:16]}... for {', '.join(s)}; each site makes its own")
        for k, s in owners.items()
        if len(s) > 1
    ]
    if shared:
        raise BrokenRules(*shared)
    return listed


@dataclass(frozen=True)
class SitesFile(Settings):
    """`sites.toml`, which `fedmets deploy site add` writes."""

    sites: Annotated[Mapping[str, PublicKey], Field(min_length=1), AfterValidator(_own_keys)]
    """Site -> its public key; without any the sites are to be enrolled first."""


@dataclass(frozen=True)
class Enrolled:
    signer: Signer
    """Signs greetings and plans; sites have pinned its public half."""
    sites: Mapping[str, str]
    """Site -> its public key."""


def load(folder: str) -> Enrolled:
    """Read the folder; every fault at once (C04)."""
    if not folder:
        raise UsageError(
            "C04",
            "no keys: say where the coordinator's keys and the list of enrolled sites lie: "
            "--run-config 'keys=\"/path\"'",
        )
    return Enrolled(signing.load(Path(folder) / KEY), sites(Path(folder) / SITES))


def sites(path: Path) -> dict[str, str]:
    return dict(
        settings.load(
            SitesFile, path, "list of enrolled sites", "C04", "enrol the sites first"
        ).sites
    )


def text(listed: Mapping[str, str]) -> str:
    """`sites.toml` with these sites."""
    return "[sites]\n" + "".join(
        f"{json.dumps(name)} = {json.dumps(listed[name])}\n" for name in sorted(listed)
    )
