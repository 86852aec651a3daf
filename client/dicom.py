"""The header of one DICOM file: one pass up to the pixels, tolerant of what scanners and archives really write.

Values are taken as the bytes that stand in the file and parsed here, so that an empty string, a list where one number belongs or a
value that breaks the standard costs that attribute alone and never the file. Tags that could tell who the patient is are looked at for
whether they hold anything: their names are kept, their values are not, with the one exception of PatientID, by which images join a table.
"""

from __future__ import annotations

import math
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from client.volumes import Frame, Header, Modality
from common.errors import Fault

if TYPE_CHECKING:
    from pydicom import Dataset

PIXELS = 0x7FE00010
SOP_CLASS, SOP_INSTANCE, MODALITY, PATIENT_ID = 0x00080016, 0x00080018, 0x00080060, 0x00100020
STUDY, SERIES, FRAME_OF_REFERENCE, INSTANCE = 0x0020000D, 0x0020000E, 0x00200052, 0x00200013
IMAGE_TYPE, DESCRIPTION, MAKER, MODEL, BURNT_IN = 0x00080008, 0x0008103E, 0x00080070, 0x00081090, 0x00280301
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, ALLOCATED = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100
POSITION, ORIENTATION, SPACING, THICKNESS, BETWEEN = 0x00200032, 0x00200037, 0x00280030, 0x00180050, 0x00180088
SCANNING_SEQUENCE, SEQUENCE_VARIANT, SEQUENCE_NAME, FLIP = 0x00180020, 0x00180021, 0x00180024, 0x00181314
REPETITION_TIME, ECHO_TIME, INVERSION_TIME = 0x00180080, 0x00180081, 0x00180082
AGENT, AGENT_ITEMS, ECHO_PULSE = 0x00180010, 0x00180012, 0x00189008
REFERENCED_SERIES, SHARED, PER_FRAME = 0x00081115, 0x52009229, 0x52009230
PLANE_POSITION, PLANE_ORIENTATION, MEASURES, CONTENT = 0x00209113, 0x00209116, 0x00289110, 0x00209111
MR_ECHO, MR_TIMING, MR_MODIFIER, MR_DIFFUSION = 0x00189114, 0x00189112, 0x00189115, 0x00189117
MR_TYPE, CT_TYPE, RECONSTRUCTION, FRAME_TYPE = 0x00189226, 0x00189329, 0x00189314, 0x00089007
B_VALUE = 0x00189087

TRAITS = (
    ("EchoTime", ECHO_TIME),
    ("EchoNumbers", 0x00180086),
    ("ImageType", IMAGE_TYPE),
    ("ConvolutionKernel", 0x00181210),
    ("KVP", 0x00180060),
    ("InversionTime", INVERSION_TIME),
    ("FlipAngle", FLIP),
    ("DiffusionBValue", B_VALUE),
    ("TemporalPositionIdentifier", 0x00200100),
    ("AcquisitionNumber", 0x00200012),
    ("TriggerTime", 0x00181060),
    ("AcquisitionTime", 0x00080032),
    ("ContentTime", 0x00080033),
)
"""What may tell two images of one place apart, surest first."""

IDENTITY = {
    0x00100010: "PatientName",
    0x00100030: "PatientBirthDate",
    0x00100032: "PatientBirthTime",
    0x00100050: "PatientInsurancePlanCodeSequence",
    0x00101000: "OtherPatientIDs",
    0x00101001: "OtherPatientNames",
    0x00101002: "OtherPatientIDsSequence",
    0x00101005: "PatientBirthName",
    0x00101040: "PatientAddress",
    0x00101060: "PatientMotherBirthName",
    0x00101090: "MedicalRecordLocator",
    0x00102154: "PatientTelephoneNumbers",
    0x00102155: "PatientTelecomInformation",
    0x00102297: "ResponsiblePerson",
    0x00104000: "PatientComments",
    0x00080050: "AccessionNumber",
    0x00080080: "InstitutionName",
    0x00080081: "InstitutionAddress",
    0x00080090: "ReferringPhysicianName",
    0x00080092: "ReferringPhysicianAddress",
    0x00080094: "ReferringPhysicianTelephoneNumbers",
    0x00081010: "StationName",
    0x00081040: "InstitutionalDepartmentName",
    0x00081048: "PhysiciansOfRecord",
    0x00081050: "PerformingPhysicianName",
    0x00081060: "NameOfPhysiciansReadingStudy",
    0x00081070: "OperatorsName",
    0x00380010: "AdmissionID",
    0x00321032: "RequestingPhysician",
    0x00400006: "ScheduledPerformingPhysicianName",
    0x00401010: "NamesOfIntendedRecipientsOfResults",
}

