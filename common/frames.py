"""A packet as a stream of bounded pieces, for the socket between courier and station: a head, then text and blob in chunks.

Whoever receives treats every byte as hostile: sizes are bounded before anything is kept, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import get_args

from common.errors import WireError
from common.exchange import Kind, Packet

CHUNK = 1 << 20
"""Bytes of a piece."""
LIMIT = 1 << 30
"""Bytes of a whole packet: EfficientNet-B3 of 20 training sets."""
_HEAD = 4096


def frames(packet: Packet) -> Iterator[bytes]:
    """The pieces of a packet."""
    sizes = [len(packet.text), len(packet.blob)]
    sha = hashlib.sha256(packet.text)
    sha.update(packet.blob)
    yield json.dumps({"kind": packet.kind, "signature": packet.signature, "sizes": sizes, "sha256": sha.hexdigest()}).encode()
    for part in (packet.text, packet.blob):
        for at in range(0, len(part), CHUNK):
            yield part[at : at + CHUNK]


def assemble(pieces: Iterable[bytes], limit: int = LIMIT) -> Packet:
    """The packet whose pieces these are; WireError W02 where they are not what the head declares."""
    stream = iter(pieces)
    try:
        head = next(stream, b"")
        told = json.loads(head) if len(head) <= _HEAD else None
        if not isinstance(told, dict) or set(told) != {"kind", "signature", "sizes", "sha256"}:
            raise ValueError("no head")
        kind, signature, sizes = told["kind"], told["signature"], told["sizes"]
        if kind not in get_args(Kind) or type(signature) is not str or type(sizes) is not list or len(sizes) != 2:
            raise ValueError("a head of the wrong form")
        if any(type(n) is not int or n < 0 for n in sizes) or sum(sizes) > limit:
            raise ValueError(f"sizes {sizes}, at most {limit} bytes are taken")
        body, sha = bytearray(), hashlib.sha256()
        for piece in stream:
            if not piece or len(piece) > CHUNK or len(body) + len(piece) > sum(sizes):
                raise ValueError("a piece of a size that was not declared")
            body += piece
            sha.update(piece)
        if len(body) != sum(sizes) or sha.hexdigest() != told["sha256"]:
            raise ValueError(f"{len(body)} bytes came, {sum(sizes)} were declared")
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError("W02", f"not a packet ({error}); it was truncated or altered") from error
    whole = memoryview(body)
    return Packet(kind, bytes(whole[: sizes[0]]), signature, bytes(whole[sizes[0] :]))
