"""Guards L01 to L07: each leak planted, and the same cohort without it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.cohort import reader
from client.table import mapping_file
from common.data.cohort import UNKNOWN, Cohort, Fold
from common.errors import LeakError
from common.federated.learner import fit, load, local_plan
from common.study.load import load as load_study
from common.types import Arrays, digest
from server.ledger.ledger import read
from server.rounds import leak_guard
from simulation.evaluation import split_checks
from simulation.evaluation.site_probe import site_probe
from simulation.federation import label_permutation
from tests.guards.drill import (
    PARTS,
    STUDY,
    Done,
    Row,
    begin,
    changed,
    command,
    judge,
    launch,
    people,
    train,
    write,
)
from tests.paths import DATA
from tests.synthetic import cohort as synthetic
from tests.synthetic import sites as synthetic_sites

REAL = DATA / "tcga-coadread"
SMALL = {"Ash": 45, "Beech": 42}
QUICK = ("--evaluations", "within_site")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return people(sizes=SMALL)


def feature(study: str, name: str, **keys: str) -> str:
    """The study with one more feature."""
    return (
        study
        + f'\n[[feature]]\nname = "{name}"\n'
        + "".join(f"{k} = {v}\n" for k, v in keys.items())
    )


# ---- L01 -----------------------------------------------------------------------------------------


def test_l01_a_later_feature_is_no_column_of_the_earlier_task_and_is_named(
    tmp_path: Path, rows: list[Row]
) -> None:
    study = load_study(str(write(tmp_path / "town", rows)))
    early, late = (
        reader.read_table(study, task, tmp_path / "town" / "data").cohort
        for task in ("early", "late")
    )
    assert [c.name for c in early.schema.columns] == ["age", "marker", "kind=b", "kind=c"]
    assert [c.name for c in late.schema.columns] == ["age", "marker", "kind=b", "kind=c", "nodes"]
    assert early.design.shape[1] == 4
    assert [n for n in early.flow.notes if n.startswith("L01")] == [
        "L01: left out, since available only at 'surgery': nodes"
    ]
    assert not [n for n in late.flow.notes if n.startswith("L01")]


def test_l01_what_is_known_later_changes_nothing_of_the_earlier_task(
    tmp_path: Path, rows: list[Row]
) -> None:
    other = changed(rows, lambda row: row["nodes"] != "NA", nodes="3")
    for task, same in (("early", True), ("late", False)):
        hashes = [
            train(begin(tmp_path / task / n, r, "--task", task, *QUICK)).state_hash
            for n, r in (("a", rows), ("b", other))
        ]
        assert (hashes[0] == hashes[1]) is same


def test_l01_stage_dependent_features_wait_for_the_operation() -> None:
    study = load_study("colorectal_metastasis")
    preop = {f.name for f in study.schema_at("preop").features}
    assert not preop & {
        "t",
        "n",
        "nodes_positive",
        "nodes_tested",
        "lymphatic_invasion",
        "vascular_invasion",
        "perineural_invasion",
    }
    assert {"t", "n", "nodes_positive"} <= {
        f.name for f in study.schema_at("postresection").features
    }


# ---- L02 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "vital_status",
        "days_to_death",
        "overall_survival",
        "DFS",
        "months_to_relapse",
        "progression_free",
        "cause_of_death",
        "OS",
    ],
)
def test_l02_an_outcome_is_no_feature(tmp_path: Path, rows: list[Row], name: str) -> None:
    study = feature(STUDY, name, values='["a", "b"]', available_at='"admission"')
    done = command(tmp_path / "town", [row | {name: "a"} for row in rows], *QUICK, study=study)
    assert done.status == 4
    assert f"L02 feature '{name}'" in done.said
    assert "remove it from the features" in done.said
    assert "Traceback" not in done.said


def test_l02_the_column_counts_as_well_as_the_name(tmp_path: Path, rows: list[Row]) -> None:
    study = feature(
        STUDY, "innocent", column='"vital_status"', values='["a", "b"]', available_at='"admission"'
    )
    done = command(
        tmp_path / "town", [row | {"vital_status": "a"} for row in rows], *QUICK, study=study
    )
    assert done.status == 4
    assert "column 'vital_status'" in done.said


def test_l02_stage_encodes_a_metastasis_and_nothing_else(tmp_path: Path, rows: list[Row]) -> None:
    staged = [row | {"ajcc_stage": "I"} for row in rows]
    study = feature(STUDY, "ajcc_stage", values='["I", "IV"]', available_at='"admission"')
    of_m = study.replace('column = "spread"', 'column = "spread"\ntitle = "Distant metastasis"')
    assert command(tmp_path / "metastasis", staged, *QUICK, study=of_m).status == 4
    assert command(tmp_path / "other", staged, *QUICK, study=study).status == 0


def test_l02_an_override_is_printed_in_the_report(tmp_path: Path, rows: list[Row]) -> None:
    study = feature(
        STUDY,
        "survival_class",
        values='["a", "b"]',
        available_at='"admission"',
        not_an_outcome='"a name of the ward"',
    )
    done = command(
        tmp_path / "town", [row | {"survival_class": "a"} for row in rows], *QUICK, study=study
    )
    assert done.status == 0, done.said
    assert (
        "guard L02 was overridden for feature 'survival_class': a name of the ward"
        in done.report["alarms"]
    )


def test_l02_the_stage_of_the_real_table_is_refused(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(f"no real data: {REAL} is not there (set FEDMETS_DATA)")
    text = (mapping_file.SOURCES / "gdc.toml").read_text(encoding="utf-8")
    (tmp_path / "leaky.toml").write_text(
        text.replace('"diagnoses.prior_malignancy"', '"diagnoses.ajcc_pathologic_stage"')
    )
    study = load_study("colorectal_metastasis")
    with pytest.raises(LeakError) as caught:
        reader.read_table(study, "preop", REAL, source=str(tmp_path / "leaky.toml"))
    assert caught.value.code == "L02"
    assert "column 'diagnoses.ajcc_pathologic_stage'" in str(caught.value)
    assert reader.read_table(study, "preop", REAL).source == "gdc"


# ---- L03 -----------------------------------------------------------------------------------------


def histograms(cohorts: Sequence[Cohort], fold: Fold | None = None) -> Arrays:
    """The sums that the coordinator holds after preprocessing."""
    return fit(load("preprocessing"), {}, cohorts, local_plan(fold or Fold(), 0, PARTS))[
        "preprocessing"
    ]


def planted(name: str, values: dict[int, float], n: int = 120) -> Cohort:
    """A synthetic cohort in which feature `name` has the value that `values` gives for the label;
    otherwise its own."""
    c = synthetic(n, seed=3, missing=0.02)
    x = c.values.copy()
    j = [f.name for f in c.schema.features].index(name)
    for label, value in values.items():
        x[c.labels == label, j] = value
    return dataclasses.replace(c, values=x)


def found(c: Cohort) -> set[str]:
    return set(leak_guard.leaks({"all": histograms([c])}, c.schema))


def test_l03_an_ordinary_cohort_has_no_leak() -> None:
    c = synthetic(120, seed=3)
    assert found(c) == set()
    assert all(
        0.5 <= auc < 0.95
        for auc in leak_guard.single_feature_auc(histograms([c]), c.schema).values()
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("x1", {0: -2.0, 1: 2.0}),
        ("x1", {0: 2.0, 1: -2.0}),
        ("marker", {0: 1.0, 1: 9000.0}),
        ("grade", {0: 0.0, 1: 2.0}),
        ("grade", {0: 2.0, 1: 0.0}),
        ("place", {0: 2.0, 1: 1.0}),
    ],
)
def test_l03_a_leak_by_value_in_either_direction(name: str, values: dict[int, float]) -> None:
    assert found(planted(name, values)) == {name}


def test_l03_a_leak_by_missingness() -> None:
    assert found(planted("x1", {1: np.nan})) == {"x1"}
    assert found(planted("place", {0: np.nan})) == {"place"}


def test_l03_a_leak_through_levels_that_need_another_order() -> None:
    """The middle level alone is the event: in the vocabulary's order its AUC is 1/2."""
    c = planted("place", {1: 1.0})
    x, j = c.values.copy(), [f.name for f in c.schema.features].index("place")
    none = np.flatnonzero(c.labels == 0)
    x[none, j] = np.where(np.arange(len(none)) % 2 == 0, 0.0, 2.0)
    c = dataclasses.replace(c, values=x)
    rank, event = x[:, j], c.labels == 1
    pairs = rank[event][:, None] - rank[~event][None]
    assert float(((pairs > 0) + (pairs == 0) / 2).mean()) == pytest.approx(0.5, abs=0.02)
    assert found(c) == {"place"}


