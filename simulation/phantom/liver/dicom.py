"""DICOM files of a rendered abdomen, in the tree that the NBIA Data Retriever makes: CT series, a
localizer, outlines as SEG.

    <collection>/<PatientID>/<date>-NA-<study>-<5 digits>/<number>.000000-<series>-<5 digits>/1-01.dcm

Uids follow from the seed and the patient, so that equal arguments write equal bytes. Imported only
where it is used: pydicom is heavy.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage

from simulation.phantom.liver.anatomy import Rendered
from simulation.phantom.shared.scanners import Ct, Maker
from simulation.phantom.shared.shapes import Field, Solid

STUDY_DESCRIPTION: Final = "CT ABDOMEN  W CONTRAST"
OUTLINES: Final = "Segmentation  Liver"
METADATA: Final = (
    "Series UID", "Collection", "3rd Party Analysis", "Data Description URI", "Subject ID",
    "Study UID", "Study Description", "Study Date",
    "Series Description", "Manufacturer", "Modality", "SOP Class Name", "SOP Class UID",
    "Number of Images", "File Size", "File Location",
    "Download Timestamp",
)  # fmt: skip
"""Columns of the NBIA Data Retriever's `metadata.csv`."""
LICENSE: Final = "A synthetic patient, made by a generator. No part of it comes from a person.\n"
AXIAL: Final = [1, 0, 0, 0, 1, 0]
FRONTAL: Final = [1, 0, 0, 0, 0, -1]
_CODES: Final = {
    "Liver": (("85756007", "Tissue"), ("10200004", "Liver")),
    "Hepatic": (("85756007", "Tissue"), ("8993003", "Hepatic vein")),
    "Portal": (("85756007", "Tissue"), ("32764006", "Portal vein")),
    "Tumor": (
        ("49755003", "Morphologically Altered Structure"),
        ("128462008", "Metastatic neoplasm"),
    ),
}

Row = dict[str, str]


@dataclass(frozen=True)
class Subject:
    """Who is in the picture and where the scanner's table stood."""

    collection: str
    """The folder at the top of the tree."""
    patient: str
    seed: int
    male: bool
    age: int
    day: datetime.date
    at: tuple[float, float, float]
    """LPS position (x, y, z) in mm of the first voxel of the lowest slice."""
    pixel: float
    """mm."""

    def uid(self, *what: object) -> str:
        text = "/".join(map(str, (self.seed, self.patient, *what)))
        number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
        return f"2.25.{10**35 + number % (9 * 10**35)}"  # of one length, always


@dataclass(frozen=True)
class Kind:
    """What tells the CT series of a patient apart."""

    key: str
    """In its uids."""
    number: int
    description: str
    type: str = "AXIAL"
    """Third value of ImageType."""


PORTAL: Final = Kind("ct", 2, "PORTAL VENOUS  AXIAL")
LUNG: Final = Kind("lung", 3, "LUNG  THIN")
LOCALIZER: Final = Kind("localizer", 1, "SCOUT", "LOCALIZER")


def write_ct(
    root: Path,
    subject: Subject,
    maker: Maker,
    rendered: Rendered,
    kind: Kind = PORTAL,
    first: int = 0,
) -> Row:
    """Write a CT series below `root` (the folder of the collections); its row of `metadata.csv`.

    `first`: slices below this one are left out.
    """
    ct = maker.ct
    stored = _stored(rendered.hu, ct)
    if ct.padding is not None:
        stored[:, ~rendered.circle] = ct.padding
    common = _ct(subject, maker, kind, stored.shape[1:])
    common.ContrastBolusAgent, common.ImageOrientationPatient = "IV", AXIAL
    common.PixelSpacing = [_text(subject.pixel)] * 2
    if ct.padding is not None:
        common.PixelPaddingValue = ct.padding
    count = len(stored) - first
    folder = _folder(root, subject, kind.number, kind.description, common.SeriesInstanceUID)
    template = _template(common)
    for n in range(first, len(stored)):
        # numbered from the head down, as most scanners do: neither name nor number sorts by
        # position
        number, place = len(stored) - n, _position(subject, n, ct.slice_mm)
        head = template
        for mark, value in zip(
            _MARKS, (ct_uid(subject, n, kind), str(number), "\\".join(place), place[2]), strict=True
        ):
            head = head.replace(mark.encode(), value.ljust(len(mark)).encode())
        pixels = stored[n].tobytes()
        tail = b"\xe0\x7f\x10\x00OW\0\0" + len(pixels).to_bytes(4, "little") + pixels
        (folder / f"1-{number:0{len(str(count))}d}.dcm").write_bytes(head + tail)
    return _row(root, folder, subject, common, "CT Image Storage", CTImageStorage, count)


