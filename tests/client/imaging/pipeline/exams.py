"""Small folders of images: CT series with a body, a liver and lesions, brains in NIfTI, and the
table that goes with them."""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Channel, Imaging, Label, Number, Schema
from common.study.study import Study, Task

CT = Imaging(
    channels=(Channel("ct", "CT"),),
    regions=("liver", "lesion"),
    organ="liver",
    lesion=("lesion",),
    window=(-160, 240),
    spacing_mm=(2.5, 1.0, 1.0),
    crop_mm=(20.0, 20.0, 20.0),
    coarse=(8, 16, 16),
)
MR = Imaging(
    channels=tuple(Channel(n, "MR") for n in ("t1n", "t1c", "t2w", "t2f")),
    regions=("necrosis", "oedema", "enhancing"),
    lesion=("necrosis", "enhancing"),
    crop_mm=(12.0, 12.0, 12.0),
    coarse=(8, 8, 8),
)
YALE = {
    "id": "path",
    "id_pattern": r"BraTS-MET-(?P<id>\d+)(-(?P<study>\d+))?|sub-(\d+)",
    "strip_zeros": True,
    "channels": {c: [f"*-{c}.nii*"] for c in ("t1n", "t1c", "t2w", "t2f")},
    "mask": ["*-seg.nii*"],
    "values": {"necrosis": [1], "oedema": [2], "enhancing": [3]},
}


def study(imaging: Imaging | None, images: Mapping[str, Any] | None = None) -> Study:
    schema = Schema(
        "scans",
        (Number("age", "years", 0, 120, "now"),),
        Label("y", ("no", "yes")),
        ("now",),
        imaging=imaging,
    )
    source: dict[str, Any] = {
        "name": "scans",
        "tables": {"table": {"files": ["patients.csv"], "key": "id"}},
        "site": {"column": "hospital"},
        "label": {"column": "y", "values": {"no": ["0"], "yes": ["1"]}},
        "features": {"age": {"column": "age", "unit": "years"}},
    }
    return Study(
        "scans", "?", schema, {"now": Task("now")}, source={**source, "images": images or {}}
    )


def table(folder: Path, ids: Sequence[str], *, ages: bool = True, hospital: str = "A") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "patients.csv").open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["id", "age", "y", "hospital"])
        out.writerows([i, 40 + n if ages else "", n % 2, hospital] for n, i in enumerate(ids))


def body(shape: tuple[int, int, int] = (8, 40, 48)) -> NDArray[np.int16]:
    """Hounsfield units: air, a soft body, a brighter liver and a dark lesion in it."""
    hu = np.full(shape, -1000, np.int16)
    hu[:, 6:-6, 6:-6] = 40
    hu[2:-1, 10:25, 8:24] = 110
    hu[4:6, 14:19, 12:17] = 60
    return hu


def own(patient: str) -> NDArray[np.int16]:
    """A body that is no other patient's: one image under two ids is set aside."""
    hu = body()
    bits = np.unpackbits(np.frombuffer(hashlib.sha256(patient.encode()).digest(), np.uint8))
    hu[0, 6, 6:-6] += 10 * bits[: hu.shape[2] - 12].astype(np.int16)
    return hu


def _uid(*parts: str) -> str:
    return f"1.2.3.{int.from_bytes(hashlib.sha256(' '.join(parts).encode()).digest()[:8], 'big')}"


def ct(
    folder: Path,
    patient: str,
    hu: NDArray[np.int16] | None = None,
    *,
    uid: str = "",
    study_uid: str = "",
    maker: str = "GE MEDICAL SYSTEMS",
    step: float = 2.5,
    pixel: float = 0.8,
    **tags: Any,
) -> str:
    """An axial CT series, by default of the patient's own body, one file a slice; returns its
    SeriesInstanceUID."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    hu = own(patient) if hu is None else hu
    series = uid or _uid(patient, str(folder))
    examination = study_uid or _uid(patient)
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(hu):
        d = Dataset()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CTImageStorage
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = f"{series}.{k + 1}"
        d.Modality, d.PatientID, d.StudyInstanceUID, d.SeriesInstanceUID = (
            "CT",
            patient,
            examination,
            series,
        )
        d.FrameOfReferenceUID = f"{examination}.9"
        d.Manufacturer, d.ImageType = maker, ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.InstanceNumber = k + 1
        d.ImagePositionPatient, d.ImageOrientationPatient = (
            [-20.0, -16.0, k * step],
            [1, 0, 0, 0, 1, 0],
        )
        d.PixelSpacing, d.SliceThickness = [pixel, pixel], step
        d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = (
            *plane.shape,
            1,
            "MONOCHROME2",
        )
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        d.RescaleSlope, d.RescaleIntercept = 1, -1024
        d.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
        for name, value in tags.items():
            setattr(d, name, value)
        d.save_as(folder / f"1-{k + 1:02d}.dcm", enforce_file_format=True)
    return series


def seg(path: Path, source: Path, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    """A DICOM SEG of the CT series in the folder `source`; label -> (z, y, x)."""
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = [pydicom.dcmread(p) for p in sorted(source.glob("*.dcm"))]
        for d in images:
            # highdicom copies what a real file has
            for name in (
                "PatientName",
                "PatientBirthDate",
                "PatientSex",
                "AccessionNumber",
                "StudyID",
                "StudyDate",
                "StudyTime",
            ):
                setattr(d, name, getattr(d, name, ""))
        described = [
            hd.seg.SegmentDescription(
                n, label, codes.SCT.Organ, codes.SCT.Liver,
                hd.seg.SegmentAlgorithmTypeValues.MANUAL,
            )
            for n, label in enumerate(masks, 1)
        ]  # fmt: skip
        made = hd.seg.Segmentation(
            images, np.stack(list(masks.values()), -1).astype(np.uint8),
            hd.seg.SegmentationTypeValues.BINARY, described,
            pydicom.uid.generate_uid(), 2, pydicom.uid.generate_uid(), 1, "m", "m", "1", "1",
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)


def brain(shape: tuple[int, int, int] = (16, 20, 18), seed: int = 0) -> NDArray[np.float32]:
    """(z, y, x) of a skull-stripped sequence: zero outside an ellipsoid."""
    z, y, x = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
    inside = z**2 + y**2 + x**2 < 0.7
    return np.where(inside, np.random.default_rng(seed).normal(500, 60, shape), 0).astype(
        np.float32
    )


def nifti(
    path: Path,
    array: NDArray[Any],
    spacing: float = 1.0,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """`array` (z, y, x) in the project's convention as a NIfTI file (RAS+)."""
    import nibabel

    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = -origin[2], -origin[1], origin[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nibabel.save(image, path)


def brains(
    folder: Path,
    numbers: Sequence[int],
    channels: Sequence[str] = ("t1n", "t1c", "t2w", "t2f"),
    *,
    mask: bool = True,
) -> None:
    """The Yale layout."""
    for n in numbers:
        name = f"BraTS-MET-{n:05d}-000"
        for c, channel in enumerate(channels):
            nifti(folder / name / f"{name}-{channel}.nii.gz", brain(seed=10 * n + c))
        if mask:
            label = np.zeros((16, 20, 18), np.uint8)
            label[6:9, 8:11, 7:10] = 3
            label[7, 9, 8] = 1
            nifti(folder / name / f"{name}-seg.nii.gz", label)