@pytest.mark.parametrize(("events", "fires"), [(9, False), (10, True)])
def test_l03_needs_ten_events(events: int, fires: bool) -> None:
    c = synthetic(120, seed=3, missing=0.0)
    labels = np.zeros(120, np.int64)
    labels[:events] = 1
    x = c.values.copy()
    x[:, 0] = np.where(labels == 1, 3.0, -3.0)
    assert (found(dataclasses.replace(c, labels=labels, values=x)) == {"x0"}) is fires


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_l03_sees_the_leak_however_the_patients_are_divided(count: int, seed: int) -> None:
    whole = planted("x1", {0: -2.0, 1: 2.0})
    at = np.random.default_rng(seed).integers(0, count, len(whole))
    pieces = [whole.where(at == k) for k in range(count)]
    assert leak_guard.single_feature_auc(
        histograms(pieces), whole.schema
    ) == leak_guard.single_feature_auc(histograms([whole]), whole.schema)


def test_l03_judges_training_rows_only() -> None:
    """A leak in the test rows of a fold is no leak of that fold."""
    c = planted("x1", {0: -2.0, 1: 2.0})
    clean = synthetic(120, seed=3, missing=0.02)
    test = c.parts(0, PARTS) == 1
    mixed = dataclasses.replace(c, values=np.where(test[:, None], c.values, clean.values))
    fold = Fold(parts=(1,))
    assert leak_guard.leaks({fold.key: histograms([mixed], fold)}, c.schema) == {}
    assert leak_guard.single_feature_auc(
        histograms([mixed], fold), c.schema
    ) == leak_guard.single_feature_auc(histograms([clean], fold), c.schema)