def write_localizer(root: Path, subject: Subject, maker: Maker, rendered: Rendered) -> Row:
    """Write the plan of the scan, one projection from the front, as a series of its own; its row of
    `metadata.csv`."""
    ct = maker.ct
    flat = _stored(np.rint(rendered.hu.mean(1, dtype=np.float64))[::-1], ct)
    out = _ct(subject, maker, LOCALIZER, flat.shape)
    out.SOPClassUID, out.SOPInstanceUID, out.InstanceNumber = (
        CTImageStorage,
        ct_uid(subject, 0, LOCALIZER),
        1,
    )
    x, _, z = subject.at
    top = z + (len(flat) - 1) * ct.slice_mm
    out.ImagePositionPatient, out.ImageOrientationPatient = [_text(x), "0", _text(top)], FRONTAL
    out.PixelSpacing = [_text(ct.slice_mm), _text(subject.pixel)]
    out.add_new(0x7FE00010, "OW", flat.tobytes())
    folder = _folder(root, subject, LOCALIZER.number, LOCALIZER.description, out.SeriesInstanceUID)
    _save(folder / "1-1.dcm", out)
    return _row(root, folder, subject, out, "CT Image Storage", CTImageStorage, 1)


def write_seg(root: Path, subject: Subject, maker: Maker, rendered: Rendered) -> Row:
    """Write the outlines as one multi-frame SEG: frames only where a segment has voxels; the row of
    `metadata.csv`."""
    step = maker.ct.slice_mm
    out = _common(subject, "SEG", subject.uid("seg"), "fedmets phantom", "synthetic")
    out.SOPClassUID, out.SOPInstanceUID = SegmentationStorage, subject.uid("seg", "object")
    out.ImageType = ["DERIVED", "PRIMARY"]
    out.SeriesDescription, out.SeriesNumber, out.InstanceNumber = OUTLINES, 100, 1
    out.ContentLabel, out.ContentDescription, out.ContentCreatorName = (
        "LIVER",
        "Liver  vessels and metastases",
        "",
    )
    out.FrameOfReferenceUID, out.PositionReferenceIndicator = subject.uid("frame"), "SN"
    out.DeviceSerialNumber, out.SoftwareVersions = "0", "1"
    out.SegmentationType, out.LossyImageCompression = "BINARY", "00"
    organisation = subject.uid("seg", "dimensions")
    out.DimensionOrganizationSequence = Sequence([_of(DimensionOrganizationUID=organisation)])
    out.DimensionIndexSequence = Sequence([
        _of(DimensionOrganizationUID=organisation, DimensionIndexPointer=0x0062000B,
        FunctionalGroupPointer=0x0062000A),
        _of(DimensionOrganizationUID=organisation, DimensionIndexPointer=0x00200032,
        FunctionalGroupPointer=0x00209113),
    ])  # fmt: skip
    segments = {label: solid for label, solid in rendered.segments.items() if solid.any()}
    out.SegmentSequence = Sequence([_segment(n, label) for n, label in enumerate(segments, 1)])
    measures = _of(
        SliceThickness=_text(maker.ct.thickness_mm),
        SpacingBetweenSlices=_text(step),
        PixelSpacing=[_text(subject.pixel)] * 2,
    )
    out.SharedFunctionalGroupsSequence = Sequence([
        _of(PixelMeasuresSequence=Sequence([measures]),
        PlaneOrientationSequence=Sequence([_of(ImageOrientationPatient=AXIAL)]))
    ])  # fmt: skip
    images = [
        _of(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=ct_uid(subject, n))
        for n in range(len(rendered.hu))
    ]
    referenced = _of(
        SeriesInstanceUID=subject.uid("ct"), ReferencedInstanceSequence=Sequence(images)
    )
    out.ReferencedSeriesSequence = Sequence([referenced])
    frames = [
        (n, z, solid[z])
        for n, solid in enumerate(segments.values(), 1)
        for z in np.flatnonzero(solid.any((1, 2))).tolist()
    ]
    sources = [_derivation(image) for image in images]
    places = [
        Sequence([_of(ImagePositionPatient=_position(subject, z, step))])
        for z in range(len(rendered.hu))
    ]
    out.PerFrameFunctionalGroupsSequence = Sequence([
        _of(
            DerivationImageSequence=sources[z],
            FrameContentSequence=Sequence([_of(DimensionIndexValues=[n, z + 1])]),
            PlanePositionSequence=places[z],
            SegmentIdentificationSequence=Sequence([_of(ReferencedSegmentNumber=n)]),
        )
        for n, z, _ in frames
    ])  # fmt: skip
    _pixels(out, rendered.hu.shape[1:], 1, 1, 0)
    out.NumberOfFrames = len(frames)
    out.add_new(0x7FE00010, "OB", _packed([plane for _, _, plane in frames]))
    folder = _folder(root, subject, 100, OUTLINES, out.SeriesInstanceUID)
    _save(folder / "1-1.dcm", out)
    return _row(root, folder, subject, out, "Segmentation Storage", SegmentationStorage, 1)


