"""The ledger's chain and the state files: what a crash, a full disk or a stranger's hand does to
them."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RunError
from common.runtime import hash_chain
from common.runtime.hash_chain import GENESIS, Chain
from server.ledger import state_store
from server.ledger.ledger import Ledger, read


def written(path: Path, lines: int = 4) -> Ledger:
    ledger = Ledger(path)
    for n in range(lines):
        ledger.append("exchange", step=n, sites={"Zürich": "contributed"}, seconds=0.1 * n)
    ledger.close()
    return ledger


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: a real short write, then a real error,
    as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- ledger --------------------------------------------------------------------------------------


def test_each_line_carries_the_hash_of_the_one_before(tmp_path: Path) -> None:
    ledger = written(tmp_path / "ledger.jsonl")
    lines = [json.loads(text) for text in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [line["n"] for line in lines] == [0, 1, 2, 3]
    assert [line["prev"] for line in lines] == [GENESIS, *(line["hash"] for line in lines[:-1])]
    assert ledger.head == lines[-1]["hash"]
    assert read(tmp_path / "ledger.jsonl") == lines == ledger.lines


def test_opened_again_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    written(tmp_path / "ledger.jsonl", 2)
    ledger = written(tmp_path / "ledger.jsonl", 2)
    assert [line["n"] for line in read(tmp_path / "ledger.jsonl")] == [0, 1, 2, 3]
    assert ledger.torn == 0


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_torn_last_line_is_dropped_and_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "ledger.jsonl"
    written(path)
    raw = path.read_bytes()
    start = raw[:-1].rindex(b"\n") + 1
    cut = data.draw(st.integers(start + 1, len(raw) - 1))
    path.write_bytes(raw[:cut] + data.draw(st.sampled_from([b"", b"\0" * 100])))
    assert len(read(path)) == 3
    ledger = Ledger(path)
    assert ledger.torn == path.stat().st_size + ledger.torn - start > 0
    assert path.read_bytes() == raw[:start]
    ledger.append("exchange", step=3)
    ledger.close()
    assert len(read(path)) == 4


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_altered_line_is_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("altered") / "ledger.jsonl"
    written(path)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 2))
    new = data.draw(st.integers(32, 126))
    if new == raw[at] or raw[at : at + 1] == b"\n":
        return
    line = raw[:at].count(b"\n") + 1
    before = json.loads(raw.splitlines()[line - 1])
    raw[at] = new
    try:
        if json.loads(raw.splitlines()[line - 1]) == before:
            return  # the same line in other letters, such as an escape in capitals
    except ValueError:
        pass
    path.write_bytes(raw)
    for opened in (read, Ledger):
        with pytest.raises(RunError, match=rf"line {line}\b") as caught:
            opened(path)
        assert caught.value.code == "S02"


@pytest.mark.parametrize("change", ["drop", "swap", "repeat", "forge"])
def test_lines_cannot_be_dropped_swapped_repeated_or_forged(change: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    a, b, c, d = path.read_bytes().splitlines(keepends=True)
    forged = json.loads(b)
    forged["step"] = 99
    body = {k: v for k, v in forged.items() if k != "hash"}
    forged["hash"] = hash_chain._hash(
        body
    )  # a hash of its own does not help: the next line names the old one
    changed = {
        "drop": [a, c, d],
        "swap": [a, c, b, d],
        "repeat": [a, b, b, c, d],
        "forge": [a, json.dumps(forged).encode() + b"\n", c, d],
    }
    path.write_bytes(b"".join(changed[change]))
    with pytest.raises(RunError, match=r"line [23]\b") as caught:
        read(path)
    assert caught.value.code == "S02"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_an_end_that_was_cut_off_is_missed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Where whole lines are gone, with a piece of one more or without; nothing is a ledger of no
    lines."""
    path = tmp_path_factory.mktemp("cut") / "ledger.jsonl"
    lines = data.draw(st.integers(1, 12))
    written(path, lines)
    starts = [0, *(i + 1 for i, byte in enumerate(path.read_bytes()) if byte == ord("\n"))]
    keep = data.draw(st.integers(0, lines - 1))
    piece = data.draw(st.booleans()) and keep < lines - 1
    path.write_bytes(path.read_bytes()[: starts[keep] + 5 * piece])
    if not keep and not piece and data.draw(st.booleans()):
        path.unlink()
    gone = lines - keep - piece
    with pytest.raises(
        RunError, match=rf"\({gone} lines? at its end w(as|ere) cut off\)"
    ) as caught:
        Chain(path)
    assert caught.value.code == "S02"
    # a run goes on from the state that is left, and what was lost is on record
    ledger = Ledger(path)
    assert (len(ledger.lines), ledger.lost, ledger.torn > 0) == (keep, gone, piece)
    ledger.append("resume")
    ledger.append("exchange")
    ledger.close()
    assert [line.get("lost") for line in Chain.contents(path).lines[keep:]] == [gone, None]