LEAKY = feature(STUDY, "ward", values='["north", "south"]', available_at='"admission"')


def leaky(rows: list[Row]) -> list[Row]:
    return [row | {"ward": "south" if row["spread"] == "1" else "north"} for row in rows]


def test_l03_stops_the_whole_program_before_a_model_and_stays_stopped(
    tmp_path: Path, rows: list[Row]
) -> None:
    done = command(tmp_path / "town", leaky(rows), *QUICK, study=LEAKY)
    assert done.status == 4
    assert "[L03] L03 feature 'ward' alone reaches AUC 1.000" in done.said
    assert "--accept-leak ward" in done.said
    assert "'age'" not in done.said
    lines = read(done.folder / "ledger.jsonl")
    (guard,) = (line for line in lines if line["kind"] == "guard")
    assert (guard["refused"], guard["accepted"]) == (["ward"], [])
    assert {w["learner"] for line in lines if line["kind"] == "exchange" for w in line["work"]} <= {
        "preprocessing",
        "survival",
    }
    assert not done.report
    # going on with the stopped run is no way round
    again = launch("--resume", str(done.folder), runs=tmp_path / "town" / "runs")
    assert again.status == 4
    assert "L03 feature 'ward'" in again.said
    assert not again.report


def test_l03_accepted_goes_on_and_is_printed(tmp_path: Path, rows: list[Row]) -> None:
    done = command(tmp_path / "town", leaky(rows), *QUICK, "--accept-leak", "ward", study=LEAKY)
    assert done.status == 0, done.said
    assert done.report["overrides"]["L03"] == ["ward"]
    assert "guard L03 was overridden for feature 'ward'" in done.report["alarms"]
    assert done.report["guards"]["L03"]["auc"]["ward"] == 1.0
    assert "guard L03 was overridden for feature 'ward'" in done.said
    assert (
        "Guard L03 (a single feature that almost equals the label) was overridden for "
        "&#39;ward&#39;" in (done.folder / "report.html").read_text()
    )


