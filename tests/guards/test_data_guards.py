"""Guards D01 to D07: each fault planted in a table, and the same table without it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import common.learners
from client.app import app as client_app
from client.cohort import reader
from client.station import station as stations
from common.data.cohort import UNKNOWN, Cohort, Fold
from common.errors import DataError, FederationError
from common.federated import learner
from common.federated.learner import load
from common.federated.states import named_arrays
from common.study.load import load as load_study
from common.types import digest
from common.wire.messages import Hello
from server.config import enrolled_sites
from server.config.jobs import Job
from server.ledger.ledger import read
from server.rounds import driver
from server.rounds.driver import Progress
from server.rounds.registration import Invitation, Roster, register
from server.rounds.strategies import combiner
from simulation.federation.in_process_grid import InProcessGrid
from tests import ring
from tests.guards.drill import (
    PARTS,
    STUDY,
    Done,
    Row,
    begin,
    changed,
    command,
    people,
    train,
    write,
)

SMALL = {"Ash": 40, "Beech": 36}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return people(sizes=SMALL)


def reading(folder: Path, rows: list[Row], study: str = STUDY) -> reader.Reading:
    path = write(folder, rows, study)
    return reader.read_table(load_study(str(path)), "late", folder / "data")


def refused(folder: Path, rows: list[Row], study: str = STUDY) -> DataError:
    with pytest.raises(DataError) as caught:
        reading(folder, rows, study)
    return caught.value


def first(row: Row) -> bool:
    return row["patient"] == "A0000"


def test_the_table_without_a_fault_is_read(tmp_path: Path, rows: list[Row]) -> None:
    found = reading(tmp_path / "town", rows)
    assert len(found.cohort) == len(rows)
    assert set(found.institutions) == set(SMALL)


# ---- D01 -----------------------------------------------------------------------------------------


def test_d01_an_undeclared_null_token_is_an_error_and_a_declared_one_is_missing(
    tmp_path: Path, rows: list[Row]
) -> None:
    broken = changed(rows, first, age="n.k.")
    error = refused(tmp_path / "undeclared", broken)
    assert error.code == "D01"
    assert all(word in str(error) for word in ("patients.csv", "'age'", "'n.k.'", "1 row", "nulls"))
    cohort = reading(
        tmp_path / "declared", broken, STUDY.replace('nulls = ["NA"]', 'nulls = ["NA", "n.k."]')
    ).cohort
    assert np.isnan(cohort.values[cohort.ids.index("A0000"), 0])


@pytest.mark.parametrize("token", ["'--", "not reported", "unknown", "-999", "."])
def test_d01_no_token_is_taken_for_missing_unless_the_study_declares_it(
    tmp_path: Path, rows: list[Row], token: str
) -> None:
    error = refused(tmp_path / "town", changed(rows, first, age=token, kind=token))
    assert {fault[:3] for fault in error.faults} <= {"D01", "D07"}
    assert len([f for f in error.faults if repr(token) in f or f'"{token}"' in f]) == 2


# ---- D02 -----------------------------------------------------------------------------------------


def test_d02_a_second_row_of_a_patient_is_an_error(tmp_path: Path, rows: list[Row]) -> None:
    error = refused(tmp_path / "town", [*rows, rows[0] | {"age": "44"}])
    assert error.code == "D02"
    assert "A0000" in str(error)


def test_d02_a_quarantine_is_counted_in_the_flow(tmp_path: Path, rows: list[Row]) -> None:
    study = STUDY.replace('nulls = ["NA"]', 'nulls = ["NA"]\nduplicates = "quarantine"')
    cohort = reading(tmp_path / "town", [*rows, rows[0] | {"age": "44"}], study).cohort
    flow = cohort.flow
    ((reason, n),) = flow.excluded
    assert "D02" in reason
    assert (n, flow.read, flow.kept) == (1, len(rows), len(rows) - 1)
    assert flow.ids[reason] == ("A0000",)
    assert "A0000" not in cohort.ids


# ---- D03 -----------------------------------------------------------------------------------------


def test_d03_the_report_says_where_the_label_came_from(whole: Done) -> None:
    assert "spread" in whole.report["label"]["source"]
    assert whole.report["label"]["source"] == whole.report["flow"]["label_source"]


def test_d03_an_undeclared_value_of_the_label_is_an_error(tmp_path: Path, rows: list[Row]) -> None:
    error = refused(tmp_path / "town", changed(rows, first, spread="perhaps"))
    assert error.code == "D03"
    assert all(word in str(error) for word in ("'spread'", "'perhaps'"))


def test_d03_a_missing_label_column_is_an_error(tmp_path: Path, rows: list[Row]) -> None:
    error = refused(
        tmp_path / "town", [{k: v for k, v in row.items() if k != "spread"} for row in rows]
    )
    assert "D03" in {error.code, *(f[:3] for f in error.faults)}
    assert "'spread'" in str(error)


# ---- D04 -----------------------------------------------------------------------------------------

EVERY_KIND = (
    "--learners",
    "logistic,boosting,logistic_fedavg",
    "--set",
    "boosting.trees=2",
    "--set",
    "logistic_fedavg.rounds=1",
)


def test_d04_cases_of_unknown_label_change_nothing_that_is_learnt(
    tmp_path: Path, rows: list[Row]
) -> None:
    other = changed(
        rows, lambda row: row["spread"] == "9", age="101", marker="90000", kind="c", nodes="49"
    )
    assert other != rows
    plain, poisoned = (
        train(begin(tmp_path / n, r, *EVERY_KIND))
        for n, r in (("plain", rows), ("poisoned", other))
    )
    assert plain.state_hash == poisoned.state_hash
    # and the comparison could have seen a difference: a labelled case does change the models
    labelled = train(begin(tmp_path / "labelled", changed(rows, first, age="101"), *EVERY_KIND))
    assert labelled.state_hash != plain.state_hash


def test_d04_unknown_labels_are_kept_apart_and_never_filled(
    tmp_path: Path, rows: list[Row]
) -> None:
    cohort = reading(tmp_path / "town", rows).cohort
    unknown = {row["patient"] for row in rows if row["spread"] == "9"}
    assert unknown
    assert {
        i for i, label in zip(cohort.ids, cohort.labels, strict=True) if label == UNKNOWN
    } == unknown
    assert not unknown & set(cohort.train(Fold(), 0, PARTS).ids)
    assert cohort.flow.unknown_label == len(unknown)


def test_d04_the_report_bounds_what_the_unknown_labels_could_do(
    whole: Done, tmp_path: Path
) -> None:
    bounds = {row["arm"]: row for row in whole.report["unknown_labels"]}
    assert set(bounds) == {"federated", "pooled"}
    for row in bounds.values():
        assert row["unknown"] == whole.report["flow"]["unknown_label"] > 0
        assert len({row["excluded"], row["negative"], row["positive"]}) == 3
    headline = next(
        r["value"] for r in whole.report["results"]
        if (r["model"], r["arm"], r["evaluation"], r["site"], r["metric"]) == ("clinical",
        "federated", "within_site", "all", "auc")
    )  # fmt: skip
    assert bounds["federated"]["excluded"] == headline


# ---- D05 -----------------------------------------------------------------------------------------


def test_d05_rows_are_joined_by_key_and_never_by_position(tmp_path: Path, rows: list[Row]) -> None:
    cohort, turned = (
        reading(tmp_path / "a", rows).cohort,
        reading(tmp_path / "b", rows[::-1]).cohort,
    )
    assert cohort.hash == turned.hash


def test_d05_a_missing_key_column_is_an_error(tmp_path: Path, rows: list[Row]) -> None:
    error = refused(
        tmp_path / "town",
        [{("pat" if k == "patient" else k): v for k, v in row.items()} for row in rows],
    )
    assert error.code in ("D05", "D08")
    assert "'patient' (nearest: 'pat')" in str(error) or "'pat'" in str(error)


def test_d05_ids_without_a_partner_are_counted_and_listed(tmp_path: Path) -> None:
    from simulation.phantom.colorectal import writer

    writer.write(tmp_path)
    study = load_study("colorectal_metastasis")
    table = tmp_path / "coad" / "pathology_detail.tsv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text(
        "".join(
            [
                *lines[:1],
                *(
                    line.replace("TCGA-", "XXXX-") if n < 3 else line
                    for n, line in enumerate(lines[1:])
                ),
            ]
        )
    )
    flow = reader.read_table(study, "postresection", tmp_path).cohort.flow
    listed = flow.ids["pathology: without a case"]
    assert listed
    assert all(i.startswith("XXXX-") for i in listed)
    assert any(
        f"D05: table 'pathology': {len(listed)} ids without a case" in note for note in flow.notes
    )


# ---- D06 -----------------------------------------------------------------------------------------

IMAGE = """
import numpy as np
from dataclasses import dataclass
from typing import ClassVar
from common.federated.array_rules import sums
from common.federated.learner import Contribution, Phase, Step, Traits


