"""Volumes, masks, headers and series, with their geometry: what the image readers hand on.

One convention everywhere: array axes are (z, y, x) with indices that grow towards the patient's
head, back and left, which is DICOM's LPS turned round (x to Left, y to Posterior, z to Superior);
lengths are in mm. An oblique volume keeps its own directions: its axes are the nearest ones to the
convention, and `Geometry.steps_mm` says exactly where they point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where voxels lie: voxel (k, j, i) is centred on `origin_mm + k * steps_mm[0] + j *
    steps_mm[1] + i * steps_mm[2]`."""

    shape: tuple[int, int, int]
    """(z, y, x)."""
    origin_mm: Point
    """LPS position (x to Left, y to Posterior, z to Superior) of the centre of voxel [0, 0, 0]."""
    steps_mm: NDArray[np.float64]
    """(3, 3): row i is the LPS vector from one voxel to the next along array axis i (z, y, x)."""

    @property
    def spacing_mm(self) -> Point:
        """(z, y, x)."""
        z, y, x = np.linalg.norm(self.steps_mm, axis=1)
        return float(z), float(y), float(x)

    def same_as(self, other: Geometry, tolerance_mm: float = 0.1) -> bool:
        """Whether the grids agree: equal shapes, and no corner of one further than `tolerance_mm`
        from the other's."""
        return self.shape == other.shape and bool(
            np.abs(self.corners_mm() - other.corners_mm()).max() <= tolerance_mm
        )

    def corners_mm(self) -> NDArray[np.float64]:
        """(8, 3): LPS positions of the centres of the corner voxels."""
        last = np.array(self.shape, np.float64) - 1
        return self.to_mm(
            np.array(
                [[a, b, c] for a in (0.0, last[0]) for b in (0.0, last[1]) for c in (0.0, last[2])]
            )
        )

    def to_mm(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Array indices (n, 3) in the order (z, y, x) -> LPS positions (n, 3)."""
        return (
            np.asarray(self.origin_mm, np.float64) + np.asarray(indices, np.float64) @ self.steps_mm
        )

    def to_index(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """LPS positions (n, 3) -> array indices (n, 3) in the order (z, y, x), not rounded."""
        offset = np.asarray(points_mm, np.float64) - np.asarray(self.origin_mm, np.float64)
        return np.asarray(np.linalg.solve(self.steps_mm.T, offset.T).T)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values with their geometry."""

    array: NDArray[np.float32]
    """(z, y, x), C-contiguous: Hounsfield units for CT, the file's own units for MR. Finite."""
    geometry: Geometry
    notes: tuple[str, ...] = ()
    """What was done to the values that the file did not ask for (padding replaced)."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Outlined regions on the grid of an image."""

    bits: NDArray[np.uint8]
    """(z, y, x): bit i is region i; regions may overlap."""
    marked: tuple[bool, ...]
    """Which regions the file speaks about; one that is marked and has no voxel was looked for and
    not found."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One slice of a DICOM file, as its header tells it; None or '' where it says nothing."""

    position: Point | None = None
    """LPS centre of the first pixel, mm."""
    orientation: tuple[float, ...] | None = None
    """Six cosines: along a row, then along a column."""
    spacing: tuple[float, float] | None = None
    """mm between rows, between columns."""
    thickness: float | None = None
    traits: tuple[tuple[str, str], ...] = ()
    """(attribute, value): what may tell two images of one place apart, such as an echo time or a
    b-value."""


@dataclass(frozen=True)
class Header:
    """What is remembered of one file without its pixels. JSON-able; of the patient nothing but the
    key by which images join a table, and on which day they were scanned."""

    path: str
    kind: Literal["dicom", "nifti"]
    """`nifti`: a volume with an affine in a file of its own (NIfTI, NRRD, MetaImage), whose path
    alone says patient and sequence."""
    modality: str
    declared_modality: str = ""
    """As the file says, which may be one that is not read here ('US', 'SR')."""
    patient: str = ""
    """PatientID; '' for NIfTI."""
    study: str = ""
    study_date: str = ""
    """StudyDate as YYYY-MM-DD; '' where there is none, '?' where it is no date. Stays at the
    site."""
    acquisition_date: str = ""
    """AcquisitionDate, likewise."""
    series_date: str = ""
    """SeriesDate, likewise; of a series that was computed it may be a later day."""
    series: str = ""
    """SeriesInstanceUID; for NIfTI its path."""
    frame_of_reference: str = ""
    sop: str = ""
    sop_class: str = ""
    transfer_syntax: str = ""
    rows: int = 0
    columns: int = 0
    frames: tuple[Frame, ...] = ()
    image_type: tuple[str, ...] = ()
    description: str = ""
    """Series description: what the technician called it. Decides
    where the settings leave it open."""
    body_part: str = ""
    """BodyPartExamined, letters only."""
    maker: str = ""
    model: str = ""
    instance: int | None = None
    samples: int = 1
    photometric: str = ""
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    sequence_name: str = ""
    scan_options: tuple[str, ...] = ()
    angiography: bool = False
    """AngioFlag."""
    diffusion: float | None = None
    """b-value in s/mm2, by the standard's tag or a vendor's; None where the file names none."""
    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    contrast: str = ""
    """ContrastBolusAgent, or 'yes' where only its sequence says so."""
    contrast_phase: str = ""
    """ContrastBolusAgentPhase."""
    spacing_between: float | None = None
    """SpacingBetweenSlices, mm; only what a SEG says of it is believed."""
    references: tuple[str, ...] = ()
    """SeriesInstanceUIDs that a SEG was drawn on."""
    instances: tuple[str, ...] = ()
    """SOPInstanceUIDs that a SEG was drawn on."""
    identity: tuple[str, ...] = ()
    """NAMES of the tags that hold a value by which a patient could be known (and of burnt-in
    annotation); never their values."""
    offset: int = 0
    """Where in the file the value of its pixel data begins; 0: not known."""
    allocated: int = 0
    """Bits of a pixel in the file; of them `stored`, the highest of which is `high`, are its
    value."""
    stored: int = 0
    high: int = 0
    signed: bool = False
    big_endian: bool = False
    padding: int | None = None
    """PixelPaddingValue, as 16 unsigned bits."""
    scales: tuple[tuple[float, float], ...] = ()
    """(slope, intercept) of each frame, or one for all."""
    rescaled: tuple[str, ...] = ()
    """Which attributes gave them, of each frame or one for all; '' where slope 1 and intercept 0
    stand in for none."""
    shape: tuple[int, ...] = ()
    """NIfTI: voxels along (i, j, k, ...)."""
    affine: tuple[tuple[float, ...], ...] = ()
    """NIfTI: (3, 4), voxel indices (i, j, k, 1) to RAS+ mm."""
    companions: tuple[str, ...] = ()
    """Files that are read with it: the voxels of a header that stands alone."""
    faults: tuple[str, ...] = ()
    """Why this one file must not be used, though it could be read."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Header:
        """The inverse of `dataclasses.asdict`, also after JSON has made lists of the tuples."""
        values = {f.name: _tuples(saved[f.name]) for f in fields(cls) if f.name in saved}
        frames = tuple(
            Frame(**{k: _tuples(v) for k, v in frame.items()}) for frame in saved.get("frames", ())
        )
        return cls(**{**values, "frames": frames})


@dataclass(frozen=True, eq=False)
class Straight:
    """How slices that are shifted sideways (gantry tilt), or unevenly apart, lie on a regular grid."""

    geometry: Geometry
    turn: tuple[int, ...]
    """As of a Series, for an array (slice, row, column) of `shape`."""
    shape: tuple[int, int, int]
    depths: NDArray[np.float64]
    """(slices,): where each lies, in steps of the grid, growing."""
    shifts: NDArray[np.float64]
    """(slices, 2): rows and columns of the grid at which each slice's first pixel lies."""
    note: str


@dataclass(frozen=True)
class Series:
    """Files that together are one image (or one segmentation). Usable when `faults` is empty."""

    uid: str
    """SeriesInstanceUID; with '#' and the attribute where one series held several images; for NIfTI
    the path."""
    kind: Literal["dicom", "nifti"]
    modality: str
    patient: str
    study: str
    frame_of_reference: str
    description: str
    maker: str
    files: tuple[str, ...]
    """Sorted by position, towards the head (or the nearest axis to it)."""
    geometry: Geometry | None
    channel: str = ""
    """'t1n', 't1c', 't2w', 't2f' or 'ct' as the headers tell; '' where they do not."""
    notes: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    """SeriesInstanceUIDs that a SEG was drawn on."""
    faults: tuple[str, ...] = ()
    """Why it must not be used: sentences with file, what and way out."""
    slices: tuple[tuple[int, int], ...] = ()
    """(index into `files`, frame), one for each slice, in the order of the slices as the file turns
    them (before axes are flipped)."""
    spares: tuple[tuple[str, int, int], ...] = ()
    """(file, frame, slice): a second copy of a slice, to be found equal when the series is read."""
    turn: tuple[int, ...] = ()
    """How (slice, row, column) become (z, y, x): for each of z, y, x the source axis 1, 2 or 3,
    negative where it is reversed."""
    transfer_syntax: str = ""
    model: str = ""
    identity: tuple[str, ...] = ()
    """NAMES of identity tags that hold a value in any of the files."""
    straight: Straight | None = field(default=None, repr=False, compare=False)
    """How it becomes a volume all the same, where its only fault is that its slices are tilted or
    unevenly apart. With a geometry: that it is to."""
    headers: tuple[Header, ...] = field(default=(), repr=False)
    """Of `files`, in their order."""


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
