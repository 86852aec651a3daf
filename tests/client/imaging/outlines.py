"""Writes RT Structure Sets as planning systems do: contours in millimetres on the slices of a
series."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

Outline = tuple[int, NDArray[np.float64]]
"""Number of a source slice, and (n, 2) pixels as (row, column), whole at their centres."""


def _with(**values: Any) -> Dataset:
    ds = Dataset()
    for key, value in values.items():
        setattr(ds, key, value)
    return ds


def points_of(source: Dataset, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3) LPS mm of pixels of a slice (PS3.3, equation C.7.6.2.1-1)."""
    row, column = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
    down, right = (float(v) for v in source.PixelSpacing)
    corner = np.array(source.ImagePositionPatient, float)
    return np.asarray(corner + pixels[:, :1] * down * column + pixels[:, 1:] * right * row)


def structure_set(
    path: Path,
    sources: Sequence[Path],
    rois: Mapping[str, Sequence[Outline]],
    *,
    kind: str = "CLOSED_PLANAR",
    named: Callable[[int], int] = lambda k: k,
    edit: Callable[[Dataset], None] | None = None,
) -> Path:
    """`named`: the slice that a contour on slice k names as its own."""
    images = [dcmread(p) for p in sources]
    first = images[0]
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.Modality, ds.PatientID, ds.StructureSetLabel = "RTSTRUCT", first.PatientID, "A"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = first.StudyInstanceUID, generate_uid()

    def reference(image: Dataset) -> Dataset:
        return _with(
            ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID
        )

    series = _with(
        SeriesInstanceUID=first.SeriesInstanceUID,
        ContourImageSequence=Items([reference(i) for i in images]),
    )
    study = _with(RTReferencedSeriesSequence=Items([series]))
    frame = _with(
        FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=Items([study])
    )
    ds.ReferencedFrameOfReferenceSequence = Items([frame])
    ds.StructureSetROISequence, ds.ROIContourSequence = Items([]), Items([])
    for number, (name, outlines) in enumerate(rois.items(), 1):
        ds.StructureSetROISequence.append(
            _with(
                ROINumber=number,
                ROIName=name,
                ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
            )
        )
        contours = []
        for k, pixels in outlines:
            at = points_of(images[k], pixels)
            contours.append(
                _with(
                    ContourImageSequence=Items([reference(images[named(k)])]),
                    ContourGeometricType=kind,
                    NumberOfContourPoints=len(at),
                    ContourData=[f"{v:.6f}" for v in at.ravel()],
                )
            )
        item = _with(ReferencedROINumber=number)
        if contours:
            item.ContourSequence = Items(contours)
        ds.ROIContourSequence.append(item)
    if edit:
        edit(ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path
