"""Manifest of a folder: the SHA-256 of every file in it, signed by whoever made the folder.

Whoever holds the public key learns from it whether a file was altered, taken away, added, renamed
or made a link since, and which.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from common.errors import UsageError, WireError
from common.wire import signing
from common.wire.signing import Signer

NAME = "manifest.json"
OWN = ("site.toml", "compose.yaml")
"""What a site's IT edits once it has enrolled; all else of a kit stays as it came."""
_FORM = "fedmets manifest 1"
"""Stands before what is signed, so that it is nothing else that the same key signs."""
_MOST_BYTES = 1 << 20


def hashes(folder: Path) -> dict[str, str]:
    """File -> SHA-256 as 64 hex digits, of a folder without folders."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def text(files: Mapping[str, str], signer: Signer) -> bytes:
    """The one text of a manifest of these files."""
    return _text(files, signer.sign(_signed(files)))


def read(folder: Path, public: str) -> dict[str, str]:
    """File -> SHA-256, as the holder of `public` has signed it (UsageError C04)."""
    path = folder / NAME
    try:
        if not _is_file(path) or path.stat().st_size > _MOST_BYTES:
            raise ValueError("is missing, a link, or too large")
        blob = path.read_bytes()
        raw = json.loads(blob)
        files, signature = raw["files"], raw["signature"]
        if not isinstance(files, dict) or not all(isinstance(h, str) for h in files.values()):
            raise ValueError("holds no hashes")
        signing.verify(public, _signed(files), str(signature))
        if blob != _text(files, signature):
            raise ValueError("is not written as it was signed")
    except (OSError, ValueError, KeyError, TypeError, WireError) as error:
        raise UsageError(
            "C04",
            f"'{path}' is not the coordinator's ({error}); do not use this folder, and ask for it "
            "again",
        ) from error
    return files


def faults(folder: Path, files: Mapping[str, str], edited: Collection[str] = ()) -> list[str]:
    """What is wrong with files of the manifest, each by its name; `edited` are the owner's to
    change."""
    out = []
    for name, expected in files.items():
        path = folder / name
        if not path.is_symlink() and not path.exists():
            out.append(f"'{path}' is missing")
        elif not _is_file(path):
            out.append(f"'{path}' is a link or no file")
        elif name not in edited and _sha256(path) != expected:
            out.append(f"'{path}' has been altered")
    return out


def added(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Names of what lies in the folder beside the manifest's files."""
    return sorted(p.name for p in folder.iterdir() if p.name not in files and p.name != NAME)


def in_use(folder: Path, public: str) -> list[str]:
    """What is wrong with a folder in use: files of its owner's lie beside those of the manifest,
    `OWN` are edited, and a container sees some of them alone."""
    files = read(folder, public)
    there = {
        name: digest
        for name, digest in files.items()
        if (folder / name).is_symlink() or (folder / name).exists()
    }
    return faults(folder, there, OWN)


def altered(folder: Path, files: Mapping[str, str], edited: Collection[str]) -> list[str]:
    """Names of the `edited` that are other than they came."""
    return [n for n in edited if n in files and _sha256(folder / n) != files[n]]


def _is_file(path: Path) -> bool:
    """A file itself: through a link somebody could exchange what was looked at."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _signed(files: Mapping[str, str]) -> bytes:
    return json.dumps([_FORM, sorted(files.items())]).encode()


def _text(files: Mapping[str, str], signature: str) -> bytes:
    body = {"files": dict(sorted(files.items())), "signature": signature}
    return (json.dumps(body, indent=1) + "\n").encode()
