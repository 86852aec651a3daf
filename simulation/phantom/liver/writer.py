"""Liver phantom on disk: a synthetic twin of TCIA's Colorectal-Liver-Metastases as a user downloads
it.

    <folder>/Colorectal-Liver-Metastases-Clinical-data-April-2023.xlsx   a row for each patient, -999 is missing
    <folder>/metadata.csv                                                a row for each series, as the NBIA Data Retriever writes it
    <folder>/Colorectal-Liver-Metastases/<PatientID>/<study>/<series>/1-01.dcm   one CT and one SEG series a patient
    <folder>/truth.json                                                  the generator's own truth (`Truth`)

Ids are CRLM-CT-9001 and above; no real patient has one. `generative_model` says what decides the
outcome, `body` and `anatomy` what is seen.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from simulation.phantom.liver import generative_model as model
from simulation.phantom.liver.body import PIXELS, Body, draw_body
from simulation.phantom.liver.generative_model import Draw
from simulation.phantom.liver.table import DICTIONARY, HEADER, SHEET, Followup, follow, row
from simulation.phantom.shared import image_truth, processes, scanners
from simulation.phantom.shared.holdings import Holding, holdings
from simulation.phantom.shared.image_truth import Case, Truth
from simulation.phantom.shared.workbook import write_workbook

COLLECTION: Final = "Colorectal-Liver-Metastases"
WORKBOOK: Final = "Colorectal-Liver-Metastases-Clinical-data-April-2023.xlsx"
METADATA: Final = "metadata.csv"
STUDY: Final = "liver_recurrence"
CLASSES: Final = ("free", "recurred")

__all__ = ["Truth", "read_truth", "write"]


@dataclass(frozen=True)
class Patient:
    """What a process needs to make one patient's images."""

    id: str
    seed: int
    number: int
    male: bool
    age: int
    maker: int
    body: Body
    u: float
    mask: bool


def write(
    folder: Path,
    *,
    seed: int = 0,
    patients: int = 260,
    null: bool = False,
    missing: bool = False,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Truth:
    """Write a cohort to `folder` (made if need be; an older phantom there is replaced). Equal
    arguments write equal bytes.

    `null`: the images have nothing to do with the outcome. `missing`: whole makers lack a modality
    (`holdings.ABSENT`). `tell(done, of)` after each patient with images. Raises UsageError C01 for
    fewer than 20 or more than 900 patients, and for a folder that holds images of the collection
    which no phantom wrote.
    """
    folder = Path(folder)
    rng = np.random.default_rng((seed, 2))
    makers = scanners.assign(patients, rng)
    image_truth.clear(folder, COLLECTION)
    drawn = model.draw(patients, (seed, 3), null=null)
    ids = [
        f"CRLM-CT-{n}" for n in sorted((9001 + rng.choice(998, patients, replace=False)).tolist())
    ]
    held = holdings(makers, rng, missing=missing)
    bodies = [
        draw_body(float(bmi), np.random.default_rng((seed, 4, i)))
        for i, bmi in enumerate(drawn.body_mass)
    ]
    followed = [
        follow(bool(r), bool(k), rng) for r, k in zip(drawn.recurred, drawn.known, strict=True)
    ]
    rows = [
        row(ids[i], i, drawn, bodies[i], followed[i], held[i].table, rng) for i in range(patients)
    ]
    write_workbook(folder / WORKBOOK, {SHEET: [HEADER, *rows], "Data Dictionary": DICTIONARY})
    imaged = []
    for i in range(patients):
        if held[i].image:
            male, age, outlined = (
                bool(drawn.male[i]),
                int(drawn.age[i]),
                held[i].mask and held[i].whole,
            )
            imaged.append(
                Patient(
                    ids[i], seed, i, male, age, makers[i], bodies[i], float(drawn.u[i]), outlined
                )
            )
    series = [
        entry
        for entries in processes.each(partial(_write_images, folder), imaged, tell)
        for entry in entries
    ]
    with (folder / METADATA).open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(series[0]))
        table.writeheader()
        table.writerows(series)
    truth = _truth(_Patients(drawn, ids, makers, held, followed), seed, null, missing)
    image_truth.keep(truth, folder)
    return truth


def read_truth(folder: Path) -> Truth | None:
    """The truth beside a liver phantom, or None where `folder` holds none. Raises DataError D00 for
    a file that is not one."""
    return image_truth.read_truth(folder, STUDY)


def _write_images(folder: Path, patient: Patient) -> list[dict[str, str]]:
    """One patient's series, in a process of its own."""
    from simulation.phantom.liver.anatomy import render
    from simulation.phantom.liver.dicom import Subject, write_ct, write_seg

    rng = np.random.default_rng((patient.seed, 5, patient.number))
    maker = scanners.MAKERS[patient.maker]
    corner = -(PIXELS - 1) / 2 * patient.body.pixel
    shift = np.round(rng.uniform((-12, -180, -600), (12, -120, -100)), 1)
    origin = (
        round(corner + float(shift[0]), 4),
        round(corner + float(shift[1]), 4),
        float(shift[2]),
    )
    day = datetime.date(1992, 1, 1) + datetime.timedelta(days=int(rng.integers(0, 4000)))
    subject = Subject(
        COLLECTION,
        patient.id,
        patient.seed,
        patient.male,
        patient.age,
        day,
        origin,
        patient.body.pixel,
    )
    rendered = render(patient.body, patient.u, maker.ct, rng)
    out = [write_ct(folder, subject, maker, rendered)]
    return [*out, write_seg(folder, subject, maker, rendered)] if patient.mask else out


@dataclass(frozen=True)
class _Patients:
    """All patients of the cohort: what was drawn for each, and what of it is there."""

    draw: Draw
    ids: list[str]
    makers: list[int]
    holdings: list[Holding]
    followed: list[Followup]


def _truth(patients: _Patients, seed: int, null: bool, missing: bool) -> Truth:
    d, held = patients.draw, patients.holdings
    known = np.array([f.known for f in patients.followed])
    table, image = np.array([h.table for h in held]), np.array([h.image for h in held])
    cases = {}
    for n, i in enumerate(patients.ids):
        label = CLASSES[d.recurred[n]] if known[n] else ""
        outlined = held[n].mask and held[n].whole
        cases[i] = Case(
            label,
            scanners.NAMES[patients.makers[n]],
            held[n].image,
            outlined,
            held[n].table,
            (float(d.u[n]),),
        )
    return Truth(
        study=STUDY,
        seed=seed,
        patients=len(d),
        null=null,
        missing=missing,
        known=int(known.sum()),
        classes={name: int((d.recurred[known] == k).sum()) for k, name in enumerate(CLASSES)},
        model=model.coefficients(),
        ceilings=model.population(null),
        cohort_ceilings=model.ceilings(d, known, table, image, null=null),
        ceilings_without={},
        cases=cases,
    )
