"""`federation.toml`: what a coordinator decides before anybody can join."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from common.errors import FedmetsError
from common.runtime import settings
from common.runtime.settings import BrokenRules, Form, Listed, Name, Settings, each_once
from common.study import load as studies

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")


def slug(site: str) -> str:
    """The name of a site's folder."""
    return re.sub(r"[^a-z0-9]+", "-", site.lower()).strip("-")[:60] or "site"


def _loads(study: str) -> str:
    try:
        studies.load(study)
    except FedmetsError as error:
        raise BrokenRules(*(("", f"cannot be read: {fault}") for fault in error.faults)) from error
    return study


def _own_folders(sites: tuple[str, ...]) -> tuple[str, ...]:
    homes: dict[str, list[str]] = {}
    for site in sites:
        homes.setdefault(slug(site), []).append(site)
    faults = []
    for home, names in homes.items():
        if len(set(names)) < len(names):
            faults.append(("", f"names one twice ({', '.join(names)})"))
        if len(set(names)) > 1:
            faults.append(("", f"{', '.join(sorted(set(names)))} would share the folder '{home}'"))
    if faults:
        raise BrokenRules(*faults)
    return sites


T = TypeVar("T")
Several = Annotated[Listed[T], Field(min_length=1), AfterValidator(each_once)]


@dataclass(frozen=True)
class Federation(Settings):
    """Written once by the coordinator, beside the kits afterwards; sites are added to it."""

    name: Annotated[str, Form(SLUG, "lower-case letters, digits and '-', at most 40")]
    """Lower-case letters, digits and '-'."""
    hosts: Several[Annotated[str, Form(HOST, "a host name or an address")]]
    """Names or addresses at which sites reach the coordinator; the first is the one that kits
    name."""
    studies: Several[Annotated[str, AfterValidator(_loads)]]
    """Studies that the federation may run: names, or paths of study files."""
    sites: Annotated[Listed[Name], Field(min_length=1), AfterValidator(_own_folders)]
    """Names by which sites are known, in plans and reports."""
    port: Annotated[int, Field(ge=1, le=65535)] = 443
    """Of the coordinator's proxy."""
    coordinator_image: Name = "localhost/fedmets-coordinator:latest"
    """The container image that the coordinator's compose file names."""
    courier_image: Name = "localhost/fedmets-courier:latest"
    """The courier's, in the sites' compose files."""
    station_image: Name = "localhost/fedmets-station:latest"
    """The station's, in the sites' compose files."""


IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9./:_-]{0,199}@sha256:[0-9a-f]{64}")
Digest = Annotated[str, Form(IMAGE, "an image by its digest, NAME@sha256:...")]


@dataclass(frozen=True)
class Images(Settings):
    """`images.json`, which `make images` writes: the images by digest, as compose files name
    them."""

    coordinator: Digest
    """The coordinator's."""
    courier: Digest
    """The courier's."""
    station: Digest
    """The station's."""


def load_images(path: Path) -> Images:
    """Read the file; every fault at once (C01)."""
    way_out = "make images writes it"
    raw = settings.document(path, "list of images", "C01", way_out, json.loads)
    return settings.checked(Images, raw, f"'{path}'", "C01")


def load(path: Path) -> Federation:
    """Read the file; every fault at once (C01)."""
    return settings.load(Federation, path, "federation file", "C01")
