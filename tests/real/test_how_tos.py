"""The how-tos on the collections themselves: their commands read the real files, and the figures
that the pages tell are so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, commands
from tests.docs.worlds import DATA, run


def written(page: str, folder: str) -> str:
    """The command of a how-to that reads that folder and stops before training."""
    return next(
        c.line
        for c in commands()
        if c.block.page == page and c.line.endswith(f"--data {folder} --prepare")
    )


def told(page: str, folder: str, real: str, tmp_path: Path) -> str:
    if not (DATA / real).is_dir():
        pytest.skip(f"no real data: {DATA / real} is not there (set FEDMETS_DATA)")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / folder).symlink_to((DATA / real).resolve())
    done = run(written(page, folder), tmp_path / "here")
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_colorectal_table(tmp_path: Path) -> None:
    said = told("docs/howto/colorectal-table.md", "tcga-coadread", "tcga-coadread", tmp_path)
    assert "633 patients read" in said
    assert "2 excluded: no row of a primary tumour" in said
    assert "631 kept, 76 of them without a known label" in said
    page = (ROOT / "docs/howto/colorectal-table.md").read_text()
    assert "633 patients, 2 without a row of a primary tumour, 76 without a known M" in page


def test_liver(tmp_path: Path) -> None:
    said = told("docs/howto/liver.md", "Colorectal-Liver-Metastases", "crlm", tmp_path)
    assert "197 patients read" in said


def test_openbtai(tmp_path: Path) -> None:
    said = told("docs/howto/openbtai.md", "openbtai", "openbtai", tmp_path)
    assert "75 patients read" in said
