"""GDC records of one phantom patient: what the reader has to see through stands here, what it
should find does not.

Suffix letters, null tokens in several spellings, diagnoses that are not the primary tumour and
carry an M of their own, a row for each treatment, tests other than CEA, and columns that give M
away (stage, survival, residual disease, response).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from simulation.phantom.colorectal.generative_model import INVASIONS, MISSING

NULL: Final = "'--"

CLINICAL: Final = (
    "project.project_id", "cases.case_id", "cases.disease_type", "cases.index_date",
    "cases.primary_site", "cases.submitter_id",
    "demographic.age_at_index", "demographic.days_to_birth", "demographic.days_to_death",
    "demographic.gender", "demographic.vital_status",
    "diagnoses.age_at_diagnosis", "diagnoses.ajcc_pathologic_m", "diagnoses.ajcc_pathologic_n",
    "diagnoses.ajcc_pathologic_stage",
    "diagnoses.ajcc_pathologic_t", "diagnoses.classification_of_tumor",
    "diagnoses.days_to_last_follow_up", "diagnoses.diagnosis_id",
    "diagnoses.diagnosis_is_primary_disease", "diagnoses.primary_diagnosis",
    "diagnoses.prior_malignancy", "diagnoses.residual_disease",
    "diagnoses.submitter_id", "diagnoses.tissue_or_organ_of_origin", "treatments.submitter_id",
    "treatments.treatment_or_therapy",
    "treatments.treatment_outcome", "treatments.treatment_type",
)  # fmt: skip
PATHOLOGY: Final = (
    "project.project_id", "cases.case_id", "cases.submitter_id", "diagnoses.diagnosis_id",
    "pathology_details.consistent_pathology_review",
    "pathology_details.lymph_nodes_positive", "pathology_details.lymph_nodes_tested",
    "pathology_details.lymphatic_invasion_present",
    "pathology_details.non_nodal_tumor_deposits", "pathology_details.perineural_invasion_present",
    "pathology_details.submitter_id",
    "pathology_details.vascular_invasion_present",
)  # fmt: skip
FOLLOW_UP: Final = (
    "project.project_id", "cases.case_id", "cases.submitter_id", "follow_ups.days_to_follow_up",
    "follow_ups.disease_response",
    "follow_ups.follow_up_id", "follow_ups.progression_or_recurrence",
    "follow_ups.timepoint_category", "molecular_tests.antigen",
    "molecular_tests.gene_symbol", "molecular_tests.laboratory_test",
    "molecular_tests.molecular_analysis_method",
    "molecular_tests.submitter_id", "molecular_tests.test_result", "molecular_tests.test_units",
    "molecular_tests.test_value",
    "molecular_tests.timepoint_category", "other_clinical_attributes.bmi",
    "other_clinical_attributes.timepoint_category",
)  # fmt: skip

ORIGINS: Final = (
    ("Cecum", "Ascending colon", "Hepatic flexure of colon", "Transverse colon"),
    ("Sigmoid colon", "Descending colon", "Splenic flexure of colon"),
    ("Rectum, NOS", "Rectosigmoid junction"),
    ("Colon, NOS",),
)
DIAGNOSES: Final = (
    ("Adenocarcinoma, NOS", "Adenocarcinoma in tubulovillous adenoma", "Tubular adenocarcinoma"),
    ("Mucinous adenocarcinoma",),
    (
        "Carcinoma, NOS",
        "Adenosquamous carcinoma",
        "Adenocarcinoma with neuroendocrine differentiation",
    ),
)
_PATHOLOGY_NAME = {
    "lymphatic": "lymphatic_invasion_present",
    "vascular": "vascular_invasion_present",
    "perineural": "perineural_invasion_present",
    "deposits": "non_nodal_tumor_deposits",
}
_OTHERS = ("Prior primary", "Synchronous primary", "Unknown", "metastasis", "recurrence")

Row = dict[str, str]


@dataclass(frozen=True)
class Patient:
    """One patient of a Draw, as plain numbers: the fields of the same name there."""

    barcode: str
    serial: int
    folder: str
    primary: bool
    """Whether a row of the primary tumour is written."""
    age: float
    male: int
    location: int
    histology: int
    prior: int
    cea: float
    m: int
    known: bool
    t: int
    n: int
    positive: int
    tested: int
    invaded: tuple[int, ...]

    @property
    def key(self) -> Row:
        return {
            "project.project_id": f"TCGA-{self.folder.upper()}",
            "cases.case_id": f"00000000-0000-0000-0000-{self.serial:012d}",
            "cases.submitter_id": self.barcode,
        }


def clinical(p: Patient, rng: np.random.Generator) -> list[Row]:
    """Rows of `clinical.tsv`: each diagnosis with each of its treatments; other diagnoses stand
    before or after the primary tumour's."""
    person = p.key | _person(p, rng)
    main = _diagnosis(
        p,
        0,
        _tumour(p, rng)
        if p.primary
        else {"diagnoses.classification_of_tumor": "not reported", **_elsewhere(rng)},
    )
    diagnoses = [main]
    for at in range(int(rng.choice(3, p=(0.72, 0.2, 0.08)))):
        kind = str(rng.choice(_OTHERS, p=(0.27, 0.05, 0.55, 0.08, 0.05)))
        extra = _diagnosis(
            p,
            at + 1,
            {
                "diagnoses.classification_of_tumor": kind,
                **(_elsewhere(rng) if kind.endswith("primary") else {}),
            },
        )
        diagnoses.insert(len(diagnoses) if rng.random() < 0.5 else 0, extra)
    return [
        person | diagnosis | treatment
        for diagnosis in diagnoses
        for treatment in _treatments(p, rng)
    ]


