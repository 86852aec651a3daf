"""Brain phantom on disk: a synthetic twin of Yale's Pretreat-MetsToBrain-Masks as a user downloads
it.

    <folder>/Pretreat-MetsToBrain-Masks-Clinical.xlsx                    a row for each patient, keyed by the number `BraTS_MET_ID`
    <folder>/Pretreat-MetsToBrain-Masks/BraTS-MET-9xxxx-000/
        BraTS-MET-9xxxx-000-{t1n,t1c,t2w,t2f}.nii.gz                     skull-stripped, all on one grid
        BraTS-MET-9xxxx-000-seg.nii.gz                                   1 necrosis, 2 oedema, 3 enhancing; some of them are floats
    <folder>/truth.json                                                  the generator's own truth (`Truth`)

No real subject's number is above 90000. The grid has the collection's field of view at 2.5 mm
instead of 1 mm, which keeps files small. `generative_model` says what the primary tumour decides,
`anatomy` what is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulation.phantom.brain import generative_model as model
from simulation.phantom.brain.anatomy import SEQUENCES, SPACING, Head, draw_head, render
from simulation.phantom.brain.generative_model import CLASSES, Draw
from simulation.phantom.shared import image_truth, processes, scanners
from simulation.phantom.shared.holdings import Holding, holdings
from simulation.phantom.shared.image_truth import Case, Truth
from simulation.phantom.shared.nifti_files import write_nifti
from simulation.phantom.shared.workbook import Cell, write_workbook

COLLECTION: Final = "Pretreat-MetsToBrain-Masks"
WORKBOOK: Final = "Pretreat-MetsToBrain-Masks-Clinical.xlsx"
STUDY: Final = "brain_primary"
LACKS: Final = "t2w"
"""The sequence that one maker's patients lack in the missing-modality mode."""
FLOAT_SEG: Final = 0.15
"""Share of outlines stored as floating point numbers."""
HEADER: Final = (
    "BraTS_MET_ID", "Age", "Sex", "Smoking_history", "Ethnicity", "Primary_tumor_type",
    "Extracranial_metastases", "Scanner_manufacturer",
    "Scanner_model", "Field_strength_T", "Survival_months", "Notes",
)  # fmt: skip
PRIMARIES: Final = (
    ("NSCLC",), ("Breast",), ("Melanoma",), ("SCLC",), ("Renal cell carcinoma", "Gastrointestinal",
    "Gynecologic", "Other"),
)  # fmt: skip
"""What a class is called in the workbook; the last one stands for several tumours."""

__all__ = ["Truth", "read_truth", "write"]


@dataclass(frozen=True)
class Patient:
    """What a process needs to make one patient's images."""

    id: str
    seed: int
    number: int
    maker: int
    head: Head
    u: tuple[float, ...]
    mask: bool
    sequences: tuple[str, ...]