def test_l03_a_feature_that_leaks_nothing_is_not_called_overridden(
    tmp_path: Path, rows: list[Row]
) -> None:
    done = command(tmp_path / "town", rows, *QUICK, "--accept-leak", "age")
    assert done.status == 0, done.said
    assert done.report["overrides"]["L03"] == []
    assert not [a for a in done.report["alarms"] if "L03" in a]


# ---- L04 -----------------------------------------------------------------------------------------


def test_l04_the_split_is_by_patient() -> None:
    those = synthetic_sites(90)
    folds = [Fold(), *(Fold(parts=(p,)) for p in range(PARTS)), Fold(("S1",)), Fold(("S1",), (2,))]
    split_checks.verify(those, folds, 0, PARTS)
    for c in those:
        for fold in folds:
            inside = set(c.train(fold, 0, PARTS).ids)
            tested = {
                i
                for i, p in zip(c.ids, c.parts(0, PARTS), strict=True)
                if p in fold.parts or c.site in fold.sites
            }
            assert not inside & tested


def test_l04_a_patient_at_two_sites_is_refused_by_name() -> None:
    a, b, *rest = synthetic_sites(90)
    twice = dataclasses.replace(b, ids=(a.ids[0], *b.ids[1:]))
    with pytest.raises(LeakError) as caught:
        split_checks.verify([a, twice, *rest], [Fold()], 0, PARTS)
    assert caught.value.code == "L04"
    assert (
        str(caught.value)
        == f"[L04] L04 patient '{a.ids[0]}' stands at site 'S0' and at site 'S1'; remove one of "
        "the two records"
    )


def test_l04_a_split_that_trains_on_its_test_rows_is_refused() -> None:
    class Leaky(Cohort):
        def train(self, fold: Fold, seed: int, count: int) -> Cohort:
            return self.where(self.labels != UNKNOWN)

    (c,) = synthetic_sites(60, 1)
    bad = Leaky(c.site, c.schema, c.ids, c.values, c.labels)
    split_checks.verify([bad], [Fold()], 0, PARTS)
    with pytest.raises(
        LeakError, match=r"fold 'part:1' trains on .* patients of site 'S0' that it is tested on"
    ):
        split_checks.verify([bad], [Fold(parts=(1,))], 0, PARTS)


def predictions(folder: Path) -> dict[int, Path]:
    return dict(enumerate(sorted((folder / "sites").glob("*/site.toml")), start=1))


@pytest.mark.parametrize("where", ["the same site", "another site"])
def test_l04_is_verified_again_from_what_was_written(
    whole: Done, tmp_path: Path, where: str
) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    sites = predictions(folder)
    split_checks.verify_written(folder, sites)
    source, target = sites[1], sites[1 if where == "the same site" else 2]
    line = (source.parent / split_checks.FILE).read_text().splitlines()[1].split("\t")
    line[1] = str((int(line[1]) + 1) % PARTS)
    with (target.parent / split_checks.FILE).open("a") as f:
        f.write("\t".join(line) + "\n")
    with pytest.raises(LeakError, match=f"L04 patient {line[0]} stands in") as caught:
        split_checks.verify_written(folder, sites)
    assert caught.value.code == "L04"


def test_l04_what_was_written_names_nobody(whole: Done) -> None:
    written = "".join(
        (p.parent / split_checks.FILE).read_text() for p in predictions(whole.folder).values()
    )
    assert not any(row["patient"] in written for row in people())


# ---- L05 -----------------------------------------------------------------------------------------

TWO_HEADS = ("--learners", "logistic,boosting", "--set", "boosting.trees=2")


def poison(rows: list[Row], who: set[str]) -> list[Row]:
    """Other values and other labels for `who`."""
    turned = {"0": "1", "1": "0", "9": "9"}
    return [
        row
        | {
            "age": "105",
            "marker": "88888",
            "kind": "c",
            "nodes": "48",
            "spread": turned[row["spread"]],
            "months": "1",
        }
        if row["patient"] in who
        else row
        for row in rows
    ]


