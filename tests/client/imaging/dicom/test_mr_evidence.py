"""MR series that are none of t1n, t1c, t2w, t2f though their settings look so; and which of two T1
is the one with contrast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from client.imaging.dicom import mr_sequence
from client.imaging.formats import readers as image_readers
from client.imaging.geometry.volumes import Header, Series
from client.imaging.pipeline.header_index import _without_free_text
from client.imaging.selection.identifiers import Keys
from client.imaging.selection.mr_contrast import settled
from client.imaging.selection.series_selection import choose
from common.data.schema import Channel, Imaging
from common.study.image_sections import ImagesSpec
from tests.client.imaging import scans
from tests.client.imaging.scans import Scan

T1 = {"ScanningSequence": "SE", "RepetitionTime": "550", "EchoTime": "9"}
T2 = {"ScanningSequence": "SE", "RepetitionTime": "4000", "EchoTime": "100"}
GRE = {"ScanningSequence": "GR", "RepetitionTime": "8.2", "EchoTime": "3.2"}


def mr(folder: Path, uid: str = "1.2.3", **tags: Any) -> Series:
    def edit(ds: Dataset, k: int) -> None:
        for name, value in tags.items():
            if name.startswith("x"):
                ds.add_new(int(name[1:], 16), *value)
            else:
                setattr(ds, name, value)

    stored = np.random.default_rng(1).integers(0, 900, (5, 8, 8)).astype(np.uint16)
    scans.write(folder, stored, Scan(modality="MR", series=uid), edit)
    headers = [image_readers.header(path) for path in sorted(folder.glob("*.dcm"))]
    (series,) = image_readers.group([h for h in headers if isinstance(h, Header)])
    return series


OTHERS: list[dict[str, Any]] = [
    {**GRE, "AngioFlag": "Y"},
    {**GRE, "SequenceName": "*fl3d1r_t70"},
    {**GRE, "SequenceName": "fm2d2"},
    {**GRE, "RepetitionTime": "3.15", "EchoTime": "1.37"},
    {**GRE, "SequenceVariant": ["SK", "SS"]},
    {**GRE, "ScanOptions": "SWI"},
    {**GRE, "SequenceVariant": ["SW", "SP"]},
    {**GRE, "EchoTime": "0", "RepetitionTime": "31"},
    {**GRE, "ImageType": ["ORIGINAL", "PRIMARY", "SW_M_FFE", "SW_M", "FFE"]},
    {**T2, "ImageType": ["DERIVED", "PRIMARY", "ADC", "ND"]},
    {**T2, "ImageType": ["DERIVED", "SECONDARY", "SUBTRACTION"]},
    {**T2, "DiffusionBValue": 1000.0},
    {**T2, "DiffusionBValue": 0.0},
    {**T2, "x0019100C": ("IS", "1000")},
    {**T2, "x20011003": ("FL", 800.0)},
    {**T2, "x00431039": ("IS", ["1000001000", "8", "0", "0"])},
    *({**GRE, "SeriesDescription": words} for words in (
        "AAHead_Scout", "3-plane localizer", "Survey", "Lokalisator", "localisateur", "LOC",
        "gre_field_mapping", "B0 map", "Feldkarte", "TOF_3D_multi-slab", "MRA COW", "3D Angio",
        "Ax SWAN", "SWIp", "t2_fl2d_hemo", "T2* GRE", "Sag FIESTA", "Calibration Scan",
        "Subtraktion T1", "SUB_T1", "MIP T1", "soustraction", "PC 3D Veno", "DSC Perfusion",
    )),
    *({**T2, "SeriesDescription": words} for words in (
        "dti_ax_b1000", "DWI", "Diffusion axial", "difusion", "ADC", "STIR cor", "TRACEW", "b=800",
    )),
]  # fmt: skip


@pytest.mark.parametrize("tags", OTHERS)
def test_what_is_no_weighted_image_has_no_channel(tmp_path: Path, tags: dict[str, Any]) -> None:
    series = mr(tmp_path, **tags)
    assert series.channel == ""
    assert any(note.startswith("MR channel: ") for note in series.notes)


@pytest.mark.parametrize(
    ("channel", "tags"),
    [
        ("t1n", {**T1, "SeriesDescription": "t1_se_tra"}),
        ("t2w", {**T2, "SeriesDescription": "t2_tse_tra"}),
        ("t1n", {**GRE, "SeriesDescription": "t1_mprage_sag_p2_iso", "x0019100C": ("IS", "0")}),
        ("t1n", {**GRE, "SequenceVariant": ["SS", "SP", "MP"], "SequenceName": "*tfl3d1_16ns"}),
        ("t1n", {**GRE, "SeriesDescription": "Sag 3D T1 BRAVO", "x20011003": ("FL", 0.0)}),
        ("t2w", {**T2, "SeriesDescription": "Ax T2 PROPELLER"}),
        ("t2w", {**T2, "SeriesDescription": "T2W_TSE SENSE"}),
        ("t1c", {**T1, "SeriesDescription": "t1_se_tra_nach KM"}),
        ("t1c", {**T1, "SeriesDescription": "T1 TSE post Gd"}),
        ("t1c", {**T1, "SeriesDescription": "T1_KM_tra"}),
        ("t1c", {**T1, "SeriesDescription": "T1 injecté"}),
        ("t1n", {**T1, "SeriesDescription": "T1_vor KM"}),
    ],
)
def test_weighted_images_keep_their_channel(
    tmp_path: Path, channel: str, tags: dict[str, Any]
) -> None:
    series = mr(tmp_path, **tags)
    assert (series.channel, series.faults) == (channel, ())


PAIRS = [("Ax T1", "Ax T1 +C"), ("t1_tra", "t1_tra_KM"), ("T1", "T1 post"), ("T1 pre", "T1 Gd")]


@pytest.mark.parametrize(("plain", "after"), PAIRS)
@pytest.mark.parametrize("agent", ["Gadovist", ""])
@pytest.mark.parametrize("timed", [True, False])
def test_two_t1_are_told_apart(
    tmp_path: Path, plain: str, after: str, agent: str, timed: bool
) -> None:
    def one(name: str, description: str, time: str) -> Series:
        more = {"AcquisitionTime": time} if timed else {}
        return mr(
            tmp_path / name, f"1.2.{name}", **T1, SeriesDescription=description,
            ContrastBolusAgent=agent, **more,
        )  # fmt: skip

    pair = [one("1", after, "101500"), one("2", plain, "100000")]
    assert [s.channel for s in settled(pair)] == ["t1c", "t1n"]


def test_a_t1_that_was_taken_after_the_injection_has_contrast(tmp_path: Path) -> None:
    first = mr(tmp_path / "1", "1.2.1", **T1, SeriesDescription="T1 +C", AcquisitionTime="101500")
    later = mr(tmp_path / "2", "1.2.2", **GRE, SeriesDescription="3D T1", AcquisitionTime="102000")
    assert later.channel == "t1n"
    found = settled([first, later])[1]
    assert found.channel == "t1c"
    assert "later than" in found.notes[-1]


WORDS = [
    "T1", "post", "KM", "nach", "vor", "pre", "native", "+C", "TOF", "SWI", "b1000", "dwi", "sub",
    "scout", "Doe", "axial", "gd", "phase", "w/o", "contrast",
]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=5), st.sampled_from([" ", "_", "-"]))
def test_what_decides_is_remembered(words: list[str], between: str) -> None:
    header = Header(
        "/x", "dicom", "MR", scanning_sequence=("SE",), repetition_time=550.0, echo_time=9.0,
        description=between.join(words),
    )  # fmt: skip
    kept = _without_free_text(header)
    assert mr_sequence.channel(kept)[0] == mr_sequence.channel(header)[0]
    assert mr_sequence.contrast_words(kept) == mr_sequence.contrast_words(header)
    assert "Doe" not in kept.description


def test_a_mapping_names_a_series_whatever_its_headers_tell(tmp_path: Path) -> None:
    """By its protocol, which stands in the file."""
    flow = mr(tmp_path, **{**T1, "AngioFlag": "Y", "ProtocolName": "Ax T1 KM", "PatientID": "P1"})
    assert flow.channel == ""
    named = ImagesSpec(series={"t1c": ("ax  t1 km",)})
    for spec, taken in ((ImagesSpec(), []), (named, ["t1c"])):
        study = Imaging((Channel("t1c", "MR"), Channel("t2w", "MR")))
        found = choose([flow], flow.headers, [], Keys(spec, tmp_path), study, {"P1"})
        assert [c for case in found.cases.values() for c in case.channels] == taken
