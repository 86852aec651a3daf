"""Clinical table of the liver phantom: the collection's columns, inputs and outcomes alike, -999
where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from simulation.phantom.liver.body import Body
from simulation.phantom.liver.generative_model import HORIZON, Draw
from simulation.phantom.shared.workbook import Cell

SHEET: Final = "TCIA_n=197"
"""The name that the collection's sheet has, however many patients there are here."""
NULL: Final = -999
FEATURES: Final = (
    "age", "sex", "major_comorbidity", "body_mass_index", "node_positive_primary",
    "synchronous_crlm", "multiple_metastases",
    "clinrisk_score", "clinrisk_stratified", "carcinoembryonic_antigen", "max_tumor_size",
    "bilobar_disease", "extrahep_disease",
    "chemo_before_liver_resection", "preoperative_pve",
)  # fmt: skip
"""What is known before surgery; wholly missing where a hospital keeps no such table."""
HEADER: Final = (
    "Patient-ID", "De-identify Scout Name", *FEATURES, "steatosis_yesno",
    "presence_sinusoidal_dilata", "NASH_score", "NASH_yesno",
    "NASH_greater_4", "total_response_percent", "necrosis_percent", "fibrosis_percent",
    "fibrosis_greater_40_percent", "mucin_percent",
    "overall_survival_months", "vital_status", "progression_or_recurrence",
    "months_to_DFS_progression", "vital_status_DFS",
    "progression_or_recurrence_liveronly", "months_to_liver_DFS_progression",
    "vital_status_liver_DFS", "relevant_notes",
)  # fmt: skip
DICTIONARY: Final = (
    ("Variable Name", "Description", "Values"),
    ("sex", "Sex", "1 - Male | 2 - Female"),
    ("clinrisk_score", "Clinical Risk Score", "0-5 | -999 - N/A"),
    ("progression_or_recurrence_liveronly", "Recurrence in the liver", "1 - Yes | 0 - No"),
    (
        "months_to_liver_DFS_progression",
        "Liver disease free survival in months",
        "Continuous numeric",
    ),
    ("relevant_notes", "Synthetic: every row comes from a generator", "character"),
)


@dataclass(frozen=True)
class Followup:
    """What the follow-up saw of the liver."""

    recurred: bool
    """Ever, in the liver."""
    months: float
    dead: bool
    """At the end of `months`, or a recurrence."""

    @property
    def known(self) -> bool:
        """Whether it tells if there was a recurrence within 24 months."""
        return self.recurred or self.months >= HORIZON


def follow(recurred: bool, long_enough: bool, rng: np.random.Generator) -> Followup:
    """The follow-up of a patient with or without a recurrence within 24 months; half of those not
    followed died of something else."""
    event = float(np.round(rng.uniform(2, HORIZON), 1))
    lost = float(np.round(rng.uniform(1.5, event if recurred else HORIZON - 0.1), 1))
    late = float(np.round(rng.uniform(HORIZON + 0.5, 120), 1))
    if not long_enough:
        return Followup(False, min(lost, HORIZON - 0.1), bool(rng.random() < 0.5))
    if recurred:
        return Followup(True, event, True)
    again = bool(rng.random() < 0.2)
    return Followup(again, late, again or bool(rng.random() < 0.3))


def row(
    patient: str,
    i: int,
    d: Draw,
    body: Body,
    followed: Followup,
    table: bool,
    rng: np.random.Generator,
) -> tuple[Cell, ...]:
    """The row of patient `i` of the draw; without a `table` every feature is missing."""
    several, cea = len(body.lesions) > 1, float(d.cea[i])
    measured = bool(d.cea_known[i])
    score = int(d.node[i] + d.synchronous[i] + several + (cea > 200) + (body.largest_cm > 5))
    embolised = int(rng.random() < (0.2 if body.bilobar else 0.07))
    features: list[Cell] = [
        int(d.age[i]), 1 if d.male[i] else 2, int(d.comorbidity[i]), float(d.body_mass[i]),
        int(d.node[i]), int(d.synchronous[i]),
        int(several), score if measured else NULL, int(score > 2) if measured else NULL,
        cea if measured else NULL, body.largest_cm,
        int(body.bilobar), int(d.extrahepatic[i]), int(d.chemotherapy[i]), embolised,
    ]  # fmt: skip
    necrosis, fibrosis, mucin = (
        float(x) for x in np.round(rng.dirichlet((2, 1.5, 0.4)) * rng.beta(2, 2), 2)
    )
    nash = int(rng.choice(6, p=(0.35, 0.25, 0.2, 0.12, 0.05, 0.03)))
    specimen: list[Cell] = [
        int(rng.random() < 0.25), int(rng.random() < 0.3), nash, int(nash > 1), int(nash > 4),
        round(necrosis + fibrosis + mucin, 2), necrosis, fibrosis, int(fibrosis > 0.4), mucin,
    ]  # fmt: skip
    survival = (
        followed.months
        if not followed.recurred
        else followed.months + float(np.round(rng.uniform(1, 60), 1))
    )
    dead = followed.dead if not followed.recurred else bool(rng.random() < 0.6)
    elsewhere = followed.recurred or bool(rng.random() < 0.35)
    first = (
        followed.months
        if followed.recurred or not elsewhere
        else float(np.round(rng.uniform(0.5, 1) * followed.months, 1))
    )
    outcome: list[Cell] = [
        round(survival, 1), int(dead), int(elsewhere), round(first, 1),
        int(elsewhere or followed.dead),
        int(followed.recurred), followed.months, int(followed.dead), None,
    ]  # fmt: skip
    inputs = features if table else [NULL] * len(FEATURES)
    return (patient, f"{patient[-4:]}_recurrence_preop", *inputs, *specimen, *outcome)