def write(
    folder: Path,
    *,
    seed: int = 0,
    patients: int = 240,
    null: bool = False,
    missing: bool = False,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Truth:
    """Write a cohort to `folder` (made if need be; an older phantom there is replaced). Equal
    arguments write equal bytes.

    `null`: the images have nothing to do with the primary tumour. `missing`: whole makers lack a
    modality (`holdings.ABSENT`). `tell(done, of)` after each patient with images. Raises UsageError
    C01 for fewer than 20 or more than 900 patients, and for a folder that holds images of the
    collection which no phantom wrote.
    """
    folder = Path(folder)
    rng = np.random.default_rng((seed, 6))
    makers = scanners.assign(patients, rng)
    image_truth.clear(folder, COLLECTION)
    drawn = model.draw(patients, (seed, 7), null=null)
    ids = sorted((90001 + rng.choice(9998, patients, replace=False)).tolist())
    held = holdings(makers, rng, missing=missing)
    heads = [draw_head(np.random.default_rng((seed, 8, i))) for i in range(patients)]
    rows = [_row(ids[i], i, drawn, makers[i], held[i].table, rng) for i in range(patients)]
    write_workbook(folder / WORKBOOK, {"Clinical": [HEADER, *rows]})
    imaged = []
    for i in range(patients):
        if held[i].image:
            sequences = SEQUENCES if held[i].whole else tuple(s for s in SEQUENCES if s != LACKS)
            latent = tuple(drawn.u[i].tolist())
            imaged.append(
                Patient(
                    f"BraTS-MET-{ids[i]}-000",
                    seed,
                    i,
                    makers[i],
                    heads[i],
                    latent,
                    held[i].mask,
                    sequences,
                )
            )
    processes.each(partial(_write_images, folder / COLLECTION), imaged, tell)
    truth = _truth(drawn, [str(i) for i in ids], makers, held, seed, null, missing)
    image_truth.keep(truth, folder)
    return truth


def read_truth(folder: Path) -> Truth | None:
    """The truth beside a brain phantom, or None where `folder` holds none. Raises DataError D00 for
    a file that is not one."""
    return image_truth.read_truth(folder, STUDY)


def _row(
    number: int, patient: int, d: Draw, maker: int, table: bool, rng: np.random.Generator
) -> tuple[Cell, ...]:
    """The row of patient `patient` of the draw; without a `table` every feature is missing."""
    scanner = scanners.MAKERS[maker]
    names = PRIMARIES[d.y[patient]]
    name = names[int(rng.integers(len(names)))]
    features: list[Cell] = [
        int(d.age[patient]),
        "Female" if d.female[patient] else "Male",
        ("No", "Yes")[d.smoking[patient]] if d.smoking_known[patient] else None,
    ]
    ethnicity = str(rng.choice(("White", "Black", "Asian", "Unknown"), p=(0.8, 0.1, 0.05, 0.05)))
    return (
        number, *(features if table else [None] * len(features)), ethnicity,
        name if d.known[patient] else "Unknown",
        str(rng.choice(("Yes", "No"), p=(0.6, 0.4))), scanner.name, scanner.mr.model,
        scanner.mr.tesla,
        round(float(rng.exponential(12)) + 0.1, 1), None,
    )  # fmt: skip


def _write_images(tree: Path, patient: Patient) -> None:
    """One patient's files, in a process of its own."""
    rng = np.random.default_rng((patient.seed, 9, patient.number))
    rendered = render(patient.head, np.array(patient.u), scanners.MAKERS[patient.maker].mr, rng)
    folder = tree / patient.id
    folder.mkdir()
    for name in patient.sequences:
        _save(folder / f"{patient.id}-{name}.nii.gz", rendered.sequences[name].astype(np.int16))
    as_float = rng.random() < FLOAT_SEG
    if patient.mask:
        _save(
            folder / f"{patient.id}-seg.nii.gz",
            rendered.labels.astype(np.float32 if as_float else np.uint8),
        )


def _save(path: Path, array: NDArray[np.int16 | np.float32 | np.uint8]) -> None:
    """(z, y, x) growing towards head, back and left, as NIfTI (x, y, z) with that said in its
    affine (which is RAS+)."""
    affine = np.diag([-SPACING, -SPACING, SPACING, 1.0])
    affine[1, 3] = 239.0
    write_nifti(path, np.ascontiguousarray(array.transpose(2, 1, 0)), affine)


def _truth(
    d: Draw,
    ids: list[str],
    makers: list[int],
    held: list[Holding],
    seed: int,
    null: bool,
    missing: bool,
) -> Truth:
    table, image = np.array([h.table for h in held]), np.array([h.image for h in held])
    return Truth(
        study=STUDY,
        seed=seed,
        patients=len(d),
        null=null,
        missing=missing,
        known=int(d.known.sum()),
        classes={name: int((d.y[d.known] == k).sum()) for k, name in enumerate(CLASSES)},
        model=model.numbers(),
        ceilings=model.population(null),
        cohort_ceilings=model.ceilings(d, d.known, table, image, null=null),
        ceilings_without={"smoking": model.population(null, False)},
        cases={
            i: Case(
                CLASSES[d.y[n]] if d.known[n] else "",
                scanners.NAMES[makers[n]],
                held[n].image,
                held[n].mask,
                held[n].table,
                tuple(d.u[n].tolist()),
            )
            for n, i in enumerate(ids)
        },
    )
