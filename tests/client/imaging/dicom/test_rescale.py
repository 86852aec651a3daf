"""Hounsfield units are never guessed: a CT without a rescale is set aside unless the mapping states
it, and the guard looks at what was measured, not at padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset

from client.imaging.dicom import rescale
from client.imaging.dicom.pixels import _not_rescaled
from client.imaging.formats import readers as image_readers
from client.imaging.geometry.volumes import Header, Series
from common.errors import DataError
from tests.client.imaging import scans
from tests.client.imaging.scans import Scan

STATED = (1.0, -1024.0)


def round_ct(padding: int = -2000, size: int = 64, body: float = 0.5) -> NDArray[np.int16]:
    """Stored values of a scanner: HU + 1024 within the circle, padding outside of it; in it a body
    with a liver of 92 HU, fat, lung and bone."""
    r = np.random.default_rng(3)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    away = np.hypot(y, x)
    hu = np.full((8, size, size), -1000.0)
    hu[:, away < body] = -90
    hu[:, away < 0.85 * body] = 92
    hu[:, np.hypot(y - 0.2, x) < 0.12 * body] = 700
    stored = hu + 1024 + r.normal(0, 8, hu.shape)
    stored = np.clip(stored, 0, 4095)
    stored[:, away > 1] = padding
    return stored.astype(np.int16)


def without(names: tuple[str, ...], *, empty: bool = False) -> Any:
    def edit(ds: Dataset, k: int) -> None:
        for name in names:
            if empty:
                setattr(ds, name, None)
            else:
                delattr(ds, name)

    return edit


BOTH = ("RescaleSlope", "RescaleIntercept")


def grouped(folder: Path, stated: tuple[float, float] | None = None) -> Series:
    headers = [image_readers.header(path) for path in sorted(folder.rglob("*.dcm"))]
    held = [rescale.stated(h, stated) for h in headers if isinstance(h, Header)]
    (series,) = image_readers.group(held)
    return series


@pytest.mark.parametrize("names", [BOTH, BOTH[:1], BOTH[1:]])
@pytest.mark.parametrize("empty", [True, False])
def test_a_ct_without_a_rescale_is_set_aside(
    tmp_path: Path, names: tuple[str, ...], empty: bool
) -> None:
    scans.write(tmp_path, round_ct(), Scan(signed=True), without(names, empty=empty))
    (fault,) = grouped(tmp_path).faults
    assert "no rescale" in fault
    assert all(name in fault for name in names)
    assert "[images] rescale = {slope = 1, intercept = -1024}" in fault
    assert str(tmp_path) in fault


@pytest.mark.parametrize("names", [BOTH, BOTH[:1], BOTH[1:]])
def test_the_mapping_states_it(tmp_path: Path, names: tuple[str, ...]) -> None:
    paths = scans.write(tmp_path, round_ct(), Scan(signed=True), without(names))
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(paths[3].read_bytes())
    series = grouped(tmp_path, STATED)
    assert series.faults == ()
    assert any("the source mapping's is taken" in note for note in series.notes)
    volume = image_readers.read(series)
    assert np.median(volume.array[:, 20:30, 25:40]) == pytest.approx(92, abs=2)


def test_what_the_file_says_is_not_replaced(tmp_path: Path) -> None:
    scans.write(tmp_path, round_ct(), Scan(signed=True, intercept=-1000.0))
    for stated in (None, STATED):
        series = grouped(tmp_path, stated)
        assert not any("source mapping" in note for note in series.notes)
        liver = np.median(image_readers.read(series).array[:, 20:30, 25:40])
        assert liver == pytest.approx(116, abs=2)


def test_mr_needs_none(tmp_path: Path) -> None:
    scans.write(tmp_path, round_ct(0), Scan(modality="MR", slope=None))
    series = grouped(tmp_path, STATED)
    assert series.faults == ()
    assert image_readers.read(series).array.max() < 4096
    assert not any("source mapping" in note for note in series.notes)


@pytest.mark.parametrize("padding", [-2000, -3024, -32768, 0, -1000, -500])
@pytest.mark.parametrize("body", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("tag", [True, False])
def test_padding_is_no_air(tmp_path: Path, padding: int, body: float, tag: bool) -> None:
    """A rescale that is there and wrong: padding below -200 must not pass for air."""

    def edit(ds: Dataset, k: int) -> None:
        ds.RescaleIntercept = "0"
        if tag:
            ds.add_new(0x00280120, "SS", padding)

    scans.write(tmp_path, round_ct(padding, body=body), Scan(signed=True), edit)
    with pytest.raises(DataError, match="not rescaled"):
        image_readers.read(grouped(tmp_path))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([-2000, -1024, 0, 24]),
    st.floats(0.3, 1.4),
    st.integers(0, 25),
    st.booleans(),
)
def test_hounsfield_units_pass_and_stored_values_do_not(
    padding: int, body: float, margin: int, circle: bool
) -> None:
    """Whole fields of view and cut-outs of the body alike."""
    stored = round_ct(padding if circle else 24, body=body).astype(np.float32)
    cut = stored[:, margin : 64 - margin, margin : 64 - margin].copy()
    outside = {float(padding)} if circle else set()
    assert _not_rescaled(cut, outside)
    assert not _not_rescaled(np.maximum(cut - 1024, -1024), {v - 1024 for v in outside} | {-1024.0})
