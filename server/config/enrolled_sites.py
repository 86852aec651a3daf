"""Who may ask and who may answer: the coordinator's own key, and the public keys of the sites that were enrolled.

A folder with `plan.key` (PEM, mode 600) and `sites.toml`, as a simulation writes it for its virtual sites.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError
from common.wire import signing
from common.wire.signing import Signer

KEY, SITES = "plan.key", "sites.toml"


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
            "C04", "no keys: say where the coordinator's keys and the list of enrolled sites lie: --run-config 'keys=\"/path\"'"
        )
    return Enrolled(signing.load(Path(folder) / KEY), sites(Path(folder) / SITES))


def sites(path: Path) -> dict[str, str]:
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("C04", f"'{path}' cannot be read ({error.strerror}); enrol the sites first") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("C04", f"'{path}' is not valid TOML: {error}") from error
    found = listed.get("sites")
    faults = [f"{path}: unknown key '{k}'; only the table [sites] is read" for k in sorted(set(listed) - {"sites"})]
    if not isinstance(found, dict) or not found:
        raise UsageError("C04", *faults, f"{path}: the table [sites] with a public key a site is missing or empty; enrol the sites first")
    for name, public in found.items():
        if not isinstance(public, str) or not signing.PUBLIC.fullmatch(public):
            faults.append(f"{path}: the key of '{name}' is {public!r}, 64 hex digits are needed")
    twice = sorted({str(k) for k in found.values() if list(found.values()).count(k) > 1})
    faults += [
        f"{path}: one key {k[:16]}... for {', '.join(n for n, v in found.items() if v == k)}; each site makes its own" for k in twice
    ]
    if faults:
        raise UsageError("C04", *faults)
    return dict(found)


def text(listed: Mapping[str, str]) -> str:
    """`sites.toml` with these sites."""
    return "[sites]\n" + "".join(f"{json.dumps(name)} = {json.dumps(listed[name])}\n" for name in sorted(listed))
