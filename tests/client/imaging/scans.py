"""Writes DICOM and NIfTI files as scanners, archives and converters do: known voxels in, files out,
and the ways in which they go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
PRONE = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big endian": "1.2.840.10008.1.2.2",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG lossless, any predictor": "1.2.840.10008.1.2.4.57",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000 lossless": "1.2.840.10008.1.2.4.90",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
    "RLE": "1.2.840.10008.1.2.5",
}

Edit = Callable[[Dataset, int], None]


@dataclass(frozen=True)
class Scan:
    """How a series is written; the defaults are a plain axial CT. Arrays are (slice, row, column)
    of stored values."""

    modality: str = "CT"
    orientation: tuple[float, ...] = AXIAL
    origin: tuple[float, float, float] = (-100.0, -90.0, 50.0)
    step: tuple[float, float, float] | None = None
    """LPS from slice to slice; default: `apart` along the normal."""
    apart: float = 2.5
    spacing: tuple[float, float] = (0.7, 0.8)
    slope: float | None = 1.0
    intercept: float | None = -1024.0
    signed: bool = False
    stored: int = 16
    patient: str = "P1"
    series: str = "1.2.826.0.1.3680043.8.498.1"
    study: str = "1.2.826.0.1.3680043.8.498.2"
    frame_of_reference: str = "1.2.826.0.1.3680043.8.498.3"
    syntax: str = "explicit"
    maker: str = "ACME"

    @property
    def normal(self) -> NDArray[np.float64]:
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return np.cross(row, column)

    def position(self, k: int) -> NDArray[np.float64]:
        step = self.normal * self.apart if self.step is None else np.array(self.step)
        return np.array(self.origin) + k * step


def dataset(scan: Scan, stored: NDArray[Any], k: int) -> Dataset:
    """One slice, uncompressed."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = {"CT": CTImageStorage, "MR": MRImageStorage}[scan.modality]
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[scan.series, str(k)])
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = (
        ["ORIGINAL", "PRIMARY", "AXIAL"]
        if scan.modality == "CT"
        else ["ORIGINAL", "PRIMARY", "M", "ND"]
    )
    ds.Modality, ds.Manufacturer, ds.PatientID, ds.PatientName = (
        scan.modality,
        scan.maker,
        scan.patient,
        f"{scan.patient}^",
    )
    ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber, ds.ReferringPhysicianName = (
        "",
        "",
        "",
        "",
    )
    ds.StudyID, ds.StudyDate, ds.StudyTime, ds.SeriesNumber, ds.PositionReferenceIndicator = (
        "1",
        "20200101",
        "120000",
        1,
        "",
    )
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
        scan.study,
        scan.series,
        scan.frame_of_reference,
    )
    ds.InstanceNumber, ds.SliceThickness = k + 1, f"{scan.apart:.6g}"
    ds.ImagePositionPatient = [f"{v:.9g}" for v in scan.position(k)]
    ds.ImageOrientationPatient = [f"{v:.9g}" for v in scan.orientation]
    ds.PixelSpacing = [f"{v:.9g}" for v in scan.spacing]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated = 8 if scan.stored <= 8 else 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = (
        scan.stored,
        scan.stored - 1,
        int(scan.signed),
    )
    if scan.slope is not None:
        ds.RescaleSlope, ds.RescaleIntercept = f"{scan.slope:.9g}", f"{scan.intercept:.9g}"
    ds.PixelData = stored.astype(f"<{'i' if scan.signed else 'u'}{ds.BitsAllocated // 8}").tobytes()
    return ds


def save(ds: Dataset, path: Path, syntax: str = "explicit") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    uid = SYNTAXES[syntax]
    if syntax.startswith("JPEG lossless"):
        ds.save_as(path, enforce_file_format=True)
        jpeg_lossless(path, 14 if "any" in syntax else 70)
        return path
    if syntax in ("RLE", "JPEG-LS", "JPEG 2000 lossless"):
        ds.compress(uid, generate_instance_uid=False)
    elif syntax == "JPEG 2000":
        ds.compress(uid, j2k_cr=[2], generate_instance_uid=False)
    elif syntax == "big endian":
        ds.PixelData = (
            np.frombuffer(ds.PixelData, f"<u{ds.BitsAllocated // 8}").byteswap().tobytes()
        )
        ds.file_meta.TransferSyntaxUID = uid
    else:
        ds.file_meta.TransferSyntaxUID = uid
    kind = {"implicit": (True, True), "big endian": (False, False)}.get(syntax, (False, True))
    ds.save_as(path, implicit_vr=kind[0], little_endian=kind[1], enforce_file_format=True)
    return path


