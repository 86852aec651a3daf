"""DICOM header of one file: one pass up to the pixels, tolerant of what scanners and archives
write; identity tags by name.

Values are taken as the bytes that stand in the file and parsed here, so that an empty string, a
list where one number belongs or a value that breaks the standard costs that attribute alone and
never the file. Tags that could tell who the patient is are looked at for whether they hold
anything: their names are kept, their values are not, with the one exception of PatientID, by which
images join a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from client.imaging.dicom import bounded_gzip, bounded_inflate, pixel_layout, tags
from client.imaging.dicom.bounded_inflate import DEFLATED
from client.imaging.dicom.elements import Elements, quiet
from client.imaging.dicom.pixel_layout import BIG_ENDIAN, COPY_AGAIN, IMPLICIT
from client.imaging.geometry.volumes import Frame, Header
from common.data.modality import MODALITIES
from common.errors import Fault

if TYPE_CHECKING:
    from pydicom import Dataset

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
IMAGE_CLASSES = {
    **{sop_class: m.name for m in MODALITIES.values() for sop_class in m.sop_classes},
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
    RT_STRUCTURE_SET: "SEG",
}
"""SOP classes of the images that are read here; a structure set is a segmentation by contours."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DIRECTORY = "1.2.840.10008.1.3.10"


@cache
def _wanted() -> list[Any]:
    """pydicom would make its own tags of plain numbers again for every file."""
    from pydicom.tag import Tag

    return [Tag(tag) for tag in tags.WANTED]


def unreadable(path: Path | str, what: str, way_out: str) -> Fault:
    return Fault("D00", str(path), what, way_out)


