"""Image faults, planted one each in the folder that `liver.write` or `brain.write` has written: bad
files as hospitals have them.

    from simulation.phantom import image_faults, liver
    liver.write(folder)
    hurt = image_faults.named("missing slice").plant(folder)      # the ids of the patients that are hurt

`FAULTS` is the list; each names its phantom, the code that has to be told, and what is lost
(`Lost`). Every patient that is hurt had images and outlines before. Nothing else is lost: whoever
is not hurt is read as ever. Planting is deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from common.data.modality import CT
from common.errors import UsageError
from simulation.phantom.brain import writer
from simulation.phantom.liver import writer as liver_writer
from simulation.phantom.liver.table import SHEET
from simulation.phantom.shared.image_truth import TRUTH
from simulation.phantom.shared.nifti_files import write_nifti

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

Phantom = Literal["liver", "brain"]
Lost = Literal["image", "mask", "join"]
"""`image`: the patient's images are set aside. `mask`: the images are used without the expert's
outlines. `join`: they find no row."""

MAKER: Final = "Philips"
"""Whose images are all unreadable in that fault."""


@dataclass(frozen=True)
class Planted:
    """A fault: what to call it, where, the code that must answer, what is lost, and the function
    that plants it into a folder."""

    name: str
    phantom: Phantom
    code: str
    lost: Lost
    plant: Callable[[Path], tuple[str, ...]]
    """Returns the ids, as the table has them, of the patients that are hurt."""


def _truncated(folder: Path) -> tuple[str, ...]:
    """D00: the copy of one slice stopped half way."""
    patient, slices = _ct(folder)
    raw = slices[4].read_bytes()
    slices[4].write_bytes(raw[: len(raw) // 2])
    return (patient,)


def _zero_byte(folder: Path) -> tuple[str, ...]:
    """D00: the topmost slice has no bytes; without it the series looks whole."""
    patient, slices = _ct(folder)
    slices[-1].write_bytes(b"")
    return (patient,)


def _no_dicom(folder: Path) -> tuple[str, ...]:
    """D00: what is called a slice is the page of a web server that refused to send it."""
    patient, slices = _ct(folder)
    slices[4].write_text("<html><body>503 Service Unavailable</body></html>\n", encoding="utf-8")
    return (patient,)


def _missing_slice(folder: Path) -> tuple[str, ...]:
    """D06: one slice in the middle was not sent."""
    patient, slices = _ct(folder)
    slices[len(slices) // 2].unlink()
    return (patient,)


def _doubled_slice(folder: Path) -> tuple[str, ...]:
    """D06: at one position lie two slices that differ."""
    from pydicom.uid import UID

    patient, slices = _ct(folder)
    dataset = _read(slices[4])
    uid = "2.25." + "8" * 36
    dataset.SOPInstanceUID, dataset.file_meta.MediaStorageSOPInstanceUID = uid, UID(uid)
    dataset.PixelData = np.frombuffer(dataset.PixelData, np.int16)[::-1].tobytes()
    dataset.save_as(slices[4].with_name("1-99.dcm"))
    return (patient,)


def _tilted_slice(folder: Path) -> tuple[str, ...]:
    """D06: one slice lies askew to the others."""
    patient, slices = _ct(folder)
    dataset = _read(slices[4])
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.981627, 0.190809]
    dataset.save_as(slices[4])
    return (patient,)


def _foreign_segmentation(folder: Path) -> tuple[str, ...]:
    """D05: the outlines were drawn on a series that is not there."""
    from pydicom import dcmread

    patient, _ = _ct(folder)
    path = next(
        path
        for path in _series(folder, patient)
        if dcmread(path, stop_before_pixels=True).Modality == "SEG"
    )
    dataset = dcmread(path)
    uid = "2.25." + "7" * 36
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = dataset.FrameOfReferenceUID = uid
    for item in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence:
        item.ReferencedSOPInstanceUID = "2.25.7" + item.ReferencedSOPInstanceUID[6:]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPInstanceUID = "2.25.7" + source.ReferencedSOPInstanceUID[6:]
    dataset.save_as(path)
    return (patient,)


def _contradicting_affine(folder: Path) -> tuple[str, ...]:
    """D07: the affine of the outlines says that they lie 40 mm beside the image."""
    patient, files = _nifti(folder)

    def aside(image: Any, array: Any) -> Any:
        affine = image.affine.copy()
        affine[0, 3] += 40
        return array, affine

    _rewrite(files["seg"], aside)
    return (patient,)


def _nan_voxels(folder: Path) -> tuple[str, ...]:
    """D06: a registration left NaN at the border of one sequence."""
    patient, files = _nifti(folder)

    def holes(image: Any, array: Any) -> Any:
        out = array.astype(np.float32)
        out[:3] = np.nan
        return out, image.affine

    _rewrite(files["t1c"], holes)
    return (patient,)


def _truncated_nifti(folder: Path) -> tuple[str, ...]:
    """D00: the download of one sequence stopped half way."""
    patient, files = _nifti(folder)
    raw = files["t2f"].read_bytes()
    files["t2f"].write_bytes(raw[: len(raw) // 2])
    return (patient,)


def _foreign_ids(folder: Path) -> tuple[str, ...]:
    """D05: the workbook has the hospital's own numbers, which no image bears."""
    from openpyxl import load_workbook

    truth = _cases(folder)
    book = load_workbook(folder / liver_writer.WORKBOOK)
    for row in book[SHEET].iter_rows(min_row=2, max_col=1):
        row[0].value = str(row[0].value).replace("CRLM-CT-9", "H-7")
    book.save(folder / liver_writer.WORKBOOK)
    return tuple(i.replace("CRLM-CT-9", "H-7") for i, case in truth.items() if case["image"])