@dataclass(frozen=True)
class Volumes:
    name: str = "volumes"
    needs: tuple = ()
    modality: frozenset = frozenset({"ct"})
    phases: ClassVar = {"count": Phase("cases", 1, lambda schema: 1.0)}
    traits: ClassVar = Traits(unlabelled=True)

    def start(self, schema, seed):
        return {"n": np.array(0.0)}

    def arrays(self, own, schema):
        return {"n": sums()}

    def phase(self, arrays):
        return "count"

    def contribute(self, states, cohort, plan):
        return Contribution({"n": np.array(float(len(cohort)))}, len(cohort))

    def apply(self, states, total, plan):
        return Step(dict(total.sums), True)

LEARNER = Volumes()
"""


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more file among the learners."""
    (tmp_path / "learners").mkdir()
    (tmp_path / "learners" / "volumes.py").write_text(IMAGE)
    monkeypatch.setattr(
        common.learners, "__path__", [*common.learners.__path__, str(tmp_path / "learners")]
    )


def with_images(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch, holds: set[str]
) -> tuple[list[driver.Exchange], Progress]:
    """A learner that needs CT volumes, driven over the town, of which the sites in `holds` have
    some."""
    assert "volumes" in learner.names()
    select = reader.select

    def selected(
        reading: reader.Reading, site: str, patients: frozenset[str] | None = None
    ) -> Cohort:
        found = select(reading, site, patients)
        return (
            dataclasses.replace(found, modalities=frozenset({"table", "ct"}))
            if site in holds
            else found
        )

    monkeypatch.setattr(stations.reader, "select", selected)
    setting = begin(tmp_path / "town", rows)
    schema = setting.study.schema_at(setting.task)
    grid = InProcessGrid(client_app, setting.sites)
    roster = register(
        grid,
        Invitation(setting.run, "r", enrolled_sites.load(setting.run.keys), setting.task, schema),
    )
    seen: list[driver.Exchange] = []
    progress = Progress()
    job = Job(load("volumes"), Fold(), (Fold(),))
    run = dataclasses.replace(setting.run, task=setting.task)
    driver.drive(
        driver.Federation(grid, run, "r", roster, [job], schema, combiner("fedavg")),
        progress,
        lambda e, p: seen.append(e),
    )
    return seen, progress


