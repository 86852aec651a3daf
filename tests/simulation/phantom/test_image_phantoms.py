"""What both imaging phantoms are made with, and whether each planted file fault is found when their
images are read."""

from __future__ import annotations

import hashlib
import json
import operator
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.imaging.pipeline import prepare_images as pipeline
from client.imaging.pipeline.picture_set import PictureSet
from client.table import mapping_file
from common.errors import DataError, UsageError
from common.study.load import load
from simulation.phantom.brain import writer
from simulation.phantom.faults import image_faults
from simulation.phantom.liver import writer as liver_writer
from simulation.phantom.shared import holdings, image_truth, processes, scanners, shapes, workbook
from simulation.phantom.shared.image_truth import Truth

SOURCES = {
    "liver": ("liver_recurrence", "crlm", liver_writer),
    "brain": ("brain_primary", "yale", writer),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small phantom of each kind, with no more images than the faults need."""
    out = {}
    for name, (_, _, phantom) in SOURCES.items():
        folder = tmp_path_factory.mktemp(name)
        truth = phantom.write(folder, patients=20, seed=3)
        whole = [i for i, c in truth.cases.items() if c.mask and c.maker == "GE"][:2]
        keep = {*whole, *(i for i, c in truth.cases.items() if c.maker == image_faults.MAKER)}
        for tree in (folder / phantom.COLLECTION).iterdir():
            if not any(i in tree.name for i in keep):
                shutil.rmtree(tree)
        out[name] = folder
    return out


def album(folder: Path, kind: str, ids: list[str], cache: Path) -> PictureSet:
    study, source, _ = SOURCES[kind]
    schema = load(study).schema
    assert schema.imaging is not None
    request = pipeline.PictureRequest(
        mapping_file.named(source).images, schema.imaging, source, ids
    )
    return pipeline.read(folder, request, cache, workers=0)


def truth_of(folder: Path, kind: str) -> Truth:
    truth = SOURCES[kind][2].read_truth(folder)
    assert truth is not None
    return truth


# ---- scanners, holdings, processes, workbooks ----------------------------------------------------


def test_makers_keep_their_shares_and_every_fault_needs_a_known_one() -> None:
    counts = Counter(scanners.assign(200, np.random.default_rng(0)))
    assert [counts[k] for k in range(4)] == [70, 56, 42, 32]
    assert image_faults.MAKER in scanners.NAMES
    assert set(holdings.ABSENT) < set(scanners.NAMES)
    for patients in (19, 901):
        with pytest.raises(UsageError, match="20 to 900"):
            scanners.assign(patients, np.random.default_rng(0))


@given(st.integers(20, 900), st.integers(0, 10**6))
def test_no_maker_is_spared_and_none_bears_all_the_gaps(patients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    makers = scanners.assign(patients, rng)
    held = holdings.holdings(makers, rng)
    without = sum(not h.image for h in held)
    assert abs(without - 0.06 * patients) <= 1
    assert abs(sum(h.image and not h.mask for h in held) - 0.08 * (patients - without)) <= 1
    assert not any(h.mask and not h.image for h in held)
    assert all(h.table and h.whole for h in held)
    for k in range(4):
        mine = [h for h, m in zip(held, makers, strict=True) if m == k]
        assert abs(sum(not h.image for h in mine) - 0.06 * len(mine)) <= 1


def test_in_the_missing_mode_whole_makers_lack_something() -> None:
    rng = np.random.default_rng(1)
    makers = scanners.assign(200, rng)
    held = holdings.holdings(makers, rng, missing=True)
    by = {
        name: [h for h, m in zip(held, makers, strict=True) if scanners.NAMES[m] == name]
        for name in scanners.NAMES
    }
    assert not any(h.table for h in by["Philips"])
    assert any(h.image for h in by["Philips"])
    assert not any(h.image or h.mask for h in by["Canon"])
    assert not any(h.whole for h in by["Siemens"])
    assert all(h.table and h.whole for h in by["GE"])


@pytest.mark.parametrize("few", [0, 10**6], ids=["processes", "here"])
def test_work_is_done_in_order_wherever_it_is_done(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FEW", few)
    told: list[tuple[int, int]] = []
    assert processes.each(operator.neg, range(9), lambda done, of: told.append((done, of))) == [
        -n for n in range(9)
    ]
    assert told == [(n, 9) for n in range(1, 10)]


def test_a_workbook_has_no_clock_in_it(tmp_path: Path) -> None:
    sheets = {"a": [("x", "y"), (1, 2.5), ("text", None)], "b": [("z",)]}
    workbook.write_workbook(tmp_path / "one.xlsx", sheets)
    workbook.write_workbook(tmp_path / "two.xlsx", sheets)
    assert (tmp_path / "one.xlsx").read_bytes() == (tmp_path / "two.xlsx").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.xlsx") as archive:
        core = archive.read("docProps/core.xml").decode()
        assert core.count("2023-04-01T00:00:00Z") == 2
        assert {entry.date_time for entry in archive.infolist()} == {workbook.MIDNIGHT}


# ---- shapes --------------------------------------------------------------------------------------


def test_an_ellipsoid_has_its_volume() -> None:
    grid = shapes.Grid.of((40, 60, 60), (2.0, 1.5, 1.0), (-39.0, -44.25, -29.5))
    image = np.zeros(grid.shape, np.float32)
    shapes.paint(image, grid, (2.0, 3.0, -1.0), (20.0, 15.0, 10.0), 7.0)
    assert (image == 7).sum() * 3.0 == pytest.approx(4 / 3 * np.pi * 20 * 15 * 10, rel=0.02)


def test_a_tube_has_its_volume_and_its_ends() -> None:
    grid = shapes.Grid.of((60, 60, 60), (1.0, 1.0, 1.0), (-29.5, -29.5, -29.5))
    out = np.zeros(grid.shape, np.bool_)
    shapes.tube(out, grid, [(-15, 0, 0), (15, 0, 0)], (5, 5))
    assert out.sum() == pytest.approx(np.pi * 25 * 30 + 4 / 3 * np.pi * 125, rel=0.03)


@settings(max_examples=20)
@given(st.tuples(*[st.integers(3, 20)] * 3), st.tuples(*[st.integers(2, 6)] * 3))
def test_smooth_noise_is_the_interpolation_it_says(
    shape: tuple[int, int, int], knots: tuple[int, int, int]
) -> None:
    from scipy.interpolate import RegularGridInterpolator

    out = shapes.smooth_noise(np.random.default_rng(5), shape, knots)
    coarse = np.random.default_rng(5).normal(size=knots).astype(np.float32)
    at = np.meshgrid(
        *[np.linspace(0, k - 1, n) for n, k in zip(shape, knots, strict=True)], indexing="ij"
    )
    expected = RegularGridInterpolator([np.arange(k) for k in knots], coarse)(np.stack(at, -1))
    np.testing.assert_allclose(out, expected, atol=1e-5)


# ---- truth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOURCES)
def test_the_truth_reads_back_and_a_broken_one_is_named(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    phantom = SOURCES[kind][2]
    truth = truth_of(folders[kind], kind)
    image_truth.keep(truth, tmp_path)
    assert phantom.read_truth(tmp_path) == truth
    assert phantom.read_truth(tmp_path / "nowhere") is None
    other = next(p for k, (_, _, p) in SOURCES.items() if k != kind)
    with pytest.raises(DataError, match=r"D00 .*not of"):
        other.read_truth(tmp_path)
    (tmp_path / image_truth.TRUTH).write_text(json.dumps({"seed": 1}), encoding="utf-8")
    with pytest.raises(DataError, match="D00"):
        phantom.read_truth(tmp_path)


@pytest.mark.parametrize("kind", SOURCES)
def test_images_that_no_phantom_wrote_are_left_alone(kind: str, tmp_path: Path) -> None:
    phantom = SOURCES[kind][2]
    real = tmp_path / phantom.COLLECTION / "patient.dcm"
    real.parent.mkdir()
    real.write_bytes(b"real")
    with pytest.raises(UsageError, match="belongs to no phantom"):
        phantom.write(tmp_path, patients=20)
    assert real.read_bytes() == b"real"


class Interrupt(Exception):
    pass


def test_an_interrupt_leaves_no_truth_and_does_not_stand_in_the_way(tmp_path: Path) -> None:
    def stop(done: int, of: int) -> None:
        if done == 3:
            raise Interrupt

    whole = writer.write(tmp_path, patients=20, seed=1)
    with pytest.raises(Interrupt):
        writer.write(tmp_path, patients=20, seed=2, tell=stop)
    assert writer.read_truth(tmp_path) is None
    assert writer.write(tmp_path, patients=20, seed=1) == whole == writer.read_truth(tmp_path)


# ---- faults --------------------------------------------------------------------------------------


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("kind", SOURCES)
def test_without_a_fault_every_image_is_read(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    found = album(folders[kind], kind, list(truth_of(folders[kind], kind).cases), tmp_path)
    assert (
        len(found.pictures)
        == len(list((folders[kind] / SOURCES[kind][2].COLLECTION).iterdir()))
        > 4
    )
    assert not found.rejections
    assert not found.strangers


@pytest.mark.parametrize("fault", image_faults.FAULTS, ids=lambda f: f.name)
def test_a_fault_is_found_and_hurts_nobody_else(
    fault: image_faults.Planted, folders: dict[str, Path], tmp_path: Path
) -> None:
    assert fault.plant.__doc__ is not None
    assert fault.plant.__doc__.startswith(fault.code)
    assert image_faults.named(fault.name) is fault
    folder = tmp_path / "phantom"
    shutil.copytree(folders[fault.phantom], folder)
    hurt = fault.plant(folder)
    assert hurt
    changed = dict(set(digests(folder).items()) ^ set(digests(folders[fault.phantom]).items()))
    assert changed
    assert "truth.json" not in changed
    truth = truth_of(folder, fault.phantom)
    ids = list(hurt) if fault.lost == "join" else list(truth.cases)
    found = album(folder, fault.phantom, ids, tmp_path / "cache")
    there = {p.name for p in (folder / SOURCES[fault.phantom][2].COLLECTION).iterdir()}
    fine = {
        i for i, case in truth.cases.items() if any(i in name for name in there) and i not in hurt
    }
    told = [
        *found.log,
        *found.general,
        *(f"{c} {t}" for i in hurt for c, t in found.rejections.get(i, ())),
    ]
    told += [f"{n} {t}" for i in hurt for n, t in found.remarks.get(i, ())]
    assert any(fault.code in text for text in told), told
    if fault.lost == "join":
        assert not found.pictures
        return
    assert fine <= set(found.pictures)
    for i in hurt:
        if fault.lost == "image":
            assert i not in found.pictures
            assert found.rejections[i]
        else:
            assert found.pictures[i].mask is None
    assert not set(found.rejections) & fine


def test_an_unknown_fault_is_named_with_its_alternatives() -> None:
    with pytest.raises(UsageError, match="missing slice"):
        image_faults.named("missing patient")
