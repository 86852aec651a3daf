"""Header index of image files: path, size and time of change to SHA-256 and header, so that a
second start opens no image.

One line of JSON a file in the site's cache, appended as files are read: whatever is killed loses
the lines it had not written, and a line that is damaged is a file to be read again. The headers
hold the patient key, the days of the examination and nothing else of a patient: of free text only
the words that a sequence is told by are kept. The file stays at the site.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from client.imaging.dicom import ct_phase, mr_sequence
from client.imaging.geometry.volumes import Frame, Header
from client.imaging.pipeline.image_cache import full, own, replace
from common.errors import Fault

PACKAGE = Path(__file__).parents[2]
"""All of `client`."""


@cache
def fingerprint() -> str:
    """SHA-256 of the client's own files. What was read or chosen by other code is read and chosen
    again: that costs little."""
    h = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        h.update(path.read_bytes())
    return h.hexdigest()


Stamp = tuple[int, int]
"""Size in bytes and time of change in ns: another one, and the file is another file."""


@dataclass(frozen=True)
class IndexedFile:
    """One file: its header, or why it has none; its SHA-256 once it was read as a whole."""

    stamp: Stamp
    header: Header | None
    fault: Fault | None = None
    sha256: str = ""


class HeaderIndex:
    """The lines of one cache folder. Not for several threads; several processes may append."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "files.jsonl"
        self._known: dict[str, IndexedFile] = {}
        self._stale: dict[str, IndexedFile] = {}
        """Read by other code: the hash of the file still holds."""
        self._lines = 0
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise full(self._path, error) from error
        for line in text.splitlines():
            self._lines += 1
            try:
                path, entry, by_this_code = _parsed(line)
            except (ValueError, KeyError, TypeError):
                continue
            (self._known if by_this_code else self._stale)[path] = entry

    def get(self, path: str, stamp: Stamp) -> IndexedFile | None:
        """What is known of a file, as long as it is the same file."""
        entry = self._known.get(path)
        return entry if entry is not None and entry.stamp == stamp else None

    def sha256(self, path: str, stamp: Stamp) -> str:
        """The hash of a file, whichever code read it; '' where it is not known."""
        entries = (self._known.get(path), self._stale.get(path))
        return next(
            (
                entry.sha256
                for entry in entries
                if entry is not None and entry.stamp == stamp and entry.sha256
            ),
            "",
        )

    def add(self, files: Iterable[tuple[str, IndexedFile]]) -> None:
        """Remember files, at once and on disk. Raises RunError S03 where the folder cannot be
        written."""
        lines = []
        for path, entry in files:
            self._known[path] = entry
            lines.append(_line(path, entry))
        if not lines:
            return
        own(self._path.parent)
        self._lines += len(lines)
        if self._lines > 2 * len(self._known) + 1000:
            replace(self._path, "".join(_line(p, k) for p, k in self._known.items()).encode())
            self._lines = len(self._known)
            return
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                # a line that was cut off by a kill must not swallow the next one
                blob = b"\n" + "".join(lines).encode()
                while blob:
                    blob = blob[os.write(handle, blob) :]
            finally:
                os.close(handle)
        except OSError as error:
            raise full(self._path, error) from error


def _line(path: str, entry: IndexedFile) -> str:
    header = _slim(_without_free_text(entry.header)) if entry.header else None
    fault = dataclasses.astuple(entry.fault) if entry.fault else None
    return (
        json.dumps(
            [fingerprint()[:16], path, *entry.stamp, entry.sha256, header, fault],
            separators=(",", ":"),
        )
        + "\n"
    )


def _parsed(line: str) -> tuple[str, IndexedFile, bool]:
    """Path, what is known of it, and whether this very code read it (its header is else left
    out)."""
    version, path, size, changed, sha256, header, fault = json.loads(line)
    if not isinstance(path, str):
        raise ValueError(line)
    if version != fingerprint()[:16]:
        return path, IndexedFile((size, changed), None, None, sha256), False
    return (
        path,
        IndexedFile(
            (size, changed),
            Header.from_json(header) if header else None,
            Fault(*fault) if fault else None,
            sha256,
        ),
        True,
    )


_DEFAULTS = {
    kind: {f.name: f.default for f in dataclasses.fields(kind)} for kind in (Header, Frame)
}


_WORDS = {
    "MR": (
        mr_sequence.AFTER,
        mr_sequence.BEFORE,
        mr_sequence.FLAIR,
        mr_sequence.OTHER,
        re.compile(r"\bt2", re.IGNORECASE),
    ),
    "CT": ct_phase.WORDS,
}
"""What is looked for in a description, by modality."""


def _without_free_text(header: Header) -> Header:
    """Somebody typed what the series and the contrast agent are called, perhaps with the patient's
    name: kept is what decides."""
    description, contrast_phase = (
        "; ".join(
            word.group()
            for words in _WORDS.get(header.modality, ())
            for word in words.finditer(text)
        )
        for text in (header.description, header.contrast_phase)
    )
    if header.contrast_phase.upper().replace(" ", "_") in ct_phase.TAGGED:
        contrast_phase = header.contrast_phase
    agent = header.contrast.strip().lower()
    return dataclasses.replace(
        header,
        description=description,
        contrast_phase=contrast_phase,
        contrast="yes" if agent and agent not in mr_sequence.NO_AGENT else agent,
    )


def _slim(record: Header | Frame) -> dict[str, Any]:
    """The fields that differ from their defaults: most of a header is empty."""
    defaults = _DEFAULTS[type(record)]
    out = {}
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        if value != defaults.get(f.name, dataclasses.MISSING):
            out[f.name] = [_slim(frame) for frame in value] if f.name == "frames" else value
    return out