def pathology(p: Patient, rng: np.random.Generator) -> list[Row]:
    """The row of `pathology_detail.tsv`; nobody without a primary tumour's row has one."""
    if not p.primary:
        return []
    row = p.key | {
        "diagnoses.diagnosis_id": f"{p.barcode}_diagnosis_id",
        "pathology_details.submitter_id": f"{p.barcode}_pathology_detail",
        "pathology_details.consistent_pathology_review": "Yes"
        if rng.random() < 0.7
        else "Not Reported",
        "pathology_details.lymph_nodes_positive": _count(p.positive),
        "pathology_details.lymph_nodes_tested": _count(p.tested),
    }
    for name, value in zip(INVASIONS, p.invaded, strict=True):
        missing = NULL if rng.random() < 0.95 else "Unknown"
        row[f"pathology_details.{_PATHOLOGY_NAME[name]}"] = (
            missing if value == MISSING else ("No", "Yes")[value]
        )
    return [row]


def follow_up(p: Patient, rng: np.random.Generator) -> list[Row]:
    """Rows of `follow_up.tsv`: visits, then the CEA before surgery where it was measured, other
    tests, and the body mass index."""
    rows: list[Row] = []
    day = 0
    for at in range(int(rng.integers(1, 5))):
        day += int(rng.integers(10, 500))
        tumour = rng.random() < (0.75 if p.m else 0.15)
        rows.append({
            "follow_ups.follow_up_id": f"{p.barcode}_visit{at}",
            "follow_ups.days_to_follow_up": str(day),
            "follow_ups.timepoint_category": "Follow-up" if at else "Last Contact",
            "follow_ups.disease_response": "WT-With Tumor" if tumour else "TF-Tumor Free",
            "follow_ups.progression_or_recurrence": "Yes" if tumour and at else NULL,
        })  # fmt: skip
    tests: list[Row] = []
    if np.isfinite(p.cea):
        tests.append({
            "molecular_tests.antigen": "CEA",
            "molecular_tests.test_value": repr(p.cea),
            "molecular_tests.test_units": "ng/mL",
            "molecular_tests.test_result": "Test Value Reported",
            "molecular_tests.timepoint_category": "Preoperative",
            "molecular_tests.gene_symbol": "Not Applicable",
        })  # fmt: skip
    for gene in ("KRAS", "MLH1", "MSH2"):
        if rng.random() < 0.15:
            result = str(
                rng.choice(("Positive", "Negative", "Normal", "Loss of Expression", "Unknown"))
            )
            tests.append({
                "molecular_tests.gene_symbol": gene,
                "molecular_tests.test_result": result,
                "molecular_tests.molecular_analysis_method": "IHC"
                if gene != "KRAS" else "Not Reported",
            })  # fmt: skip
    if rng.random() < 0.2:
        tests.append(
            {
                "molecular_tests.laboratory_test": "Microsatellite Instability",
                "molecular_tests.test_result": "Negative",
            }
        )
    rows += [
        test | {"molecular_tests.submitter_id": f"{p.barcode}_molecular_test{at}"}
        for at, test in enumerate(tests)
    ]
    if rng.random() < 0.5:
        bmi = f"{rng.normal(27.5, 4.5):.1f}"
        rows.append(
            {
                "other_clinical_attributes.bmi": bmi,
                "other_clinical_attributes.timepoint_category": "Initial Diagnosis",
            }
        )
    return [p.key | row for row in rows]


