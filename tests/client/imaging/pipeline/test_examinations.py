"""Which examination of a patient is taken: by a date of the table, by the order that the study
states, or the only one. What is doubtful is set aside by name, and no date leaves the site."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.cohort.reader import Reading, read_table, select
from client.imaging.dicom.header import header
from client.imaging.geometry.volumes import Header, Series
from client.imaging.pipeline import prepare_images as pipeline
from client.imaging.selection.examinations import JUDGED_PATIENTS, day_of
from client.imaging.selection.identifiers import Keys
from client.imaging.selection.series_selection import Selection, choose
from client.station.station import Station, open_station
from client.table.dates import DateColumn
from common.data.schema import Imaging
from common.errors import DataError, Fault, UsageError
from common.study.image_sections import ImagesSpec
from common.study.load import load
from tests.client.imaging.pipeline.exams import CT, body, ct, own, study
from tests.client.imaging.pipeline.test_ct_choice import scan
from tests.paths import ROOT

SURGERY = datetime.date(2019, 1, 20)
BEFORE, FOLLOW_UP = "20190102", "20210601"


def on(days: int, uid: str = "", patient: str = "P1", **more: Any) -> Series:
    """A CT of so many days before the surgery (negative: after it), each a study of its own."""
    day = (SURGERY - datetime.timedelta(days)).isoformat()
    uid = uid or f"{patient} {days}"
    return dated(uid, {"study_date": day, **more}, patient)


def dated(uid: str, more: Mapping[str, Any], patient: str = "P1") -> Series:
    single = scan(uid, **{"study": uid, **more})
    headers = tuple(dataclasses.replace(h, patient=patient) for h in single.headers)
    return dataclasses.replace(single, patient=patient, headers=headers)


def chosen(
    series: Sequence[Series],
    dates: Mapping[str, datetime.date] | None = None,
    *,
    imaging: Imaging = CT,
    broken: Sequence[str] = (),
    **spec: Any,
) -> tuple[dict[str, str], Selection]:
    """Patient -> uid of the CT that is taken. `broken`: files that cannot be read."""
    column = None if dates is None else DateColumn("op", dates)
    given = ImagesSpec(**({"date": ("op",), "within": 90} if column else {}), **spec)
    patients = {s.patient for s in series}
    headers = [h for s in series for h in s.headers]
    lost = [(path, Fault("D00", path, "it is cut off", "Copy it again")) for path in broken]
    selection = choose(series, headers, lost, Keys(given, Path("/i")), imaging, patients, column)
    return {i: c.channels["ct"].uid for i, c in selection.cases.items()}, selection


def why(selection: Selection, patient: str = "P1") -> str:
    ((code, text),) = selection.rejections[patient]
    assert code == "L01"
    return text


# --- from the files to the cohort


def table(folder: Path, rows: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "patients.csv").open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["id", "age", "y", "hospital", "OP-Datum"])
        out.writerows([i, 40 + n, n % 2, "A", day] for n, (i, day) in enumerate(rows.items()))


def two(folder: Path, patient: str) -> tuple[Path, Path]:
    """The case of the issue: 8 slices before surgery, 16 at follow-up."""
    early, late = folder / "images" / patient / "vor OP", folder / "images" / patient / "Verlauf"
    ct(early, patient, own(patient), study_uid=f"1.2.{patient[1:]}1", StudyDate=BEFORE)
    ct(
        late, patient, np.repeat(own(patient) + np.int16(3), 2, 0), study_uid=f"1.2.{patient[1:]}2",
        step=1.25, StudyDate=FOLLOW_UP, AcquisitionDate=FOLLOW_UP,
    )  # fmt: skip
    return early, late


def read(folder: Path, images: Mapping[str, Any]) -> Reading:
    return read_table(study(CT, images), "now", folder, cache=folder.parent / "cache")


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORKERS", 0)


RULE = {"date": ["Surgery", "OP-Datum"], "within": 90}


def test_the_examination_before_surgery_is_taken_though_the_follow_up_has_more_slices(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    table(data, {"P1": "20.01.2019", "P2": "20.01.2019", "P3": "", "P4": "2019"})
    for patient in ("P1", "P3", "P4"):
        two(data, patient)
    ct(data / "images" / "P2", "P2", StudyDate=FOLLOW_UP)
    r = read(data, RULE)
    assert r.cohort.imaged.tolist() == [True, False, False, False]
    picture = r.cohort.pictures[0]
    assert picture is not None
    assert picture.voxels.shape[1] == len(body()), "not the 16 of the follow-up"
    notes = "\n".join(r.cohort.flow.notes)
    assert (
        "images: examination: the nearest before 'OP-Datum', at most 90 days (1 cases, 1 of them "
        "one of several)" in notes
    )
    assert "3 quarantined (L01: 3)" in notes
    log = "\n".join(r.image_log(r.cohort.ids))
    assert "P2 has no examination from 90 days before to 0 days after 'OP-Datum', only 863" in log
    assert "P3 has no date in column 'OP-Datum': the table has none" in log
    assert "P4 has no date in column 'OP-Datum': '2019' is no date" in log
    assert "18 days before it" in log
    # from the cache, the same is told
    again = read(data, RULE)
    assert again.cohort.flow.notes == r.cohort.flow.notes
    assert again.image_log(r.cohort.ids) == r.image_log(r.cohort.ids)
    # without a rule nobody who has several
    r = read(data, {})
    assert r.cohort.imaged.tolist() == [False, True, False, False]
    log = "\n".join(r.image_log(["P1"]))
    for words in ("2 examinations", "2019-01-02", "2021-06-01", "date, within", "examination ="):
        assert words in log
    # the date of another patient's surgery is another album
    table(data, {"P1": "20.01.2019", "P2": "2021-06-02", "P3": "", "P4": ""})
    assert read(data, RULE).cohort.imaged.tolist() == [True, True, False, False]


TOML = """
id = "id"
site = "hospital"
[label]
column = "y"
classes = ["no", "yes"]
values = ["0", "1"]
[[feature]]
name = "age"
unit = "years"
low = 0
high = 120
[imaging]
channels = { ct = "CT" }
regions = ["liver", "lesion"]
organ = "liver"
lesion = "lesion"
window = [-160, 240]
spacing_mm = [2.5, 1, 1]
crop_mm = [20, 20, 20]
coarse = [8, 16, 16]
[images]
date = "OP-Datum"
within = 90
"""


def test_a_study_in_toml_says_the_same(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "mine.toml"
    table(data, {"P1": "20.01.2019", "P2": ""})
    two(data, "P1")
    file.write_text(TOML)
    mine = load(str(file))
    assert mine.schema.imaging == CT
    toml = read_table(mine, "baseline", data, cache=tmp_path / "cache")
    coded = read(data, RULE)
    a, b = toml.cohort.pictures[0], coded.cohort.pictures[0]
    assert a is not None
    assert b is not None
    assert np.array_equal(a.voxels, b.voxels)
    assert toml.cohort.imaged.tolist() == [True, False]
    file.write_text(TOML.replace("[imaging]", "[imagin]"))
    with pytest.raises(UsageError, match="did you mean 'imaging'"):
        load(str(file))
    file.write_text(TOML[: TOML.index("[imaging]")] + TOML[TOML.index("[images]") :])
    with pytest.raises(UsageError, match="looks at none: add"):
        load(str(file))
    file.write_text(TOML.replace("within = 90", "rescale = { intercept = 0 }"))
    with pytest.raises(UsageError, match="within"):
        load(str(file))
    file.write_text(TOML.replace("window = [-160, 240]", ""))
    with pytest.raises(UsageError, match="need a window"):
        load(str(file))


def test_a_column_that_is_not_there_stops_who_has_images_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, {"P1": "-18", "P2": "4"})
    assert read(data, {"date": "Surgery", "within": 90}).cohort.pictures == ()
    ct(data / "images" / "P1", "P1", StudyDate=BEFORE)
    with pytest.raises(DataError, match=r"D08.*Surgery"):
        read(data, {"date": "Surgery", "within": 90})
    with pytest.raises(DataError, match=r"D07.*from which day they count"):
        read(data, RULE)


FORMS = (b"2019-01", b"20190102", b"20.01.2019", b"2021-06", b"20210601", b"OP-Datum")


def station(folder: Path, data: Path) -> Station:
    """Of a site whose study names the column of dates."""
    (folder / "study.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.client.imaging.pipeline.exams "
        f"import CT, study\nSTUDY = study(CT, {RULE!r})\n"
    )
    (folder / "site.toml").write_text(
        f'name = "A"\ndata = "{data}"\nstudies = ["study.py"]\nminimum = 1\n'
    )
    return open_station(str(folder / "site.toml"))


def test_no_date_enters_a_cohort_or_what_crosses_the_wire(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, {"P1": "20.01.2019", "P2": "20.01.2019"})
    for patient in ("P1", "P2"):
        two(data, patient)
    r = read(data, RULE)
    cohort = select(r, "A")
    assert cohort.imaged.all()
    # the name of a column is the mapping's, and may be told
    flow = dataclasses.replace(
        cohort.flow, notes=tuple(n.replace("OP-Datum", "") for n in cohort.flow.notes)
    )
    blob = pickle.dumps(dataclasses.replace(cohort, flow=flow))
    for form in (*FORMS, b"datetime", b"18 days", b"vor OP"):
        assert form not in blob, form
    hello = repr(station(tmp_path, data).hello("study.py", "now", cohort.schema.hash))
    assert "'image'" in hello
    assert not [form for form in FORMS if form.decode() in hello]
    # a cohort is the same to the last bit, whenever its examinations and dates were
    other = tmp_path / "other" / "data"
    table(other, {"P1": "2009-05-20", "P2": "2009-05-20"})
    for patient in ("P1", "P2"):
        two(other, patient)
    moved = {BEFORE: "20090502", FOLLOW_UP: "20120601"}
    for file in other.rglob("*.dcm"):
        raw = file.read_bytes()
        for day, instead in moved.items():
            raw = raw.replace(day.encode(), instead.encode())
        file.write_bytes(raw)
    shifted = select(read(other, RULE), "A")
    assert shifted.flow == cohort.flow
    for a, b in zip(cohort.pictures, shifted.pictures, strict=True):
        assert a is not None
        assert b is not None
        assert np.array_equal(a.voxels, b.voxels)
        assert (a.scanner, a.box, a.present) == (b.scanner, b.box, b.present)


@pytest.mark.parametrize(
    ("written", "right"),
    [
        (b"20190102", "2019-01-02"),
        (b"2019.1.2", "?"),
        (b"00000000", "?"),
        (b"20190230", "?"),
        (b"        ", ""),
        (b"UNKNOWN ", "?"),
        (b"20190102-20210601", "?"),
        (b"20190102\\20210601", "?"),
    ],
)
def test_dates_of_a_header(tmp_path: Path, written: bytes, right: str) -> None:
    stand_in = BEFORE if len(written) == len(BEFORE) else f"{BEFORE}-{BEFORE}"
    ct(
        tmp_path,
        "P1",
        StudyDate=stand_in,
        SeriesDate=stand_in,
        AcquisitionDateTime=f"{stand_in}101500",
    )
    file = tmp_path / "1-01.dcm"
    file.write_bytes(file.read_bytes().replace(stand_in.encode(), written))
    found = header(file)
    assert isinstance(found, Header)
    assert {found.study_date, found.acquisition_date, found.series_date} <= {right, "?"}
    assert found.study_date == right
    assert Header.from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_30_slices_before_surgery_and_60_at_follow_up() -> None:
    early, late = on(18, "early", slices=30), on(-863, "late", slices=60)
    for order in ([early, late], [late, early]):
        assert chosen(order, {"P1": SURGERY})[0] == {"P1": "early"}
        assert chosen(order, examination="earliest")[0] == {"P1": "early"}
        assert "2 examinations" in why(chosen(order)[1])


# --- by headers alone


DAYS = st.lists(st.integers(-400, 400), min_size=1, max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(DAYS, st.integers(0, 200), st.integers(-3, 30), st.randoms(use_true_random=False))
def test_the_nearest_before_whatever_the_order_and_the_slices(
    days: list[int], within: int, after: int, random: Any
) -> None:
    after = max(after, -within)
    series = [
        dataclasses.replace(s, slices=s.slices[: random.randint(6, 30)]) for s in map(on, days)
    ]
    random.shuffle(series)
    spec = {"date": ("op",), "within": within, "after": after}
    column = DateColumn("op", {"P1": SURGERY})
    headers = [h for s in series for h in s.headers]
    found = choose(series, headers, [], Keys(ImagesSpec(**spec), Path("/i")), CT, {"P1"}, column)
    window = [d for d in days if -after <= d <= within]
    before = [d for d in window if d >= 0]
    right = min(before) if before else max(window, default=None)
    if right is None:
        assert "has no examination from" in why(found)
        assert found.cases == {}
    else:
        assert found.cases["P1"].channels["ct"].uid == f"P1 {right}"
        assert found.taken["P1"].days == right
        assert found.taken["P1"].several == (len(days) > 1)
        assert ("nearest before" in found.taken["P1"].rule) == (right >= 0)


@settings(max_examples=30, deadline=None)
@given(DAYS, st.randoms(use_true_random=False))
def test_the_earliest_and_the_latest_as_declared(days: list[int], random: Any) -> None:
    series = [on(d) for d in days]
    random.shuffle(series)
    assert chosen(series, examination="earliest")[0] == {"P1": f"P1 {max(days)}"}
    assert chosen(series, examination="latest")[0] == {"P1": f"P1 {min(days)}"}
    taken, selection = chosen(series)
    assert bool(taken) == (len(days) == 1)
    if len(days) > 1:
        assert f"{len(days)} examinations, and nothing says which is meant" in why(selection)


def test_no_other_stands_in_for_the_earliest() -> None:
    broken = dataclasses.replace(on(30), faults=("[D06] a gap",))
    for rule in ("earliest", "latest"):
        taken, selection = chosen([broken, on(-30), on(-60)], examination=rule)
        if rule == "earliest":
            assert "cannot be used ([D06] a gap), and no other stands in for it" in why(selection)
        else:
            assert taken == {"P1": "P1 -60"}
    few = dataclasses.replace(on(30), files=on(30).files[:2], slices=((0, 0), (1, 0)))
    assert chosen([few, on(-30)], examination="earliest")[0] == {"P1": "P1 -30"}, "a localizer"
    undated = dated("u", {})
    assert "the day of one is not known" in why(
        chosen([undated, on(-30)], examination="earliest")[1]
    )
    # with a date that it is before, the next one is as good
    assert chosen([broken, on(60)], {"P1": SURGERY})[0] == {"P1": "P1 60"}


def test_files_that_cannot_be_read_may_be_the_earliest() -> None:
    late = on(-300)
    early = [f"/i/P1/early/{k}.dcm" for k in range(20)]
    for rule in ("earliest", "latest"):
        text = why(chosen([late], broken=early, examination=rule)[1])
        assert "20 of P1's files cannot be read (/i/P1/early/0.dcm" in text
        assert f"may be the {rule} examination" in text
        assert "Export them again" in text
    flat = [dataclasses.replace(late, files=tuple(f"/i/P1/{k}.dcm" for k in range(30)))]
    beside = [f"/i/P1/x{k}.dcm" for k in range(5)]
    assert "may be the earliest" in why(chosen(flat, broken=beside, examination="earliest")[1])
    assert chosen([late], broken=early)[0], "no order is promised"
    assert chosen([on(5)], {"P1": SURGERY}, broken=early)[0], "it is before the day"


def test_what_its_own_files_say_of_a_day_comes_before_the_study() -> None:
    """As where one StudyInstanceUID and StudyDate were written into all files of a patient."""
    joined = {"study": "1", "study_date": "2019-01-02"}
    early = dated("early", {**joined, "description": "nativ", "acquisition_date": "2019-01-02"})
    for more in (
        {"acquisition_date": "2021-06-01"},
        {"series_date": "2021-06-01"},
        {"series_date": "2021-06-01", "study": "2"},
    ):
        late = dated("late", {**joined, "description": "portal venous", **more})
        assert chosen([early, late], {"P1": SURGERY})[0] == {"P1": "early"}
        text = why(chosen([early, late])[1])
        assert "2 examinations" in text
        assert "no day, its files name several days, 2019-01-02 and 2021-06-01" in text
    silent = dated("silent", {"study": "1", "description": "portal venous"})
    assert chosen([early, silent], {"P1": SURGERY})[0] == {"P1": "silent"}
    apart = dataclasses.replace(silent, frame_of_reference="another")
    assert chosen([early, apart], {"P1": SURGERY})[0] == {"P1": "early"}
    assert "2 examinations" in why(chosen([early, apart])[1])
    later = dated("x", {**joined, "series_date": "2019-03-01", "image_type": ("DERIVED",)})
    assert chosen([later], {"P1": SURGERY})[0] == {"P1": "x"}, "computed later"


def test_a_night_between_is_after_the_day_of_the_table() -> None:
    before = on(0, "before", study="1", description="nativ")
    after = on(-1, "after", study="1", description="portal venous")
    assert "only 1 days after it" in why(chosen([before, after], {"P1": SURGERY})[1])


def test_an_examination_after_the_day_is_not_taken_while_one_may_be_before() -> None:
    undated, late = dated("u", {}), on(-10)
    text = why(chosen([undated, late], {"P1": SURGERY}, after=14)[1])
    assert "counts where there is none before" in text
    assert "the day of another is not known" in text
    assert chosen([late], {"P1": SURGERY}, after=14)[0] == {"P1": "P1 -10"}
    far = why(chosen([undated, late], {"P1": SURGERY})[1])
    assert "only 10 days after it; the day of another is not known" in far


def test_studies_of_one_day_are_one_examination() -> None:
    thin = on(5, "b", description="portal venous")
    assert chosen([on(5, "a", description="nativ"), thin])[0] == {"P1": "b"}, "split in two"
    assert chosen([on(5, "a"), on(5, "b")])[0] == {"P1": "a"}, "exported twice"
    midnight = [on(6, "a", study="1"), on(5, "b", study="1")]
    assert chosen(midnight)[1].cases, "a study that lasts past midnight"
    split = [on(60, "a", study="1"), on(5, "b", study="1")]
    assert "2 examinations" in why(chosen(split)[1]), "one StudyInstanceUID for all"
    undated = [dated("a", {}), dated("b", {})]
    assert "2 examinations" in why(chosen(undated)[1])
    unnamed = [
        dataclasses.replace(dated(i, {"study": ""}), frame_of_reference=i) for i in ("a", "b")
    ]
    assert "2 examinations" in why(chosen(unnamed)[1]), "that no uid is the same says nothing"
    same = [dated("a", {"study": "1"}), dated("b", {"study": "1"})]
    assert chosen(same)[0] == {"P1": "a"}


def test_another_modality_is_no_examination_of_this_one() -> None:
    pet = on(-50, "p", declared_modality="PT")
    assert chosen([pet, on(5, "a")])[0] == {"P1": "a"}
    low = on(2, "l", slices=200, description="CT AC low dose")
    assert chosen([low, on(20, "a")], {"P1": SURGERY})[0] == {"P1": "a"}, "the diagnostic one"
    assert chosen([low], {"P1": SURGERY})[0] == {"P1": "l"}
    assert "2 examinations" in why(chosen([low, on(20, "a")])[1])
    beside = [on(2, "p", study="1", declared_modality="PT"), on(2, "l", study="1")]
    assert chosen([*beside, on(20, "a")], {"P1": SURGERY})[0] == {"P1": "a"}, "it says PET nowhere"


def test_another_part_of_the_body_is_no_examination_of_this_one() -> None:
    liver = dataclasses.replace(CT, body=("ABD", "LIVER"))
    chest, abdomen = on(2, body_part="CHEST"), on(20, body_part="ABDOMEN")
    rules: tuple[dict[str, Any], ...] = (
        {"dates": {"P1": SURGERY}},
        {"examination": "latest"},
        {},
    )
    for rule in rules:
        taken, selection = chosen([chest, abdomen], imaging=liver, **rule)
        assert taken == {"P1": "P1 20"}
        told = [counted for counted, _ in selection.remarks["P1"]]
        assert "an examination of another part of the body is not looked at" in told
    assert chosen([chest], imaging=liver)[0] == {"P1": "P1 2"}, "better than none"
    _, selection = chosen([chest, abdomen, on(40)], imaging=liver)
    assert "2 examinations" in why(selection), "one names no part"


def test_on_the_very_day() -> None:
    surgery = {"P1": SURGERY}
    assert chosen([on(0)], surgery)[0] == {"P1": "P1 0"}
    assert "several studies of the very day" in why(chosen([on(0, "a"), on(0, "b")], surgery)[1])
    assert chosen([on(0, "a"), on(0, "b")], surgery, after=1)[0] == {"P1": "a"}
    assert chosen([on(0, "a"), on(0, "b"), on(9)], surgery, after=-1)[0] == {"P1": "P1 9"}
    broken = dataclasses.replace(on(0, "a"), faults=("[D06] a gap",))
    assert "several studies of the very day" in why(chosen([broken, on(0, "b")], surgery)[1])
    scout = dataclasses.replace(on(0, "a"), files=on(0).files[:2], slices=((0, 0), (1, 0)))
    assert chosen([scout, on(0, "b")], surgery)[0] == {"P1": "b"}
    text = why(chosen([scout, on(0, "b")], {"P1": SURGERY - datetime.timedelta(1)})[1])
    assert text.startswith("L01 /i/P1/b/0.dcm"), "named by the scan, not by the scout"


UNDATED = [
    ({}, "name neither StudyDate nor"),
    ({"study_date": "?"}, "is no date"),
    ({"study_date": "1900-01-01"}, "1900-01-01 stands in place of it"),
    ({"study_date": "1970-01-01", "acquisition_date": "?"}, "stands in place of it"),
    ({"study_date": "0001-01-01"}, "stands in place of it"),
    ({"study_date": "2019-01-02", "acquisition_date": "2021-06-01"}, "several days"),
]


@pytest.mark.parametrize(("more", "words"), UNDATED)
def test_an_examination_without_a_day_is_not_held_against_one(
    more: dict[str, str], words: str
) -> None:
    series = dated("u", more)
    assert words in day_of(series)[1]
    text = why(chosen([series], {"P1": SURGERY})[1])
    assert words in text
    assert "cannot be held against column 'op'" in text
    assert chosen([series])[0] == {"P1": "u"}, "the only one, and no date asked for"
    assert chosen([series, on(9)], {"P1": SURGERY})[0] == {"P1": "P1 9"}
    assert "2 examinations" in why(chosen([series, dated("v", more)])[1]), "not of one day"


DATED = [
    {"study_date": "2019-01-02", "acquisition_date": "2019-01-03", "series_date": "2019-02-02"},
    {"acquisition_date": "2019-01-02", "series_date": "2019-02-02"},
    {"series_date": "2019-01-02"},
    {"study_date": "1900-01-01", "acquisition_date": "2019-01-02"},
    {"study_date": "?", "series_date": "2019-01-02"},
]


@pytest.mark.parametrize("more", DATED)
def test_study_date_comes_before_acquisition_date_before_series_date(more: dict[str, str]) -> None:
    taken, selection = chosen([dated("u", more)], {"P1": SURGERY})
    assert taken == {"P1": "u"}
    assert selection.taken["P1"].days == 18


def many(days: Sequence[int], shift: Sequence[int]) -> tuple[list[Series], dict[str, Any]]:
    """Patients with scans of `days` before surgery, whose tables were shifted by `shift`."""
    series = [on(d, patient=f"P{n}") for n in range(len(shift)) for d in days]
    return series, {f"P{n}": SURGERY + datetime.timedelta(s) for n, s in enumerate(shift)}


def spread(series: Sequence[Series], days: Sequence[int]) -> list[Series]:
    """The same, each patient's files moved by so many days."""
    out = []
    for s in series:
        by = datetime.timedelta(days[int(s.patient[1:])])
        headers = tuple(
            dataclasses.replace(
                h, study_date=(datetime.date.fromisoformat(h.study_date) + by).isoformat()
            )
            for h in s.headers
        )
        out.append(dataclasses.replace(s, headers=headers))
    return out