WANTED = [
    *(SOP_CLASS, SOP_INSTANCE, MODALITY, PATIENT_ID, STUDY, SERIES, FRAME_OF_REFERENCE, INSTANCE, IMAGE_TYPE, DESCRIPTION, MAKER, MODEL),
    *(BURNT_IN, SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, ALLOCATED, POSITION, ORIENTATION, SPACING, THICKNESS, BETWEEN),
    *(SCANNING_SEQUENCE, SEQUENCE_VARIANT, SEQUENCE_NAME, REPETITION_TIME, AGENT, AGENT_ITEMS, ECHO_PULSE, REFERENCED_SERIES),
    *(SHARED, PER_FRAME, *(tag for _, tag in TRAITS), *IDENTITY),
]

IMAGES: dict[str, Modality] = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.3": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
}
"""SOP classes of the images that are read here."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = frozenset({"", IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED})


class _Quiet:
    """Silences the warnings of a parser that is shown strange files; for several threads at once, which `catch_warnings` is not."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._kept = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._kept = warnings.catch_warnings()
                self._kept.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._kept.__exit__(None, None, None)


quiet = _Quiet()


class Elements:
    """A dataset's values from their bytes: what is absent, empty or malformed is None, '' or ()."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def _value(self, tag: int) -> Any:
        """What the file holds: bytes, unless pydicom had to turn them into something already."""
        return getattr(self.dataset.get_item(tag), "value", None) if tag in self.dataset else None

    def holds(self, tag: int) -> bool:
        value = self._value(tag)
        return bool(value.strip(b" \0^")) if isinstance(value, bytes) else bool(value)

    def text(self, tag: int) -> str:
        value = self._value(tag)
        if not isinstance(value, bytes):
            return str(value or "").strip(" \0")
        if value.isascii():
            return value.decode("ascii").strip(" \0")
        try:
            return str(self.dataset[tag].value).strip(" \0")
        except Exception:  # an unknown character set must not cost the file
            return value.decode("latin-1").strip(" \0")

    def words(self, tag: int) -> tuple[str, ...]:
        return tuple(w for w in (part.strip(" \0") for part in self.text(tag).split("\\")) if w)

    def decimals(self, tag: int) -> tuple[float, ...]:
        """Of a DS or IS; () when any part is no number."""
        try:
            values = tuple(float(w) for w in self.words(tag))
        except ValueError:
            return ()
        return values if all(map(math.isfinite, values)) else ()

    def decimal(self, tag: int) -> float | None:
        values = self.decimals(tag)
        return values[0] if values else None

    def whole(self, tag: int) -> int | None:
        value = self.decimal(tag)
        return None if value is None else int(value)

    def packed(self, tag: int, form: str) -> tuple[Any, ...]:
        """Of a binary VR: `form` is struct's letter (H for US, h for SS, I for UL, d for FD)."""
        value = self._value(tag)
        if not isinstance(value, bytes):
            return ()
        raw: Any = self.dataset.get_item(tag)
        little, size = raw.is_little_endian, struct.calcsize(form)
        return struct.unpack(f"{'<' if little else '>'}{len(value) // size}{form}", value[: len(value) // size * size])

    def short(self, tag: int, default: int = 0) -> int:
        values = self.packed(tag, "H")
        return int(values[0]) if values else default

    def items(self, tag: int) -> list[Elements]:
        if tag not in self.dataset:
            return []
        try:
            value = self.dataset[tag].value
            return [Elements(item) for item in value] if value else []
        except Exception:  # a sequence that cannot be parsed says nothing
            return []

    def first(self, tag: int) -> Elements | None:
        items = self.items(tag)
        return items[0] if items else None


def unreadable(path: Path | str, what: str, way_out: str) -> Fault:
    return Fault("D00", str(path), what, way_out)


def header(path: Path) -> Header | Fault | None:
    """Of a file that begins as DICOM does. None for a DICOMDIR; a Fault (D00) when it is broken or cannot be decoded. Never raises."""
    from pydicom.filereader import dcmread

    try:
        size = path.stat().st_size
        with quiet, path.open("rb") as f:
            dataset = dcmread(f, stop_before_pixels=True, specific_tags=WANTED, force=True)
            meta = getattr(dataset, "file_meta", None)
            syntax = str(meta.get("TransferSyntaxUID", "")) if meta else ""
            directory = str(meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY if meta else False
            if directory:
                return None
            values = Elements(dataset)
            told = _told(path, values, syntax)
            if isinstance(told, Fault) or not told.rows:
                return told
            cut = _deflated_fault(path, values) if syntax == DEFLATED else _cut(f, size, values, syntax, implicit(dataset, syntax))
    except OSError as e:
        return unreadable(path, f"it cannot be read ({e.strerror or e})", "Check that the file is there and that the station may read it")
    except Exception as e:  # whatever a parser makes of a broken file: this file is lost, the site is not
        return unreadable(path, f"it begins as DICOM and then breaks off or is damaged ({type(e).__name__}: {_short(e)})", COPY_AGAIN)
    return unreadable(path, cut, COPY_AGAIN) if cut else told


COPY_AGAIN = "Export this series from the archive again"


def _short(e: Exception) -> str:
    text = str(e).replace("\n", " ")
    return text[:120]


def implicit(dataset: Dataset, syntax: str) -> bool:
    if syntax:
        return syntax == IMPLICIT
    return bool(dataset.original_encoding[0])


def _told(path: Path, e: Elements, syntax: str) -> Header | Fault:
    sop_class, declared = e.text(SOP_CLASS), e.text(MODALITY).upper()
    if not (sop_class or declared or e.text(SERIES)):
        return unreadable(path, "it holds neither a SOP class nor a modality: it is not DICOM, or its header is damaged", COPY_AGAIN)
    modality = IMAGES.get(sop_class, "other")
    if not sop_class and declared in ("CT", "MR", "SEG"):
        modality = {"CT": "CT", "MR": "MR", "SEG": "SEG"}[declared]  # type: ignore[assignment]
    patient = e.text(PATIENT_ID)
    pictured = modality != "other" or sop_class.startswith(SECONDARY_CAPTURE)
    frames = tuple(_frames(e, modality)) if pictured else ()
    agents = e.words(AGENT)
    first = _shared(e)
    timing, echo, modifier = (first.get(tag) for tag in (MR_TIMING, MR_ECHO, MR_MODIFIER))
    return Header(
        path=str(path),
        kind="dicom",
        modality=modality,
        declared_modality=declared or modality,
        patient=patient,
        study=e.text(STUDY),
        series=e.text(SERIES),
        frame_of_reference=e.text(FRAME_OF_REFERENCE),
        sop=e.text(SOP_INSTANCE),
        sop_class=sop_class,
        transfer_syntax=syntax,
        rows=e.short(ROWS) if pictured else 0,
        columns=e.short(COLUMNS) if pictured else 0,
        frames=frames,
        image_type=tuple(w.upper() for w in e.words(IMAGE_TYPE)),
        description=e.text(DESCRIPTION),
        maker=e.text(MAKER),
        model=e.text(MODEL),
        instance=e.whole(INSTANCE),
        samples=e.short(SAMPLES, 1),
        photometric=e.text(PHOTOMETRIC),
        scanning_sequence=tuple(w.upper() for w in e.words(SCANNING_SEQUENCE)) or _pulses(e, modifier),
        sequence_variant=tuple(w.upper() for w in e.words(SEQUENCE_VARIANT)),
        sequence_name=e.text(SEQUENCE_NAME),
        repetition_time=_one(e.decimal(REPETITION_TIME), timing and timing.decimal(REPETITION_TIME)),
        echo_time=_one(e.decimal(ECHO_TIME), echo and _double(echo, 0x00189082)),
        inversion_time=_one(e.decimal(INVERSION_TIME), modifier and _double(modifier, 0x00189079)),
        flip_angle=_one(e.decimal(FLIP), timing and timing.decimal(FLIP)),
        contrast=" ".join(agents) or ("yes" if e.items(AGENT_ITEMS) else ""),
        spacing_between=_one(e.decimal(BETWEEN), (measures := first.get(MEASURES)) and measures.decimal(BETWEEN)),
        faults=_miscounted(path, e, frames) if pictured and modality != "SEG" else (),
        references=tuple(uid for item in e.items(REFERENCED_SERIES) if (uid := item.text(SERIES))),
        identity=_identity(e, patient),
    )


def _miscounted(path: Path, e: Elements, frames: tuple[Frame, ...]) -> tuple[str, ...]:
    count = max(1, e.whole(FRAMES) or 1)
    if len(frames) == count:
        return ()
    return (f"{path}: NumberOfFrames is {count}, but {len(frames)} frames are described. {COPY_AGAIN}",)


def _identity(e: Elements, patient: str) -> tuple[str, ...]:
    # a name that repeats the key, as de-identified collections have it, tells no more than the key
    names = [name for tag, name in IDENTITY.items() if e.holds(tag) and not (patient and e.text(tag).strip("^") == patient)]
    return (*names, "BurnedInAnnotation") if e.text(BURNT_IN).upper() == "YES" else tuple(names)


def _one(*values: float | Elements | None) -> float | None:
    return next((v for v in values if isinstance(v, float)), None)


def _double(e: Elements, tag: int) -> float | None:
    values = e.packed(tag, "d")
    return float(values[0]) if values and math.isfinite(values[0]) else None


def _shared(e: Elements) -> dict[int, Elements]:
    """The functional groups of an enhanced object that say what kind of image it is: the shared ones, else the first frame's."""
    out: dict[int, Elements] = {}
    for where in (e.first(SHARED), e.first(PER_FRAME)):
        for tag in (MR_TIMING, MR_ECHO, MR_MODIFIER, MEASURES):
            if where and tag not in out and (item := where.first(tag)):
                out[tag] = item
    return out


def _pulses(e: Elements, modifier: Elements | None) -> tuple[str, ...]:
    """An enhanced object's sequence in the words of a classic one."""
    words = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(e.text(ECHO_PULSE).upper(), ())
    return (*words, "IR") if modifier and modifier.text(0x00189009).upper() == "YES" else words


def _frames(e: Elements, modality: Modality) -> Iterator[Frame]:
    count = max(1, e.whole(FRAMES) or 1)
    items = e.items(PER_FRAME)
    if not items:
        shared = e.first(SHARED)
        frame = _enhanced(e, shared, shared) if shared and not e.decimals(POSITION) else _classic(e)
        yield from [frame] if count == 1 else [Frame()] * count
        return
    if modality == "SEG":
        return  # its frames are placed when it is read
    shared = e.first(SHARED)
    yield from (_enhanced(e, item, shared) for item in items[:count])


def _classic(e: Elements) -> Frame:
    traits = ((name, _b_value(e) if tag == B_VALUE else "\\".join(e.words(tag))) for name, tag in TRAITS)
    return Frame(
        position=point(e),
        orientation=cosines(e),
        spacing=spacing(e),
        thickness=e.decimal(THICKNESS),
        traits=tuple((name, value) for name, value in traits if value),
    )


def _b_value(e: Elements) -> str:
    value = _double(e, B_VALUE)
    return "" if value is None else f"{value:g}"


def _enhanced(e: Elements, frame: Elements, shared: Elements | None) -> Frame:
    def group(tag: int) -> Elements | None:
        return frame.first(tag) or (shared.first(tag) if shared else None)

    at, along, measures, content = group(PLANE_POSITION), group(PLANE_ORIENTATION), group(MEASURES), group(CONTENT)
    echo, diffusion, kind, recon = group(MR_ECHO), group(MR_DIFFUSION), group(MR_TYPE) or group(CT_TYPE), group(RECONSTRUCTION)
    told: list[tuple[str, Any]] = [
        ("EchoTime", echo and _double(echo, 0x00189082)),
        ("ImageType", kind and "\\".join(kind.words(FRAME_TYPE))),
        ("ConvolutionKernel", recon and "\\".join(recon.words(0x00181210))),
        ("DiffusionBValue", diffusion and _b_value(diffusion)),
        ("StackID", content and content.text(0x00209056)),
        ("TemporalPositionIdentifier", content and next(iter(content.packed(0x00209128, "I")), None)),
        ("AcquisitionNumber", content and next(iter(content.packed(0x00209156, "H")), None)),
    ]
    return Frame(
        position=point(at or e),
        orientation=cosines(along or e),
        spacing=spacing(measures or e),
        thickness=(measures or e).decimal(THICKNESS),
        traits=tuple((name, str(value)) for name, value in told if value is not None and value != ""),
    )


def point(e: Elements) -> tuple[float, float, float] | None:
    v = e.decimals(POSITION)
    return (v[0], v[1], v[2]) if len(v) == 3 else None


def cosines(e: Elements) -> tuple[float, ...] | None:
    v = e.decimals(ORIENTATION)
    return v if len(v) == 6 else None


def spacing(e: Elements) -> tuple[float, float] | None:
    v = e.decimals(SPACING)
    return (v[0], v[1]) if len(v) == 2 and min(v) > 0 else None


def pixel_bytes(e: Elements) -> int:
    """How many bytes uncompressed pixel data must have."""
    bits = e.short(ROWS) * e.short(COLUMNS) * e.short(SAMPLES, 1) * max(1, e.whole(FRAMES) or 1) * e.short(ALLOCATED, 16)
    return (bits + 7) // 8


def _cut(f: BinaryIO, size: int, e: Elements, syntax: str, implicit: bool) -> str:
    """What is wrong with the length of the pixel data at which `f` stands, or ''."""
    start = pixel_start(f, syntax, implicit)
    if start is None:
        return "it ends before its pixel data"
    offset, length = start
    if length != 0xFFFFFFFF:
        needed = pixel_bytes(e) if syntax in NATIVE else length
        if size - offset < needed:
            return f"it is cut short: {size - offset} of {needed} bytes of pixel data are there"
        return f"its pixel data has {length} bytes where rows, columns and frames need {needed}" if length < needed else ""
    return "" if _whole(f, size) else "it is cut short in the middle of its compressed pixel data"


def pixel_start(f: BinaryIO, syntax: str, implicit: bool) -> tuple[int, int] | None:
    """(offset of the pixel data's value, its length as the file says), with `f` before its tag; leaves `f` at the value."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    start = f.read(8)
    if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
        return None
    if implicit:
        return f.tell(), struct.unpack(f"{order}I", start[4:])[0]
    more = f.read(4)
    return (f.tell(), struct.unpack(f"{order}I", more)[0]) if len(more) == 4 else None


def _whole(f: BinaryIO, size: int) -> bool:
    """Whether the fragments of encapsulated pixel data reach their delimiter."""
    while True:
        start = f.read(8)
        if len(start) < 8:
            return False
        group, element, length = struct.unpack("<HHI", start)
        if (group, element) == (0xFFFE, 0xE0DD):
            return True
        at = f.tell() + length
        if (group, element) != (0xFFFE, 0xE000) or at > size:
            return False
        f.seek(at)


def _deflated_fault(path: Path, e: Elements) -> str:
    from pydicom.filereader import dcmread

    pixels = dcmread(path, specific_tags=[PIXELS]).get_item(PIXELS) if path else None
    have = len(getattr(pixels, "value", None) or b"")
    needed = pixel_bytes(e)
    return "" if have >= needed else f"it is cut short: {have} of {needed} bytes of pixel data are there"
