"""Pixel data of a DICOM series, to a float32 volume: Hounsfield units for CT, rescaled values for
MR.

Headers have been read already (`client.imaging.formats.readers.header`) and say where pixels begin
and how they are stored, so no file is parsed a second time: uncompressed pixels are read from their
place, compressed ones go to the decoder that is fastest for their syntax. Slope and intercept are
those of each slice (each frame) itself. CT below -1024 HU is padding outside the field of view,
whatever number the scanner wrote there, and becomes -1024 HU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from client.imaging.dicom import bounded_gzip, bounded_inflate, rescale
from client.imaging.dicom import header as dicom_header
from client.imaging.dicom.elements import quiet
from client.imaging.dicom.pixel_layout import COPY_AGAIN, NATIVE
from client.imaging.geometry.straightening import straightened
from client.imaging.geometry.volumes import Header, Series, Volume
from common.data.modality import modality
from common.errors import DataError, Fault, raise_faults

LOWEST_HU = -1024.0
"""The lowest Hounsfield unit that is kept: below it scanners write padding (-2000, -3024,
-32768)."""

AIR_HU = -200.0
"""Below it there is gas (or lung), above it tissue."""
STORED_TISSUE = (850.0, 1200.0)
"""From fat to liver with contrast, as stored values at the usual offset of 1024."""
LEAST_AIR = 1e-3
"""Share of the measured voxels: a few odd ones are no air."""

PLUGINS = {
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.5": "pylibjpeg",
}
"""Transfer syntax -> the fastest of pydicom's plugins (`bench/dicom.py`); for the others there is
only one."""

BY_GDCM = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70, 90, 91))
"""Single frames of these are decoded by gdcm into our own memory; through pydicom's plugin the same
decoder's bytes go through a str."""


@dataclass
class _Account:
    """What happened on the way, for the notes and for guard D06."""

    low: float = np.inf
    high: float = -np.inf
    padded: int = 0
    notes: dict[str, None] = field(default_factory=dict)


def read(series: Series) -> Volume:
    """The volume of a series without faults, in the convention of
    `client.imaging.geometry.volumes`.

    Raises DataError: D00 for a file that cannot be decoded, D06 for a series with faults, doubled
    slices that differ, or values that are no CT's.
    """
    if series.faults or series.geometry is None or not series.slices:
        raise DataError(
            "D06",
            *(
                series.faults
                or (f"{series.uid}: it has no geometry and cannot be read as a volume",)
            ),
        )
    count = len(series.slices)
    axes = [abs(t) - 1 for t in series.turn]
    rows, columns = (series.geometry.shape[axes.index(a)] for a in (1, 2))
    if series.straight is not None:
        rows, columns = series.headers[0].rows, series.headers[0].columns
    out = np.empty((count, rows, columns), np.float32)
    account = _Account()
    by_file: dict[int, list[tuple[int, int]]] = {}
    for k, (file, frame) in enumerate(series.slices):
        by_file.setdefault(file, []).append((frame, k))
    for file, frames in by_file.items():
        header = series.headers[file] if series.headers else None
        # a header that was remembered by an older version may lack how pixels are stored
        _fill(
            header if header and header.scales else _again(series.files[file]), frames, out, account
        )
    _compare(series, out, account)
    if modality(series.modality).hounsfield:
        _check_hounsfield(series, out, account)
    elif account.low == account.high:
        raise_faults([Fault("D06", _first(series), f"every voxel is {account.low:g}", COPY_AGAIN)])
    if series.straight is not None:
        outside = LOWEST_HU if modality(series.modality).hounsfield else 0.0
        out = straightened(out, series.straight, outside)
    if series.turn != (1, 2, 3):
        flips = tuple(slice(None, None, -1 if t < 0 else 1) for t in series.turn)
        out = np.ascontiguousarray(out.transpose(axes)[flips])
    if account.padded:
        account.notes[
            f"padding: {account.padded} slices hold values below {LOWEST_HU:g} HU, which became "
            f"{LOWEST_HU:g} HU"
        ] = None
    return Volume(out, series.geometry, tuple(account.notes))