def _person(p: Patient, rng: np.random.Generator) -> Row:
    days = int(p.age * 365.25 + rng.integers(0, 365))
    death, censored = rng.exponential(900 if p.m else 5000), rng.exponential(1000)
    dead = death < censored
    last = max(int(min(death, censored)), 1)
    blank = p.male == MISSING
    rectal = p.folder == "read"
    return {
        "cases.disease_type": "Adenomas and Adenocarcinomas"
        if p.histology != 1
        else "Cystic, Mucinous and Serous Neoplasms",
        "cases.index_date": "Diagnosis",
        "cases.primary_site": "Rectum" if rectal else "Colon",
        "demographic.age_at_index": str(int(p.age)),
        "demographic.days_to_birth": str(-days),
        "demographic.gender": "not reported" if blank else ("female", "male")[p.male],
        "demographic.vital_status": "Not Reported" if blank else ("Dead" if dead else "Alive"),
        "demographic.days_to_death": str(last) if dead and not blank else NULL,
        "diagnoses.age_at_diagnosis": str(days),
        "diagnoses.days_to_last_follow_up": f"{last}.0",
    }


def _diagnosis(p: Patient, at: int, values: Row) -> Row:
    name = f"{p.barcode}_diagnosis{at or ''}"
    blank = dict.fromkeys(
        (
            c
            for c in CLINICAL
            if c.startswith("diagnoses.") and not c.endswith(("age_at_diagnosis", "last_follow_up"))
        ),
        NULL,
    )
    own = {
        "diagnoses.submitter_id": name,
        "diagnoses.diagnosis_id": f"{name}_id",
        "diagnoses.diagnosis_is_primary_disease": "false",
    }
    return blank | own | values


def _tumour(p: Patient, rng: np.random.Generator) -> Row:
    return {
        "diagnoses.classification_of_tumor": "primary",
        "diagnoses.diagnosis_is_primary_disease": "true",
        "diagnoses.ajcc_pathologic_t": _t(p, rng),
        "diagnoses.ajcc_pathologic_n": _n(p, rng),
        "diagnoses.ajcc_pathologic_m": _m(p, rng),
        "diagnoses.ajcc_pathologic_stage": _stage(p, rng),
        "diagnoses.primary_diagnosis": _one_of(DIAGNOSES, p.histology, rng),
        "diagnoses.tissue_or_organ_of_origin": _one_of(ORIGINS, p.location, rng),
        "diagnoses.prior_malignancy": "not reported"
        if p.prior == MISSING
        else ("no", "yes")[p.prior],
        "diagnoses.residual_disease": str(
            rng.choice(
                ("R0", "R2", "RX", NULL),
                p=(0.2, 0.55, 0.1, 0.15) if p.m else (0.84, 0.01, 0.04, 0.11),
            )
        ),
    }


