"""Files of a model folder: the one place where any of them is read.

A folder is data that came from elsewhere. Only the files named in `MOST` are opened, by these names
and inside the folder; none through a symbolic link, none that is larger than its kind may be. What
else lies there is not looked at. The SHA256SUMS beside them say that nothing was damaged on the
way, and the coordinator's signature over the sums whose model it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client.site.site_file import Site
from common.errors import DataError, FedmetsError, UsageError, WireError
from common.wire import signing
from common.wire.model_signature import SIGNATURE, SUMS, verified

STATE, JSON, STUDY = "model.state", "model.json", "study.toml"
MOST: Mapping[str, int] = {
    SUMS: 2**20,
    SIGNATURE: 2**12,
    JSON: 2**22,
    STUDY: 2**20,
    STATE: 2**31,
}
"""File -> the most bytes that it may have: nothing else of a folder is read."""
UNSIGNED = "not signed"


@dataclass(frozen=True)
class Trust:
    """By whom a model must be signed; without any key, whoever signed it is told."""

    keys: Mapping[str, str] = field(default_factory=dict)
    """Public key -> whose it is, in words."""
    unsigned: bool = False
    """A model that nobody has signed is read although there are keys."""


@dataclass(frozen=True)
class Files:
    """What was read, each file as the sums name it."""

    folder: Path
    blobs: Mapping[str, bytes]
    """`model.state`, `model.json`, and `study.toml` where the folder has one."""
    sha256: str
    """Of the parameters' file."""
    signed: str
    """Whose the model is, in words."""


def trust_of(
    site: Site | None, where: str = "", coordinator: str = "", *, unsigned: bool = False
) -> Trust:
    """Whom a command trusts: the coordinator that the site file `where` has pinned, the site
    itself, and whoever is named. UsageError C01 where that is no key."""
    keys = {}
    if coordinator:
        if not signing.PUBLIC.fullmatch(coordinator):
            raise UsageError(
                "C01",
                f"--coordinator {coordinator[:80]!r} is no public key of 64 hex digits; the "
                "coordinator reads it out, or site.toml has it",
            )
        keys[coordinator] = "the key named by --coordinator"
    if site is not None and site.coordinator:
        keys[site.coordinator] = f"the coordinator pinned in {where}"
        own = own_signer(site)
        if own is not None:
            keys[own.public] = f"the site '{site.name}' itself"
    return Trust(keys, unsigned)


def own_signer(site: Site) -> signing.Signer | None:
    """The site's own key, where it has one that this user may read."""
    if site.key is None:
        return None
    try:
        return signing.load(site.key)
    except UsageError:
        return None


def read(folder: Path, trust: Trust) -> Files:
    """DataError D00 where a file is not there, no plain file, too large, or altered; P05 where the
    model is signed by nobody whom `trust` names."""
    with _opened(folder) as handle:
        blobs = {name: _file(folder, handle, name, most) for name, most in MOST.items()}
    sums = _needed(folder, blobs, SUMS)
    signed = _whose(folder, sums, blobs.pop(SIGNATURE), trust)
    lines = sums.decode("utf-8", "replace").splitlines()
    checksums = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    checked = {name: _needed(folder, blobs, name) for name in (STATE, JSON)}
    study = blobs[STUDY]
    if study is not None:
        checked[STUDY] = study
    altered = [
        name
        for name, blob in checked.items()
        if checksums.get(name) != hashlib.sha256(blob).hexdigest()
    ]
    if altered:
        raise DataError(
            "D00",
            *(
                f"D00 {folder / n}: not the file that SHA256SUMS names. Copy the run's model/ again"
                for n in altered
            ),
        )
    return Files(folder, checked, checksums[STATE], signed)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (OSError, ValueError) as error:
        why = (
            "it is a symbolic link" if os.path.islink(folder) else getattr(error, "strerror", error)
        )
        raise DataError(
            "D00",
            f"D00 {folder}: no folder that can be read ({why}). Give the folder model/ itself",
        ) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _file(folder: Path, handle: int, name: str, most: int) -> bytes | None:
    """One file of the folder; None where it is not there."""
    path = folder / name
    try:
        # without waiting: a pipe of that name would never end
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "it is a symbolic link" if os.path.islink(path) else error.strerror
        raise _unreadable(path, str(why)) from error
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise _unreadable(path, "it is no plain file")
        size = found.st_size
        if size <= most:
            with open(opened, "rb", closefd=False) as file:
                blob = file.read(most + 1)  # it may grow while it is read
            if len(blob) <= most:
                return blob
            size = len(blob)
        raise _unreadable(path, f"it has {size} bytes, {most} are the most")
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    finally:
        os.close(opened)


def _needed(folder: Path, blobs: Mapping[str, bytes | None], name: str) -> bytes:
    blob = blobs[name]
    if blob is None:
        raise _unreadable(folder / name, "it is not there")
    return blob


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "D00",
        f"D00 {path}: cannot be read ({why}). Give the folder model/ of a run, as it was written",
    )


def _whose(folder: Path, sums: bytes, blob: bytes | None, trust: Trust) -> str:
    known = " or ".join(f"{whose} ({key})" for key, whose in trust.keys.items())
    if blob is None:
        if trust.keys and not trust.unsigned:
            raise _foreign(
                folder,
                f"signed by nobody, expected is {known}. It was made before models were signed, or "
                "the signature was taken off: ask for the run's model/ again, or take it as it is "
                "(--unsigned)",
            )
        return UNSIGNED
    try:
        key = verified(sums, blob).key
    except WireError as error:
        raise _foreign(
            folder, f"{_words(error)}: SHA256SUMS or SIGNATURE was altered. Copy model/ again"
        ) from error
    if not trust.keys:
        return f"signed by {key}, which nothing here has pinned"
    if key not in trust.keys:
        raise _foreign(
            folder,
            f"signed by {key}, expected is {known}. If that is another coordinator's, and it has "
            f"told you so, name it (--coordinator {key})",
        )
    return f"signed by {trust.keys[key]} ({key[:16]}...)"


def _foreign(folder: Path, why: str) -> DataError:
    return DataError("P05", f"P05 {folder}: {why}")


def _words(error: FedmetsError) -> str:
    return "; ".join(error.faults)
