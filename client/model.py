"""A federation's final networks, as a run leaves them in `model/`, opened at a site for its own use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from common.errors import DataError, FedmetsError
from common.learner import load
from common.learners.image import Image
from common.types import State, nest, unpack


@dataclass(frozen=True)
class Networks:
    """`state`: learner -> arrays; `image`: the image learner with the run's settings; `sha256` of the parameters' file."""

    state: State
    image: Image
    sha256: str


def open_networks(folder: Path) -> Networks:
    """Read `networks.state` and `networks.json`, compared with `SHA256SUMS` beside them (D00 where they differ or are not there)."""
    blobs = {}
    for name in ("networks.state", "networks.json", "SHA256SUMS"):
        try:
            blobs[name] = (folder / name).read_bytes()
        except OSError as error:
            what = f"D00 {folder / name}: cannot be read ({error.strerror})"
            raise DataError("D00", f"{what}. Give the folder model/ of a run that trained networks on images") from error
    lines = blobs.pop("SHA256SUMS").decode("utf-8", "replace").splitlines()
    sums = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    altered = [name for name, blob in blobs.items() if sums.get(name) != hashlib.sha256(blob).hexdigest()]
    if altered:
        raise DataError("D00", *(f"D00 {folder / n}: not the file that SHA256SUMS names. Copy the run's model/ again" for n in altered))
    try:
        state = nest(unpack(blobs["networks.state"]))
        image = cast(Image, load("image", json.loads(blobs["networks.json"])["image"]))
    except (FedmetsError, ValueError, KeyError) as error:
        raise DataError("D00", f"D00 {folder}: not a model that this version reads ({error}). Use the fedmets that made it") from error
    return Networks(state, image, sums["networks.state"])