def header(path: Path) -> Header | Fault | None:
    """Of a file that begins as DICOM does. None for a DICOMDIR; a Fault (D00) when it is broken or
    cannot be decoded. Never raises."""
    from pydicom.filereader import dcmread

    head: bytes | None = None
    try:
        with quiet, bounded_gzip.opened(path) as f:
            size = f.seek(0, SEEK_END)
            f.seek(0)
            # a deflated data set is read without the meta information before it
            head = (
                bounded_inflate.inflated(f, bounded_inflate.LARGEST_HEADER)
                if bounded_inflate.starts(f)
                else None
            )
            source: BinaryIO = f if head is None else BytesIO(head)
            dataset = dcmread(source, stop_before_pixels=True, specific_tags=_wanted(), force=True)
            if (
                head is not None
                and len(head) == bounded_inflate.LARGEST_HEADER
                and head[source.tell() :][:4] != b"\xe0\x7f\x10\x00"
            ):
                raise EOFError
            meta = getattr(dataset, "file_meta", None)
            syntax = str(meta.get("TransferSyntaxUID", "")) if meta else ""
            if head is not None:
                syntax = DEFLATED
            if meta and str(meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY:
                return None
            values = Elements(dataset)
            parsed = _header(path, values, syntax, size)
            if isinstance(parsed, Fault) or not parsed.rows:
                return parsed
            parsed = _with_pixels(
                parsed, values, syntax == BIG_ENDIAN or not (syntax or dataset.original_encoding[1])
            )
            if head is not None:
                size = (
                    bounded_inflate.length(path, len(head) + pixel_layout.pixel_bytes(values))
                    if len(head) == bounded_inflate.LARGEST_HEADER
                    else len(head)
                )
            offset, why_cut = pixel_layout.extent(
                source, size, values, syntax, _implicit(dataset, syntax)
            )
    except OSError as e:
        return unreadable(
            path,
            f"it cannot be read ({e.strerror or e})",
            "Check that the file is there and that the station may read it",
        )
    except (
        Exception
    ) as e:  # whatever a parser makes of a broken file: this file is lost, the site is not
        if (
            isinstance(e, EOFError)
            and head is not None
            and len(head) == bounded_inflate.LARGEST_HEADER
        ):
            return unreadable(
                path,
                f"its deflated header has more than {bounded_inflate.LARGEST_HEADER >> 20} MB",
                COPY_AGAIN,
            )
        return unreadable(
            path,
            f"it begins as DICOM and then breaks off or is damaged ({type(e).__name__}: "
            f"{_short(e)})",
            COPY_AGAIN,
        )
    return unreadable(path, why_cut, COPY_AGAIN) if why_cut else replace(parsed, offset=offset)


def _short(e: Exception) -> str:
    text = str(e).replace("\n", " ")
    return text[:120]


def _implicit(dataset: Dataset, syntax: str) -> bool:
    if syntax:
        return syntax == IMPLICIT
    return bool(dataset.original_encoding[0])


def _header(path: Path, e: Elements, syntax: str, size: int) -> Header | Fault:
    sop_class, declared = e.text(tags.SOP_CLASS), e.text(tags.MODALITY).upper()
    if not (sop_class or declared or e.text(tags.SERIES)):
        return unreadable(
            path,
            "it holds neither a SOP class nor a modality: it is not DICOM, or its header is "
            "damaged",
            COPY_AGAIN,
        )
    modality = IMAGE_CLASSES.get(sop_class, "other")
    if not sop_class and declared in IMAGE_CLASSES.values():
        modality = declared
    patient = e.text(tags.PATIENT_ID)
    pictured = (modality != "other" and sop_class != RT_STRUCTURE_SET) or sop_class.startswith(
        SECONDARY_CAPTURE
    )
    if pictured and (what := pixel_layout.impossible(e, size, syntax)):
        return unreadable(path, what, COPY_AGAIN)
    frames = tuple(_frames(e, modality)) if pictured else ()
    agents = e.words(tags.AGENT)
    first = _shared(e)
    timing, echo, modifier = (
        first.get(tag) for tag in (tags.MR_TIMING, tags.MR_ECHO, tags.MR_MODIFIER)
    )
    return Header(
        path=str(path),
        kind="dicom",
        modality=modality,
        declared_modality=declared or modality,
        patient=patient,
        study=e.text(tags.STUDY),
        study_date=e.day(tags.STUDY_DATE),
        acquisition_date=e.day(tags.ACQUISITION_DATE, tags.ACQUISITION_DATE_TIME),
        series_date=e.day(tags.SERIES_DATE),
        series=e.text(tags.SERIES),
        frame_of_reference=_frame_of_reference(e),
        sop=e.text(tags.SOP_INSTANCE),
        sop_class=sop_class,
        transfer_syntax=syntax,
        rows=e.short(tags.ROWS) if pictured else 0,
        columns=e.short(tags.COLUMNS) if pictured else 0,
        frames=frames,
        image_type=tuple(w.upper() for w in e.words(tags.IMAGE_TYPE)),
        description=e.text(tags.DESCRIPTION),
        body_part="".join(c for c in e.text(tags.BODY_PART).upper() if "A" <= c <= "Z")[:16],
        maker=e.text(tags.MAKER),
        model=e.text(tags.MODEL),
        instance=e.whole(tags.INSTANCE),
        samples=e.short(tags.SAMPLES, 1),
        photometric=e.text(tags.PHOTOMETRIC),
        scanning_sequence=tuple(w.upper() for w in e.words(tags.SCANNING_SEQUENCE))
        or _pulses(e, modifier),
        sequence_variant=tuple(w.upper() for w in e.words(tags.SEQUENCE_VARIANT)),
        sequence_name=e.text(tags.SEQUENCE_NAME),
        repetition_time=_first_number(
            e.decimal(tags.REPETITION_TIME), timing and timing.decimal(tags.REPETITION_TIME)
        ),
        echo_time=_first_number(e.decimal(tags.ECHO_TIME), echo and echo.double(0x00189082)),
        inversion_time=_first_number(
            e.decimal(tags.INVERSION_TIME), modifier and modifier.double(0x00189079)
        ),
        flip_angle=_first_number(e.decimal(tags.FLIP), timing and timing.decimal(tags.FLIP)),
        contrast=" ".join(agents) or ("yes" if e.items(tags.AGENT_ITEMS) else ""),
        contrast_phase=_contrast_phase(e),
        scan_options=tuple(w.upper() for w in e.words(tags.SCAN_OPTIONS)),
        angiography=e.text(tags.ANGIO).upper() == "Y",
        diffusion=_diffusion(e),
        spacing_between=_first_number(
            e.decimal(tags.BETWEEN),
            (measures := first.get(tags.MEASURES)) and measures.decimal(tags.BETWEEN),
        ),
        references=_references(e),
        instances=_instances(e) if modality == "SEG" else (),
        identity=_identity(e, patient),
    )


def _diffusion(e: Elements) -> float | None:
    """The b-value. Vendors' tags have 0 in series of every kind, and say something above 0 alone;
    GE adds 10^9 to its own."""
    if (standard := e.double(tags.B_VALUE)) is not None:
        return standard
    philips = e.packed(tags.B_PHILIPS, "f")
    for value in (e.decimal(tags.B_SIEMENS), e.decimal(tags.B_GE), *philips[:1]):
        if value and 0 < value % 1e9 < 1e5:
            return float(value % 1e9)
    return None


def _contrast_phase(e: Elements) -> str:
    """Of a classic header, else of the functional groups of an enhanced one."""
    groups = (e, e.first(tags.SHARED), e.first(tags.PER_FRAME))
    usages = [u for group in groups if group for u in group.items(tags.AGENT_USAGE)]
    return next((p for item in (e, *usages) if (p := item.text(tags.AGENT_PHASE))), "")


def _with_pixels(header: Header, e: Elements, big_endian: bool) -> Header:
    if header.modality not in MODALITIES or header.samples != 1:
        return header
    fields, faults = pixel_layout.stored(e, big_endian)
    if len(header.frames) != e.frames():
        faults.append(
            f"NumberOfFrames is {e.frames()}, but {len(header.frames)} frames are described. "
            f"{COPY_AGAIN}"
        )
    return replace(header, **fields, faults=tuple(f"{header.path}: {fault}" for fault in faults))


def _identity(e: Elements, patient: str) -> tuple[str, ...]:
    # a name that repeats the key, as de-identified collections have it, tells no more than the key
    names = [
        name
        for tag, name in tags.IDENTITY.items()
        if e.holds(tag) and not (patient and e.text(tag).strip("^") == patient)
    ]
    return (
        (*names, "BurnedInAnnotation") if e.text(tags.BURNT_IN).upper() == "YES" else tuple(names)
    )


def _first_number(*values: float | Elements | None) -> float | None:
    return next((v for v in values if isinstance(v, float)), None)


def _references(e: Elements) -> tuple[str, ...]:
    """The series that a segmentation refers to."""
    items = [*e.items(tags.REFERENCED_SERIES), *_rt_series(e)]
    return tuple(dict.fromkeys(uid for item in items if (uid := item.text(tags.SERIES))))


def _instances(e: Elements) -> tuple[str, ...]:
    """The images that a segmentation refers to: as a whole, else frame by frame, or contour by
    contour."""
    items = (
        [i for s in e.items(tags.REFERENCED_SERIES) for i in s.items(tags.REFERENCED_INSTANCES)]
        or [i for s in _rt_series(e) for i in s.items(tags.CONTOUR_IMAGES)]
        or [
            i
            for frame in e.items(tags.PER_FRAME)
            for d in frame.items(tags.DERIVATION)
            for i in d.items(tags.SOURCE_IMAGES)
        ]
        or [
            i
            for roi in e.items(tags.ROI_CONTOURS)
            for contour in roi.items(tags.CONTOURS)
            for i in contour.items(tags.CONTOUR_IMAGES)
        ]
    )
    uids = [i.text(tags.REFERENCED_SOP) for i in items]
    return tuple(dict.fromkeys(uid for uid in uids if uid))


def _rt_series(e: Elements) -> list[Elements]:
    """The series that a structure set names, study by study."""
    return [
        series
        for frame in e.items(tags.RT_FRAMES)
        for study in frame.items(tags.RT_STUDIES)
        for series in study.items(tags.RT_SERIES)
    ]


def _frame_of_reference(e: Elements) -> str:
    """A structure set may name it for what it refers to, or region by region, alone."""
    named = [e.text(tags.FRAME_OF_REFERENCE)]
    named += [i.text(tags.FRAME_OF_REFERENCE) for i in e.items(tags.RT_FRAMES)]
    named += [i.text(tags.ROI_FRAME) for i in e.items(tags.ROIS)]
    return next((uid for uid in named if uid), "")


def _shared(e: Elements) -> dict[int, Elements]:
    """The functional groups of an enhanced object that say what kind of image it is: the shared
    ones, else the first frame's."""
    out: dict[int, Elements] = {}
    for groups in (e.first(tags.SHARED), e.first(tags.PER_FRAME)):
        for tag in (tags.MR_TIMING, tags.MR_ECHO, tags.MR_MODIFIER, tags.MEASURES):
            if groups and tag not in out and (item := groups.first(tag)):
                out[tag] = item
    return out


def _pulses(e: Elements, modifier: Elements | None) -> tuple[str, ...]:
    """An enhanced object's sequence in the words of a classic one."""
    words = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(
        e.text(tags.ECHO_PULSE).upper(), ()
    )
    return (*words, "IR") if modifier and modifier.text(0x00189009).upper() == "YES" else words


def _frames(e: Elements, modality: str) -> Iterator[Frame]:
    count = e.frames()
    items = e.items(tags.PER_FRAME)
    if not items:
        shared = e.first(tags.SHARED)
        frame = (
            _enhanced(e, shared, shared)
            if shared and not e.decimals(tags.POSITION)
            else _classic(e)
        )
        yield from [frame] if count == 1 else [Frame()] * count
        return
    if modality == "SEG":
        return  # its frames are placed when it is read
    shared = e.first(tags.SHARED)
    yield from (_enhanced(e, item, shared) for item in items[:count])


def _classic(e: Elements) -> Frame:
    traits = (
        (name, _b_value(e) if tag == tags.B_VALUE else "\\".join(e.words(tag)))
        for name, tag in tags.TRAITS
    )
    return Frame(
        position=e.point(),
        orientation=e.cosines(),
        spacing=e.spacing(),
        thickness=e.decimal(tags.THICKNESS),
        traits=tuple((name, value) for name, value in traits if value),
    )


def _b_value(e: Elements) -> str:
    value = e.double(tags.B_VALUE)
    return "" if value is None else f"{value:g}"


def _enhanced(e: Elements, frame: Elements, shared: Elements | None) -> Frame:
    def group(tag: int) -> Elements | None:
        return frame.first(tag) or (shared.first(tag) if shared else None)

    position, orientation, measures, content = (
        group(tags.PLANE_POSITION),
        group(tags.PLANE_ORIENTATION),
        group(tags.MEASURES),
        group(tags.CONTENT),
    )
    echo, diffusion, frame_type, reconstruction = (
        group(tags.MR_ECHO),
        group(tags.MR_DIFFUSION),
        group(tags.MR_TYPE) or group(tags.CT_TYPE),
        group(tags.RECONSTRUCTION),
    )
    traits: list[tuple[str, Any]] = [
        ("EchoTime", echo and echo.double(0x00189082)),
        ("ImageType", frame_type and "\\".join(frame_type.words(tags.FRAME_TYPE))),
        ("ConvolutionKernel", reconstruction and "\\".join(reconstruction.words(0x00181210))),
        ("DiffusionBValue", diffusion and _b_value(diffusion)),
        ("StackID", content and content.text(0x00209056)),
        (
            "TemporalPositionIdentifier",
            content and next(iter(content.packed(0x00209128, "I")), None),
        ),
        ("AcquisitionNumber", content and next(iter(content.packed(0x00209156, "H")), None)),
    ]
    return Frame(
        position=(position or e).point(),
        orientation=(orientation or e).cosines(),
        spacing=(measures or e).spacing(),
        thickness=(measures or e).decimal(tags.THICKNESS),
        traits=tuple(
            (name, str(value)) for name, value in traits if value is not None and value != ""
        ),
    )
