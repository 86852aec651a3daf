"""Colorectal phantom on disk: a synthetic twin of TCGA-COAD and TCGA-READ in the GDC's export of
2025 (dotted headers).

    <folder>/coad/clinical.tsv           rows are diagnosis x treatment, primary and other diagnoses
    <folder>/coad/pathology_detail.tsv   a row for each patient
    <folder>/coad/follow_up.tsv          visits, molecular tests (CEA among others) and other attributes, a row each
    <folder>/read/...                    the rectal cancers
    <folder>/TCGA-COAD, TCGA-READ, metadata.csv   CT of a few patients, where it is asked for (`colorectal_images`)
    <folder>/truth.json                  the generator's own truth (`Truth`)

Ids have the form of a TCGA barcode, `TCGA-<tissue source site>-Z<3 characters>`: characters 6-7 are
the site and the first 12 the patient. No real participant's code begins with Z.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from common.errors import DataError, UsageError
from simulation.phantom.colorectal import ceiling, records
from simulation.phantom.colorectal import generative_model as model
from simulation.phantom.colorectal import images as ct_images
from simulation.phantom.colorectal.generative_model import Draw
from simulation.phantom.colorectal.hospitals import CODES, HOSPITALS
from simulation.phantom.colorectal.records import Patient, Row
from simulation.phantom.shared.draws import Bools
from simulation.phantom.shared.image_truth import MARK

TRUTH: Final = "truth.json"
FOLDERS: Final = {"colon": "coad", "rectum": "read"}
TABLES: Final[
    Mapping[str, tuple[tuple[str, ...], Callable[[Patient, np.random.Generator], list[Row]]]]
] = {
    "clinical.tsv": (records.CLINICAL, records.clinical),
    "pathology_detail.tsv": (records.PATHOLOGY, records.pathology),
    "follow_up.tsv": (records.FOLLOW_UP, records.follow_up),
}
WITHOUT_PRIMARY: Final = 2
"""Patients that have no row of their primary tumour, as the real export does."""
_BASE36: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Truth:
    """What the generator knows of the cohort that it wrote. Counts are of patients."""

    seed: int
    patients: int
    null: bool
    """True: M was permuted after everything else was drawn, and no AUC but 0.5 is right."""
    with_primary: int
    """Patients that have a row of their primary tumour: what a reader should keep."""
    known: int
    """Those of them whose M is recorded."""
    events: int
    """Those of them with M1."""
    cea: int
    """Patients with a primary tumour's row and a measured CEA."""
    hospitals: Mapping[str, tuple[int, int, int]]
    """Hospital -> (with a primary tumour's row, those with known M, those with M1); 'other' pools
    the small ones."""
    prevalence: float
    """Of M1 among the population's patients with known M."""
    coefficients: Mapping[str, float]
    """Of the logit of M1 before surgery (and before M was permuted, where it was)."""
    shifts: Mapping[str, float]
    """Hospital -> what it adds to that logit."""
    conditionals: Mapping[str, tuple[float, ...]]
    """What M does to the resection: `T | M0` and the like are probabilities; an invasion has
    intercept, slope in N, slope in M (logits)."""
    ceilings: Mapping[str, float]
    """Task -> AUC of the true posterior in the population (Monte Carlo), the hospital unknown."""
    ceilings_within: Mapping[str, float]
    """The same over pairs of patients of one hospital, the hospital known."""
    cohort_ceilings: Mapping[str, float]
    """As `ceilings`, on the very patients of this cohort."""
    cohort_ceilings_within: Mapping[str, float]
    images: Mapping[str, int] = field(default_factory=dict)
    """Barcode -> lesions that the patient's CT shows; empty without images. No ceiling counts them
    in."""