def jpeg_lossless(path: Path, kind: int) -> None:
    """Rewrites an uncompressed file; pydicom has no encoder for JPEG lossless."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    which = (
        gdcm.TransferSyntax.JPEGLosslessProcess14_1
        if kind == 70
        else gdcm.TransferSyntax.JPEGLosslessProcess14
    )
    change.SetTransferSyntax(gdcm.TransferSyntax(which))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def write(
    folder: Path,
    stored: NDArray[Any],
    scan: Scan = Scan(),
    edit: Edit | None = None,
    name: str = "{k:04d}.dcm",
) -> list[Path]:
    """A classic series, one file a slice; `edit(dataset, k)` changes a slice before it is saved."""
    out = []
    for k in range(len(stored)):
        ds = dataset(scan, stored[k], k)
        if edit:
            edit(ds, k)
        out.append(save(ds, folder / name.format(k=k), scan.syntax))
    return out


def body(shape: tuple[int, int, int] = (8, 24, 20), seed: int = 0) -> NDArray[np.uint16]:
    """Stored values that are a believable CT at intercept -1024: air around soft tissue, every
    voxel different enough to be misplaced."""
    r = np.random.default_rng(seed)
    out = r.integers(0, 60, shape).astype(np.uint16)
    middle = tuple(slice(n // 4, n - n // 4) for n in shape[1:])
    out[(slice(None), *middle)] = r.integers(900, 1300, out[(slice(None), *middle)].shape)
    return out


def _items(*datasets: Dataset) -> Items:
    return Items(datasets)


def _with(**values: Any) -> Dataset:
    ds = Dataset()
    for key, value in values.items():
        setattr(ds, key, value)
    return ds


def enhanced(
    path: Path,
    stored: NDArray[Any],
    scan: Scan = Scan(),
    *,
    scales: Sequence[tuple[float, float]] | None = None,
    order: Sequence[int] | None = None,
    edit: Callable[[Dataset], None] | None = None,
) -> Path:
    """One enhanced multi-frame object. `scales`: (slope, intercept) of each frame; `order`: which
    slice each frame holds."""
    order = list(range(len(stored))) if order is None else list(order)
    ds = dataset(scan, stored[0], 0)
    ds.SOPClassUID = (
        EnhancedCTImageStorage if scan.modality == "CT" else "1.2.840.10008.5.1.4.1.1.4.1"
    )
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(ds, name)
    ds.NumberOfFrames = len(order)
    measures = _with(PixelSpacing=list(scan.spacing), SliceThickness=scan.apart)
    shared = _with(
        PixelMeasuresSequence=_items(measures),
        PlaneOrientationSequence=_items(_with(ImageOrientationPatient=list(scan.orientation))),
    )
    frames = []
    for k in order:
        slope, intercept = scales[k] if scales else (scan.slope, scan.intercept)
        frames.append(
            _with(
                PlanePositionSequence=_items(
                    _with(ImagePositionPatient=[f"{v:.9g}" for v in scan.position(k)])
                ),
                PixelValueTransformationSequence=_items(
                    _with(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")
                ),
                FrameContentSequence=_items(_with(StackID="1", InStackPositionNumber=k + 1)),
            )
        )
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = (
        _items(shared),
        _items(*frames),
    )
    ds.PixelData = stored[order].astype(f"<{'i' if scan.signed else 'u'}2").tobytes()
    if edit:
        edit(ds)
    return save(ds, path, scan.syntax)


def segmentation(
    path: Path,
    sources: Sequence[Path],
    masks: NDArray[Any],
    labels: Sequence[str],
    *,
    kind: str = "BINARY",
    syntax: str | None = None,
    edit: Callable[[Dataset], None] | None = None,
    **more: Any,
) -> Path:
    """A SEG by highdicom on the slices `sources`. masks: (slices, rows, columns, segments), or
    (slices, rows, columns) of numbers."""
    import highdicom as hd
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    described = [
        hd.seg.SegmentDescription(
            segment_number=n + 1,
            segment_label=label,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n, label in enumerate(labels)
    ]
    ds = hd.seg.Segmentation(
        source_images=[dcmread(p) for p in sources],
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="ACME",
        manufacturer_model_name="M",
        software_versions="1",
        device_serial_number="1",
        **({"transfer_syntax_uid": syntax} if syntax else {}),
        **more,
    )
    if edit:
        edit(ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)
    return path


def nifti(
    path: Path,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    edit: Callable[[Any], None] | None = None,
) -> Path:
    """`array` along (i, j, k); both affines set alike."""
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 2)
    image.set_qform(affine, 2)
    if edit:
        edit(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path