SHIFTS = [(n * 97) % 730 - 365 for n in range(12)]


def test_dates_that_were_shifted_alike_change_nothing() -> None:
    series, dates = many((20, -200), SHIFTS)
    taken, selection = chosen(spread(series, SHIFTS), dates)
    assert taken == {f"P{n}": f"P{n} 20" for n in range(12)}
    assert {t.days for t in selection.taken.values()} == {20}


def test_where_the_dates_of_files_and_table_do_not_go_together_nobody_is_taken() -> None:
    series, dates = many((20, -200), SHIFTS)
    moved = spread(series, [0, *range(11)])
    taken, selection = chosen(moved, dates)
    assert taken == {}
    texts = [why(selection, f"P{n}") for n in range(12)]
    assert any("do not seem to go together" in t and "same_calendar" in t for t in texts)
    assert 0 < len(chosen(moved, dates, same_calendar=True)[0]) < 6
    fewer = [s for s in moved if int(s.patient[1:]) < JUDGED_PATIENTS - 1]
    assert len(chosen(fewer, dates)[0]) > 0, "too few to judge by"


def test_a_day_that_most_patients_have_is_none() -> None:
    """As a de-identification that writes one day into all files leaves it."""
    series = [
        dated(f"{p} {k}", {"study_date": "2000-01-01"}, f"P{p}") for p in range(6) for k in (0, 1)
    ]
    _, selection = chosen(series)
    assert all("2 examinations" in why(selection, f"P{n}") for n in range(6))
    dates = {f"P{n}": datetime.date(2000, 1, 9) for n in range(6)}
    _, selection = chosen(series, dates)
    assert all("stands in place of it" in why(selection, f"P{n}") for n in range(6))
    assert len(chosen(series[:4])[0]) == 2, "two patients may have been scanned on one day"