def test_l05_test_rows_of_a_part_change_nothing_that_is_fitted_for_it(
    tmp_path: Path, rows: list[Row]
) -> None:
    setting = begin(tmp_path / "clean", rows, *TWO_HEADS, *QUICK)
    outcome = train(setting)
    sites, clean = judge(setting, outcome)
    part = 1
    who = {
        i
        for c in sites
        for i, p in zip(c.ids, c.parts(setting.run.seed, PARTS), strict=True)
        if p == part
    }
    other_setting = begin(tmp_path / "poisoned", poison(rows, who), *TWO_HEADS, *QUICK)
    other = train(other_setting)
    _, poisoned = judge(other_setting, other)
    assert other.state_hash != outcome.state_hash
    folds = setting.run.folds(outcome.groups)
    without, fitted = (
        [f for f in folds if part in f.parts],
        ("preprocessing", "logistic", "boosting"),
    )
    assert len(without) == PARTS
    for fold in folds:
        same = [
            digest(outcome.states[fold][name]) == digest(other.states[fold][name])
            for name in fitted
        ]
        assert all(same) if fold in without else not any(same), fold.key
    # the threshold and the choice between heads come from those folds
    evaluated = [o.states[Fold()]["evaluation"] for o in (outcome, other)]
    for name in ("logistic", "boosting"):
        for kind in ("thresholds", "log_loss"):
            a, b = (e[f"{name}/{kind}/within"] for e in evaluated)
            assert np.array_equal(a[part], b[part])
            assert not np.array_equal(a, b)
    mine = clean.parts == part
    for arm in ("federated", "pooled", "local"):
        for model in ("logistic", "boosting", "clinical"):
            (a,), (b,) = (c.scores[model, arm, "within_site"] for c in (clean, poisoned))
            assert np.array_equal(a.thresholds[mine], b.thresholds[mine])
        chosen = []
        for c in (clean, poisoned):
            (clinical,), (logistic,) = (
                c.scores[m, arm, "within_site"] for m in ("clinical", "logistic")
            )
            chosen.append((clinical.probs == logistic.probs).all(axis=1)[mine])
        assert np.array_equal(*chosen)


def test_l05_a_site_that_is_left_out_changes_nothing_that_is_fitted_without_it(
    tmp_path: Path,
) -> None:
    rows = people(sizes={"Ash": 45, "Beech": 42, "Elm": 42})
    how = ("--learners", "logistic", "--evaluations", "leave_one_site_out")
    setting = begin(tmp_path / "clean", rows, *how)
    outcome = train(setting)
    _, clean = judge(setting, outcome)
    other_setting = begin(
        tmp_path / "poisoned",
        poison(rows, {row["patient"] for row in rows if row["hospital"] == "Elm"}),
        *how,
    )
    other = train(other_setting)
    _, poisoned = judge(other_setting, other)
    assert outcome.groups == other.groups == (("Ash",), ("Beech",), ("Elm",))
    for fold in setting.run.folds(outcome.groups):
        for name in ("preprocessing", "logistic"):
            same = digest(outcome.states[fold][name]) == digest(other.states[fold][name])
            assert same is ("Elm" in fold.sites), fold.key
    elm = clean.sites == "Elm"
    for arm in ("federated", "pooled"):
        (a,), (b,) = (c.scores["logistic", arm, "leave_one_site_out"] for c in (clean, poisoned))
        assert np.array_equal(a.thresholds[elm], b.thresholds[elm])
        assert not np.array_equal(a.probs[elm], b.probs[elm])


def test_l05_unlabelled_cases_train_no_fold() -> None:
    for c in synthetic_sites(90, unknown=0.3):
        unlabelled = {i for i, label in zip(c.ids, c.labels, strict=True) if label == UNKNOWN}
        assert unlabelled
        for fold in (Fold(), Fold(parts=(0,)), Fold(("S0",)), Fold(("S1",), (2,))):
            assert not unlabelled & set(c.train(fold, 0, PARTS).ids)