def ct_uid(subject: Subject, slice_: int, kind: Kind = PORTAL) -> str:
    """The uid of a CT slice, counted from the feet."""
    return subject.uid(kind.key, slice_)


def _stored(hu: Field, ct: Ct) -> NDArray[Any]:
    return np.maximum(hu - ct.intercept, -32768 if ct.signed else 0).astype(
        np.int16 if ct.signed else np.uint16
    )


def _ct(subject: Subject, maker: Maker, kind: Kind, shape: tuple[int, ...]) -> Dataset:
    """What all slices of a CT series have in common."""
    ct = maker.ct
    out = _common(subject, "CT", subject.uid(kind.key), maker.tag, ct.model)
    out.ImageType = ["ORIGINAL", "PRIMARY", kind.type]
    out.SeriesDescription, out.SeriesNumber, out.AcquisitionNumber = (
        kind.description,
        kind.number,
        1,
    )
    out.SliceThickness, out.KVP, out.ConvolutionKernel = str(ct.thickness_mm), "120", ct.kernel
    out.ReconstructionDiameter = f"{shape[1] * subject.pixel:.4f}"
    out.PatientPosition, out.GantryDetectorTilt = "FFS", "0"
    out.FrameOfReferenceUID, out.PositionReferenceIndicator = subject.uid("frame"), "SN"
    _pixels(out, shape, 16, 16 if ct.signed else 12, int(ct.signed))
    out.RescaleIntercept, out.RescaleSlope, out.RescaleType = str(ct.intercept), "1", "HU"
    out.WindowCenter, out.WindowWidth = "40", "400"
    return out


def _common(subject: Subject, modality: str, series: str, maker: str, model: str) -> Dataset:
    day = f"{subject.day:%Y%m%d}"
    return _of(
        SpecificCharacterSet="ISO_IR 100", StudyDate=day, SeriesDate=day, ContentDate=day,
        AcquisitionDate=day, StudyTime="120000",
        SeriesTime="120000", ContentTime="120000", AccessionNumber="", Modality=modality,
        Manufacturer=maker, ReferringPhysicianName="",
        StudyDescription=STUDY_DESCRIPTION, ManufacturerModelName=model,
        PatientName=subject.patient, PatientID=subject.patient, PatientBirthDate="",
        PatientSex="M" if subject.male else "F", PatientAge=f"{subject.age:03d}Y",
        PatientIdentityRemoved="YES",
        DeidentificationMethod="synthetic", StudyInstanceUID=subject.uid("study"),
        SeriesInstanceUID=series, StudyID="",
    )  # fmt: skip


def _of(**values: Any) -> Dataset:
    out = Dataset()
    for name, value in values.items():
        setattr(out, name, value)
    return out


def _pixels(out: Dataset, shape: tuple[int, ...], allocated: int, stored: int, signed: int) -> None:
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.Rows, out.Columns = shape
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = (
        allocated,
        stored,
        stored - 1,
        signed,
    )