def write(
    folder: Path,
    *,
    seed: int = 0,
    patients: int = 633,
    null: bool = False,
    images: int = 0,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Truth:
    """Write a cohort of `patients` patients to `folder` (made if need be). Equal arguments write
    equal bytes.

    `null`: M is permuted among all patients before anything is written; stage and survival follow
    the permuted M. `images`: so many patients have a CT, which shows lesions where there is M1;
    `tell(done, of)` after each. Raises UsageError C01 for a number of patients outside 100 to
    100,000, for images of 1, 2 or more patients than there are, for images without a signal, and
    for a folder that holds images of the collections which no phantom wrote.
    """
    folder = Path(folder)
    if images and null:
        raise UsageError(
            "C01",
            "a CT shows M1, so that a cohort cannot have images and no signal; ask for one of them",
        )
    drawn = model.draw(patients, seed, null=null)
    rng = np.random.default_rng((seed, 1))
    primary = np.ones(len(drawn), np.bool_)
    primary[rng.choice(len(drawn), WITHOUT_PRIMARY, replace=False)] = False
    people = _people(drawn, primary, rng)
    scans = ct_images.choose(people, images, seed) if images else []
    if images or (folder / MARK).is_file():
        ct_images.clear(folder)
    for name in FOLDERS.values():
        members = [person for person in people if person.folder == name]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for table, (columns, rows_of) in TABLES.items():
            write_rows(
                folder / name / table,
                columns,
                (row for person in members for row in rows_of(person, rng)),
            )
    truth = _truth(drawn.where(primary), seed, patients, null)
    if scans:
        truth = dataclasses.replace(truth, images=ct_images.write(folder, scans, tell))
    # a cohort without images is written as it was before there were any
    declared = {
        name: value
        for name, value in dataclasses.asdict(truth).items()
        if name != "images" or value
    }
    (folder / TRUTH).write_text(json.dumps(declared, indent=2) + "\n", encoding="utf-8")
    return truth


def read_truth(folder: Path) -> Truth | None:
    """The truth beside a phantom, or None where `folder` holds none. Raises DataError D00 for a
    file that is not a truth."""
    path = Path(folder) / TRUTH
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        for name in ("hospitals", "conditionals"):
            raw[name] = {key: tuple(values) for key, values in raw[name].items()}
        return Truth(**raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "D00", f"D00 {path}: not the truth of a phantom ({error}). Write the phantom again"
        ) from error


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> None:
    """A tab-separated table; a column that a row lacks is null."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(
            stream, list(columns), restval=records.NULL, delimiter="\t", lineterminator="\n"
        )
        table.writeheader()
        table.writerows(rows)


def _people(d: Draw, primary: Bools, rng: np.random.Generator) -> list[Patient]:
    barcodes = np.empty(len(d), object)
    for at, (code, *_) in enumerate(CODES):
        mask = d.code == at
        # drawn, not counted: a number must not tell the order of inclusion
        numbers = rng.choice(36**3, int(mask.sum()), replace=False)
        barcodes[mask] = [
            f"TCGA-{code}-Z{_BASE36[n // 1296]}{_BASE36[n // 36 % 36]}{_BASE36[n % 36]}"
            for n in numbers.tolist()
        ]
    columns = {
        name: getattr(d, name).tolist() for name in Patient.__dataclass_fields__ if hasattr(d, name)
    }
    columns["invaded"] = [tuple(row) for row in columns["invaded"]]
    return [
        Patient(
            barcodes[i],
            i,
            FOLDERS[CODES[d.code[i]][3]],
            bool(primary[i]),
            **{name: values[i] for name, values in columns.items()},
        )
        for i in range(len(d))
    ]


def _truth(d: Draw, seed: int, patients: int, null: bool) -> Truth:
    population, population_within, prevalence = ceiling.population(null)
    cohort, cohort_within = ceiling.flat() if null else ceiling.ceilings(d)
    by_hospital = {h.name: d.where(d.hospital == at) for at, h in enumerate(HOSPITALS)}
    return Truth(
        seed=seed,
        patients=patients,
        null=null,
        with_primary=len(d),
        known=int(d.known.sum()),
        events=int(d.m[d.known].sum()),
        cea=int(np.isfinite(d.cea).sum()),
        hospitals={
            name: (len(part), int(part.known.sum()), int(part.m[part.known].sum()))
            for name, part in by_hospital.items()
        },
        prevalence=prevalence,
        coefficients=model.coefficients(),
        shifts={h.name: h.shift for h in HOSPITALS},
        conditionals=model.conditionals(),
        ceilings=population,
        ceilings_within=population_within,
        cohort_ceilings=cohort,
        cohort_ceilings_within=cohort_within,
    )
