"""Framing of a packet between courier and station: a head, then text and blob in bounded pieces.

Whoever receives treats every byte as hostile: sizes are bounded before anything is kept, and
nothing is unpickled. That text and blob are the sender's own is what the signature and the hashes
under it say (`common.wire.messages`); here only their sizes are checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import get_args

from common.errors import WireError
from common.wire.envelope import Kind, Packet

CHUNK = 1 << 20
"""Bytes of a piece."""
LIMIT = 1 << 30
"""Bytes of a whole packet: EfficientNet-B3 of 20 training sets."""
_HEAD = 4096


def frames(packet: Packet) -> Iterator[bytes]:
    """The pieces of a packet; none holds both text and blob."""
    head = {
        "kind": packet.kind,
        "signature": packet.signature,
        "sizes": [len(packet.text), len(packet.blob)],
    }
    yield json.dumps(head).encode()
    for part in (packet.text, packet.blob):
        view = memoryview(part)
        for at in range(0, len(part), CHUNK):
            yield bytes(view[at : at + CHUNK])


def assemble(pieces: Iterable[bytes], limit: int = LIMIT) -> Packet:
    """The packet whose pieces these are; WireError W02 where they are not what the head
    declares."""
    stream = iter(pieces)
    try:
        kind, signature, sizes = _head(next(stream, b""), limit)
        text, blob = (_taken(stream, size) for size in sizes)
        if next(stream, None) is not None:
            raise ValueError("more pieces than were declared")
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError("W02", f"not a packet ({error}); it was truncated or altered") from error
    return Packet(kind, text, signature, blob)


def _taken(stream: Iterator[bytes], size: int) -> bytes:
    kept, left = [], size
    while left:
        piece = next(stream, b"")
        # full ones alone: of few bytes each they would take many times the memory of the packet
        if len(piece) != min(CHUNK, left):
            raise ValueError(f"a piece of {len(piece)} bytes, where {left} were to come")
        kept.append(piece)
        left -= len(piece)
    return b"".join(kept)


def _head(head: bytes, limit: int) -> tuple[Kind, str, list[int]]:
    told = json.loads(head) if len(head) <= _HEAD else None
    if not isinstance(told, dict) or set(told) != {"kind", "signature", "sizes"}:
        raise ValueError("no head")
    kind, signature, sizes = told["kind"], told["signature"], told["sizes"]
    if (
        kind not in get_args(Kind)
        or type(signature) is not str
        or type(sizes) is not list
        or len(sizes) != 2
    ):
        raise ValueError("a head of the wrong form")
    if any(type(n) is not int or n < 0 for n in sizes) or sum(sizes) > limit:
        raise ValueError(f"sizes {sizes}, at most {limit} bytes are taken")
    return kind, signature, sizes