def _position(subject: Subject, slice_: int, step: float) -> list[str]:
    x, y, z = subject.at
    return [_text(x), _text(y), _text(z + slice_ * step)]


def _segment(number: int, label: str) -> Dataset:
    (category, category_name), (kind, kind_name) = _CODES[label.partition("_")[0].partition(" ")[0]]
    return _of(
        SegmentNumber=number,
        SegmentLabel=label,
        SegmentAlgorithmType="MANUAL",
        SegmentedPropertyCategoryCodeSequence=Sequence(
            [_of(CodeValue=category, CodingSchemeDesignator="SCT", CodeMeaning=category_name)]
        ),
        SegmentedPropertyTypeCodeSequence=Sequence(
            [_of(CodeValue=kind, CodingSchemeDesignator="SCT", CodeMeaning=kind_name)]
        ),
    )


def _derivation(image: Dataset) -> Sequence:
    source = _of(
        ReferencedSOPClassUID=image.ReferencedSOPClassUID,
        ReferencedSOPInstanceUID=image.ReferencedSOPInstanceUID,
        PurposeOfReferenceCodeSequence=Sequence([
            _of(CodeValue="121322", CodingSchemeDesignator="DCM", CodeMeaning="Source image for "
                                                                              "image processing "
                                                                              "operation")
        ]),
    )  # fmt: skip
    purpose = _of(CodeValue="113076", CodingSchemeDesignator="DCM", CodeMeaning="Segmentation")
    return Sequence(
        [_of(SourceImageSequence=Sequence([source]), DerivationCodeSequence=Sequence([purpose]))]
    )


def _packed(planes: list[Solid]) -> bytes:
    """One bit a voxel, the first in the lowest bit; an even number of bytes."""
    bits = np.packbits(np.stack(planes).ravel(), bitorder="little").tobytes()
    return bits + b"\0" * (len(bits) % 2)


def _text(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{value:.5f}".rstrip("0").rstrip(".")


def _folder(root: Path, subject: Subject, number: int, series: str, uid: str) -> Path:
    study = f"{subject.day:%m-%d-%Y}-NA-{STUDY_DESCRIPTION}-{subject.uid('study')[-5:]}"
    folder = (
        root / subject.collection / subject.patient / study / f"{number}.000000-{series}-{uid[-5:]}"
    )
    folder.mkdir(parents=True)
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")
    return folder


_MARKS: Final = (
    "2.25." + "1" * 36,
    "98765432",
    "\\".join(["1234567.1234567"] * 3),
    "7654321.7654321",
)
"""What stands in a template for the uid, number, position and location of a slice, and is as long
as these can be."""


def _template(common: Dataset) -> bytes:
    """A CT file up to its pixels. The slices of a series differ in four values, so that encoding
    each anew would cost ten times more."""
    dataset = Dataset()
    dataset.update(common)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.InstanceNumber = (
        CTImageStorage,
        _MARKS[0],
        _MARKS[1],
    )
    dataset.ImagePositionPatient, dataset.SliceLocation = _MARKS[2].split("\\"), _MARKS[3]
    encoded = BytesIO()
    _save(encoded, dataset)
    return encoded.getvalue()


def _save(path: Path | BytesIO, dataset: Dataset) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    FileDataset(path, dataset, preamble=b"\0" * 128, file_meta=meta).save_as(
        path, enforce_file_format=True
    )


def _row(
    root: Path, folder: Path, subject: Subject, dataset: Dataset, name: str, uid: str, count: int
) -> Row:
    size = sum(path.stat().st_size for path in folder.glob("*.dcm"))
    day = f"{dataset.StudyDate[4:6]}-{dataset.StudyDate[6:]}-{dataset.StudyDate[:4]}"
    values = (
        dataset.SeriesInstanceUID, subject.collection, "NO", "", dataset.PatientID,
        dataset.StudyInstanceUID, STUDY_DESCRIPTION, day,
        dataset.SeriesDescription, dataset.Manufacturer, dataset.Modality, name, uid, str(count),
        f"{size / 1e6:.2f} MB",
        f"./{folder.relative_to(root).as_posix()}", "2023-04-01T00:00:00.000",
    )  # fmt: skip
    return dict(zip(METADATA, map(str, values), strict=True))
