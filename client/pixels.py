"""A DICOM series' pixels to a float32 volume: Hounsfield units for CT, rescaled values for MR.

Uncompressed slices are read in one pass: the header up to the pixels, then the pixels straight from where the file stands. Compressed
ones go through pydicom's decoders, each syntax through the plugin that is fastest for it. Slope and intercept are taken from each slice
(each frame) itself. CT below -1024 HU is padding outside the field of view, whatever number the scanner wrote there, and becomes -1024 HU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from client.dicom import (
    ALLOCATED,
    BIG_ENDIAN,
    COLUMNS,
    COPY_AGAIN,
    DEFLATED,
    FRAMES,
    NATIVE,
    PER_FRAME,
    PHOTOMETRIC,
    PIXELS,
    ROWS,
    SAMPLES,
    SHARED,
    Elements,
    implicit,
    pixel_start,
    quiet,
)
from client.volumes import Series, Volume
from common.errors import DataError, Fault, raise_faults

if TYPE_CHECKING:
    from pydicom import FileDataset

AIR = -1024.0
"""The lowest Hounsfield unit that is kept: below it scanners write padding (-2000, -3024, -32768)."""

STORED, HIGH, SIGNED = 0x00280101, 0x00280102, 0x00280103
PADDING, INTERCEPT, SLOPE, RESCALE_TYPE, LUT, TRANSFORMATION = 0x00280120, 0x00281052, 0x00281053, 0x00281054, 0x00283000, 0x00289145
NEEDED = [
    ROWS,
    COLUMNS,
    SAMPLES,
    PHOTOMETRIC,
    FRAMES,
    ALLOCATED,
    STORED,
    HIGH,
    SIGNED,
    PADDING,
    INTERCEPT,
    SLOPE,
    RESCALE_TYPE,
    LUT,
    SHARED,
    PER_FRAME,
]

PLUGINS = {
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "gdcm",
    "1.2.840.10008.1.2.4.91": "gdcm",
    "1.2.840.10008.1.2.5": "pylibjpeg",
}
"""Transfer syntax -> the fastest of pydicom's plugins (`bench/dicom.py`); for the others there is only one."""


@dataclass(frozen=True)
class _Layout:
    """How one file's pixels are stored."""

    path: str
    modality: str
    rows: int
    columns: int
    allocated: int
    stored: int
    high: int
    signed: bool
    padding: int | None
    scales: tuple[tuple[float, float], ...]
    """(slope, intercept) of every frame, or of all of them."""

    def dtype(self, order: str = "<") -> np.dtype[Any]:
        return np.dtype(f"{order}{'i' if self.signed else 'u'}{self.allocated // 8}")


@dataclass
class _Account:
    """What happened on the way, for the notes and for guard D06."""

    low: float = np.inf
    high: float = -np.inf
    padded: int = 0
    notes: dict[str, None] = field(default_factory=dict)


def read(series: Series) -> Volume:
    """The volume of a series without faults, in the convention of `client.volumes`.

    Raises DataError: D00 for a file that cannot be decoded, D06 for doubled slices that differ or values that are no CT's, D07 for a
    rescaling that cannot be applied.
    """
    if series.geometry is None or not series.slices:
        raise DataError("D06", *(series.faults or (f"{series.uid}: it has no geometry and cannot be read as a volume",)))
    count = len(series.slices)
    axes = [abs(t) - 1 for t in series.turn]
    rows, columns = (series.geometry.shape[axes.index(a)] for a in (1, 2))
    out = np.empty((count, rows, columns), np.float32)
    account = _Account()
    wanted: dict[int, list[tuple[int, int]]] = {}
    for k, (file, frame) in enumerate(series.slices):
        wanted.setdefault(file, []).append((frame, k))
    for file, frames in wanted.items():
        _fill(series.files[file], series.modality, frames, out, account)
    _compare(series, out, account)
    if series.modality == "CT":
        _check_hounsfield(series, out, account)
    elif account.low == account.high:
        raise_faults([Fault("D06", _first(series), f"every voxel is {account.low:g}", COPY_AGAIN)])
    if series.turn != (1, 2, 3):
        flips = tuple(slice(None, None, -1 if t < 0 else 1) for t in series.turn)
        out = np.ascontiguousarray(out.transpose(axes)[flips])
    if account.padded:
        account.notes[f"padding: {account.padded} slices hold values below {AIR:g} HU, which became {AIR:g} HU"] = None
    return Volume(out, series.geometry, tuple(account.notes))


