"""Patient identifiers and sequence names of image files, as a source mapping says how to read
them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath

from client.imaging.geometry.volumes import Series
from common.data.schema import Imaging
from common.errors import UsageError
from common.study.image_sections import ImagesSpec


@dataclass(frozen=True)
class Keys:
    """Reads patients' keys as the source mapping says."""

    spec: ImagesSpec
    root: Path
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """An id that counts anew in each hospital -> the patients of the table that have it."""

    def beside(self, table: Collection[str]) -> Keys:
        """The same, with the patients of a table whose ids count anew in each hospital, `hospital:
        id`."""
        if not self.spec.id_per_site:
            return self
        owners: dict[str, list[str]] = {}
        for patient in sorted(table):
            owners.setdefault(patient.rpartition(": ")[2], []).append(patient)
        return replace(self, owners={plain: tuple(ids) for plain, ids in owners.items()})

    def owner(self, plain: str, path: str) -> str:
        """The table's patient that an id in a file is of: by the hospital in its path, else the only
        one that has it; else the id as it is."""
        if not self.spec.id_per_site or not plain:
            return plain
        if self.spec.site_pattern:
            match = re.search(self.spec.site_pattern, self.inside(path))
            if match is None:
                return plain
            whole_or_first = match.group(1) if match.re.groups else match.group()
            return f"{match.groupdict().get('site', whole_or_first)}: {plain}"
        patients = self.owners.get(plain, ())
        return patients[0] if len(patients) == 1 else plain

    def of(self, series: Series) -> tuple[str, str]:
        """The patient's id ('' where there is none), and the study."""
        by_path = series.kind == "nifti" or self.spec.id == "path"
        first = series.files[0] if series.files else series.uid
        patient, study = self.parse(self.inside(first) if by_path else series.patient)
        if not study:
            study = str(PurePath(first).parent) if series.kind == "nifti" else series.study
        return self.owner(patient, first), study

    def spelt(self, series: Series) -> str:
        """The patient's id as it is written, before zeros are dropped."""
        by_path = series.kind == "nifti" or self.spec.id == "path"
        first = series.files[0] if series.files else series.uid
        return self._found(self.inside(first) if by_path else series.patient)[0]

    def parse(self, text: str) -> tuple[str, str]:
        """The id and the study that a path or a PatientID tells; '' where it tells none."""
        text, study = self._found(text)
        return ((text.lstrip("0") or text) if self.spec.strip_zeros else text), study

    def _found(self, text: str) -> tuple[str, str]:
        study = ""
        if self.spec.id_pattern:
            match = re.search(self.spec.id_pattern, text)
            if match is None:
                return "", ""
            groups = match.groupdict()
            whole_or_first = match.group(1) if match.re.groups else match.group()
            text = groups.get("id", whole_or_first)
            study = groups.get("study") or ""
        text = (text or "").strip()
        return (text[: self.spec.id_length] if self.spec.id_length else text), study

    def inside(self, path: str) -> str:
        """A path as seen from the folder of images."""
        try:
            return Path(path).relative_to(self.root).as_posix()
        except ValueError:
            return path


def named(path: str, patterns: Mapping[str, Sequence[str]]) -> str:
    """The name whose pattern matches a file; of several the longest pattern; '' where none does.

    A pattern is matched with the file's own name, for a folder's name may hold anything; one with a
    '/' with as many of its last parts, each by itself.
    """
    pure = PurePosixPath(path)
    hits = [(len(p), name) for name, ps in patterns.items() for p in ps if _matches(pure, p)]
    return max(hits)[1] if hits else ""


def is_mask(path: str, spec: ImagesSpec) -> bool:
    """Is a volume file a label map, by the mapping's patterns?"""
    patterns = {"": spec.mask, **spec.mask_files}
    return any(_matches(PurePosixPath(path), p) for ps in patterns.values() for p in ps)


def _matches(path: PurePosixPath, pattern: str) -> bool:
    wanted = [part for part in pattern.split("/") if part]
    last = path.parts[-len(wanted) :]
    return len(last) == len(wanted) > 0 and all(
        fnmatch.fnmatchcase(part, p) for part, p in zip(last, wanted, strict=True)
    )


def check(spec: ImagesSpec, imaging: Imaging, source: str) -> None:
    """What the mapping names, the study must have (C02)."""
    channels, regions = [c.name for c in imaging.channels], list(imaging.regions)
    faults = [
        f"images.channels: '{n}' is none of the study's channels {', '.join(channels)}"
        for n in spec.channels
        if n not in channels
    ]
    by_region = (
        ("regions", spec.regions),
        ("values", spec.values),
        ("mask_files", spec.mask_files),
    )
    for key, names in by_region:
        faults += [
            f"images.{key}: '{n}' is none of the study's regions "
            f"{', '.join(regions) or '(it has none)'}"
            for n in names
            if n not in regions
        ]
    if faults:
        raise UsageError(
            "C02", *(f"source mapping '{source}': {f}; correct the mapping" for f in faults)
        )
