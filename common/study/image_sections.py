"""Sections on images of a study file and of a source mapping: what a study looks at, and how files
name patients, sequences and the examination that is meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from common.data.schema import Channel, Imaging
from common.runtime.settings import (
    Listed,
    Name,
    Names,
    OneOrMore,
    Pattern,
    Rule,
    Settings,
    Values,
    Whole,
    Wholes,
)

_Length = Annotated[float, Field(ge=0.1, le=2000)]
_Unit = Annotated[float, Field(ge=-1e5, le=1e5)]
_Count = Annotated[int, Field(ge=1, le=256)]
Millimetres = Annotated[tuple[_Length, _Length, _Length], Strict(False)]
"""(z, y, x): towards the head, the back, the left. Bounded, as all numbers here: a study file may
come with a model."""
Window = Annotated[tuple[_Unit, _Unit], Strict(False)]
Grid = Annotated[tuple[_Count, _Count, _Count], Strict(False)]


@dataclass(frozen=True)
class ImagingSection(Settings):
    """`[imaging]`: what the study looks at, and how it is prepared"""

    channels: Annotated[Mapping[Name, str], Field(min_length=1, max_length=16)]
    """sequence = its modality, `CT` or `MR`; the sequences are a network's input, in this order"""
    regions: Names = ()
    """what an expert may have outlined"""
    organ: str = ""
    """the region whose box a volume is cut to, where it is outlined"""
    lesion: Names = ()
    """the regions that together are a lesion; crops are centred on the largest"""
    window: Window | None = None
    """of CT: Hounsfield units from and to, needed there; MR has none"""
    spacing_mm: Millimetres = (1.0, 1.0, 1.0)
    """of a prepared volume (z, y, x); a coarser file keeps its own"""
    margin_mm: Annotated[float, Field(ge=0, le=500)] = 10.0
    """round the organ's box"""
    crop_mm: Millimetres = (48.0, 48.0, 48.0)
    """edges of a lesion's crop (z, y, x)"""
    crops: Annotated[int, Field(ge=1, le=100)] = 3
    """at most so many lesions a patient"""
    coarse: Grid = (32, 64, 64)
    """voxels of the whole field of view, as the segmentation sees it (z, y, x)"""
    body: Names = ()
    """words of BodyPartExamined, such as `ABD`; series of other parts are not preferred"""

    @property
    def declared(self) -> Imaging:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        channels = tuple(Channel(name, modality) for name, modality in self.channels.items())
        return Imaging(**{**values, "channels": channels})


@dataclass(frozen=True)
class Rescale(Settings):
    """Stored values to Hounsfield units: value * slope + intercept."""

    intercept: Annotated[float, Field(ge=-1e5, le=1e5)]
    """HU of a stored 0: -1024 for most scanners, 0 where the values are Hounsfield units already"""
    slope: Annotated[float, Field(gt=0, le=100)] = 1.0
    """HU a step"""