@pytest.mark.usefixtures("volumes")
@pytest.mark.parametrize("asked", [False, True], ids=["not asked", "asked all the same"])
def test_d06_a_site_without_the_modality_is_named_and_the_others_go_on(
    asked: bool, tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator need not ask a site that said what it lacks; one that asks is refused by the
    site's own guard."""
    if asked:
        monkeypatch.setattr(Roster, "able", lambda self, job: self.ready)
    (exchange,), progress = with_images(tmp_path, rows, monkeypatch, {"Ash"})
    (work,) = exchange.work
    assert work["contributed"] == ["Ash"]
    assert work["refused"] == {"Beech": "D06"}
    assert progress.states[Fold()]["volumes"]["n"] == SMALL["Ash"]
    log = next((tmp_path / "town" / "run" / "sites").glob("*-beech/station.log")).read_text()
    assert (
        ("Beech" in exchange.asked)
        == asked
        == ("learner 'volumes' needs ['ct'], this site offers ['table']" in log)
    )


@pytest.mark.usefixtures("volumes")
def test_d06_where_everybody_has_it_nobody_is_refused(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    (exchange,), _ = with_images(tmp_path, rows, monkeypatch, set(SMALL))
    assert exchange.work[0]["refused"] == {}


@pytest.mark.usefixtures("volumes")
def test_d06_where_nobody_has_it_the_round_fails_and_names_all(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FederationError, match="volumes on fold 'all'") as caught:
        with_images(tmp_path, rows, monkeypatch, set())
    assert caught.value.code == "R01"
    assert f"{', '.join(SMALL)}: D06 (a site lacks the modality" in str(caught.value)


# ---- D07 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"age": "23000"}, ("'age'", "'23000'", "18 to 110 years")),
        ({"kind": "d"}, ("'kind'", "'d'", "vocabulary")),
        ({"marker": "-3"}, ("'marker'", "'-3'", "0 to 100000 ng/mL")),
    ],
)
def test_d07_range_and_vocabulary(
    tmp_path: Path, rows: list[Row], values: Row, said: tuple[str, ...]
) -> None:
    error = refused(tmp_path / "town", changed(rows, first, **values))
    assert error.code == "D07"
    assert all(word in str(error) for word in said), str(error)


