"""What is written is a new file, whoever else may write into the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.runtime.atomic_files import durable


@pytest.mark.parametrize("planted", ["nothing", "file", "hard link", "link", "dangling link"])
def test_nothing_that_lay_there_is_written_through_or_kept(tmp_path: Path, planted: str) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "out" / "predictions.csv"
    elsewhere.write_text("of somebody else")
    path.parent.mkdir()
    for name in (path, path.with_name(path.name + ".part")):
        if planted == "file":
            name.write_text("readable by all")
            name.chmod(0o666)
        elif planted == "hard link":
            os.link(elsewhere, name)
        elif "link" in planted:
            name.symlink_to(elsewhere if planted == "link" else tmp_path / "nowhere")
    durable(path, b"patients", "")
    assert path.read_bytes() == b"patients"
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_nlink == 1
    assert elsewhere.read_text() == "of somebody else"
    assert not (tmp_path / "nowhere").exists()
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]