def _unreadable_maker(folder: Path) -> tuple[str, ...]:
    """D00: every slice of one maker is cut off within its header: the site has no image left."""
    hurt = tuple(
        i for i, case in _cases(folder).items() if case["maker"] == MAKER and case["image"]
    )
    for patient in hurt:
        for path in _series(folder, patient):
            path.write_bytes(path.read_bytes()[:300])
    return hurt


FAULTS: Final = (
    Planted("truncated slice", "liver", "D00", "image", _truncated),
    Planted("zero-byte slice", "liver", "D00", "image", _zero_byte),
    Planted("slice that is no DICOM", "liver", "D00", "image", _no_dicom),
    Planted("missing slice", "liver", "D06", "image", _missing_slice),
    Planted("doubled slice", "liver", "D06", "image", _doubled_slice),
    Planted("tilted slice", "liver", "D06", "image", _tilted_slice),
    Planted("segmentation of another series", "liver", "D05", "mask", _foreign_segmentation),
    Planted("ids of no image", "liver", "D05", "join", _foreign_ids),
    Planted("unreadable maker", "liver", "D00", "image", _unreadable_maker),
    Planted("contradicting affine", "brain", "D07", "mask", _contradicting_affine),
    Planted("NaN voxels", "brain", "D06", "image", _nan_voxels),
    Planted("truncated NIfTI", "brain", "D00", "image", _truncated_nifti),
)


def named(name: str) -> Planted:
    """The fault of that name. Raises UsageError C01."""
    for fault in FAULTS:
        if fault.name == name:
            return fault
    raise UsageError(
        "C01", f"fault '{name}' is unknown; there are {', '.join(f.name for f in FAULTS)}"
    )


def _cases(folder: Path) -> dict[str, dict[str, Any]]:
    """What is true of each patient; image and outlines are looked up here, not guessed from files
    that may be broken already."""
    cases: dict[str, dict[str, Any]] = json.loads((folder / TRUTH).read_text(encoding="utf-8"))[
        "cases"
    ]
    return cases


def _whole(folder: Path) -> str:
    """The first patient of a GE scanner with images and outlines."""
    return next(i for i, case in _cases(folder).items() if case["mask"] and case["maker"] == "GE")


def _series(folder: Path, patient: str) -> list[Path]:
    return sorted((folder / liver_writer.COLLECTION / patient).rglob("*.dcm"))


def _ct(folder: Path) -> tuple[str, list[Path]]:
    """A patient, and the slices of the CT from the feet up."""
    from pydicom import dcmread

    patient = _whole(folder)
    heads = [(dcmread(path, stop_before_pixels=True), path) for path in _series(folder, patient)]
    placed = [
        (float(head.ImagePositionPatient[2]), path)
        for head, path in heads
        if head.Modality == CT.name
    ]
    return patient, [path for _, path in sorted(placed)]


def _read(path: Path) -> FileDataset:
    from pydicom import dcmread

    return dcmread(path)


def _nifti(folder: Path) -> tuple[str, dict[str, Path]]:
    """A patient's number, and the files by sequence."""
    patient = _whole(folder)
    name = f"BraTS-MET-{patient}-000"
    tree = folder / writer.COLLECTION / name
    return patient, {
        path.name.removeprefix(f"{name}-").removesuffix(".nii.gz"): path
        for path in tree.glob("*.nii.gz")
    }


def _rewrite(path: Path, change: Callable[[Any, Any], Any]) -> None:
    """Save a NIfTI file again with what `change(image, array)` makes of it: an array and an
    affine."""
    import nibabel as nib

    image: Any = nib.load(path)
    write_nifti(path, *change(image, np.asanyarray(image.dataobj)))