def _first(series: Series) -> str:
    return series.files[0] if len(series.files) == 1 else f"{series.files[0]} and {len(series.files) - 1} more files"


def _fill(path: str, modality: str, frames: Sequence[tuple[int, int]], out: NDArray[np.float32], account: _Account) -> None:
    """Decode `frames` (frame, slice) of one file into their slices of `out`."""
    try:
        with quiet, Path(path).open("rb") as f:
            dataset, syntax = _open(f)
            layout = _layout(path, modality, dataset)
            if (layout.rows, layout.columns) != out.shape[1:]:
                raise DataError(
                    "D00", f"{path}: it has changed since its header was read ({layout.rows}x{layout.columns} now). Start again"
                )
            wanted = [frame for frame, _ in frames]
            for (frame, k), raw in zip(frames, _raw(f, dataset, syntax, layout, wanted), strict=True):
                _rescale(raw, layout, frame, out[k], account)
    except DataError:
        raise
    except OSError as e:
        raise DataError("D00", f"{path}: it cannot be read ({e.strerror or e}). Check the file and its permissions") from e
    except Exception as e:  # decoders fail in their own ways: this series is lost, the site is not
        reason = str(e).strip().replace("\n", " ")[:160]
        raise DataError("D00", f"{path}: its pixels cannot be decoded ({type(e).__name__}: {reason}). {COPY_AGAIN}") from e


def _open(f: BinaryIO) -> tuple[FileDataset, str]:
    from pydicom.filereader import dcmread

    dataset = dcmread(f, stop_before_pixels=True, specific_tags=NEEDED, force=True)
    meta = getattr(dataset, "file_meta", None)
    return dataset, str(meta.get("TransferSyntaxUID", "")) if meta else ""