def test_a_chain_of_other_lines_is_not_the_one_that_was_written(tmp_path: Path) -> None:
    """Whoever writes the whole ledger anew has hashes that fit each other."""
    path, other = tmp_path / "ledger.jsonl", tmp_path / "other" / "ledger.jsonl"
    written(path)
    other.parent.mkdir()
    ledger = Ledger(other)
    for n in range(4):
        ledger.append("exchange", step=n)
    ledger.close()
    path.write_bytes(other.read_bytes())
    for opened in (read, Ledger):
        with pytest.raises(RunError, match=r"line 4 .*it is not the one that was written"):
            opened(path)


@pytest.mark.parametrize("mark", ["behind", "absent", "illegible"])
def test_a_mark_that_is_behind_absent_or_illegible_harms_nothing(mark: str, tmp_path: Path) -> None:
    path, end = tmp_path / "ledger.jsonl", tmp_path / "ledger.jsonl.end"
    written(path, 3)
    before = end.read_text()
    written(path, 1)
    {
        "behind": lambda: end.write_text(before),
        "absent": end.unlink,
        "illegible": lambda: end.write_bytes(b"\xff\0"),
    }[mark]()
    assert len(read(path)) == 4
    written(path, 1)
    assert end.read_text().split() == ["000000000005", read(path)[-1]["hash"]]


def test_no_ledger_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no ledger") as caught:
        read(tmp_path / "ledger.jsonl")
    assert caught.value.code == "S02"


def test_a_disk_that_fills_within_a_line_leaves_the_ledger_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append("open")
    whole = path.read_bytes()
    with room_for(len(whole) + 20), pytest.raises(RunError, match="free space") as caught:
        ledger.append("exchange", step=0)
    assert caught.value.code == "S03"
    assert path.read_bytes() == whole
    assert len(ledger.lines) == 1
    ledger.append("exchange", step=0)  # space was made
    ledger.close()
    assert [line["kind"] for line in read(path)] == ["open", "exchange"]


def test_a_sync_that_fails_is_an_error_and_closing_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError) as caught:
        ledger.append("open")
    assert caught.value.code == "S03"
    ledger.close()
    monkeypatch.undo()
    assert read(tmp_path / "ledger.jsonl") == []


def test_a_ledger_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere") as caught:
        Ledger(tmp_path / "nowhere" / "ledger.jsonl")
    assert caught.value.code == "S03"


# ---- state ---------------------------------------------------------------------------------------


def state(step: int) -> dict[str, Any]:
    return {
        "all\tlogistic\tcoefficients": np.arange(1000.0) + step,
        "": np.frombuffer(b'{"step":1}', np.uint8),
    }


def test_a_state_is_what_was_saved_and_old_ones_go(tmp_path: Path) -> None:
    hashes = [state_store.save(tmp_path / "state", n, state(n)) for n in range(5)]
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == [
        "000003.state",
        "000004.state",
    ]
    for n in (3, 4):
        back = state_store.load(tmp_path / "state", n, hashes[n])
        assert {k: v.tobytes() for k, v in back.items()} == {
            k: v.tobytes() for k, v in state(n).items()
        }


@pytest.mark.parametrize("damage", ["other", "cut", "gone"])
def test_a_state_that_the_ledger_does_not_name_is_refused(damage: str, tmp_path: Path) -> None:
    sha = state_store.save(tmp_path, 1, state(1))
    path = tmp_path / "000001.state"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + (b"\x7f" if damage == "other" else b""))
    with pytest.raises(RunError, match=r"000001\.state") as caught:
        state_store.load(tmp_path, 1, sha)
    assert caught.value.code == "S02"


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_at_any_moment_leaves_the_old_state_or_the_new_one(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = state_store.save(tmp_path, 1, state(1))

    def cut(*_: Any) -> None:
        raise PowerCut

    monkeypatch.setattr(os, moment, cut)
    with pytest.raises(PowerCut):
        state_store.save(tmp_path, 1, state(2))
    with pytest.raises(PowerCut):
        state_store.save(tmp_path, 2, state(2))
    monkeypatch.undo()
    assert state_store.load(tmp_path, 1, old)["all\tlogistic\tcoefficients"][0] == 1
    assert not (tmp_path / "000002.state").exists()
    new = state_store.save(tmp_path, 2, state(2))  # what the crash left does not stand in the way
    assert state_store.load(tmp_path, 2, new)["all\tlogistic\tcoefficients"][0] == 2


def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    old = state_store.save(tmp_path, 1, state(1))
    with room_for(1000), pytest.raises(RunError, match=r"000002\.state.*free space") as caught:
        state_store.save(tmp_path, 2, state(2))
    assert caught.value.code == "S03"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001.state"]
    state_store.load(tmp_path, 1, old)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_no_space_is_told_whenever_it_is_noticed(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, moment, no_space)
    with pytest.raises(RunError, match="No space left on device") as caught:
        state_store.save(tmp_path, 1, state(1))
    assert caught.value.code == "S03"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    with pytest.raises(RunError, match="state") as caught:
        state_store.save(tmp_path / "state", 1, state(1))
    assert caught.value.code == "S03"
