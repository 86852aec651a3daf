"""Site file, one hospital as it knows itself: `site.toml`, which site IT owns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from client.site.privacy_policy import Policy, PublicKey
from common.runtime import settings
from common.runtime.settings import Listed, Location, Name, Settings


def _study(ref: str, info: ValidationInfo) -> str:
    return (
        str(info.context["folder"] / ref)
        if info.context and ref.endswith((".toml", ".py"))
        else ref
    )


@dataclass(frozen=True)
class Site(Settings):
    """Relative paths are taken from the folder of the file."""

    name: Name
    """By which the site is known in plans and reports."""
    data: Location
    """Folder or file that holds the site's tables."""
    studies: Annotated[Listed[Annotated[str, AfterValidator(_study)]], Field(min_length=1)]
    """Studies that the site takes part in: names, or paths of study files."""
    source: str = ""
    """Name of the source mapping; empty: recognised from the files."""
    patients: Location | None = None
    """A text file with one patient id a line, where the table holds more patients than the site's
    own."""
    minimum: Annotated[int, Field(ge=1)] = 10
    """Fewest patients in any sum that leaves the site (P01)."""
    pooled: bool = False
    """True where the site stands for several institutions together: it is then never left out by
    itself and never ranked."""
    coordinator: PublicKey = ""
    """Public key of the coordinator whose plans are answered, 64 hex digits: pinned when the site
    was enrolled."""
    key: Location | None = None
    """The site's own private key (PEM, mode 600), by which it signs what it answers; made by
    `fedmets deploy enroll`."""
    log: Annotated[Location, Field(validate_default=True)] = Path("station.log")
    """Where refusals and errors are written in full; only their codes leave."""
    images: Location | None = None
    """Folder that holds the site's images; None: `data`, where that is a folder."""
    state: Annotated[Location, Field(validate_default=True)] = Path("state")
    """Folder for what the station must not lose: the answers that it has given. For one station."""
    privacy: Policy = Policy()
    """The table `[privacy]`."""
    cache: Annotated[Location, Field(validate_default=True)] = Path("cache")
    """Folder for what is prepared of the images. It holds pictures of patients, and may be deleted:
    it is then filled again."""


def load(path: Path) -> Site:
    """Read `site.toml`; every fault of the file is named at once."""
    return settings.load(Site, path, "site file", "C01")