def _raw(f: BinaryIO, dataset: FileDataset, syntax: str, layout: _Layout, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
    """The stored values of `frames`, (rows, columns) each, bits as in the file; `f` stands before the pixel data."""
    if syntax == DEFLATED:
        from pydicom.filereader import dcmread

        pixels = dcmread(layout.path, specific_tags=[PIXELS]).get_item(PIXELS)
        f, start = BytesIO(getattr(pixels, "value", None) or b""), 0
    else:
        found = pixel_start(f, syntax, implicit(dataset, syntax))
        if not found:
            raise DataError("D00", f"{layout.path}: it ends before its pixel data. {COPY_AGAIN}")
        start = found[0]
    if syntax not in NATIVE:
        yield from _decoded(f.read(), dataset, syntax, layout, frames)
        return
    big = syntax == BIG_ENDIAN or (not syntax and not dataset.original_encoding[1])
    kind, count = layout.dtype(">" if big else "<"), layout.rows * layout.columns
    for frame in frames:
        f.seek(start + frame * count * kind.itemsize)
        part = f.read(count * kind.itemsize)
        if len(part) < count * kind.itemsize:
            what = f"{len(part)} of {count * kind.itemsize} bytes of frame {frame + 1} are there"
            raise DataError("D00", f"{layout.path}: it is cut short: {what}. {COPY_AGAIN}")
        yield np.frombuffer(part, kind, count).reshape(layout.rows, layout.columns)


def _decoded(data: bytes, dataset: FileDataset, syntax: str, layout: _Layout, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Frames of encapsulated pixel data, whose header has been read already."""
    from pydicom.pixels.decoders.base import get_decoder

    e = Elements(dataset)
    options: dict[str, Any] = {
        "raw": True,
        "decoding_plugin": PLUGINS.get(syntax, ""),
        "pixel_keyword": "PixelData",
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": e.text(PHOTOMETRIC) or "MONOCHROME2",
        "number_of_frames": max(1, e.whole(FRAMES) or 1),
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
    }
    decoder = get_decoder(syntax)
    if len(frames) == 1:
        yield decoder.as_array(data, index=frames[0], **options)[0]
        return
    order = sorted(frames)  # a decoder walks the fragments forwards
    whole = {n: a for n, (a, _) in zip(order, decoder.iter_array(data, indices=order, **options), strict=True)}
    yield from (whole[n] for n in frames)


def _layout(path: str, modality: str, dataset: FileDataset) -> _Layout:
    e = Elements(dataset)
    allocated = e.short(ALLOCATED, 16)
    stored = e.short(STORED, allocated) or allocated
    faults = []
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or e.short(SAMPLES, 1) != 1:
        what = f"{allocated} bits allocated, {stored} stored, {e.short(SAMPLES, 1)} samples a pixel"
        faults.append(Fault("D00", path, f"its pixels are stored in a way that is not read here ({what})", COPY_AGAIN))
    shared, each = e.first(SHARED), e.items(PER_FRAME)
    scales = []
    for item in each or [e]:
        group = item.first(TRANSFORMATION) or (shared and shared.first(TRANSFORMATION)) or e
        scales.append(_scale(path, modality, e, group, faults))
    raise_faults(faults[:1])
    padding = e.packed(PADDING, "H")
    return _Layout(
        path=path,
        modality=modality,
        rows=e.short(ROWS),
        columns=e.short(COLUMNS),
        allocated=allocated,
        stored=stored,
        high=e.short(HIGH, stored - 1),
        signed=e.short(SIGNED) == 1,
        padding=int(padding[0]) if padding and allocated == 16 else None,
        scales=tuple(scales),
    )


def _scale(path: str, modality: str, e: Elements, group: Elements, faults: list[Fault]) -> tuple[float, float]:
    """(slope, intercept); 1 and 0 where the file gives none, as the standard has it for MR."""
    way = "Export the series with a linear rescaling, or leave it out"
    if table := e.first(LUT):
        linear = _linear(table)
        if linear is None:
            faults.append(Fault("D07", path, "its values go through a modality LUT that is no straight line", way))
        return linear or (1.0, 0.0)
    told, unit = (group.holds(SLOPE), group.holds(INTERCEPT)), group.text(RESCALE_TYPE).upper()
    slope, intercept = group.decimal(SLOPE), group.decimal(INTERCEPT)
    if (told[0] and not slope) or (told[1] and intercept is None):
        faults.append(Fault("D07", path, f"RescaleSlope or RescaleIntercept is unreadable or zero ({slope}, {intercept})", way))
    if modality == "CT" and unit not in ("", "HU", "US", "UNSPECIFIED", "NORMALIZED", "HU_MOD"):
        way = "Send the reconstruction in Hounsfield units"
        faults.append(Fault("D06", path, f"its values are of the type '{unit}', not Hounsfield units", way))
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def _linear(table: Elements) -> tuple[float, float] | None:
    """A lookup table that is a straight line, as (slope, intercept)."""
    described = table.packed(0x00283002, "H")
    data = np.array(table.packed(0x00283006, "H"), np.int64)
    steps = np.diff(data)
    if len(described) < 2 or len(data) < 2 or not steps[0] or (steps != steps[0]).any():
        return None
    slope, first = float(steps[0]), described[1] - (65536 if described[1] > 32767 else 0)
    return slope, float(data[0]) - slope * first


def _rescale(raw: NDArray[Any], layout: _Layout, frame: int, out: NDArray[np.float32], account: _Account) -> None:
    """Stored values of one slice to units, into `out`."""
    slope, intercept = layout.scales[frame] if len(layout.scales) > 1 else layout.scales[0]
    padded = _padded(raw, layout, slope, intercept, account)
    if layout.stored < layout.allocated:
        raw = _without_spare_bits(raw, layout)
    if slope == 1.0 and intercept == int(intercept) and raw.dtype.itemsize < 4:
        np.add(raw, np.float32(intercept), out=out, dtype=np.float32)
    else:
        out[...] = raw * slope + intercept
    ct = layout.modality == "CT"
    if padded is not None:
        out[padded] = AIR if ct else 0.0
    low = float(out.min())
    if ct and low < AIR:
        np.maximum(out, np.float32(AIR), out=out)
        account.padded += 1
    account.low, account.high = min(account.low, low), max(account.high, float(out.max()))


def _without_spare_bits(raw: NDArray[Any], layout: _Layout) -> NDArray[Any]:
    """Overlays and rubbish above (or below) the stored bits removed, the sign extended."""
    up = layout.allocated - 1 - layout.high
    up = up if 0 <= up <= layout.allocated - layout.stored else layout.allocated - layout.stored
    return (raw << up) >> (layout.allocated - layout.stored)


def _padded(raw: NDArray[Any], layout: _Layout, slope: float, intercept: float, account: _Account) -> NDArray[np.bool_] | None:
    """Where the file's padding stands, when it needs care.

    In CT padding mostly lies below -1024 HU, where all values end at -1024. It needs care when a negative number was written into unsigned
    pixels: then it is found by its bits, before the spare ones are removed. A padding value within the range of tissue is not believed.
    """
    if layout.padding is None:
        return None
    value = layout.padding - 65536 if layout.signed and layout.padding > 32767 else layout.padding
    units = value * slope + intercept
    if layout.modality == "CT" and -1000.0 < units <= 4095.0:
        account.notes[f"PixelPaddingValue {value} means {units:g} HU, which tissue has too: it was not taken for padding"] = None
        return None
    if (layout.modality == "CT" and units <= AIR) or (layout.modality != "CT" and value == 0):
        return None
    found = np.asarray(raw == value)
    return found if found.any() else None


def _compare(series: Series, out: NDArray[np.float32], account: _Account) -> None:
    """Spare copies of a slice must equal the one that is kept."""
    spare = np.empty((1, *out.shape[1:]), np.float32)
    faults = []
    for path, frame, k in series.spares:
        _fill(path, series.modality, [(frame, 0)], spare, _Account())
        if not np.array_equal(spare[0], out[k]):
            kept = series.files[series.slices[k][0]]
            what = "two slices lie at one position and differ, and nothing tells which is right"
            faults.append(Fault("D06", f"{kept} and {path}", what, "Export the series again, or leave it out"))
    raise_faults(faults)
    if series.spares:
        account.notes[f"doubled slices: {len(series.spares)} copies have equal pixels and were left out"] = None


def _check_hounsfield(series: Series, out: NDArray[np.float32], account: _Account) -> None:
    """Guard D06: whether the values can be a CT's. Air must be there, or nearly everything be soft tissue (a cut-out of the body)."""
    what = ""
    if account.low == account.high:
        what = f"every voxel is {account.low:g} HU"
    elif account.high > 60_000:
        what = f"values reach {account.high:g} HU"
    elif account.low >= -200.0:
        sample = out[:: max(1, len(out) // 16), ::4, ::4]
        soft = float(((sample >= -200) & (sample <= 300)).mean())
        if soft < 0.5:
            what = f"no voxel is below -200 HU and {1 - soft:.0%} of them are above 300 HU: its values are not rescaled to Hounsfield units"
    if what:
        raise_faults([Fault("D06", _first(series), what, "Check RescaleSlope and RescaleIntercept at the scanner's export")])