# ---- L06 -----------------------------------------------------------------------------------------


def headline(report: Done, arm: str = "federated") -> tuple[float, float]:
    return next(
        (r["low"], r["high"]) for r in report.report["results"]
        if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]) == ("logistic", arm,
        "within_site", "all", "auc")
    )  # fmt: skip


def test_l06_permuted_labels_give_an_interval_around_one_half(tmp_path: Path) -> None:
    rows = people(sizes={"Ash": 120, "Beech": 90})
    real = command(tmp_path / "real", rows, *QUICK)
    shuffled = command(tmp_path / "shuffled", rows, *QUICK, "--permute-labels", "1")
    assert real.status == shuffled.status == 0, shuffled.said
    for arm in ("federated", "pooled"):
        assert headline(real, arm)[0] > 0.55
        low, high = headline(shuffled, arm)
        assert low <= 0.5 <= high
    assert shuffled.report["permuted_labels"] == 1
    assert real.report["permuted_labels"] is None
    assert [(s["name"], s["n"], s["events"]) for s in real.report["sites"]] == [
        (s["name"], s["n"], s["events"]) for s in shuffled.report["sites"]
    ]


def test_l06_labels_move_within_institutions_and_nothing_else_does(
    tmp_path: Path, rows: list[Row]
) -> None:
    study = load_study(str(write(tmp_path / "town", rows)))
    reading = reader.read_table(study, "late", tmp_path / "town" / "data")
    labels = label_permutation.shuffled(reading.cohort, reading.institutions, 4)
    homes = np.array(reading.institutions)
    assert not np.array_equal(labels, reading.cohort.labels)
    assert np.array_equal(labels == UNKNOWN, reading.cohort.labels == UNKNOWN)
    for home in SMALL:
        assert sorted(labels[homes == home]) == sorted(reading.cohort.labels[homes == home])
    data, mapping = label_permutation.write(tmp_path / "permuted", reading, 4)
    again = reader.read_table(study, "late", data, source=str(mapping))
    assert np.array_equal(again.cohort.values, reading.cohort.values, equal_nan=True)
    assert np.array_equal(again.cohort.labels, labels)
    assert again.institutions == reading.institutions


# ---- L07 -----------------------------------------------------------------------------------------


def test_l07_a_site_marker_is_found_out_and_shuffled_features_are_not() -> None:
    r = np.random.default_rng(5)
    homes = np.repeat(["Ash", "Beech", "Elm"], 40)
    design = r.normal(size=(120, 4))
    design[:, 2] += np.repeat([0.0, 1.5, 3.0], 40)
    marked = site_probe(design, homes, 0)
    assert marked is not None
    assert marked.features > marked.features_limit > marked.chance
    assert marked.missingness == pytest.approx(marked.chance)
    mixed = site_probe(design[r.permutation(120)], homes, 0)
    assert mixed is not None
    assert mixed.features <= mixed.features_limit


def test_l07_is_in_the_report(whole: Done, tmp_path: Path, rows: list[Row]) -> None:
    plain = whole.report["site_probe"]
    assert plain["sites"] == 4
    assert plain["features"] <= plain["features_limit"]
    told = {"Ash": "a", "Beech": "b"}
    marked = command(
        tmp_path / "town", [row | {"kind": told[row["hospital"]]} for row in rows], *QUICK
    )
    assert (
        marked.report["site_probe"]["features"]
        > 0.95
        > marked.report["site_probe"]["features_limit"]
    )


def test_written_predictions_are_complete(whole: Done) -> None:
    """One line a patient, with every arm's probabilities."""
    patients = {s["name"]: s["patients"] for s in whole.report["sites"]}
    for path in predictions(whole.folder).values():
        with (path.parent / split_checks.FILE).open(newline="") as f:
            lines = list(csv.DictReader(f, delimiter="\t"))
        name = next(n for n in patients if path.parent.name.endswith(n.lower()))
        assert len(lines) == len({line["patient"] for line in lines}) == patients[name]
        assert all(line["logistic|federated|within_site"] for line in lines)
