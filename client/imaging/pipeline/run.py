"""A folder of images to the pictures of a table's patients: surveyed by header, chosen, prepared into the cache, and accounted for.

Whatever is wrong with one patient's images sets those aside, never the patient and never the site. Sentences that name files or
patients go to the site's log; what is told of a cohort are counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from client.imaging.geometry.volumes import Header
from client.imaging.pipeline.header_index import Known, Remembered, Stamp, fingerprint
from client.imaging.pipeline.image_cache import Broken, Cache, Entry
from client.imaging.pipeline.picture_set import Album, account, picture, remembered
from client.imaging.pipeline.prepare_case import Job, Made, key_of, make
from client.imaging.pipeline.worker_pool import Lost, each
from client.imaging.selection import duplicates
from client.imaging.selection.case import Case
from client.imaging.selection.identifiers import Keys, check
from client.imaging.selection.series_selection import Chosen, choose
from client.table.mapping import ImagesSpec
from common.data.picture import Picture
from common.data.schema import Imaging
from common.errors import Fault

Tell = Callable[[int, int], None]
"""(done, of): for a progress bar; counts the files whose headers are read, then the cases that are prepared."""

WORKERS = 2
AWAY: Stamp = (-1, -1)
"""Stands for the stamp of a file that could not be opened: no file has it, so it is looked at again."""
_BATCH = 64
_NO_IMAGES = (
    ".csv", ".tsv", ".txt", ".tab", ".xls", ".xlsx", ".xlsm", ".parquet", ".pq", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".xml",
    ".html", ".htm", ".md", ".pdf", ".doc", ".docx", ".rtf", ".py", ".sh", ".log", ".zip", ".tar", ".tgz", ".rar", ".7z", ".exe", ".png",
    ".jpg", ".jpeg", ".gif", ".bmp", ".svg", ".bval", ".bvec", ".sha256", ".md5", ".part", ".lock", ".tcia",
)  # fmt: skip
"""Files of these kinds are no images, and are not opened to find that out."""


def read(
    root: Path,
    spec: ImagesSpec,
    imaging: Imaging,
    source: str,
    ids: Collection[str],
    cache: Path,
    *,
    everybody: Collection[str] = (),
    tell: Tell | None = None,
    workers: int | None = None,
) -> Album:
    """The pictures of the patients `ids` under `root`; `everybody` are all ids of the table, also of those who were left out.

    A first start reads headers, hashes and prepares, in `workers` processes of their own (None: as many as cores, at most two; 0: in
    this one, which a decoder that crashes then takes with it); an interrupt loses the cases that were being prepared and no others. A
    second start finds all in the cache and opens no image. Raises RunError S03 where the cache cannot be written, UsageError C02
    where the mapping names what the study lacks.
    """
    check(spec, imaging, source)
    root = root.resolve()
    files, closed = _files(root, cache.resolve())
    if not files and not closed:
        return Album(channels=tuple(c.name for c in imaging.channels), general=("images: the folder holds none",))
    store = Cache(cache)
    say = tell or (lambda done, of: None)
    key = _digest(files, spec, imaging, source, ids, everybody)
    damaged = 0
    try:
        if not closed and (known_album := remembered(key, store)) is not None:
            say(len(known_album.pictures), len(known_album.pictures))
            return known_album
    except Broken:
        damaged = 1
    store.sweep()
    workers = min(WORKERS, os.cpu_count() or 1) if workers is None else workers
    memory = Remembered(cache)
    known = _survey(files, memory, workers, say)
    headers = [k.header for k in known.values() if k.header is not None]
    broken = [*closed, *((path, k.fault) for path, k in known.items() if k.fault is not None)]
    from client.imaging.formats import readers as image_readers

    series = image_readers.group(headers)
    chosen = choose(series, headers, broken, Keys(spec, root), imaging, set(ids) | set(everybody))
    for patient, trouble in duplicates.misspelt(chosen.cases, series).items():
        del chosen.cases[patient]
        chosen.troubles[patient].append(trouble)
    cases = {i: chosen.cases[i] for i in sorted(ids) if i in chosen.cases}
    pictures, complete, remade = _filled(cases, chosen, known, memory, store, imaging, spec, workers, say)
    remade += damaged
    general, log = account(headers, broken, chosen, ids, remade)
    troubles = {i: t for i, t in chosen.troubles.items() if t}
    remarks = {i: r for i, r in chosen.remarks.items() if r}
    names = tuple(c.name for c in imaging.channels)
    album = Album(pictures, troubles, remarks, names, bool(imaging.regions), general, log, chosen.strangers)
    # what could not be opened, and what failed while it was being prepared, is tried again at the next start
    if complete and not closed and not remade and all(k.stamp != AWAY for k in known.values()):
        store.store(key, {}, album.summary(), "album")
    return album


def _digest(
    files: Sequence[tuple[str, Stamp]], spec: ImagesSpec, imaging: Imaging, source: str, ids: Collection[str], everybody: Collection[str]
) -> str:
    """Of all that an album follows from: the files' stamps, the table's ids, what the study and the mapping say, and this code."""
    asked = [files, asdict(spec), asdict(imaging), source, sorted(ids), sorted(everybody), fingerprint()]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _files(root: Path, cache: Path) -> tuple[list[tuple[str, Stamp]], list[tuple[str, Fault]]]:
    """Every file that may be an image, with its stamp, sorted; and the folders that cannot be entered.

    Links are followed, and no folder is entered twice.
    """
    found: list[tuple[str, Stamp]] = []
    closed: list[tuple[str, Fault]] = []
    seen: set[tuple[int, int]] = set()
    folders = [str(root)] if root.is_dir() else []
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                inside = list(entries)
        except OSError as error:
            closed.append((folder, Fault("D00", folder, f"the folder cannot be read ({error.strerror})", "Mend its permissions")))
            continue
        for entry in inside:
            with suppress(OSError):  # a link that leads nowhere
                now = entry.stat()
                if entry.name.startswith(".") or (entry.is_dir() and Path(entry.path) == cache):
                    continue
                if entry.is_dir() and (now.st_dev, now.st_ino) not in seen:
                    seen.add((now.st_dev, now.st_ino))
                    folders.append(entry.path)
                elif entry.is_file() and not entry.name.lower().endswith(_NO_IMAGES):
                    found.append((entry.path, (now.st_size, now.st_mtime_ns)))
    return sorted(found), closed


def _survey(files: Sequence[tuple[str, Stamp]], memory: Remembered, workers: int, say: Tell) -> dict[str, Known]:
    """What is known of every file; the headers of new ones are read, and remembered batch by batch."""
    out = {path: known for path, stamp in files if (known := memory.get(path, stamp)) is not None}
    new = [(path, stamp) for path, stamp in files if path not in out]
    batches = [new[n : n + _BATCH] for n in range(0, len(new), _BATCH)]
    done = 0
    # a few hundred headers are read before another process has started
    for n, found in each(headers_of, batches, workers if len(batches) > 8 else 0):
        if isinstance(found, Lost):
            found = _one_by_one(batches[n], workers)
        found = [(path, replace(k, sha256=memory.sha256(path, k.stamp))) for path, k in found]
        memory.add(found)
        out.update(found)
        done += len(batches[n])
        say(done, len(new))
    return {path: out[path] for path, _ in files}


def headers_of(batch: Sequence[tuple[str, Stamp]]) -> list[tuple[str, Known]]:
    """The headers of some files; a file that is no image has neither header nor fault."""
    from client.imaging.formats import readers as images

    out = []
    for path, stamp in batch:
        found = images.header(Path(path))
        if isinstance(found, Fault) and not _readable(path):
            stamp = AWAY
        header = found if isinstance(found, Header) else None
        out.append((path, Known(stamp, header, found if isinstance(found, Fault) else None)))
    return out


def _readable(path: str) -> bool:
    """Whether the file's system lets it be read at all: permissions may be mended without a trace in its stamp."""
    try:
        with open(path, "rb") as f:
            f.read(1)
    except OSError:
        return False
    return True


