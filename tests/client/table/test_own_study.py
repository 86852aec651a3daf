"""One TOML file of a researcher's own: what it may say, and how it is told what is wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cohort import reader
from client.table import mapping_file
from common.data.schema import Channel, Imaging, Label, Schema
from common.errors import DataError, LeakError, UsageError
from common.study import load as studies
from common.study import study as questions
from tests.client.table.mine import MINE, TABLE, expect, faults, own, table
from tests.paths import ROOT


def test_short_form(tmp_path: Path) -> None:
    study = own(tmp_path)
    assert list(study.tasks) == ["baseline"]
    r = expect(study, table(tmp_path / "data"))
    assert r.institutions == ("NA", "B", "B", "NA")
    expect(study, tmp_path / "data")


def test_units_survival_times_and_label_classes(tmp_path: Path) -> None:
    text = """
    id = "patient"
    table = "t.csv"
    times = ["before", "after"]
    question = "?"
    [label]
    name = "metastasis"
    column = "spread"
    classes = ["none", "some"]
    values = { none = ["0", "no"], some = "1" }
    unknown = ["9"]
    [[feature]]
    name = "age"
    column = "age_days"
    column_unit = "days"
    unit = "years"
    low = 0
    high = 120
    available_at = "before"
    [[feature]]
    name = "grade"
    values = [1, 2, 3]
    ordered = true
    available_at = "after"
    [task.early]
    time = "before"
    caution = "c"
    [task.late]
    time = "after"
    [survival]
    time = "fu"
    event = "died"
    unit = "months"
    horizon = 60
    dead = true
    alive = false
    """
    study = own(tmp_path, text)
    data = table(
        tmp_path / "d",
        "patient,spread,age_days,grade,fu,died\na,0,21915,1,3,true\nb,1,25567.5,3,4,false\nc,9,,2,,\n",
    )
    c = reader.read(study, "late", data)
    assert c.site == "mine"
    assert c.labels.tolist() == [0, 1, -1]
    assert c.values[:2].tolist() == [[60.0, 0.0], [70.0, 2.0]]
    assert c.survival is not None
    assert c.survival[:2].tolist() == [[3, 1], [4, 0]]
    assert np.isnan(c.survival[2]).all()
    assert len(reader.read(study, "early", data).schema.features) == 1


def test_all_faults_of_the_file_at_once(tmp_path: Path) -> None:
    text = """
    id = "patient"
    tabel = "x.csv"
    learners = ["logistic", "magic"]
    denied = ["("]
    times = ["a", "b"]
    [label]
    column = "y"
    classes = ["n", "y", "z"]
    values = ["0", "1"]
    [[feature]]
    name = "age"
    unit = "years"
    low = "zero"
    [[feature]]
    name = "sex"
    kind = "choise"
    avalable_at = "a"
    [task.t]
    time = "c"
    """
    said = faults(lambda: own(tmp_path, text), UsageError)
    for part in (
        "'tabel'; did you mean 'table'",
        "'magic' is unknown",
        "not a regular expression",
        "give a value for each class",
        "low = 'zero'",
        "lacks 'high'",
        "kind = 'choise'",
        "did you mean 'available_at'",
        "time = 'c'",
        "lacks 'available_at'",
    ):
        assert part in said, part
    assert "low < high" in faults(
        lambda: own(tmp_path, MINE.replace("high = 110", "high = 10")), UsageError
    )
    assert "[C02]" in faults(lambda: own(tmp_path, "id = "), UsageError)
    assert "lacks 'id'" in faults(lambda: own(tmp_path, ""), UsageError)


def test_all_faults_of_the_table_at_once(tmp_path: Path) -> None:
    broken = "patient,hospital,spread,age,smokes,side\na,A,0,999,yes,L\na,A,0,abc,yes,L\nb,,2,n/a,no,up\n,B,1,50,no,L\n"
    said = faults(
        lambda: reader.read(own(tmp_path), "baseline", table(tmp_path, broken)), DataError
    )
    for part in (
        "D02",
        "1 patients have 2 rows",
        "D01",
        "'abc'",
        "'n/a'",
        "D08",
        "nearest: 'smokes'",
        "D07",
        "'999'",
        "'up'",
        "D03",
        "'2'",
        "D05",
        "id is empty",
        "institution is empty",
    ):
        assert part in said, part


def test_keep(tmp_path: Path) -> None:
    study = own(
        tmp_path,
        MINE + '[[keep]]\ncolumn = "hospital"\nvalues = ["B"]\nreason = "another hospital"\n',
    )
    c = reader.read(study, "baseline", table(tmp_path / "d"))
    assert c.ids == ("b", "c")
    assert c.flow.excluded == (("another hospital", 2),)


STAGE = MINE.replace('name = "mine"', 'name = "mine"\nquestion = "Metastasis?"').replace(
    '[label]\ncolumn = "spread"', '[label]\nname = "metastasis"\ncolumn = "spread"'
)


@pytest.mark.parametrize(
    "column",
    [
        "ajcc_stage",
        "Tumor Stage",
        "patient_stage",
        "pTNM",
        "Dukes",
        "diagnoses.ajcc_pathologic_m",
        "vital_status",
        "liver_metastases",
    ],
)
def test_stage_like_features_are_refused_for_a_metastasis(tmp_path: Path, column: str) -> None:
    toml = STAGE + f'[[feature]]\nname = "x"\ncolumn = "{column}"\nvalues = ["1", "2"]\n'
    lines = TABLE.splitlines()
    data = table(
        tmp_path / "d",
        "\n".join([lines[0] + f",{column}", *(line + ",1" for line in lines[1:])]) + "\n",
    )
    assert "[L02]" in faults(lambda: reader.read(own(tmp_path, toml), "baseline", data), LeakError)
    allowed = own(tmp_path, toml + 'not_an_outcome = "known beforehand"\n')
    assert allowed.overrides == {"x": "known beforehand"}
    c = reader.read(allowed, "baseline", data)
    assert any("known beforehand" in n for n in c.flow.notes)


@pytest.mark.parametrize("column", ["t_stage", "pN_stage", "cT stage", "image_storage", "stager"])
def test_t_and_n_are_not_the_stage(tmp_path: Path, column: str) -> None:
    study = own(
        tmp_path, STAGE + f'[[feature]]\nname = "x"\ncolumn = "{column}"\nvalues = ["1", "2"]\n'
    )
    questions.guard_denied(study, {"x": column})


OF_N = STAGE.replace('name = "metastasis"', 'name = "nodal status"').replace(
    "Metastasis?", "Node positive?"
)


@pytest.mark.parametrize(
    ("toml", "column"),
    [(STAGE, c) for c in ("6th Stage", "UICC", "overallStage", "M-Category", "cM")]
    + [(OF_N, c) for c in ("AJCC Stage", "6th Stage", "pN", "N Stage", "Regional Node Positive")]
    + [(MINE, c) for c in ("Vital Status", "Follow-up (months)", "followUpMonths", "Alive or Dead")]
    + [(MINE, c) for c in ("OS_MONTHS", "rfstime", "Survival Months", "NEW_TUMOR_EVENT")],
)
def test_the_label_again_and_the_follow_up_are_no_inputs_however_they_are_spelled(
    tmp_path: Path, toml: str, column: str
) -> None:
    study = own(tmp_path, toml)
    with pytest.raises(LeakError, match="L02"):
        questions.guard_denied(study, {"x": column})


@pytest.mark.parametrize("column", ["T Stage", "cT", "age", "Tumor Size", "Nodes examined", "BMI"])
@pytest.mark.parametrize("toml", [STAGE, OF_N, MINE])
def test_what_is_no_outcome_is_an_input(tmp_path: Path, toml: str, column: str) -> None:
    questions.guard_denied(own(tmp_path, toml), {"x": column})


@given(
    st.sampled_from(
        [("vital", "status"), ("follow", "up"), ("overall", "survival"), ("os", "time")]
    ),
    st.sampled_from(["_", " ", "-", ".", " - ", "__"]),
    st.sampled_from([str.lower, str.upper, str.title]),
    st.sampled_from(["", "months", "days"]),
)
def test_an_outcome_is_refused_in_every_spelling(
    words: tuple[str, str], mark: str, case: Callable[[str], str], unit: str
) -> None:
    name = mark.join(case(word) for word in (*words, unit) if word)
    label = Label("spread", ("no", "yes"))
    study = questions.Study("x", "", Schema("x", (), label, ("baseline",)), {})
    with pytest.raises(LeakError, match="L02"):
        questions.guard_denied(study, {"x": name})


def test_a_vital_status_is_known_by_its_values(tmp_path: Path) -> None:
    toml = MINE + '[[feature]]\nname = "state"\nvalues = ["0:LIVING", "1:DECEASED"]\n'
    with pytest.raises(LeakError, match="vital status"):
        questions.guard_denied(own(tmp_path, toml), {"state": "state"})


def test_a_python_file(tmp_path: Path) -> None:
    own(tmp_path)
    (tmp_path / "mine.py").write_text(
        f"from common.study.load import load\nSTUDY = load({str(tmp_path / 'mine.toml')!r})\n"
    )
    expect(studies.load(str(tmp_path / "mine.py")), table(tmp_path / "d"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('nulls = ["NA"]', "nulls = true", "must be the texts that mean missing"),
        ('name = "age"', 'name = "age"\nnulls = false', "must be the texts that mean missing"),
        ("[label]", "[label]\nclasses = []", "label.classes = [] must be at least 2"),
        ("[label]", '[label]\nclasses = ["one"]', "label.classes = ['one'] must be at least 2"),
    ],
)
def test_a_switch_is_no_list_of_texts_and_a_label_has_two_classes(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in MINE
    assert told in faults(lambda: own(tmp_path, MINE.replace(old, new, 1)), UsageError)


def test_the_documented_example(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own-study.md").read_text(encoding="utf-8")
    study = own(tmp_path, page.split("```toml\n")[1].split("```")[0])
    rows = (
        "PatientNr,Hospital,spread,age,CEA "
        "(ug/L),sex\n1,NA,0,60,2.5,F\n2,B,1,NA,-9,M\n3,B,9,50,7,male\n"
    )
    r = reader.read_table(study, "baseline", table(tmp_path / "d", rows, "patients.csv"))
    assert r.cohort.labels.tolist() == [0, 1, -1]
    np.testing.assert_array_equal(r.cohort.values, [[60, 2.5, 0], [np.nan, np.nan, 1], [50, 7, 1]])
    assert r.institutions == ("NA", "B", "B")


IMAGING = """
[imaging]
channels = { ct = "CT" }
window = [-160, 240]
regions = ["liver", "lesion"]
lesion = "lesion"
[images]
id_pattern = "P[0-9]+"
regions = { lesion = ["Tumor.*"] }
"""


def test_images_are_declared_in_the_studys_own_file(tmp_path: Path) -> None:
    study = own(tmp_path, MINE + IMAGING)
    imaging = study.schema.imaging
    assert imaging is not None
    assert imaging == Imaging(
        (Channel("ct", "CT"),), ("liver", "lesion"), lesion=("lesion",), window=(-160, 240)
    )
    assert study.source is not None
    spec = mapping_file.parse(study.source, "mine.toml").images
    assert (spec.id_pattern, spec.regions) == ("P[0-9]+", {"lesion": ("Tumor.*",)})
    expect(study, table(tmp_path / "data"))


def test_an_empty_table_of_images_is_told(tmp_path: Path) -> None:
    text = IMAGING[: IMAGING.index("id_pattern")]
    assert "has an empty [images]: say how" in faults(
        lambda: own(tmp_path, MINE + text), UsageError
    )
