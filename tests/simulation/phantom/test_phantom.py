"""The colorectal phantom: what it writes, whether its truth is true, and whether each planted fault
is one."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cohort.reader import Reading, read_table, select
from common.data.cohort import UNKNOWN
from common.errors import DataError, LeakError, UsageError
from common.study.load import load
from simulation.phantom.colorectal import ceiling, hospitals, records, writer
from simulation.phantom.colorectal import generative_model as colorectal_model
from simulation.phantom.colorectal.generative_model import Draw
from simulation.phantom.faults import table_faults
from simulation.phantom.shared import draws
from tests.paths import DATA, ROOT

STUDY = load("colorectal_metastasis")
REAL = DATA / "tcga-coadread"
TABLES = [f"{folder}/{table}" for folder in ("coad", "read") for table in writer.TABLES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom")
    writer.write(out)
    return out


@pytest.fixture(scope="module")
def large() -> Draw:
    return colorectal_model.draw(60_000, 11)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def reading(folder: Path, task: str = "postresection") -> Reading:
    return read_table(STUDY, task, folder, source="gdc")


# ---- what is written -----------------------------------------------------------------------------


def test_equal_arguments_write_equal_bytes_and_another_seed_does_not(
    folder: Path, tmp_path: Path
) -> None:
    writer.write(tmp_path / "same")
    writer.write(tmp_path / "other", seed=1)
    assert digests(tmp_path / "same") == digests(folder)
    other = digests(tmp_path / "other")
    assert set(other) == {*TABLES, "truth.json"}
    assert not set(other.values()) & set(digests(folder).values())


def test_the_truth_reads_back_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    truth = writer.write(tmp_path, seed=3, patients=200)
    assert writer.read_truth(tmp_path) == truth
    assert writer.read_truth(tmp_path / "coad") is None
    (tmp_path / "truth.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(DataError, match=r"truth\.json"):
        writer.read_truth(tmp_path)


def test_rows_are_diagnosis_by_treatment_with_dotted_headers(folder: Path) -> None:
    for name in ("coad", "read"):
        table = rows(folder / name / "clinical.tsv")
        assert tuple(table[0]) == records.CLINICAL
        assert {r["project.project_id"] for r in table} == {f"TCGA-{name.upper()}"}
    table = rows(folder / "coad" / "clinical.tsv")
    kinds = Counter(r["diagnoses.classification_of_tumor"] for r in table)
    assert kinds["primary"] > 0.5 * len(table)
    assert {"Prior primary", "Synchronous primary", "Unknown", "metastasis", "recurrence"} <= set(
        kinds
    )
    known = [r for r in table if r["diagnoses.classification_of_tumor"] == "primary"]
    assert {r["diagnoses.ajcc_pathologic_m"] for r in known} == {
        "M0",
        "M1",
        "M1a",
        "M1b",
        "MX",
        "'--",
    }
    assert {"T4a", "T4b", "Tis"} & {r["diagnoses.ajcc_pathologic_t"] for r in known}
    assert {"N1a", "N1b", "N2a", "N2b"} <= {r["diagnoses.ajcc_pathologic_n"] for r in known}


def test_taking_the_first_value_that_is_not_null_takes_wrong_labels(folder: Path) -> None:
    first: dict[str, str] = {}
    primary: dict[str, str] = {}
    for row in rows(folder / "coad" / "clinical.tsv"):
        first.setdefault(row["cases.submitter_id"], row["diagnoses.ajcc_pathologic_m"])
        if row["diagnoses.classification_of_tumor"] == "primary":
            primary[row["cases.submitter_id"]] = row["diagnoses.ajcc_pathologic_m"]
    assert sum(first[i] != m for i, m in primary.items()) > 30


def test_cea_is_a_preoperative_row_among_other_tests(folder: Path) -> None:
    table = [r for name in ("coad", "read") for r in rows(folder / name / "follow_up.tsv")]
    cea = [r for r in table if r["molecular_tests.antigen"] == "CEA"]
    assert {
        (r["molecular_tests.test_units"], r["molecular_tests.timepoint_category"]) for r in cea
    } == {("ng/mL", "Preoperative")}
    assert len({r["cases.submitter_id"] for r in cea}) == len(cea)
    assert {"KRAS", "MLH1"} <= {r["molecular_tests.gene_symbol"] for r in table}
    at = Counter(r["cases.submitter_id"][5:7] for r in cea)
    assert at["CM"] == 37
    assert at["DM"] == at["DY"] == 0


def test_ids_have_the_form_of_a_barcode_and_belong_to_nobody(folder: Path) -> None:
    ids = {
        r["cases.submitter_id"]
        for name in ("coad", "read")
        for r in rows(folder / name / "clinical.tsv")
    }
    assert len(ids) == 633
    assert all(
        re.fullmatch(r"TCGA-[0-9A-Z]{2}-Z[0-9A-Z]{3}", i)
        and i[5:7] in {c for c, *_ in hospitals.CODES}
        for i in ids
    )


def test_no_id_of_the_real_cohort_is_used(folder: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(
            f"no real table at {REAL}; set FEDMETS_DATA to the folder that holds tcga-coadread/"
        )
    real = {
        r["cases.submitter_id"]
        for name in ("coad", "read")
        for r in rows(REAL / name / "clinical.tsv")
    }
    assert not [i for i in real if i[8] == "Z"]
    columns = {name: rows(REAL / "coad" / name)[0] for name in writer.TABLES}
    for name, (used, _) in writer.TABLES.items():
        assert set(used) <= set(columns[name]), "a column that the real export does not have"


def test_the_command_would_not_wait_for_it() -> None:
    heavy = "{'pandas', 'torch', 'scipy', 'sklearn'} & set(sys.modules)"
    code = (
        "import sys; from simulation.phantom.colorectal import writer; from "
        "simulation.phantom.faults import table_faults; "
        f"print(sorted({heavy}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


# ---- the cohort ----------------------------------------------------------------------------------


@given(st.integers(100, 100_000))
def test_every_patient_is_allocated_and_the_sizes_keep_their_proportion(patients: int) -> None:
    counts = hospitals.allocate(patients)
    assert counts.sum() == patients
    quota = np.array([n for _, n, _, _ in hospitals.CODES]) * patients / hospitals.Hospital.SIZE
    assert np.abs(counts - quota).max() < 1


@pytest.mark.parametrize("patients", [0, 99, 100_001])
def test_a_number_of_patients_outside_the_bounds_is_refused(patients: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{patients} patients"):
        writer.write(tmp_path, patients=patients)


def test_the_hospitals_have_the_declared_sizes() -> None:
    assert sum(h.size for h in hospitals.HOSPITALS) == hospitals.Hospital.SIZE
    assert {h.name: h.size for h in hospitals.HOSPITALS if h.size > 60} == {
        "Indivumed": 254,
        "Christiana": 71,
        "other": 82,
    }


@pytest.mark.parametrize("seed", range(12))
def test_prevalence_and_the_classes_of_the_large_sites(seed: int) -> None:
    d = colorectal_model.draw(633, seed)
    assert 0.11 < d.m[d.known].mean() < 0.22
    at = {h.name: d.m[(d.hospital == i) & d.known] for i, h in enumerate(hospitals.HOSPITALS)}
    for name in ("Indivumed", "Christiana", "MSKCC", "Pittsburgh"):
        assert set(at[name].tolist()) == {0, 1}
    assert at["Indivumed"].sum() >= 10
    assert set(at["ILSBio"].tolist()) == {0}, "the one-class site"


def test_the_default_cohort_has_three_estimable_sites(folder: Path) -> None:
    truth = writer.read_truth(folder)
    assert truth is not None
    estimable = {
        name
        for name, (_, known, events) in truth.hospitals.items()
        if min(events, known - events) >= 10
    }
    assert estimable == {"Indivumed", "Christiana", "Pittsburgh"}
    assert 0.14 < truth.prevalence < 0.18


def test_the_reader_finds_what_the_generator_wrote(folder: Path) -> None:
    truth = writer.read_truth(folder)
    assert truth is not None
    found = reading(folder)
    cohort = found.cohort
    assert (cohort.flow.read, len(cohort)) == (truth.patients, truth.with_primary) == (633, 631)
    assert (int((cohort.labels != UNKNOWN).sum()), int((cohort.labels == 1).sum())) == (
        truth.known,
        truth.events,
    )
    names = [f.name for f in cohort.schema.features]
    assert int(np.isfinite(cohort.values[:, names.index("cea")]).sum()) == truth.cea
    own = {h.name for h in hospitals.HOSPITALS} - {"ILSBio", "other"}
    for name in own:
        mask = np.array(found.institutions) == name
        counts = (
            int(mask.sum()),
            int((cohort.labels[mask] != UNKNOWN).sum()),
            int((cohort.labels[mask] == 1).sum()),
        )
        assert counts == truth.hospitals[name]


def test_the_reader_finds_each_value_that_was_drawn(folder: Path) -> None:
    """The columns of the design equal the arrays of the draw, patient by patient (matched by the
    serial in the case id)."""
    d = colorectal_model.draw(633, 0)
    serial = {
        r["cases.submitter_id"]: int(r["cases.case_id"][-12:])
        for n in ("coad", "read")
        for r in rows(folder / n / "clinical.tsv")
    }
    cohort = reading(folder).cohort
    order = np.array([serial[i] for i in cohort.ids])
    names = [f.name for f in cohort.schema.features]

    def number(array: np.ndarray) -> np.ndarray:
        return np.where(
            array[order] == colorectal_model.MISSING, np.nan, array[order].astype(float)
        )

    drawn = {
        "age": d.age[order],
        "sex": number(d.male),
        "location": number(d.location),
        "histology": number(d.histology),
    }
    drawn |= {
        "cea": d.cea[order],
        "t": number(d.t),
        "n": number(d.n),
        "prior_malignancy": number(d.prior),
    }
    drawn |= {"nodes_positive": number(d.positive), "nodes_tested": number(d.tested)}
    for j, name in enumerate(
        ("lymphatic_invasion", "vascular_invasion", "perineural_invasion", "tumour_deposits")
    ):
        drawn[name] = number(d.invaded[:, j])
    assert set(drawn) == set(names)
    for j, name in enumerate(names):
        np.testing.assert_array_equal(cohort.values[:, j], drawn[name], err_msg=name)
    np.testing.assert_array_equal(cohort.labels, np.where(d.known[order], d.m[order], UNKNOWN))


# ---- the planted truth ---------------------------------------------------------------------------


def test_the_ceilings_are_where_they_should_be(folder: Path) -> None:
    truth = writer.read_truth(folder)
    assert truth is not None
    assert truth.ceilings["preop"] == pytest.approx(0.80, abs=0.02)
    assert truth.ceilings["postresection"] == pytest.approx(0.90, abs=0.02)
    for task in ceiling.TASKS:
        assert truth.ceilings_within[task] > truth.ceilings[task] - 0.01, (
            "who knows the hospital knows no less"
        )
        assert truth.cohort_ceilings[task] == pytest.approx(truth.ceilings[task], abs=0.08)


@pytest.mark.parametrize("task", ceiling.TASKS)
def test_the_posterior_is_calibrated(large: Draw, task: str) -> None:
    """Of the patients with posterior near p, a share p has M1: this holds only for the right Bayes'
    rule, in every tenth and hospital."""
    seen = large.where(large.known)
    for p in ceiling.posterior(seen, task):
        order = np.argsort(p)
        for part in np.array_split(order, 10):
            error = 3.5 * np.sqrt((p[part] * (1 - p[part])).sum()) / len(part) + 1e-9
            assert seen.m[part].mean() == pytest.approx(p[part].mean(), abs=error)
    own = ceiling.posterior(seen, task)[1]
    for h in range(len(hospitals.HOSPITALS)):
        mask = seen.hospital == h
        error = 4 * np.sqrt((own[mask] * (1 - own[mask])).sum()) / mask.sum() + 1e-9
        assert seen.m[mask].mean() == pytest.approx(own[mask].mean(), abs=error), (
            hospitals.HOSPITALS[h].name
        )


def by_hand(d: Draw, i: int, task: str) -> tuple[float, float]:
    """The two posteriors of patient `i`, from the model's description alone: sums over hospitals,
    locations, histologies, N and CEA."""
    g = colorectal_model
    log_cea = np.linspace(g.CEA_MEAN - 9 * g.CEA_SD, g.CEA_MEAN + 9 * g.CEA_SD, 4001)
    weights = np.exp(-0.5 * ((log_cea - g.CEA_MEAN) / g.CEA_SD) ** 2)
    joint = np.zeros((len(hospitals.HOSPITALS), 2))
    for h, hospital in enumerate(hospitals.HOSPITALS):
        for place in range(4) if d.location[i] < 0 else [d.location[i]]:
            for tissue in range(3) if d.histology[i] < 0 else [d.histology[i]]:
                prior = hospital.rectal if place == 2 else (1 - hospital.rectal) * g.COLON[place]
                prior *= g.HISTOLOGY[tissue] * hospital.size * hospital.known
                base = (
                    g.INTERCEPT
                    + hospital.shift
                    + g.AGE * (d.age[i] - 66) / 10
                    + g.PLACE[place]
                    + g.TISSUE[tissue]
                )
                if np.isnan(d.cea[i]):
                    m1 = float(
                        np.average(
                            1 / (1 + np.exp(-base - g.CEA * np.log1p(np.exp(log_cea)))),
                            weights=weights,
                        )
                    )
                    prior *= 1 - hospital.cea
                else:
                    value = d.cea[i] / hospital.assay
                    m1 = 1 / (1 + np.exp(-base - g.CEA * np.log1p(value)))
                    prior *= hospital.cea * np.exp(
                        -0.5 * ((np.log(value) - g.CEA_MEAN) / g.CEA_SD) ** 2
                    )
                joint[h] += prior * np.array([1 - m1, m1])
        for k in range(4) if task == "postresection" else ():
            joint[h] *= hospital.invasion[k] if d.invaded[i, k] >= 0 else 1 - hospital.invasion[k]
    for m in range(2) if task == "postresection" else ():
        likelihood = 0.0
        for n in range(3) if d.n[i] < 0 else [d.n[i]]:
            term = g.N[m, n] * (
                g.node_probability(n, m)[d.positive[i]] if d.positive[i] >= 0 else 1.0
            )
            for k in range(4):
                yes = 1 / (1 + np.exp(-(g.INVADED[k] @ [1.0, n, m])))
                term *= 1.0 if d.invaded[i, k] < 0 else (yes if d.invaded[i, k] else 1 - yes)
            likelihood += term
        joint[:, m] *= likelihood * (g.T[m, d.t[i]] if d.t[i] >= 0 else 1.0)
    mixed, own = joint.sum(0), joint[d.hospital[i]]
    return mixed[1] / mixed.sum(), own[1] / own.sum()


@pytest.mark.parametrize("task", ceiling.TASKS)
def test_the_posterior_is_the_one_worked_out_by_hand(large: Draw, task: str) -> None:
    odd = np.flatnonzero((large.location < 0) | (large.n < 0) | (large.t < 0))[:25]
    some = large.where(np.isin(np.arange(len(large)), [*range(40), *odd]))
    assert (
        min(
            (some.location < 0).sum(),
            (some.n < 0).sum(),
            (some.t < 0).sum(),
            np.isnan(some.cea).sum(),
            (some.positive < 0).sum(),
        )
        > 0
    )
    expected = np.array([by_hand(some, i, task) for i in range(len(some))])
    # CEA is integrated on one grid here and by Gauss-Hermite and interpolation there
    np.testing.assert_allclose(
        np.column_stack(ceiling.posterior(some, task)), expected, rtol=2e-4, atol=1e-9
    )


@pytest.mark.parametrize(("n", "m"), [(n, m) for n in range(3) for m in range(2)])
def test_the_positive_nodes_have_the_declared_probabilities(large: Draw, n: int, m: int) -> None:
    p = colorectal_model.node_probability(n, m)
    assert p.sum() == pytest.approx(1)
    seen = large.positive[(large.n == n) & (large.m == m) & (large.positive >= 0)]
    share = np.bincount(seen, minlength=len(p)) / len(seen)
    assert np.abs(share - p).max() < 4 * np.sqrt(0.25 / len(seen))


def design(d: Draw, task: str) -> np.ndarray:
    """What a learner sees: choices as columns, logs of skewed numbers, means for missing values
    with their indicators."""
    columns = [
        d.age,
        np.log1p(d.cea),
        *(d.location == k for k in (1, 2, 3)),
        d.histology == 1,
        np.isnan(d.cea),
    ]
    if task == "postresection":
        whole = [
            np.where(a < 0, np.nan, a)
            for a in (d.t, d.n, np.log1p(np.maximum(d.positive, 0)), *d.invaded.T)
        ]
        columns += [*whole, *(d.invaded.T < 0), d.positive < 0]
    matrix = np.column_stack([np.asarray(c, float) for c in columns])
    return np.where(np.isnan(matrix), np.nanmean(matrix, 0), matrix)


def fitted_auc(d: Draw, task: str) -> float:
    from sklearn.linear_model import LogisticRegression

    seen = d.where(d.known)
    x, half = design(seen, task), len(seen) // 2
    x = (x - x.mean(0)) / x.std(0)
    model = LogisticRegression(max_iter=500).fit(x[:half], seen.m[:half])
    return draws.auc(model.decision_function(x[half:]), seen.m[half:])


@pytest.mark.parametrize("task", ceiling.TASKS)
def test_a_model_that_is_fitted_comes_near_the_ceiling_and_stays_below(
    large: Draw, task: str
) -> None:
    bound = ceiling.population()[0][task]
    # above: only the noise of two AUCs on about 50,000 and 25,000 patients
    assert bound - 0.025 < fitted_auc(large, task) < bound + 0.012


def test_cea_and_age_carry_the_planted_signal(large: Draw) -> None:
    seen = large.where(large.known & np.isfinite(large.cea))
    assert draws.auc(seen.cea, seen.m) > 0.75
    assert draws.auc(-seen.age, seen.m) > 0.52


@pytest.mark.parametrize("task", ceiling.TASKS)
def test_without_a_signal_no_model_finds_one(task: str) -> None:
    assert fitted_auc(colorectal_model.draw(60_000, 11, null=True), task) == pytest.approx(
        0.5, abs=0.02
    )


def test_the_truth_of_a_phantom_without_signal_says_so(tmp_path: Path) -> None:
    truth = writer.write(tmp_path, null=True)
    assert set(truth.ceilings.values()) | set(truth.cohort_ceilings_within.values()) == {0.5}
    assert truth.null
    assert truth.events > 40
    assert len(reading(tmp_path).cohort) == 631


def test_stage_gives_the_label_away(folder: Path) -> None:
    stages = [
        (
            r["diagnoses.ajcc_pathologic_stage"].startswith("Stage IV"),
            r["diagnoses.ajcc_pathologic_m"],
        )
        for r in rows(folder / "coad" / "clinical.tsv")
        if r["diagnoses.classification_of_tumor"] == "primary"
    ]
    assert {m[:2] for four, m in stages if four} <= {"M1", "MX", "'-"}
    assert {m[:2] for four, m in stages if not four} <= {"M0", "MX", "'-"}


def test_the_auc_is_the_share_of_pairs(large: Draw) -> None:
    from sklearn.metrics import roc_auc_score

    seen = large.where(large.known)
    assert draws.auc(seen.n.astype(float), seen.m) == pytest.approx(
        roc_auc_score(seen.m, seen.n), abs=1e-12
    )
    assert np.isnan(draws.auc(np.zeros(3), np.zeros(3, np.int64)))


# ---- faults --------------------------------------------------------------------------------------


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(folder, tmp_path / "phantom")
    return tmp_path / "phantom"


@pytest.mark.parametrize("fault", table_faults.FAULTS, ids=lambda f: f.name)
def test_a_fault_changes_the_folder_and_is_answered(
    fault: table_faults.Planted, folder: Path, broken: Path
) -> None:
    assert fault.plant.__doc__ is not None
    assert fault.plant.__doc__.startswith(fault.code)
    assert table_faults.named(fault.name) is fault
    fault.plant(broken)
    changed = dict(set(digests(broken).items()) ^ set(digests(folder).items()))
    assert changed
    assert "truth.json" not in changed
    if fault.answer == "error":
        source = str(broken / table_faults.MAPPING) if fault.code == "L02" else "gdc"
        with pytest.raises(LeakError if fault.code.startswith("L") else DataError) as caught:
            read_table(STUDY, "postresection", broken, source=source)
        assert fault.code in {caught.value.code, *(f[:3] for f in caught.value.faults)}
    elif fault.answer == "excluded":
        flow = reading(broken).cohort.flow
        assert any(fault.code in reason for reason, _ in flow.excluded)
        assert flow.kept == 630
    else:
        reading(broken)  # the table itself is in order


def test_an_unknown_fault_is_named_with_its_alternatives() -> None:
    with pytest.raises(UsageError, match="age in days"):
        table_faults.named("age in fortnights")


def test_an_empty_site_is_empty(folder: Path, broken: Path) -> None:
    whole = reading(folder)
    michigan = frozenset(
        i for i, at in zip(whole.cohort.ids, whole.institutions, strict=True) if at == "Michigan"
    )
    table_faults.named("empty site").plant(broken)
    found = reading(broken)
    assert "Michigan" not in found.institutions
    with pytest.raises(DataError, match="D09"):
        select(found, "Michigan", michigan)


def test_a_copied_label_is_a_single_feature_that_predicts_it(broken: Path) -> None:
    table_faults.named("copy of the label").plant(broken)
    cohort = reading(broken).cohort
    prior = cohort.values[:, [f.name for f in cohort.schema.features].index("prior_malignancy")]
    known = cohort.labels != UNKNOWN
    assert draws.auc(prior[known], cohort.labels[known]) == 1.0


def test_a_patient_at_two_sites_has_one_case_id_and_two_barcodes(broken: Path) -> None:
    table_faults.named("patient at two sites").plant(broken)
    sites: dict[str, set[str]] = {}
    for row in rows(broken / "coad" / "clinical.tsv"):
        sites.setdefault(row["cases.case_id"], set()).add(row["cases.submitter_id"][5:7])
    assert sum(s == {"AA", "CM"} for s in sites.values()) == 10
    with pytest.raises(LeakError) as error:
        reading(broken)
    assert error.value.code == "L04"


def test_a_one_class_site_has_one_class(broken: Path) -> None:
    table_faults.named("one-class site").plant(broken)
    found = reading(broken)
    here = np.array(found.institutions) == "Christiana"
    assert set(found.cohort.labels[here].tolist()) == {0, UNKNOWN}
    assert int((found.cohort.labels == 1).sum()) > 50