@dataclass(frozen=True)
class ImagesSpec(Settings):
    """How images name their patients, which volume file is which sequence, and what an expert called
    the study's regions.

    DICOM files say by themselves which sequence they are; volume files (NIfTI, NRRD, MetaImage) do
    so by their paths only.
    Without the section: PatientID is the table's id, and a segment is the region whose name it has.
    """

    id: Literal["PatientID", "path"] = "PatientID"
    """where a DICOM file's id stands: `PatientID`, or `path` (from the folder of images); a volume
    file's id always stands in its path"""
    id_pattern: Pattern = ""
    """regular expression, searched in that text: the id is its group `id`, else its first group,
    else all that it matches; a group `study` tells apart a patient's examinations (without it:
    DICOM's StudyInstanceUID, and a volume file's folder)"""
    id_length: Whole | None = None
    """keep so many first characters of the id"""
    strip_zeros: bool = False
    """drop the id's leading zeros"""
    channels: Values = field(default_factory=dict)
    """channel = patterns of volume files' paths; where several match, the longest counts"""
    mask: Names = ()
    """patterns of label maps"""
    values: Mapping[str, Wholes] = field(default_factory=dict)
    """region = its values in a label map"""
    resample: Literal["never", "tilt"] = "never"
    """`tilt`: a DICOM series whose only fault is a gantry tilt, or slices unevenly apart, is
    resampled to straight slices (said in the account); without it such a series is set aside"""
    id_per_site: bool = False
    """as for tables, whose setting it has where they have it: ids count anew in each hospital; an
    image is of the one hospital that has its id, or of the one that `site_pattern` finds"""
    site_pattern: Pattern = ""
    """regular expression, searched in a file's path: its group `site`, else its first group, else
    all that it matches is the hospital's name as the table has it"""
    mask_files: Values = field(default_factory=dict)
    """region = patterns of masks that hold it alone (a file an organ, as TotalSegmentator writes
    them): in them all that is not 0 is the region; several files of a region are put together"""
    other_labels: Literal["refuse", "ignore"] = "refuse"
    """labels of a label map that `values` does not name: `refuse` the map, or `ignore` them
    (counted)"""
    regions: Mapping[str, Annotated[Listed[Pattern], OneOrMore]] = field(default_factory=dict)
    """region = regular expressions of the labels of DICOM segments and of the names of an RT Structure
    Set's ROIs, which match as a whole, whatever their case"""
    rescale: Rescale | None = None
    """`{slope = 1, intercept = -1024}`: of CT files that say neither; without it they are set
    aside"""
    date: Names = ()
    """the column of the patient table with the day that an examination must come before (of
    surgery, of diagnosis), or several names of it; held against StudyDate, else AcquisitionDate or
    SeriesDate (L01)"""
    within: Annotated[int, Field(ge=0, le=36525)] | None = None
    """at most so many days before `date`; of several the nearest is taken"""
    after: Annotated[int, Field(ge=-36525, le=36525)] = 0
    """so many days after `date` are allowed too, where there is none before; `-1`: not on the day
    itself either"""
    date_order: Literal["", "dmy", "mdy"] = ""
    """`dmy` or `mdy`, where nothing else in the column tells whether 03/04/2019 is of March"""
    same_calendar: bool = False
    """the dates of files and table are true, or were shifted alike: declared, for else all images
    are set aside where of ten patients and more fewer than half have an examination in the window"""
    examination: Literal["only", "earliest", "latest"] = "only"
    """without `date`: of several examinations the `earliest` or the `latest`; `only`: a patient who
    has several is set aside"""
    study: Pattern = ""
    """regular expression of what the group `study` of `id_pattern` finds, which it matches as a
    whole: other examinations are not looked at"""

    def faults(self) -> Iterator[Rule]:
        if self.date and self.within is None:
            yield "within", "is needed beside date: at most so many days before it"
        if self.date and self.examination != "only":
            yield "examination", "and date exclude each other: the nearest before date is taken"
        if self.within is not None and self.after < -self.within:
            yield "after", "lies before the window: it must be at least -within"

    @property
    def searches(self) -> tuple[str, ...]:
        """The keys that hold regular expressions."""
        return tuple(
            n for n in ("id_pattern", "study", "regions", "site_pattern") if getattr(self, n)
        )

    def faults_beside(self, written: frozenset[str]) -> Iterator[Rule]:
        if "date" not in written:
            for name in sorted(written & {"within", "after", "date_order", "same_calendar"}):
                yield name, "says something of 'date', which is not given: name its column"

    def mapped(self) -> dict[str, Any]:
        """As a mapping has it: what differs from the defaults."""
        written = {
            f.name: value
            for f in fields(self)
            if (value := getattr(self, f.name)) != getattr(ImagesSpec(), f.name)
        }
        return {**written, **({"rescale": vars(self.rescale)} if self.rescale else {})}
