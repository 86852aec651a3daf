"""CT for a few patients of the colorectal phantom, as TCIA's TCGA-COAD and TCGA-READ hold it: by
barcode, and without any outline.

    <folder>/metadata.csv                                                    a row for each series, as the NBIA Data Retriever writes it
    <folder>/TCGA-COAD/<barcode>/<date>-NA-<study>/<series>/1-01.dcm         the colon cancers
    <folder>/TCGA-READ/...                                                   the rectal ones

The collections show few of the table's patients, hardly any of them with M1, and most without a
recorded M: far too few of a class for a network. A CT shows lesions in the liver where the patient
has M1, recorded or not, and none elsewhere. Besides: a localizer with each CT, a thin
reconstruction of one patient's lung bases, a patient who has nothing but a localizer, and one whom
the table does not know.
"""

from __future__ import annotations

import csv
import datetime
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from common.errors import UsageError
from simulation.phantom.colorectal.records import Patient
from simulation.phantom.liver.body import PIXELS, draw_body
from simulation.phantom.shared import image_truth, processes, scanners

COLLECTIONS: Final[Mapping[str, str]] = {"coad": "TCGA-COAD", "read": "TCGA-READ"}
"""Folder of the tables -> collection of the images."""
METADATA: Final = "metadata.csv"
EVENTS, KNOWN, OF = 5, 17, 28
"""Of 28 patients who have both a table and a CT, 17 have a recorded M, and of 5 that is M1."""
THIN_MM: Final = 1.25
BASES: Final = 0.55
"""The lung's reconstruction begins at this share of the height."""


@dataclass(frozen=True)
class Scan:
    """What a process needs to write one patient's series."""

    barcode: str
    collection: str
    seed: int
    number: int
    male: bool
    age: int
    m1: bool
    maker: int
    whole: bool = True
    """False: nothing but the localizer."""
    lung: bool = False
    """Also a thin reconstruction of the lung's bases."""


def clear(folder: Path) -> None:
    """Take away what an older phantom left of its images, its truth first. Raises UsageError C01
    for images that are no phantom's."""
    mark, trees = (
        folder / image_truth.MARK,
        [folder / c for c in COLLECTIONS.values() if (folder / c).exists()],
    )
    # a truth alone marks a phantom of tables: the images beside it may be anybody's
    if trees and not mark.is_file():
        raise UsageError(
            "C01", f"{trees[0]} is there already and belongs to no phantom; give another folder"
        )
    if mark.is_file():
        (folder / image_truth.TRUTH).unlink(missing_ok=True)
        (folder / METADATA).unlink(missing_ok=True)
        for tree in trees:
            shutil.rmtree(tree)
        mark.unlink()


def choose(people: Sequence[Patient], images: int, seed: int) -> list[Scan]:
    """The scans of `images` of `people`; after them the localizer without a CT and the patient whom
    the table does not know.

    As many with M1, with M0 and without a recorded M as in the collections; where there are too
    few, more with M0 stand in. Raises UsageError C01 for a number below 3 or one for which the
    cohort is too small.
    """
    rng = np.random.default_rng((seed, 2))
    order = [people[i] for i in rng.permutation(len(people)).tolist() if people[i].primary]
    events, with_label = max(1, round(EVENTS / OF * images)), round(KNOWN / OF * images)
    m0 = [p for p in order if p.known and not p.m]
    taken = [
        *[p for p in order if p.known and p.m][:events],
        *m0[: with_label - events],
        *[p for p in order if not p.known][: images - with_label],
    ]
    taken = [*taken, *m0[with_label - events :]][: images + 1]
    if images < 3 or len(taken) <= images:
        raise UsageError(
            "C01",
            f"CT of {images} patients cannot be made; 3 are the fewest, and {images + 1} must "
            "have M0 or no recorded M",
        )
    makers = rng.choice(
        len(scanners.MAKERS), len(taken) + 1, p=[m.share for m in scanners.MAKERS]
    ).tolist()
    scans = [
        Scan(
            p.barcode, COLLECTIONS[p.folder], seed, n, p.male == 1, int(p.age), bool(p.m), makers[n]
        )
        for n, p in enumerate(taken)
    ]
    scans[-1] = replace(scans[-1], whole=False)
    lung = next(n for n, scan in enumerate(scans) if not scan.m1)
    scans[lung] = replace(scans[lung], lung=True)
    codes = {p.barcode for p in people}
    stranger = next(code for n in range(36**3) if (code := f"TCGA-AA-Z{n:03d}") not in codes)
    return [
        *scans,
        Scan(stranger, COLLECTIONS["coad"], seed, len(scans), True, 60, False, makers[-1]),
    ]


def write(folder: Path, scans: Sequence[Scan], tell: Callable[[int, int], None]) -> dict[str, int]:
    """Write the series below `folder`; barcode -> lesions, of those whose CT the table knows. Equal
    arguments write equal bytes."""
    (folder / image_truth.MARK).touch()
    entries = processes.each(partial(_write, folder), scans, tell)
    rows = [row for _, series in entries for row in series]
    with (folder / METADATA).open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return {
        scan.barcode: lesions
        for scan, (lesions, _) in zip(scans[:-1], entries[:-1], strict=True)
        if scan.whole
    }


def _write(folder: Path, scan: Scan) -> tuple[int, list[dict[str, str]]]:
    """One patient's series, in a process of its own: lesions seen, and the rows of
    `metadata.csv`."""
    from simulation.phantom.liver.anatomy import render
    from simulation.phantom.liver.dicom import LUNG, Subject, write_ct, write_localizer

    rng = np.random.default_rng((scan.seed, 3, scan.number))
    body = draw_body(float(rng.normal(27, 4)), rng)
    if not scan.m1:
        body = replace(body, lesions=())
    maker = scanners.MAKERS[scan.maker]
    corner = -(PIXELS - 1) / 2 * body.pixel
    shift = np.round(rng.uniform((-12, -180, -600), (12, -120, -100)), 1)
    origin = (
        round(corner + float(shift[0]), 4),
        round(corner + float(shift[1]), 4),
        float(shift[2]),
    )
    day = datetime.date(1998, 1, 1) + datetime.timedelta(days=int(rng.integers(0, 4000)))
    subject = Subject(
        scan.collection, scan.barcode, scan.seed, scan.male, scan.age, day, origin, body.pixel
    )
    rendered = render(body, 0.0, maker.ct, np.random.default_rng((scan.seed, 4, scan.number)))
    rows = [write_localizer(folder, subject, maker, rendered)]
    if scan.whole:
        rows.append(write_ct(folder, subject, maker, rendered))
    if scan.lung:
        # the same draws: the same anatomy, thinner, sharper and noisier
        thin = replace(
            maker.ct,
            kernel="LUNG",
            slice_mm=THIN_MM,
            thickness_mm=THIN_MM,
            noise=2 * maker.ct.noise,
            blur_mm=maker.ct.blur_mm / 2,
        )
        sharp = render(body, 0.0, thin, np.random.default_rng((scan.seed, 4, scan.number)))
        rows.append(
            write_ct(
                folder, subject, replace(maker, ct=thin), sharp, LUNG, round(BASES * len(sharp.hu))
            )
        )
    return len(body.lesions), rows