@pytest.mark.parametrize("cut", ["{:%Y}-01-01", "{:%Y-%m}-01"])
def test_dates_that_were_cut_to_the_year_or_month_are_none(cut: str) -> None:
    days = [datetime.date(2010, 2, 20) + datetime.timedelta(400 * n) for n in range(6)]
    series = [
        dated(f"{n} {k}", {"study_date": cut.format(day + datetime.timedelta(6 * k))}, f"P{n}")
        for n, day in enumerate(days)
        for k in (0, 1)
    ]
    _, selection = chosen(series)
    for n in range(6):
        assert "2 examinations" in why(selection, f"P{n}")
        assert "stands in place of it" in why(selection, f"P{n}")
    fewer = [s for s in series if s.patient < "P4"]
    assert len(chosen(fewer)[0]) > 0, "four patients may have been scanned on such days"
    true = [on(19, patient=f"Q{n}") for n in range(6)] + [
        on(30 + n, patient=f"Q{n}") for n in range(6)
    ]
    assert day_of(dated("u", {"study_date": "2019-01-01"}), ())[0], "of one alone"
    assert len(chosen(true, {f"Q{n}": SURGERY for n in range(6)})[0]) == 6


def test_days_between_are_summarised_of_patients_enough(tmp_path: Path) -> None:
    data = tmp_path / "data"
    table(data, {f"P{n}": "2019-01-20" for n in range(10)})
    for n in range(10):
        ct(data / "i" / f"P{n}", f"P{n}", StudyDate=f"201901{n + 10:02d}")
    r = read(data, RULE)
    (line,) = [t for t in r.image_log(r.cohort.ids) if "median" in t]
    assert line == (
        "images: from the examination to 'OP-Datum' 5.5 days (median; 1 to 10) in 10 patients"
    )
    assert not [t for t in r.image_log(r.cohort.ids[:9]) if "median" in t]
    assert "median" not in "".join(r.cohort.flow.notes)