def _elsewhere(rng: np.random.Generator) -> Row:
    """Another tumour's T, N and M, which are not those of the primary."""
    return {
        "diagnoses.ajcc_pathologic_t": str(rng.choice((NULL, "T1", "T2", "TX"))),
        "diagnoses.ajcc_pathologic_n": str(rng.choice((NULL, "N0", "NX"))),
        "diagnoses.ajcc_pathologic_m": str(
            rng.choice((NULL, "M0", "M1", "MX"), p=(0.4, 0.25, 0.25, 0.1))
        ),
        "diagnoses.primary_diagnosis": "Adenocarcinoma, NOS",
        "diagnoses.tissue_or_organ_of_origin": str(
            rng.choice(("Prostate gland", "Breast, NOS", "Skin, NOS", "Not Reported"))
        ),
        "diagnoses.prior_malignancy": "no",
    }


def _treatments(p: Patient, rng: np.random.Generator) -> list[Row]:
    chosen = rng.random(4) < (0.8, 0.75, 0.3, 0.1)
    kinds = [
        k
        for k, on in zip(
            (
                "Chemotherapy",
                "Radiation Therapy, NOS",
                "Pharmaceutical Therapy, NOS",
                "Surgery, NOS",
            ),
            chosen,
            strict=True,
        )
        if on
    ]
    rows: list[Row] = []
    for kind in kinds:
        was_given = str(rng.choice(("yes", "no", "unknown"), p=(0.45, 0.5, 0.05)))
        outcome = str(
            rng.choice(("Progressive Disease" if p.m else "Complete Response", NULL), p=(0.2, 0.8))
        )
        rows.append({
            "treatments.submitter_id": f"{p.barcode}_treatment{len(rows)}",
            "treatments.treatment_type": kind,
            "treatments.treatment_or_therapy": was_given,
            "treatments.treatment_outcome": outcome if was_given == "yes" else NULL,
        })  # fmt: skip
    return rows or [{}]


def _t(p: Patient, rng: np.random.Generator) -> str:
    if p.t == MISSING:
        return str(rng.choice((NULL, "TX")))
    return (
        str(rng.choice(("T4", "T4a", "T4b"), p=(0.5, 0.35, 0.15)))
        if p.t == 4
        else ("Tis", "T1", "T2", "T3")[p.t]
    )


def _n(p: Patient, rng: np.random.Generator) -> str:
    if p.n == MISSING:
        return str(rng.choice((NULL, "NX")))
    if p.n == 0 or p.positive == MISSING or rng.random() < 0.7:
        return f"N{p.n}"
    return f"N{p.n}" + ("a" if p.positive <= (1 if p.n == 1 else 6) else "b")


def _m(p: Patient, rng: np.random.Generator) -> str:
    if not p.known:
        return str(rng.choice(("MX", NULL), p=(0.85, 0.15)))
    return str(rng.choice(("M1", "M1a", "M1b"), p=(0.84, 0.12, 0.04))) if p.m else "M0"


def _stage(p: Patient, rng: np.random.Generator) -> str:
    """The AJCC stage, which M decides: a column that guard L02 exists for."""
    if p.m:
        return str(rng.choice(("Stage IV", "Stage IVA", "Stage IVB"), p=(0.72, 0.25, 0.03)))
    if MISSING in (p.t, p.n):
        return NULL
    if p.n:
        if p.t <= 2:
            return "Stage IIIA"
        return "Stage IIIB" if p.n == 1 else "Stage IIIC"
    if p.t <= 2:
        return "Stage I"
    return "Stage IIA" if p.t == 3 else "Stage IIB"


def _one_of(names: tuple[tuple[str, ...], ...], at: int, rng: np.random.Generator) -> str:
    """The first name of a group more often than the others."""
    if at == MISSING:
        return "Not Reported"
    group = names[at]
    return group[0] if rng.random() < 0.5 else group[int(rng.integers(len(group)))]


def _count(value: int) -> str:
    return NULL if value == MISSING else str(value)
