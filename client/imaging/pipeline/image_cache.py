"""Image cache: prepared images on the site's disk, one file a case, named by what it was made from,
mapped into memory when used.

A file is written aside, synced and renamed, so that whatever happens leaves the whole file or none;
it carries a checksum of each array, which is compared when a process opens it for the first time.
Two processes that make the same file make the same bytes, so it does not matter which one is last.
The folder holds pictures of patients: it stays at the site, readable by its owner only, and may be
deleted at any time; it is then filled again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.errors import RunError
from common.types import Array

MAGIC = b"FEDMETS1"
_PREFIX = struct.Struct("<8sQI")
"""Magic, length of the JSON header, its CRC-32."""
_ALIGN = 4096
_SUFFIXES = frozenset({".image", ".array", ".album"})
_DAY = 86_400


class BrokenEntryError(Exception):
    """A file of the cache is not what was written: to be removed and made again."""


@dataclass(frozen=True, eq=False)
class Entry:
    """What one file holds: read-only arrays, mapped, and what was said beside them."""

    arrays: Mapping[str, Array]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache. `size` in bytes, `used`: when it was last opened, seconds since 1970."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Cache:
    """The folder; nothing is written before there is something to keep."""

    folder: Path

    def open(self, key: str, kind: str = "image") -> Entry | None:
        """The entry of `key`, verified; None where there is none yet.

        Raises BrokenEntryError, and has then removed the file; RunError S03 where it may not be
        read, or is no file.
        """
        return _opened(self._path(key, kind))

    def store(
        self,
        key: str,
        arrays: Mapping[str, Array],
        metadata: Mapping[str, Any],
        kind: str = "image",
    ) -> None:
        """Write an entry. Raises RunError S03 where the disk is full or may not be written."""
        own(self.folder)
        write(self._path(key, kind), arrays, metadata)

    def kept(self, key: str) -> OnDisk:
        """Where arrays that are derived from an entry are kept."""
        return OnDisk(self.folder / "derived" / key[:2] / key)

    def sweep(self) -> int:
        """Remove what writers that were killed left behind; returns how many files."""
        return (
            sum(_abandoned(path) for path in self.folder.rglob("*.part"))
            if self.folder.is_dir()
            else 0
        )

    def files(self) -> list[CachedFile]:
        """Every file of the cache, oldest use first."""
        cached = []
        for path in self.folder.rglob("*") if self.folder.is_dir() else ():
            if path.suffix in _SUFFIXES:
                with suppress(FileNotFoundError):
                    now = path.stat()
                    cached.append(CachedFile(path, now.st_size, max(now.st_atime, now.st_mtime)))
        return sorted(cached, key=lambda h: (h.used, h.path))

    def remove_unused(self, days: float) -> list[CachedFile]:
        """Remove what nobody opened for so many days; what is mapped by a process stays readable
        there. Raises RunError S03."""
        old = [h for h in self.files() if h.used < time.time() - days * _DAY]
        for file in old:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                raise full(file.path, error) from error
        return old

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / f"{kind}s" / key[:2] / f"{key}.{kind}"


@dataclass(frozen=True)
class OnDisk:
    """`common.data.picture.Kept`: arrays derived from one picture (its crops), made once, mapped
    when asked for again."""

    folder: Path
    _open: dict[str, Array] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, name: str, make: Callable[[], Array]) -> Array:
        if name not in self._open:
            path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.array"
            try:
                entry = _opened(path)
            except BrokenEntryError:
                entry = None
            if entry is None or entry.metadata != {"name": name}:
                write(path, {"array": np.asarray(make())}, {"name": name})
                entry = _opened(path)
            assert entry is not None
            self._open[name] = entry.arrays["array"]
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        # a copy in another process maps the files itself
        return {"folder": self.folder, "_open": {}}


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Arrays and a JSON-able text to one file, atomically and durably. Raises RunError S03."""
    # not ascontiguousarray, which makes a scalar an array of one
    parts = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    offset = 0
    rows: list[tuple[str, str, list[int], int, int]] = []
    for name, array in parts.items():
        rows.append((name, array.dtype.str, list(array.shape), offset, zlib.crc32(array.data)))
        offset += -(-array.nbytes // _ALIGN) * _ALIGN
    header = json.dumps({"arrays": rows, "told": metadata}, sort_keys=True).encode()
    start = -(-(_PREFIX.size + len(header)) // _ALIGN) * _ALIGN

    def fill(f: IO[bytes]) -> None:
        f.write(_PREFIX.pack(MAGIC, len(header), zlib.crc32(header)) + header)
        for array, row in zip(parts.values(), rows, strict=True):
            f.seek(start + row[3])
            f.write(array.data)
        f.truncate(start + offset)

    _write(path, fill)


def own(folder: Path) -> None:
    """Make the cache's folder, for its owner only. Raises RunError S03."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise full(folder, error) from error


def replace(path: Path, blob: bytes) -> None:
    """Write a small file of the cache whole or not at all. Raises RunError S03."""
    _write(path, lambda f: f.write(blob))


def full(path: Path, error: OSError, what: str = "written") -> RunError:
    """What to say where the cache cannot be written (or read)."""
    return RunError(
        "S03",
        f"the image cache '{path}' cannot be {what} ({error.strerror or error}); free space, mend "
        "permissions, or name another folder "
        "as `cache` in site.toml; what is prepared already is kept",
    )


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(aside, "wb") as f:
            # held while the file grows, so that `sweep` in another process lets it be; a lock dies
            # with its process
            fcntl.flock(f, fcntl.LOCK_EX)
            fill(f)
            f.flush()
            os.fsync(f.fileno())
            os.replace(aside, path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise full(path, error) from error
    _VERIFIED.pop(str(path), None)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _abandoned(path: Path) -> bool:
    """Remove a file that nobody writes any more: a minute old, for a new one may not be locked yet,
    and not locked."""
    with suppress(OSError), open(path, "rb") as f:
        if time.time() - os.fstat(f.fileno()).st_mtime < 60:
            return False
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    return False


_VERIFIED: dict[str, tuple[int, int, int]] = {}
"""Files whose checksums were compared in this process -> inode, size, time of change."""


def _opened(path: Path) -> Entry | None:
    """None where there is no such file. Raises BrokenEntryError, RunError S03 where it cannot be
    read."""
    try:
        with open(path, "rb") as f:
            now = os.fstat(f.fileno())
            view = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if now.st_size else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise full(path, error, "read") from error
    stamp = (now.st_ino, now.st_size, now.st_mtime_ns)
    try:
        entry = _parsed(view, verify=_VERIFIED.get(str(path)) != stamp)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        with suppress(OSError):
            path.unlink()
        raise BrokenEntryError(
            f"'{path}' is broken ({error}); it was removed and is made again"
        ) from error
    _VERIFIED[str(path)] = stamp
    if time.time() - now.st_atime > _DAY:
        with suppress(
            OSError
        ):  # said to the file system, which may be mounted so that it notes no reading by itself
            os.utime(path, ns=(time.time_ns(), now.st_mtime_ns))
    return entry


def _parsed(view: mmap.mmap | bytes, *, verify: bool) -> Entry:
    magic, length, checksum = _PREFIX.unpack_from(view)
    text = view[_PREFIX.size : _PREFIX.size + length]
    if magic != MAGIC or zlib.crc32(text) != checksum:
        raise ValueError("its header is damaged")
    header = json.loads(text)
    start = -(-(_PREFIX.size + length) // _ALIGN) * _ALIGN
    out: dict[str, Array] = {}
    for name, kind, shape, start_of_array, expected in header["arrays"]:
        # refuses an array that reaches beyond the end of the file
        array = np.frombuffer(
            view, np.dtype(kind), int(np.prod(shape, dtype=np.int64)), start + start_of_array
        ).reshape(shape)
        if verify and zlib.crc32(array.data) != expected:
            raise ValueError(f"the checksum of '{name}' differs")
        out[name] = array
    return Entry(out, header["told"])
