"""A packet in pieces: whole it comes through unchanged, otherwise it is a WireError, whatever the pieces claim."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RunError, WireError
from common.exchange import Kind, Packet
from common.frames import BULK, CHUNK, assemble, frames, sweep

KINDS: tuple[Kind, ...] = ("greeting", "hello", "request", "updates")
PACKETS = st.builds(Packet, st.sampled_from(KINDS), st.binary(max_size=50), st.text(max_size=5), st.binary(max_size=50))


def refused(pieces: Sequence[bytes], limit: int = 1000) -> str:
    with pytest.raises(WireError) as caught:
        assemble(pieces, None, limit)
    assert caught.value.code == "W02"
    return str(caught.value)


@given(PACKETS)
def test_a_packet_comes_through_unchanged(packet: Packet) -> None:
    assert assemble(frames(packet)) == packet


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_pieces_are_bounded(size: int) -> None:
    packet = Packet("request", bytes(size), "", b"\1" * size)
    pieces = list(frames(packet))
    assert max(map(len, pieces)) <= CHUNK
    assert assemble(pieces) == packet


@given(PACKETS, st.data())
def test_what_lacks_or_gains_a_byte_is_refused(packet: Packet, data: st.DataObject) -> None:
    pieces = list(frames(packet))
    whole = b"".join(pieces[1:])
    if whole:
        cut = data.draw(st.integers(0, len(whole) - 1))
        refused([pieces[0], *([whole[:cut]] if cut else [])])
        changed = bytearray(whole)
        changed[cut] ^= 1
        refused([pieces[0], bytes(changed)])
    refused([*pieces, b"x"])
    refused([*pieces, b""])


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_garbage_is_refused(pieces: list[bytes]) -> None:
    refused(pieces)


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from([*KINDS, "other", None, 3]),
            "signature": st.none() | st.text(max_size=3) | st.integers(),
            "sizes": st.none() | st.lists(st.none() | st.booleans() | st.floats() | st.integers(-3, 10**12), max_size=3),
            "file": st.sampled_from(["", "x", "../../etc/passwd", "bulk-" + "0" * 32, None, 3]),
            "sha256": st.none() | st.text(max_size=3) | st.just("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        }
    )
)
def test_no_head_makes_more_than_a_wire_error(head: dict[str, object]) -> None:
    try:
        packet = assemble([json.dumps(head).encode()], None, 1000)
    except WireError as error:
        assert error.code == "W02"  # noqa: PT017 (an empty packet is one)
    else:
        assert (packet.text, packet.blob) == (b"", b"")


def test_what_is_too_large_is_refused_before_it_is_taken() -> None:
    def endless() -> object:
        yield json.dumps({"kind": "request", "signature": "", "sizes": [0, 10**12], "sha256": "", "file": ""}).encode()
        raise AssertionError("a second piece was asked for")

    assert "at most 1000 bytes" in refused(endless())  # type: ignore[arg-type]
    refused([b"[" * 5000])


# ---- large blobs, as files of the socket's folder ---------------------------------------------------------------------------------

LARGE = Packet("updates", b"text", "00", bytes(range(256)) * (BULK // 256) + b"tail")


def sent(folder: Path) -> tuple[list[bytes], Path]:
    pieces = list(frames(LARGE, folder))
    (path,) = folder.glob("bulk-*")
    return pieces, path


def test_a_large_blob_goes_by_file_and_the_file_is_gone_afterwards(tmp_path: Path) -> None:
    pieces, path = sent(tmp_path)
    assert sum(map(len, pieces)) < 1000
    assert path.stat().st_mode & 0o777 == 0o600
    assert assemble(pieces, tmp_path) == LARGE
    assert not list(tmp_path.iterdir())
    assert list(frames(Packet("updates", b"text", "00", bytes(BULK - 1)), tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["missing", "shorter", "longer", "altered", "a link", "a folder", "a pipe", "no folder here"])
def test_a_file_that_is_not_what_was_declared_is_refused(tmp_path: Path, fault: str) -> None:
    pieces, path = sent(tmp_path)
    blob = path.read_bytes()
    other = tmp_path / "elsewhere"
    if fault in ("missing", "a folder", "a pipe"):
        path.unlink()
    if fault == "shorter":
        path.write_bytes(blob[:-1])
    if fault == "longer":
        path.write_bytes(blob + b"x")
    if fault == "altered":
        path.write_bytes(b"x" + blob[1:])
    if fault == "a link":
        path.rename(other)
        path.symlink_to(other)
    if fault == "a folder":
        path.mkdir()
    if fault == "a pipe":
        os.mkfifo(path)
    with pytest.raises(WireError) as caught:
        assemble(pieces, None if fault == "no folder here" else tmp_path)
    assert caught.value.code == "W02"
    if fault == "a link":
        assert other.read_bytes() == blob


def test_a_head_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 10)
    (tmp_path / "in").mkdir()
    sha = hashlib.sha256(b"x" * 10).hexdigest()
    for name in ("../secret", str(tmp_path / "secret"), "bulk-../../secret"):
        head = {"kind": "request", "signature": "", "sizes": [0, 10], "sha256": sha, "file": name}
        with pytest.raises(WireError):
            assemble([json.dumps(head).encode()], tmp_path / "in")
    assert (tmp_path / "secret").exists()


def test_what_nobody_took_away_is_swept_and_a_call_that_broke_off_leaves_nothing(tmp_path: Path) -> None:
    stream = frames(LARGE, tmp_path)
    next(stream)
    stream.close()
    assert not list(tmp_path.iterdir())
    _, path = sent(tmp_path)
    sweep(tmp_path)
    assert path.exists()
    os.utime(path, (0, 0))
    sweep(tmp_path)
    assert not path.exists()


def test_a_full_volume_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(RunError) as caught:
        list(frames(LARGE, tmp_path))
    assert caught.value.code == "S03"
