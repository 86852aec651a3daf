"""A DICOM series to a float32 volume in Hounsfield units: ours against SimpleITK's series reader
and MONAI's PydicomReader.

    python -m bench.dicom [--slices 100 --repeats 7] [--only real|plain|compressed]

Readers take turns in one process on the same files, which the disk cache holds; a ratio is taken
turn by turn. Real slices are those of `FEDMETS_DATA` (default ../shared/data) where they are there:
41 of CRLM-CT-1004. Compressed series are those slices (or made ones) in each syntax. Each starts
from a folder, looks at the headers, sorts the slices and reads them; "again" starts from what is
known of the series, as a site does that remembers its headers (and as SimpleITK does when it is
given sorted files). Goals: at most 1.0 of SimpleITK (compressed too), at most 0.33 of MONAI.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.imaging.formats import readers as image_readers
from client.imaging.geometry.volumes import Header, Series
from tests.client.imaging import scans

DATA = Path(os.environ.get("FEDMETS_DATA", Path(__file__).parents[1].parent / "shared/data"))
Reader = Callable[[Series], NDArray[np.float32]]


def ours(series: Series) -> NDArray[np.float32]:
    return image_readers.read(grouped([Path(f) for f in series.files])).array


def again(series: Series) -> NDArray[np.float32]:
    return image_readers.read(series).array


def simpleitk(series: Series) -> NDArray[np.float32]:
    """From the folder, as its documentation has it: it sorts the files of a series by their
    headers."""
    import SimpleITK as sitk

    return _simpleitk(
        sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(Path(series.files[0]).parent))
    )


def simpleitk_again(series: Series) -> NDArray[np.float32]:
    """From files whose order is known."""
    return _simpleitk(series.files)


def _simpleitk(files: Sequence[str]) -> NDArray[np.float32]:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(list(files))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    return np.asarray(sitk.GetArrayFromImage(reader.Execute()))


def monai(series: Series) -> NDArray[np.float32]:
    from monai.data import PydicomReader

    reader = PydicomReader(swap_ij=False)
    array, _ = reader.get_data(reader.read(str(Path(series.files[0]).parent)))
    return np.asarray(array, np.float32)


def series_in(folder: Path) -> Series:
    return grouped(sorted(folder.iterdir()))


def grouped(paths: Sequence[Path]) -> Series:
    found = [image_readers.header(p) for p in paths]
    (series,) = image_readers.group([h for h in found if isinstance(h, Header)])
    if series.faults:
        raise SystemExit(str(series.faults))
    return series


def turns(readers: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each reader, one after the other, `repeats` times; the first turn, which imports,
    is not counted."""
    out: dict[str, list[float]] = {name: [] for name in readers}
    for n in range(repeats + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            read()
            if n:
                out[name].append(time.perf_counter() - start)
    return out


def spread(values: Sequence[float], unit: float = 1.0, digits: int = 2) -> str:
    return (
        f"{statistics.median(values) * unit:.{digits}f} [{min(values) * unit:.{digits}f}, "
        f"{max(values) * unit:.{digits}f}]"
    )


def compare(title: str, series: Series, readers: Mapping[str, Reader], repeats: int) -> None:
    truth = {name: read(series) for name, read in readers.items()}
    for name, array in truth.items():
        if name == "MONAI":  # its axes are (x, y, z) or (y, x, z), and slices may run the other way
            array = max(
                (
                    a
                    for t in (array.transpose(2, 0, 1), array.transpose(2, 1, 0))
                    for a in (t, t[::-1])
                ),
                key=lambda a: (
                    a.shape == truth["ours"].shape
                    and np.mean(np.maximum(a, -1024) == truth["ours"])
                ),
            )
        if not np.array_equal(np.maximum(array, -1024), truth["ours"]):
            raise SystemExit(f"{title}: {name} reads other values than ours")
    seconds = turns(
        {name: (lambda read=read: read(series)) for name, read in readers.items()}, repeats
    )
    count = len(series.slices)
    print(
        f"{title}: ms a slice "
        + ", ".join(f"{name} {spread(s, 1e3 / count)}" for name, s in seconds.items()),
        flush=True,
    )
    pairs = {
        "SimpleITK": ("ours", 1.0),
        "SimpleITK, again": ("ours, again", 1.0),
        "MONAI": ("ours", 0.33),
    }
    for name, (mine, goal) in pairs.items():
        if name in seconds:
            ratios = [a / b for a, b in zip(seconds[mine], seconds[name], strict=True)]
            met = "met" if statistics.median(ratios) <= goal else "MISSED"
            print(f"    {mine} / {name}: {spread(ratios)}, goal {goal}: {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("real", "plain", "compressed"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    two = {
        "ours": ours,
        "SimpleITK": simpleitk,
        "ours, again": again,
        "SimpleITK, again": simpleitk_again,
    }
    everyone = {**two, "MONAI": monai}
    real = DATA / "crlm/ct/CRLM-CT-1004"
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "made"
        scans.write(made, scans.body((given.slices, 512, 512)), scans.Scan(spacing=(0.75, 0.75)))
        if given.only in (None, "real"):
            if real.is_dir():
                compare("41 real slices", series_in(real), everyone, given.repeats)
            else:
                print(f"41 real slices: not run, {real} is not there (set FEDMETS_DATA)")
        if given.only in (None, "plain"):
            compare(f"{given.slices} slices 512x512", series_in(made), everyone, given.repeats)
        if given.only in (None, "compressed"):
            sources = sorted(real.iterdir())[:24] if real.is_dir() else sorted(made.iterdir())[:24]
            for syntax in ("JPEG lossless", "JPEG-LS", "JPEG 2000 lossless", "RLE"):
                compare(
                    f"{syntax}, {len(sources)} slices",
                    recoded(sources, Path(name) / syntax, syntax),
                    two,
                    given.repeats,
                )


def recoded(sources: Sequence[Path], folder: Path, syntax: str) -> Series:
    from pydicom import dcmread

    for path in sources:
        scans.save(dcmread(path), folder / path.name, syntax)
    return series_in(folder)


if __name__ == "__main__":
    main()