def _again(path: str) -> Header:
    header = dicom_header.header(Path(path))
    if isinstance(header, Header) and not header.faults:
        return header
    if isinstance(header, Fault):
        raise_faults([header])
    raise DataError(
        "D00",
        *(
            header.faults
            if isinstance(header, Header)
            else (f"{path}: it is no image any more. Start again",)
        ),
    )


def _first(series: Series) -> str:
    return (
        series.files[0]
        if len(series.files) == 1
        else f"{series.files[0]} and {len(series.files) - 1} more files"
    )


def _fill(
    header: Header, frames: Sequence[tuple[int, int]], out: NDArray[np.float32], account: _Account
) -> None:
    """Decode `frames` (frame, slice) of one file into their slices of `out`."""
    path = header.path
    try:
        numbers = [frame for frame, _ in frames]
        with quiet:
            for (frame, k), raw in zip(frames, _raw(header, numbers), strict=True):
                _rescale(raw, header, frame, out[k], account)
    except DataError:
        raise
    except OSError as e:
        raise DataError(
            "D00",
            f"{path}: it cannot be read ({e.strerror or e}). Check the file and its permissions",
        ) from e
    except Exception as e:  # decoders fail in their own ways: this series is lost, the site is not
        reason = str(e).strip().replace("\n", " ")[:160]
        raise DataError(
            "D00",
            f"{path}: its pixels cannot be decoded ({type(e).__name__}: {reason}). {COPY_AGAIN}",
        ) from e


def _dtype(h: Header) -> np.dtype[Any]:
    return np.dtype(f"{'>' if h.big_endian else '<'}{'i' if h.signed else 'u'}{h.allocated // 8}")


