"""Folder of images: the files in it that may be one, and the account of those that are not read.

Nothing lies there unseen: packed archives, pictures, links that lead nowhere, files of a kind that
is not read, and DICOM of other modalities are counted, with the way out. Notes name a suffix or a
modality where it is a known one; the others stay in the site's log, for a name may hold anything.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from client.imaging.formats.readers import VOXELS_OF_PAIRS, is_text
from client.imaging.geometry.volumes import Header
from client.imaging.pipeline.header_index import Stamp
from common.errors import Fault

DOCUMENTS = (
    ".csv", ".tsv", ".txt", ".tab", ".xls", ".xlsx", ".xlsm", ".parquet", ".pq", ".json", ".jsonl",
    ".toml", ".yaml", ".yml", ".xml", ".html", ".htm", ".md", ".pdf", ".doc", ".docx", ".rtf",
    ".py", ".sh", ".log", ".exe", ".bval", ".bvec", ".sha256", ".md5", ".part", ".lock", ".tcia",
    ".csv.gz", ".tsv.gz", ".txt.gz", ".json.gz",
)  # fmt: skip
"""Files of these kinds are no images, and are not opened to find that out."""
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".rar", ".7z", ".iso")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".svg", ".tif", ".tiff", ".webp")
OTHER_FORMATS = (
    ".mgz", ".mgh", ".mnc", ".gipl", ".gipl.gz", ".vtk", ".vti", ".stl", ".obj", ".ply", ".par",
    ".rec", ".nii.bz2", ".nii.xz", ".dcm.bz2", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".b2nd",
    ".pt", ".pkl", ".pickle", ".dcm.zip", ".fdf", ".2dseq", ".v", ".hv", ".img", ".img.gz", ".hdr",
    ".raw", ".zraw", ".raw.gz", ".bin", ".dat", ".gz", ".bz2", ".xz",
)  # fmt: skip
"""Formats that people keep images in and that are not read."""
OTHER_MODALITIES = frozenset(
    ("PT", "NM", "US", "CR", "DX", "DR", "MG", "XA", "RF", "RG", "IO", "OP", "OPT", "SM", "ES",
     "GM", "XC", "OT", "SC", "SR", "PR", "KO", "DOC", "REG", "FID", "RWV", "ECG", "RTDOSE",
     "RTPLAN", "RTIMAGE", "RTRECORD")
)  # fmt: skip
"""DICOM's names of modalities (PS3.3, C.7.3.1.1.1) that an archive's folders hold beside CT and
MR."""

WAYS_OUT = {
    "archive": "unpack them",
    "picture": "pictures have no place in the patient and no measured values: export DICOM",
    "format": "export them as DICOM, or convert them to NIfTI, NRRD or MetaImage",
    "link": "mend the links, or copy what they should lead to",
    "device": "they hold nothing: move them out of the folder",
    "modality": "export CT or MR too where the study asks for it; else nothing is to be done",
}


@dataclass(frozen=True)
class ImageFolder:
    """What lies in a folder of images."""

    files: Sequence[tuple[str, Stamp]]
    """That may be images, sorted."""
    unreadable: Sequence[tuple[str, Fault]]
    """Folders that cannot be entered."""
    passed: Mapping[str, int]
    """Archives and pictures by suffix: they are not opened."""
    dangling: Sequence[str]
    """Links that lead nowhere."""
    devices: Sequence[str] = ()
    """What is neither file nor folder: pipes, sockets, devices, links to them. Never opened."""

    @classmethod
    def of(cls, root: Path, cache: Path) -> ImageFolder:
        """All below `root`, without the site's own `cache`. Links are followed, and no folder is
        entered twice."""
        files: list[tuple[str, Stamp]] = []
        unreadable: list[tuple[str, Fault]] = []
        passed: Counter[str] = Counter()
        dangling: list[str] = []
        devices: list[str] = []
        entered: set[tuple[int, int]] = set()
        folders = [str(root)] if root.is_dir() else []
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    inside = [e for e in entries if not e.name.startswith(".")]
            except OSError as error:
                what = f"the folder cannot be read ({error.strerror})"
                unreadable.append((folder, Fault("D00", folder, what, "Mend its permissions")))
                continue
            for entry in inside:
                try:
                    status = entry.stat()
                except OSError:
                    if entry.is_symlink():
                        dangling.append(entry.path)
                    continue
                suffix = _suffix(entry.name, ARCHIVES + PICTURES)
                if entry.is_dir():
                    if Path(entry.path) != cache and (status.st_dev, status.st_ino) not in entered:
                        entered.add((status.st_dev, status.st_ino))
                        folders.append(entry.path)
                elif suffix:
                    passed[suffix] += 1
                elif not entry.is_file():
                    devices.append(entry.path)
                elif not entry.name.lower().endswith(DOCUMENTS):
                    files.append((entry.path, (status.st_size, status.st_mtime_ns)))
        return cls(sorted(files), unreadable, dict(passed), sorted(dangling), sorted(devices))


@dataclass(frozen=True)
class PassedOver:
    """What is to be said of all that is not read."""

    notes: tuple[str, ...]
    log: tuple[str, ...]


def passed_over(
    folder: ImageFolder,
    headers: Mapping[str, Header | None],
    broken: Sequence[tuple[str, Fault]] = (),
) -> PassedOver:
    """`headers`: of each of the folder's files, None where it has none; `broken`: the files that
    should have had one."""
    told = {path for path, _ in broken}
    told |= {c for h in headers.values() if h is not None for c in h.companions}
    kinds: dict[str, Counter[str]] = {kind: Counter() for kind in WAYS_OUT}
    for suffix, n in folder.passed.items():
        kinds["archive" if suffix in ARCHIVES else "picture"][suffix] += n
    strange: dict[str, str] = {}
    for path, header in headers.items():
        if header is not None or path in told or _beside_its_header(path, headers):
            continue
        name = PurePath(path).name
        suffix = _suffix(name, OTHER_FORMATS)
        own = PurePath(name).suffix
        if suffix or own:
            kinds["format"][suffix or "of another suffix"] += 1
            strange.setdefault(suffix or own, path)
        elif not _is_text(path):
            kinds["format"]["without a suffix"] += 1
            strange.setdefault("without a suffix", path)
    if folder.dangling:
        kinds["link"]["links that lead nowhere"] = len(folder.dangling)
    if folder.devices:
        kinds["device"]["pipes, sockets or devices"] = len(folder.devices)
    series: dict[str, set[str]] = {}
    for header in headers.values():
        if header is not None and header.kind == "dicom" and header.modality == "other":
            known = header.declared_modality in OTHER_MODALITIES
            name = header.declared_modality if known else "of another modality"
            kinds["modality"][name] += 1
            series.setdefault(name, set()).add(header.series)
    notes = []
    for kind, counts in kinds.items():
        if counts:
            unit = "DICOM files" if kind == "modality" else "files"
            parts = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
            notes.append(f"images: {unit} that are not read: {parts} ({WAYS_OUT[kind]})")
    log = [f"images: not read, a link that leads nowhere: {path}" for path in folder.dangling[:20]]
    log += [f"images: not read, no file: {path}" for path in folder.devices[:20]]
    log += [f"images: not read, '{own}', such as {path}" for own, path in sorted(strange.items())]
    log += [f"images: not read, {len(uids)} series {name}" for name, uids in sorted(series.items())]
    return PassedOver(tuple(notes), tuple(log))


def _suffix(name: str, known: tuple[str, ...]) -> str:
    """The longest of the known suffixes that a name has, or ''."""
    return max((s for s in known if name.lower().endswith(s)), key=len, default="")


def _is_text(path: str) -> bool:
    """Whether it is a note (README), or cannot be opened, as its own fault says."""
    try:
        with open(path, "rb") as f:
            start = f.read(512)
    except OSError:
        return True
    return not start or is_text(start)


def _beside_its_header(path: str, headers: Mapping[str, Header | None]) -> bool:
    """Is it a file of voxels whose header, broken or not, is there under the same name?"""
    suffix = _suffix(path, VOXELS_OF_PAIRS)
    stem = path[: -len(suffix)] if suffix else ""
    return bool(stem) and any(
        stem + s in headers for s in (".hdr", ".hdr.gz", ".mhd", ".nhdr", ".HDR")
    )