def _one_by_one(batch: Sequence[tuple[str, Stamp]], workers: int) -> list[tuple[str, Known]]:
    """The headers of a batch whose process died: of one of its files, probably."""
    out = []
    for n, found in each(headers_of, [[pair] for pair in batch], workers):
        if isinstance(found, Lost):
            path = batch[n][0]
            fault = Fault("D00", path, f"reading it failed: {found.how}", "Copy or export it again, or take it away")
            found = [(path, Known(AWAY, None, fault))]
        out += found
    return out


def _filled(
    cases: Mapping[str, Case],
    chosen: Chosen,
    known: Mapping[str, Known],
    memory: Remembered,
    store: Cache,
    imaging: Imaging,
    spec: ImagesSpec,
    workers: int,
    say: Tell,
) -> tuple[dict[str, Picture], bool, int]:
    """The pictures of the cases: from the cache, or prepared now; whether each could be prepared as a whole; how many were made again."""
    entries: dict[str, tuple[str, Entry]] = {}
    remade = 0
    jobs = []
    for patient, case in cases.items():
        hashes = {f: known[f].sha256 for f in case.files if known[f].sha256}
        entry = None
        if len(hashes) == len(set(case.files)):
            key = key_of(case, hashes, imaging, spec)
            try:
                entry = store.open(key)
            except Broken:
                remade += 1
            if entry is not None:
                entries[patient] = key, entry
        if entry is None:
            jobs.append(Job(case, hashes, imaging, spec, store))
    done = len(entries)
    say(done, len(cases))
    for n, made in each(make, jobs, workers):
        patient = jobs[n].case.patient
        if isinstance(made, Lost):
            text = f"{jobs[n].case.files[0]}: preparing it failed: {made.how}; perhaps there is not enough memory. Close other programs"
            made = Made("", {}, ("D00", text))
        memory.add((path, Known(stamp, known[path].header, None, sha)) for path, (stamp, sha) in made.hashes.items())
        if made.trouble is not None:
            chosen.troubles[patient].append(made.trouble)
        else:
            try:
                entry = store.open(made.key)
            except Broken as error:
                entry = None
                chosen.troubles[patient].append(("D00", f"{error}: the disk does not keep what is written to it"))
            if entry is not None:
                entries[patient] = made.key, entry
        done += 1
        say(done, len(cases))
    complete = len(entries) == len(cases) and not any(entry.told["passing"] for _, entry in entries.values())
    for patient, trouble in duplicates.shared({i: entry.told["looks"] for i, (_, entry) in entries.items()}, cases).items():
        del entries[patient]
        chosen.troubles[patient].append(trouble)
    for patient, (_, entry) in entries.items():
        notes = [n for series in (*cases[patient].channels.values(), *cases[patient].masks) for n in series.notes]
        for note in (*notes, *entry.told["notes"]):
            chosen.remarks[patient].append((_counted(note), note))
        for code, text in entry.told["mask_troubles"]:
            chosen.remarks[patient].append((f"a segmentation cannot be used, {code}", text))
    return {patient: picture(key, entry, store) for patient, (key, entry) in sorted(entries.items())}, complete, remade


def _counted(note: str) -> str:
    """What a reader's note has in common with others: without its numbers, and without what is quoted from a file."""
    return re.sub(r"\d+(\.\d+)?", "n", note.partition(": ")[0])
