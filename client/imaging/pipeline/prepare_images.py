"""Image preparation: a folder of images to the pictures of a table's patients. Surveyed by header,
chosen, prepared into the cache, and accounted for.

Whatever is wrong with one patient's images sets those aside, never the patient and never the site.
Sentences that name files or patients go to the site's log; what is told of a cohort are counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from client.imaging.dicom.rescale import stated
from client.imaging.dicom.series import straightened
from client.imaging.geometry.volumes import Header
from client.imaging.pipeline.header_index import HeaderIndex, IndexedFile, Stamp, fingerprint
from client.imaging.pipeline.image_cache import BrokenEntryError, Cache, Entry
from client.imaging.pipeline.image_folder import ImageFolder, passed_over
from client.imaging.pipeline.picture_set import PictureSet, account, cached, picture
from client.imaging.pipeline.prepare_case import Job, PreparedCase, key_of, make
from client.imaging.pipeline.worker_pool import WorkerDeath, each
from client.imaging.selection import duplicates
from client.imaging.selection.case import Case
from client.imaging.selection.identifiers import Keys, check
from client.imaging.selection.series_selection import Selection, choose
from client.table.dates import DateColumn
from common.data.schema import Imaging
from common.errors import Fault
from common.study.image_sections import ImagesSpec

Tell = Callable[[int, int], None]
"""(done, of): for a progress bar; counts the files whose headers are read, then the cases that are
prepared."""

WORKERS = 2
AWAY: Stamp = (-1, -1)
"""Stands for the stamp of a file that could not be opened: no file has it, so it is looked at
again."""
_BATCH = 64


@dataclass(frozen=True)
class PictureRequest:
    """Whose pictures are asked for, of which channels, and how the files name them."""

    spec: ImagesSpec
    imaging: Imaging
    source: str
    """The name of the source mapping."""
    ids: Collection[str]
    """The patients."""
    everybody: Collection[str] = ()
    """All ids of the table, also of those who were left out."""
    dates: DateColumn | None = None
    """The days of the table that examinations are held against, where the mapping names any. They
    stay here: nothing of them is in what is returned but the days between."""


@dataclass(frozen=True)
class _Preparation:
    """What the steps of one preparation share."""

    request: PictureRequest
    index: HeaderIndex
    cache: Cache
    workers: int
    tell: Tell


def read(
    root: Path,
    request: PictureRequest,
    cache: Path,
    *,
    tell: Tell = lambda done, of: None,
    workers: int | None = None,
) -> PictureSet:
    """The requested pictures under `root`.

    A first start reads headers, hashes and prepares, in `workers` processes of their own (None: as
    many as cores, at most two; 0: in this one, which a decoder that crashes then takes with it); an
    interrupt loses the cases that were being prepared and no others. A second start finds all in
    the cache and opens no image. Raises RunError S03 where the cache cannot be written, UsageError
    C02 where the mapping names what the study lacks, DataError where there are images and the
    column of dates says nothing.
    """
    check(request.spec, request.imaging, request.source)
    root = root.resolve()
    folder = ImageFolder.of(root, cache.resolve())
    files, unreadable = folder.files, folder.unreadable
    channels = tuple(c.name for c in request.imaging.channels)
    if not files and not unreadable:
        passed = passed_over(folder, {})
        none = "images: the folder holds none"
        return PictureSet(channels=channels, general=(none, *passed.notes), log=passed.log)
    store = Cache(cache)
    key = _digest(folder, request)
    damaged = 0
    try:
        if not unreadable and (earlier := cached(key, store)) is not None:
            tell(len(earlier.pictures), len(earlier.pictures))
            return earlier
    except BrokenEntryError:
        damaged = 1
    store.sweep()
    workers = min(WORKERS, os.cpu_count() or 1) if workers is None else workers
    work = _Preparation(request, HeaderIndex(cache), store, workers, tell)
    indexed = _survey(files, work)
    given = request.spec.rescale
    headers = [
        stated(file.header, (given.slope, given.intercept) if given else None)
        for file in indexed.values()
        if file.header is not None
    ]
    broken = [
        *unreadable,
        *((path, file.fault) for path, file in indexed.items() if file.fault is not None),
    ]
    from client.imaging.formats import readers as image_readers

    series = image_readers.group(headers)
    if request.spec.resample == "tilt":
        series = [straightened(single) for single in series]
    table = set(request.ids) | set(request.everybody)
    keys = Keys(request.spec, root).beside(table)
    selection = choose(series, headers, broken, keys, request.imaging, table, request.dates)
    for patient, rejection in duplicates.misspelt(selection.cases, series).items():
        del selection.cases[patient]
        selection.rejections[patient].append(rejection)
    for patient, rejection in duplicates.merged(series, keys, table).items():
        selection.cases.pop(patient, None)
        selection.rejections[patient].insert(0, rejection)
    cases = {i: selection.cases[i] for i in sorted(request.ids) if i in selection.cases}
    entries, remade = _filled(cases, selection, indexed, work)
    remade += damaged
    whole = len(entries) == len(cases) and not any(
        entry.metadata["passing"] for _, entry in entries.values()
    )
    _remark(entries, cases, selection)
    general, log = account(headers, broken, selection, request.ids, remade)
    passed = passed_over(folder, {path: file.header for path, file in indexed.items()}, broken)
    general, log = (*general, *passed.notes), (*log, *passed.log)
    pictures = PictureSet(
        {
            patient: picture(name, entry, store)
            for patient, (name, entry) in sorted(entries.items())
        },
        {i: rejections for i, rejections in selection.rejections.items() if rejections},
        {i: remarks for i, remarks in selection.remarks.items() if remarks},
        {i: taken for i, taken in selection.taken.items() if i in entries},
        request.dates.name if request.dates else "",
        channels,
        bool(request.imaging.regions),
        general,
        log,
        selection.strangers,
    )
    # what could not be opened, and what failed while it was being prepared, is tried again at the
    # next start
    if (
        whole
        and not unreadable
        and not remade
        and all(file.stamp != AWAY for file in indexed.values())
    ):
        store.store(key, {}, pictures.summary(), "album")
    return pictures


def _digest(folder: ImageFolder, request: PictureRequest) -> str:
    """Of all that the pictures follow from: the files' stamps and what is passed over, the table's
    ids, what study and mapping say, and this code."""
    spec, imaging = asdict(request.spec), asdict(request.imaging)
    sources = [
        folder.files,
        sorted(folder.passed.items()),
        folder.dangling,
        spec,
        imaging,
        request.source,
        sorted(request.ids),
        sorted(request.everybody),
        repr(request.dates),
        fingerprint(),
    ]
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


def _survey(files: Sequence[tuple[str, Stamp]], work: _Preparation) -> dict[str, IndexedFile]:
    """The index entry of every file; the headers of new ones are read, and indexed batch by
    batch."""
    out = {
        path: entry for path, stamp in files if (entry := work.index.get(path, stamp)) is not None
    }
    new = [(path, stamp) for path, stamp in files if path not in out]
    batches = [new[n : n + _BATCH] for n in range(0, len(new), _BATCH)]
    done = 0
    # a few hundred headers are read before another process has started
    for n, headers in each(headers_of, batches, work.workers if len(batches) > 8 else 0):
        if isinstance(headers, WorkerDeath):
            headers = _one_by_one(batches[n], work.workers)
        headers = [
            (path, replace(entry, sha256=work.index.sha256(path, entry.stamp)))
            for path, entry in headers
        ]
        work.index.add(headers)
        out.update(headers)
        done += len(batches[n])
        work.tell(done, len(new))
    return {path: out[path] for path, _ in files}


def headers_of(batch: Sequence[tuple[str, Stamp]]) -> list[tuple[str, IndexedFile]]:
    """The headers of some files; a file that is no image has neither header nor fault."""
    from client.imaging.formats import readers as images

    out = []
    for path, stamp in batch:
        header = images.header(Path(path))
        if isinstance(header, Fault):
            out.append((path, IndexedFile(stamp if _readable(path) else AWAY, None, header)))
        else:
            out.append((path, IndexedFile(stamp, header if isinstance(header, Header) else None)))
    return out


def _readable(path: str) -> bool:
    """Whether the file's system lets it be read at all: permissions may be mended without a trace
    in its stamp."""
    try:
        with open(path, "rb") as f:
            f.read(1)
    except OSError:
        return False
    return True


def _one_by_one(batch: Sequence[tuple[str, Stamp]], workers: int) -> list[tuple[str, IndexedFile]]:
    """The headers of a batch whose process died: of one of its files, probably."""
    out = []
    for n, headers in each(headers_of, [[pair] for pair in batch], workers):
        if isinstance(headers, WorkerDeath):
            path = batch[n][0]
            fault = Fault(
                "D00",
                path,
                f"reading it failed: {headers.how}",
                "Copy or export it again, or take it away",
            )
            headers = [(path, IndexedFile(AWAY, None, fault))]
        out += headers
    return out


Entries = dict[str, tuple[str, Entry]]
"""Patient -> key and entry of the cache."""


def _filled(
    cases: Mapping[str, Case],
    selection: Selection,
    indexed: Mapping[str, IndexedFile],
    work: _Preparation,
) -> tuple[Entries, int]:
    """The cases' entries of the cache, those that lacked prepared now; and how many were broken and
    were made again."""
    entries, jobs, remade = _cached_entries(cases, indexed, work)
    done = len(entries)
    work.tell(done, len(cases))
    for n, prepared in each(make, jobs, work.workers):
        patient = jobs[n].case.patient
        if isinstance(prepared, WorkerDeath):
            cause = (
                f"preparing it failed: {prepared.how}; perhaps there is not enough memory. "
                "Close other programs"
            )
            prepared = PreparedCase("", {}, ("D00", f"{jobs[n].case.files[0]}: {cause}"))
        work.index.add(
            (path, IndexedFile(stamp, indexed[path].header, None, sha))
            for path, (stamp, sha) in prepared.hashes.items()
        )
        rejection = prepared.rejection
        if rejection is None:
            try:
                entry = work.cache.open(prepared.key)
                if entry is not None:
                    entries[patient] = prepared.key, entry
            except BrokenEntryError as error:
                rejection = "D00", f"{error}: the disk does not keep what is written to it"
        if rejection is not None:
            selection.rejections[patient].append(rejection)
        done += 1
        work.tell(done, len(cases))
    return entries, remade


def _cached_entries(
    cases: Mapping[str, Case], indexed: Mapping[str, IndexedFile], work: _Preparation
) -> tuple[Entries, list[Job], int]:
    """The entries that are there, the jobs for those that are not, and how many of these were
    broken."""
    entries: Entries = {}
    jobs: list[Job] = []
    broken = 0
    for patient, case in cases.items():
        hashes = {f: indexed[f].sha256 for f in case.files if indexed[f].sha256}
        entry = None
        if len(hashes) == len(set(case.files)):
            key = key_of(case, hashes, work.request.imaging, work.request.spec)
            try:
                entry = work.cache.open(key)
            except BrokenEntryError:
                broken += 1
            if entry is not None:
                entries[patient] = key, entry
        if entry is None:
            jobs.append(Job(case, hashes, work.request.imaging, work.request.spec, work.cache))
    return entries, jobs, broken


def _remark(entries: Entries, cases: Mapping[str, Case], selection: Selection) -> None:
    """Sets aside images that several patients share, and notes what readers and preparation said of
    the others."""
    digests = {patient: entry.metadata["looks"] for patient, (_, entry) in entries.items()}
    for patient, rejection in duplicates.shared(digests, cases).items():
        del entries[patient]
        selection.rejections[patient].append(rejection)
    for patient, (_, entry) in entries.items():
        for series in (*cases[patient].channels.values(), *cases[patient].masks):
            selection.remarks[patient] += [(_counted(note), note) for note in series.notes]
        selection.remarks[patient] += [(_counted(note), note) for note in entry.metadata["notes"]]
        for code, text in entry.metadata["mask_troubles"]:
            selection.remarks[patient].append((f"a segmentation cannot be used, {code}", text))


def _counted(note: str) -> str:
    """What a reader's note has in common with others: without its numbers, and without what is
    quoted from a file."""
    return re.sub(r"\d+(\.\d+)?", "n", note.partition(": ")[0])