def _raw(h: Header, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
    """The stored values of `frames`, (rows, columns) each, bits as in the file."""
    if h.transfer_syntax == bounded_inflate.DEFLATED:
        length = h.offset + len(h.frames) * h.rows * h.columns * h.allocated // 8
        yield from _native(bounded_inflate.pixels(h.path, length), h, h.offset, frames)
        return
    if h.transfer_syntax in BY_GDCM and list(frames) == [0] and (raw := _by_gdcm(h)) is not None:
        yield raw
        return
    with bounded_gzip.opened(Path(h.path)) as f:
        f.seek(h.offset - 12)
        tag = b"\x7f\xe0\x00\x10" if h.big_endian else b"\xe0\x7f\x10\x00"
        if tag not in f.read(
            12
        ):  # 12 bytes before the value, or 8 where the value representation is implicit
            raise DataError(
                "D00", f"{h.path}: it has changed since its header was read. Start again"
            )
        if h.transfer_syntax in NATIVE:
            yield from _native(f, h, h.offset, frames)
        else:
            yield from _decoded(f.read(), h, frames)


def _native(f: BinaryIO, h: Header, start: int, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
    dtype, count = _dtype(h), h.rows * h.columns
    for frame in frames:
        f.seek(start + frame * count * dtype.itemsize)
        stored = f.read(count * dtype.itemsize)
        if len(stored) < count * dtype.itemsize:
            what = f"{len(stored)} of {count * dtype.itemsize} bytes of frame {frame + 1} are there"
            raise DataError("D00", f"{h.path}: it is cut short: {what}. {COPY_AGAIN}")
        yield np.frombuffer(stored, dtype, count).reshape(h.rows, h.columns)


def _by_gdcm(h: Header) -> NDArray[Any] | None:
    """The only frame of a compressed file; None when gdcm will not, or sees other pixels than the
    header promises."""
    import gdcm  # type: ignore[import-untyped]

    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    reader, box = gdcm.ImageRegionReader(), gdcm.BoxRegion()
    reader.SetFileName(h.path)
    if not reader.ReadInformation():
        return None
    box.SetDomain(0, h.columns - 1, 0, h.rows - 1, 0, 0)
    reader.SetRegion(box)
    raw = np.empty((h.rows, h.columns), _dtype(h))
    form = reader.GetImage().GetPixelFormat()
    same = (form.GetBitsAllocated(), form.GetSamplesPerPixel(), reader.ComputeBufferLength()) == (
        h.allocated,
        1,
        raw.nbytes,
    )
    return raw if same and reader.ReadIntoBuffer(raw.data.cast("B")) else None


def _decoded(data: bytes, h: Header, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Frames of encapsulated pixel data. A decoder that fails (on odd JPEG-LS, say) leaves them to
    pydicom's others; the first one's error is told when all have failed.

    JPEG Extended of 12 bits is read by none of them, and not by gdcm itself: its values wrap.
    """
    preferred = PLUGINS.get(h.transfer_syntax, "")
    try:
        whole = _by_pydicom(data, h, frames, preferred)
    except Exception as error:  # decoders fail in their own ways
        if not preferred:
            raise
        try:
            whole = _by_pydicom(data, h, frames, "")
        except Exception:
            raise error from None
    yield from (whole[n] for n in frames)


def _by_pydicom(
    data: bytes, h: Header, frames: Sequence[int], plugin: str
) -> dict[int, NDArray[Any]]:
    """The stored values of each frame. plugin: '' for whichever of pydicom's can."""
    from pydicom.pixels.decoders.base import get_decoder

    options: dict[str, Any] = {
        "raw": True,
        "decoding_plugin": plugin,
        "pixel_keyword": "PixelData",
        "rows": h.rows,
        "columns": h.columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": h.photometric or "MONOCHROME2",
        "number_of_frames": len(h.frames),
        "bits_allocated": h.allocated,
        "bits_stored": h.stored,
        "pixel_representation": int(h.signed),
    }
    decoder = get_decoder(h.transfer_syntax)
    if len(frames) == 1:
        return {frames[0]: decoder.as_array(data, index=frames[0], **options)[0]}
    order = sorted(frames)  # a decoder walks the fragments forwards
    arrays = decoder.iter_array(data, indices=order, **options)
    return {n: a for n, (a, _) in zip(order, arrays, strict=True)}


def _rescale(
    raw: NDArray[Any], h: Header, frame: int, out: NDArray[np.float32], account: _Account
) -> None:
    """Stored values of one slice to units, into `out`."""
    slope, intercept = h.scales[frame] if len(h.scales) > 1 else h.scales[0]
    padded = _padded(raw, h, slope, intercept, account)
    if h.stored < h.allocated:
        raw = _without_spare_bits(raw, h)
    if slope == 1.0 and intercept == int(intercept) and raw.dtype.itemsize < 4:
        np.add(raw, np.float32(intercept), out=out, dtype=np.float32)
    else:
        out[...] = raw * slope + intercept
    hounsfield = modality(h.modality).hounsfield
    if padded is not None:
        out[padded] = LOWEST_HU if hounsfield else 0.0
    low = float(out.min())
    if hounsfield and low < LOWEST_HU:
        np.maximum(out, np.float32(LOWEST_HU), out=out)
        account.padded += 1
    account.low, account.high = min(account.low, low), max(account.high, float(out.max()))


def _without_spare_bits(raw: NDArray[Any], h: Header) -> NDArray[Any]:
    """Overlays and rubbish above (or below) the stored bits removed, the sign extended."""
    shift = h.allocated - 1 - h.high
    shift = shift if 0 <= shift <= h.allocated - h.stored else h.allocated - h.stored
    return (raw << shift) >> (h.allocated - h.stored)


def _padded(
    raw: NDArray[Any], h: Header, slope: float, intercept: float, account: _Account
) -> NDArray[np.bool_] | None:
    """Where the file's padding stands, when it needs care.

    In CT padding mostly lies below -1024 HU, where all values end at -1024. It needs care when a
    negative number was written into unsigned pixels: then it is found by its bits, before the spare
    ones are removed. A padding value within the range of tissue is not believed.
    """
    if h.padding is None:
        return None
    value = h.padding - 65536 if h.signed and h.padding > 32767 else h.padding
    units = value * slope + intercept
    hounsfield = modality(h.modality).hounsfield
    if hounsfield and -1000.0 < units <= 4095.0:
        account.notes[
            f"PixelPaddingValue {value} means {units:g} HU, which tissue has too: it was not "
            "taken for padding"
        ] = None
        return None
    if (hounsfield and units <= LOWEST_HU) or (not hounsfield and value == 0):
        return None
    padding = np.asarray(raw == value)
    return padding if padding.any() else None


def _compare(series: Series, out: NDArray[np.float32], account: _Account) -> None:
    """Spare copies of a slice must equal the one that is kept."""
    spare = np.empty((1, *out.shape[1:]), np.float32)
    faults = []
    for path, frame, k in series.spares:
        first, kept = series.files[series.slices[k][0]], series.headers[series.slices[k][0]]
        header = _again(path)
        if rescale.missing([header]):
            header = replace(header, scales=kept.scales)  # as the source mapping states
        _fill(header, [(frame, 0)], spare, _Account())
        if not np.array_equal(spare[0], out[k]):
            what = "two slices lie at one position and differ, and nothing tells which is right"
            faults.append(
                Fault(
                    "D06", f"{first} and {path}", what, "Export the series again, or leave it out"
                )
            )
    raise_faults(faults)
    if series.spares:
        account.notes[
            f"doubled slices: {len(series.spares)} copies have equal pixels and were left out"
        ] = None


def _check_hounsfield(series: Series, out: NDArray[np.float32], account: _Account) -> None:
    """Guard D06: whether the values can be a CT's, once padding is taken out. Air must be there, or
    nearly everything be soft tissue (a cut-out of the body)."""
    what = ""
    if account.low == account.high:
        what = f"every voxel is {account.low:g} HU"
    elif account.high > 60_000:
        what = f"values reach {account.high:g} HU"
    else:
        what = _not_rescaled(out, _outside(series, out, account))
    if what:
        raise_faults(
            [
                Fault(
                    "D06",
                    _first(series),
                    what,
                    "Check RescaleSlope and RescaleIntercept at the scanner's export",
                )
            ]
        )


def _outside(series: Series, out: NDArray[np.float32], account: _Account) -> set[float]:
    """HU of what is no measurement: what was raised to the lowest HU, PixelPaddingValue, and a
    number that stands in every corner of most slices (scanners fill what lies round their circle
    with it)."""
    outside = {LOWEST_HU} if account.padded else set()
    for header in series.headers[:1]:
        if header.padding is not None and header.scales:
            slope, intercept = header.scales[0]
            outside |= {
                value * slope + intercept for value in (header.padding, header.padding - 65536)
            }
    corners = out[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    values, counts = np.unique(corners, return_counts=True)
    if counts.max() > 0.5 * corners.size:
        outside.add(float(values[counts.argmax()]))
    return outside


def _not_rescaled(out: NDArray[np.float32], outside: set[float]) -> str:
    """Why the values look as a scanner stores them, about 1024 above Hounsfield units; '' where they
    do not.

    Stored values have air near 0, which passes for water: what tells is the body, which is all
    above 300 and most of it near 1024, where in Hounsfield units only the densest bone is.
    """
    sample = out[:: max(1, len(out) // 16), ::4, ::4]
    measured = sample[~np.isin(sample, np.array(sorted(outside), np.float32))]
    if not measured.size or float((measured < AIR_HU).mean()) > LEAST_AIR:
        return ""
    middle = sample[:, sample.shape[1] // 4 :, sample.shape[2] // 4 :]
    middle = middle[:, : -(-sample.shape[1] // 2), : -(-sample.shape[2] // 2)]
    dense = float((measured > 300).mean())
    low, high = STORED_TISSUE
    stored = float(((measured >= low) & (measured <= high)).mean())
    if (
        float(((measured >= AIR_HU) & (measured <= 300)).mean()) >= 0.5
        and float(np.median(middle)) <= 300
        and not (dense > 0.03 and stored > 0.6 * dense)
    ):
        return ""
    return (
        f"within the padding no voxel is below {AIR_HU:g} HU and {dense:.0%} of them are above 300 "
        "HU: its values are not rescaled to Hounsfield units"
    )