def test_d07_a_header_that_states_another_unit(tmp_path: Path, rows: list[Row]) -> None:
    study = STUDY.replace('name = "marker"', 'name = "marker"\ncolumn = "marker (ug/mL)"')
    renamed = [
        {("marker (ug/mL)" if k == "marker" else k): v for k, v in row.items()} for row in rows
    ]
    error = refused(tmp_path / "town", renamed, study)
    assert error.code == "D07"
    assert "ug/mL" in str(error)


def test_d07_a_site_with_another_schema_stops_the_run_before_round_1_by_name(
    tmp_path: Path, rows: list[Row]
) -> None:
    setting = begin(tmp_path / "town", rows)
    mine = next((setting.folder / "sites").glob("*-beech/site.toml"))
    (mine.parent / "town.toml").write_text(STUDY.replace("high = 110", "high = 120"))
    mine.write_text(
        "\n".join(
            'studies = ["town.toml"]' if x.startswith("studies") else x
            for x in mine.read_text().splitlines()
        )
    )
    with pytest.raises(FederationError) as caught:
        train(setting)
    assert caught.value.code == "R03"
    assert "site 'Beech' cannot take part: D07" in str(caught.value)
    assert "Ash" not in str(caught.value)
    assert not any(line["kind"] == "exchange" for line in read(setting.folder / "ledger.jsonl"))
    assert "D07" in (mine.parent / "station.log").read_text()


def test_d07_the_coordinator_looks_for_itself(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that does not compare schemas, but says honestly which one it has."""
    hello = stations.Station.hello

    def honest(station: stations.Station, ref: str, task: str, schema: str) -> Hello:
        other = hello(station, ref, task, schema)
        return dataclasses.replace(other, schema="0" * 64) if other.site == "Beech" else other

    setting = begin(tmp_path / "town", rows)
    monkeypatch.setattr(stations.Station, "hello", honest)
    with pytest.raises(FederationError, match="site 'Beech' cannot take part: D07") as caught:
        train(setting)
    assert caught.value.code == "R03"


def test_d07_equal_schemas_are_in_the_ledger_and_start(tmp_path: Path, rows: list[Row]) -> None:
    setting = begin(tmp_path / "town", rows, "--evaluations", "within_site")
    outcome = train(setting)
    opening = read(setting.folder / "ledger.jsonl")[0]
    assert opening["schema"] == setting.study.schema_at(setting.task).hash
    assert digest(named_arrays(outcome.states)) == outcome.state_hash


def test_d07_a_hello_is_refused_by_its_schema_alone(tmp_path: Path, rows: list[Row]) -> None:
    setting = begin(tmp_path / "town", rows)
    station = stations.open_station(str(setting.sites[1]))
    mine = setting.study.schema_at(setting.task).hash
    assert station.hello(setting.run.study, setting.task, mine).code == ""
    answer = station.hello(setting.run.study, setting.task, "0" * 64)
    assert (answer.code, answer.cases) == ("D07", 0)
    assert Roster(
        {"a": answer, "b": Hello("b", "", mine, (), (), 30)}, {"a": 1, "b": 2}, ring.enrolled("ab")
    ).ready == ("b",)


def test_the_flow_of_a_run_counts_everybody(tmp_path: Path, rows: list[Row]) -> None:
    study = STUDY.replace('nulls = ["NA"]', 'nulls = ["NA"]\nduplicates = "quarantine"')
    done = command(
        tmp_path / "town",
        [*rows, rows[0] | {"age": "44"}],
        "--evaluations",
        "within_site",
        study=study,
    )
    assert done.status == 0, done.said
    flow = done.report["flow"]
    assert flow["read"] == flow["kept"] + sum(e["n"] for e in flow["excluded"]) == len(rows)
    assert "D02" in flow["excluded"][0]["reason"]
    assert sum(s["read"] for s in flow["sites"]) == len(rows) - 1 or sum(
        s["read"] for s in flow["sites"]
    ) == len(rows)
