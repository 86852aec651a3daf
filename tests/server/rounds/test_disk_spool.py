"""Large answers wait on disk: the same bits, bounded memory, and nothing is left behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from common.errors import RunError
from common.types import pack, unpack
from common.wire.envelope import Packet
from server.rounds import disk_spool, retries
from tests.server.rounds.test_driver import RUN, Local, bits, driven, federation
from tests.synthetic import sites


def test_a_large_answer_is_mapped_and_a_small_one_stays(tmp_path: Path) -> None:
    arrays = {"w": np.arange(disk_spool.SMALL, dtype=np.float64)}
    large = Packet("updates", b"text", "00", pack(arrays))
    small = Packet("updates", b"text", "00", b"x")
    with disk_spool.opened(tmp_path / "spool") as there:
        kept = there.keep("S/../1", large)
        assert there.keep("S2", small) is small
        assert len(list((tmp_path / "spool").iterdir())) == 1
        assert (kept.text, kept.signature, len(kept.blob)) == (
            large.text,
            large.signature,
            len(large.blob),
        )
    assert not (tmp_path / "spool").exists()
    # what somebody still holds is readable, though the file is gone
    np.testing.assert_array_equal(unpack(kept.blob)["w"], arrays["w"])


def test_a_site_that_answers_in_parts_keeps_what_it_has_said_before(tmp_path: Path) -> None:
    first, second = (pack({"w": np.full(disk_spool.SMALL, value)}) for value in (1.0, 2.0))
    with disk_spool.opened(tmp_path / "spool") as there:
        parts = [
            there.keep("S1", Packet("updates", b"text", "00", blob)) for blob in (first, second)
        ]
    assert [float(unpack(p.blob)["w"].max()) for p in parts] == [1.0, 2.0]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "old.blob").write_bytes(b"x")
    with disk_spool.opened(tmp_path / "spool"):
        assert not (tmp_path / "spool").exists()


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    with pytest.raises(RunError) as caught:
        disk_spool.Spool(tmp_path / "spool").keep(
            "S1", Packet("updates", b"", "", bytes(disk_spool.SMALL))
        )
    assert caught.value.code == "S03"


def test_the_bits_are_those_of_answers_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stations() -> list[Local]:
        return [Local(c, tmp_path, 1) for c in sites(90, 3, seed=2)]

    want = bits(driven(federation(stations()))[0])
    monkeypatch.setattr(disk_spool, "SMALL", 0)
    monkeypatch.setattr(retries, "SMALL", 0)
    monkeypatch.setattr(retries, "FEW", 1)
    run = dataclasses.replace(RUN, out=str(tmp_path / "run"))
    assert bits(driven(federation(stations()), run)[0]) == want
    assert not (tmp_path / "run" / "spool").exists()
