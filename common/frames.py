"""A packet between courier and station: head and text over the socket in bounded pieces, a large blob as a file in its folder.

The folder is its user's alone. Whoever
receives treats every byte as hostile: sizes are bounded before anything is kept, a file is opened without following links, read once and
hashed, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

from common.errors import RunError, WireError
from common.exchange import Kind, Packet

CHUNK = 1 << 20
"""Bytes of a piece."""
LIMIT = 1 << 30
"""Bytes of a whole packet: EfficientNet-B3 of 20 training sets."""
BULK = 4 << 20
"""Bytes from which a blob goes by file."""
_HEAD = 4096
_NAME = re.compile(r"bulk-[0-9a-f]{32}")
_STALE = 3600.0


def frames(packet: Packet, folder: Path | None = None) -> Iterator[bytes]:
    """The pieces of a packet; a large blob is put into `folder`, for `assemble` to take away. RunError S03 where it cannot be written."""
    sizes = [len(packet.text), len(packet.blob)]
    sha = hashlib.sha256(packet.text)
    sha.update(packet.blob)
    name = _put(folder, packet.blob) if folder is not None and len(packet.blob) >= BULK else ""
    head = {"kind": packet.kind, "signature": packet.signature, "sizes": sizes, "sha256": sha.hexdigest(), "file": name}
    try:
        yield json.dumps(head).encode()
        for part in (packet.text, b"" if name else packet.blob):
            for at in range(0, len(part), CHUNK):
                yield bytes(part[at : at + CHUNK])
    except GeneratorExit:
        # the call broke off: nobody will take the file away
        if name and folder is not None:
            (folder / name).unlink(missing_ok=True)
        raise


def assemble(pieces: Iterable[bytes], folder: Path | None = None, limit: int = LIMIT) -> Packet:
    """The packet whose pieces these are; WireError W02 where they are not what the head declares."""
    stream = iter(pieces)
    try:
        kind, signature, sizes, sha256, name = _head(next(stream, b""), limit)
        in_pieces = sizes[0] if name else sum(sizes)
        body, sha = bytearray(), hashlib.sha256()
        for piece in stream:
            if not piece or len(piece) > CHUNK or len(body) + len(piece) > in_pieces:
                raise ValueError("a piece of a size that was not declared")
            body += piece
            sha.update(piece)
        blob = bytes(memoryview(body)[sizes[0] :])
        if name:
            if folder is None:
                raise ValueError("a file, where there is no folder for one")
            blob = _take(folder, name, sizes[1])
            sha.update(blob)
        if len(body) != in_pieces or sha.hexdigest() != sha256:
            raise ValueError(f"{len(body)} bytes came, {in_pieces} were declared, or other ones")
    except (ValueError, TypeError, RecursionError, OSError) as error:
        raise WireError("W02", f"not a packet ({error}); it was truncated or altered") from error
    return Packet(kind, bytes(memoryview(body)[: sizes[0]]), signature, blob)


def sweep(folder: Path, older: float = _STALE) -> None:
    """Remove the files that nobody took away."""
    for path in folder.glob("bulk-*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > older:
                path.unlink()


def _head(head: bytes, limit: int) -> tuple[Kind, str, list[int], str, str]:
    told = json.loads(head) if len(head) <= _HEAD else None
    if not isinstance(told, dict) or set(told) != {"kind", "signature", "sizes", "sha256", "file"}:
        raise ValueError("no head")
    kind, signature, sizes, name = told["kind"], told["signature"], told["sizes"], told["file"]
    if kind not in get_args(Kind) or type(signature) is not str or type(sizes) is not list or len(sizes) != 2:
        raise ValueError("a head of the wrong form")
    if any(type(n) is not int or n < 0 for n in sizes) or sum(sizes) > limit:
        raise ValueError(f"sizes {sizes}, at most {limit} bytes are taken")
    if type(name) is not str or (name and not _NAME.fullmatch(name)):
        raise ValueError("a file of another name")
    return kind, signature, sizes, told["sha256"], name


def _put(folder: Path, blob: bytes | memoryview) -> str:
    sweep(folder)
    path = folder / f"bulk-{secrets.token_hex(16)}"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(blob)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise RunError("S03", f"'{folder}' cannot take {len(blob)} bytes ({error.strerror}); free space on the shared volume") from error
    return path.name


def _take(folder: Path, name: str, size: int) -> bytes:
    """The bytes of a file, which is removed: a regular one of our own user, of exactly that size."""
    path = folder / name
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_size != size:
            raise ValueError("a file that is not what the head declares")
        path.unlink(missing_ok=True)
        return file.read(size)
