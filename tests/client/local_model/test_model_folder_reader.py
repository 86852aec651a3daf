"""A model folder is data: what is read of it, whose it is, and that nothing in it is run, followed
or believed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.__main__ import main
from client.local_model import folder_files, predict
from client.local_model.folder_files import MOST, UNSIGNED, Trust, trust_of
from client.local_model.model_folder import open_model, open_networks
from client.site.site_file import Site
from client.table import mapping_file
from common.data.cohort import Cohort, Fold
from common.data.schema import Number, Schema
from common.errors import DataError, FedmetsError, UsageError, WireError
from common.federated.learner import fit, hyper_of, local_plan
from common.federated.model_state import model_state
from common.learners.boosting import Boosting
from common.learners.image import Image
from common.learners.logistic import Logistic
from common.learners.preprocessing import LEARNER as PREPARE
from common.runtime.exit_status import SET_ASIDE
from common.study import load as studies
from common.study.study import guard_denied
from common.study.study_file import from_toml
from common.types import State
from common.wire import signing
from common.wire.envelope import Packet
from common.wire.model_signature import SIGNATURE, SUMS, sealed, signature, verified

COORDINATOR, OTHER = signing.new(), signing.new()
STUDY = "liver_recurrence"
HEADS = (Logistic(), Boosting(trees=2))


def people(schema: Schema, n: int = 40) -> Cohort:
    r = np.random.default_rng(0)
    values = np.zeros((n, len(schema.features)))
    for j, f in enumerate(schema.features):
        values[:, j] = r.uniform(f.low, f.high, n) if isinstance(f, Number) else r.integers(0, 2, n)
    ids = tuple(f"p{i}" for i in range(n))
    return Cohort("A", schema, ids, values, r.integers(0, 2, n))


@dataclass(frozen=True)
class Left:
    files: Mapping[str, bytes]
    state: State
    told: Mapping[str, Any]

    def write(
        self, folder: Path, signer: signing.Signer | None = COORDINATOR, **altered: Any
    ) -> Path:
        """The folder; `altered` keys of model.json, and whole files by name, before it is
        sealed."""
        files = dict(self.files)
        keys = {k: v for k, v in altered.items() if not isinstance(v, bytes)}
        files["model.json"] = json.dumps({**self.told, **keys}).encode()
        files |= {k.replace("_", "."): v for k, v in altered.items() if isinstance(v, bytes)}
        folder.mkdir(parents=True, exist_ok=True)
        for name, blob in {**files, **sealed(files, signer)}.items():
            (folder / name).write_bytes(blob)
        return folder


@pytest.fixture(scope="module")
def left() -> Left:
    study = studies.load(STUDY)
    task = list(study.tasks)[-1]
    schema = study.schema_at(task)
    those, state = [people(schema)], cast(State, {})
    for learner in (PREPARE, *HEADS):
        state = fit(learner, state, those, local_plan(Fold(), 0, 5))
    told = {
        "format": 2, "fedmets": "0", "study": STUDY, "study_file": "", "task": task,
        "schema": schema.hash, "seed": 0, "parts": 5, "heads": [h.name for h in HEADS],
        "learners": {h.name: hyper_of(h) for h in HEADS}, "clinical": "", "thresholds": {},
        "sites": ["A"], "state_hash": "x",
    }  # fmt: skip
    return Left({"model.state": model_state(state)}, state, told)


def refused(folder: Path, code: str, *words: str, trust: Trust | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_model(folder, trust=trust)
    assert caught.value.code == code, caught.value
    assert str(folder) in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# ---- whose it is ---------------------------------------------------------------------------------


def site_of(folder: Path, coordinator: str = COORDINATOR.public, key: Path | None = None) -> Site:
    return Site("A", folder, (STUDY,), coordinator=coordinator, key=key)


def test_the_pinned_coordinators_model_is_read_and_named(left: Left, tmp_path: Path) -> None:
    folder = left.write(tmp_path / "model")
    trust = trust_of(site_of(tmp_path), "site.toml")
    model = open_model(folder, trust=trust)
    assert model.files.signed.startswith("signed by the coordinator pinned in site.toml (")
    assert COORDINATOR.public[:16] in model.files.signed
    assert [h.name for h in model.heads] == ["logistic", "boosting"]
    # with nothing to compare it with, whoever signed it is told
    assert "which nothing here has pinned" in open_model(folder).files.signed
    assert COORDINATOR.public in open_model(folder).files.signed


def test_another_key_is_refused_unless_it_is_named(left: Left, tmp_path: Path) -> None:
    folder = left.write(tmp_path / "model", OTHER)
    trust = trust_of(site_of(tmp_path), "site.toml")
    refused(folder, "P05", OTHER.public, COORDINATOR.public, "--coordinator", trust=trust)
    # consent to what is not signed is none to what another has signed
    refused(folder, "P05", OTHER.public, trust=replace(trust, unsigned=True))
    named = trust_of(site_of(tmp_path), "site.toml", OTHER.public)
    assert "named by --coordinator" in open_model(folder, trust=named).files.signed
    with pytest.raises(UsageError, match="64 hex digits"):
        trust_of(None, coordinator="ab")


def test_a_model_without_a_signature_needs_consent_where_a_coordinator_is_pinned(
    left: Left, tmp_path: Path
) -> None:
    folder = left.write(tmp_path / "model", None)
    trust = trust_of(site_of(tmp_path), "site.toml")
    refused(folder, "P05", "signed by nobody", "--unsigned", trust=trust)
    refused(folder, "P05", "--unsigned", trust=trust_of(None, coordinator=COORDINATOR.public))
    for consent in (replace(trust, unsigned=True), Trust(), trust_of(site_of(tmp_path, ""))):
        assert open_model(folder, trust=consent).files.signed == UNSIGNED


def test_a_sites_own_model_is_its_own(left: Left, tmp_path: Path) -> None:
    own = signing.ensure(tmp_path / "station.key")
    folder = left.write(tmp_path / "model", own)
    trust = trust_of(site_of(tmp_path, key=tmp_path / "station.key"), "site.toml")
    assert "the site 'A' itself" in open_model(folder, trust=trust).files.signed


def test_a_signature_of_a_folder_is_none_of_a_packet() -> None:
    from common.wire import envelope

    sums = b"0  x\n"
    told = verified(sums, signature(sums, COORDINATOR))
    assert told.key == COORDINATOR.public
    packet = Packet("request", sums, told.signature)
    with pytest.raises(WireError):
        envelope.verify(packet, COORDINATOR.public)
    with pytest.raises(WireError):
        verified(sums, json.dumps({"key": told.key, "signature": COORDINATOR.sign(sums)}).encode())


@settings(max_examples=120)
@given(st.data())
def test_whatever_is_altered_is_refused(left: Left, data: st.DataObject) -> None:
    """Whoever has not the key can alter nothing of what is read, whatever sums are made for it."""
    trust = Trust({COORDINATOR.public: "ours"})
    with tempfile.TemporaryDirectory() as place:
        folder = left.write(Path(place) / "model")
        name = data.draw(st.sampled_from(["model.state", "model.json", SUMS, SIGNATURE]))
        blob = bytearray((folder / name).read_bytes())
        how = data.draw(st.sampled_from(["byte", "cut", "more", "gone"]))
        at = data.draw(st.integers(0, len(blob) - 1))
        if how == "byte":
            blob[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del blob[at:]
        elif how == "more":
            blob[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        (folder / name).write_bytes(blob)
        if how == "gone":
            (folder / name).unlink()
        if name in left.files and data.draw(st.booleans()):
            files = {n: (folder / n).read_bytes() for n in left.files if (folder / n).exists()}
            (folder / SUMS).write_bytes(sealed(files, None)[SUMS])
        try:
            model = open_model(folder, trust=trust)
        except DataError as error:
            assert error.code in ("D00", "P05")  # noqa: PT017 (a space in a JSON text is harmless)
        else:
            assert name == SIGNATURE
            assert model.sha256 == hashlib.sha256(left.files["model.state"]).hexdigest()
            assert "ours" in model.files.signed


# ---- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["study", "study_file"])
@pytest.mark.parametrize("ref", ["x.py", "../x.py", "/absolute/x.py", "../study.toml", "x.toml"])
def test_no_program_and_no_path_is_taken_from_a_model(
    key: str, ref: str, left: Left, tmp_path: Path
) -> None:
    """Signed or not: the coordinator too has no business to run programs here."""
    marker = tmp_path / "ran"
    folder = tmp_path / "model"
    ref = ref.replace("/absolute", str(tmp_path))
    left.write(folder, **{key: ref})
    for place in (folder / ref, tmp_path / ref):
        if place.suffix == ".py":
            place.write_text(f"open({str(marker)!r}, 'w')\n")
        else:
            place.write_text("name = 'x'\n")
    refused(folder, "D00", "study")
    assert not marker.exists()


def test_the_study_of_a_folder_is_its_study_toml(left: Left, tmp_path: Path) -> None:
    folder = left.write(tmp_path / "a", study_file="study.toml")
    refused(folder, "D00", "study.toml")
    left.write(tmp_path / "b", study_file="study.toml", study_toml=b"[" * 100_000)
    refused(tmp_path / "b", "D00", "study.toml")
    # as data it may be wrong, too: nothing else than a code comes of it
    left.write(tmp_path / "c", study_file="study.toml", study_toml=b"[label]\ncolumn = 'x'\n")
    with pytest.raises(FedmetsError) as caught:
        open_model(tmp_path / "c")
    assert caught.value.code in ("C02", "C03", "D00")


def test_no_pattern_of_a_folders_study_is_searched_for(left: Left, tmp_path: Path) -> None:
    """`(a+)+$` takes a year for a name of fifty letters."""
    text = (
        'id = "x"\ndenied = ["(a+)+$"]\n[label]\ncolumn = "y"\nvalues = ["a", "b"]\n'
        f'[[feature]]\nname = "{"a" * 50}!"\nunit = "mm"\nlow = 0\nhigh = 1\n'
    )
    schema = from_toml(tomllib.loads(text), "study.toml").schema_at("baseline")
    told = {**left.told, "study": "x", "task": "baseline", "heads": [], "learners": {}}
    folder = replace(left, told=told).write(
        tmp_path / "m",
        study_file="study.toml",
        study_toml=text.encode(),
        schema=schema.hash,
        model_state=model_state({}),
    )
    study = open_model(folder).study
    guard_denied(study, {f.name: f.name for f in study.schema.features})
    sections = '[imaging]\nchannels = { t1n = "MR" }\n[images]\n'
    for pattern in ('id_pattern = "(a+)+$"', 'study = "(a+)+$"', 'regions = { x = "(a+)+$" }'):
        toml = f"{text}{sections}{pattern}\n".encode()
        folder = left.write(tmp_path / pattern[:5], study_file="study.toml", study_toml=toml)
        refused(folder, "D00", "--study")


@pytest.mark.parametrize(
    "line",
    [
        "coarse = [32, 64, 100000]", "spacing_mm = [1e-9, 1, 1]", "crop_mm = [inf, 1, 1]",
        "margin_mm = nan", "crops = 1000000000", "window = [-inf, inf]",
    ],
)  # fmt: skip
def test_no_number_of_a_study_s_images_asks_for_memory_without_bound(line: str) -> None:
    text = (
        'id = "x"\n[label]\ncolumn = "y"\nvalues = ["a", "b"]\n[[feature]]\nname = "z"\n'
        'unit = "mm"\nlow = 0\nhigh = 1\n[imaging]\nchannels = { t1n = "MR" }\n'
    )
    assert from_toml(tomllib.loads(text), "study.toml").schema.imaging is not None
    with pytest.raises(FedmetsError, match=line.split()[0]):
        from_toml(tomllib.loads(text + line), "study.toml")


@pytest.mark.parametrize("name", [*MOST])
def test_no_link_is_followed_and_nothing_is_read_that_is_too_large(
    name: str, left: Left, tmp_path: Path
) -> None:
    good = left.write(tmp_path / "good", study_toml=b"")
    assert open_model(good)
    for how in ("link", "pipe", "folder", "large"):
        folder = left.write(tmp_path / how, study_toml=b"")
        (folder / name).unlink()
        if how == "link":
            (folder / name).symlink_to(good / name)
        elif how == "pipe":
            os.mkfifo(folder / name)
        elif how == "folder":
            (folder / name).mkdir()
        else:
            with open(folder / name, "wb") as file:
                file.truncate(MOST[name] + 1)
        refused(folder, "D00", name)


def test_a_folder_that_is_a_link_is_refused(left: Left, tmp_path: Path) -> None:
    good = left.write(tmp_path / "good")
    (tmp_path / "model").symlink_to(good)
    refused(tmp_path / "model", "D00", "symbolic link")
    refused(tmp_path / "nowhere", "D00", "No such file")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\udcff", "..", "MODEL"])
def test_a_folder_of_any_name_is_refused_by_a_code(left: Left, tmp_path: Path, name: str) -> None:
    left.write(tmp_path / "model")
    with pytest.raises(DataError) as caught:
        open_model(tmp_path / "model" / name)
    assert caught.value.code == "D00"


def test_what_else_lies_there_is_not_looked_at(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = left.write(tmp_path / "model")
    for name in ("boosting.json", "evil.py", "__init__.py", "model.pkl", "sitecustomize.py"):
        os.mkfifo(folder / name)
    opened: list[str] = []
    really = os.open

    def note(path: Any, *how: Any, **more: Any) -> int:
        opened.append(str(path))
        return really(path, *how, **more)

    monkeypatch.setattr(folder_files.os, "open", note)
    assert open_model(folder)
    assert opened == [str(folder), *MOST]


def test_a_hyperparameter_that_names_a_file_is_left_out(left: Left, tmp_path: Path) -> None:
    image = Image(segmentation=False, pretrained="/etc/hostname", pretrained_sha256="0" * 64)
    state = {"image": {"round": np.array(0)}}
    folder = left.write(
        tmp_path / "model", learners={"image": hyper_of(image)}, heads=["image"],
        model_state=model_state(state),
    )  # fmt: skip
    assert open_networks(folder).image.pretrained == ""


@pytest.mark.parametrize(
    "altered",
    [
        {"heads": ["preprocessing"]}, {"heads": ["nobody"]}, {"heads": ["mlp"]}, {"heads": "x"},
        {"heads": [["logistic"]]}, {"learners": {"logistic": 3}}, {"thresholds": {"logistic": "1"}},
        {"thresholds": {"logistic": float("nan")}}, {"parts": 10**9}, {"seed": "0"}, {"format": []},
        {"task": 3}, {"schema": None}, {"study": ["x"]}, {"learners": {}},
        {"learners": {"logistic": {"colour": 1}, "boosting": {}}}, {"sites": 3},
    ],
)  # fmt: skip
def test_a_model_json_of_another_form_is_refused_by_a_code(
    altered: dict[str, Any], left: Left, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        open_model(left.write(tmp_path / "model", **altered))
    assert caught.value.code == "D00"


def test_a_model_json_that_never_ends_is_refused(left: Left, tmp_path: Path) -> None:
    refused(left.write(tmp_path / "model", model_json=b"[" * 200_000), "D00")


def test_arrays_are_checked_before_they_are_used(left: Left, tmp_path: Path) -> None:
    """Children, columns and classes out of range ended the process by xgboost's own code."""
    trees = left.state["boosting"]
    column = trees["column"].copy()
    column[0, 0, 0] = 10_000
    for boosting, said in (
        ({**trees, "column": column}, "'column' has a value outside of its bounds, or none: 10000"),
        ({"booster": np.frombuffer(b"{}", np.uint8)}, "are missing, or none of the learner's"),
        ({}, "lacks what head 'boosting' predicts with"),
    ):
        state = model_state({**left.state, "boosting": boosting})
        refused(left.write(tmp_path / "model", model_state=state), "D00", said)


@settings(max_examples=60)
@given(st.data())
def test_any_arrays_are_refused_by_a_code_or_give_probabilities(
    left: Left, data: st.DataObject
) -> None:
    state = {learner: dict(arrays) for learner, arrays in left.state.items()}
    learner = data.draw(st.sampled_from(sorted(state)))
    name = data.draw(st.sampled_from(sorted(state[learner])))
    array = state[learner].pop(name)
    how = data.draw(st.sampled_from(["gone", "value", "shape", "kind"]))
    if how == "value":
        value = data.draw(st.sampled_from([0, -1, 1, 1000, 1e300, -1e300]))
        with np.errstate(all="ignore"):
            state[learner][name] = np.full_like(array, np.array(value).astype(array.dtype))
    elif how == "shape":
        state[learner][name] = np.repeat(array.ravel(), 2)[: data.draw(st.integers(0, 9))]
    elif how == "kind":
        state[learner][name] = array.astype(data.draw(st.sampled_from(["<f8", "<i8", "|b1"])))
    with tempfile.TemporaryDirectory() as place, np.errstate(all="ignore"):
        folder = left.write(Path(place) / "model", model_state=model_state(state))
        try:
            model = open_model(folder)
            for scored in predict.score(model, people(model.study.schema_at(model.task))):
                assert np.isfinite(scored.probs).all()
        except DataError as error:
            assert error.code == "D00"  # noqa: PT017


def test_a_model_json_says_no_more_than_it_must(left: Left, tmp_path: Path) -> None:
    """Keys with a default may be missing, wherever they are used later on."""
    for gone in ("fedmets", "seed", "parts", "sites", "state_hash"):
        told = {k: v for k, v in left.told.items() if k != gone}
        model = open_model(replace(left, told=told).write(tmp_path / gone, site_local=True))
        assert "research use only" in predict._of(model)[-1]


HOSTILE = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=60)
@given(st.sampled_from(["fedmets", "clinical", "site", "state_hash", "study", "task"]), HOSTILE)
def test_no_text_of_a_model_reaches_a_terminal_with_controls(
    left: Left, key: str, text: str
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = left.write(Path(place) / "model", **{key: f"a{text}"})
        try:
            told = " ".join(predict._of(open_model(folder)))
        except FedmetsError:
            return
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in told)


@pytest.mark.parametrize(
    "altered",
    [
        {"heads": ["logistic"] * 3000},
        {"seed": 10**30},
        {"thresholds": {"x" * 10_000: 0.5}},
        {"learners": {"logistic": {"rounds": 10**18}, "boosting": {}}},
        {"learners": {"logistic": {"l2": 1e300}, "boosting": {}}},
    ],
    ids=lambda a: str(a)[:30],
)
def test_counts_of_a_model_json_are_bounded(
    left: Left, tmp_path: Path, altered: dict[str, Any]
) -> None:
    refused(left.write(tmp_path / "model", **altered), "D00")


CELLS = st.lists(st.one_of(st.text(max_size=9), st.sampled_from("=@+-|%\t \r0").map("{}x".format)))


@given(CELLS)
def test_no_cell_of_a_prediction_is_a_formula(cells: list[str]) -> None:
    """A class called =HYPERLINK(...) would send the table elsewhere from whoever opens it."""
    (row,) = csv.reader(io.StringIO(predict._table(["p", *cells], []), newline=""))
    assert row[0] == "p"
    for cell, written in zip(cells, row[1:], strict=True):
        shown = "".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in cell)
        assert written in (shown, f"'{shown}")
        formula = written.lstrip()[:1] in ("=", "@", "+", "-", "|", "%")
        assert not formula or re.fullmatch(r"[+-][\d.e]*", written.strip())


# ---- by its commands -----------------------------------------------------------------------------


def test_predict_says_whose_the_model_is_and_refuses_another(
    left: Left, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        f'name = "A"\ndata = "."\nstudies = ["{STUDY}"]\ncoordinator = "{COORDINATOR.public}"\n'
    )
    folder = left.write(tmp_path / "model", OTHER)
    words = ["predict", "--model", str(folder), "--data", str(tmp_path), "--out", str(tmp_path)]
    assert main([*words, "--site", str(site)]) == 3
    said = capsys.readouterr().err
    assert "[P05]" in said
    assert OTHER.public in said
    assert main([*words, "--coordinator", "x"]) == 2


def test_predict_goes_on_without_the_patient_of_a_bad_cell_and_says_so(
    left: Left, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = mapping_file.named("crlm")
    columns = [spec.column[0].name for spec in source.features.values()]
    rows = [[source.index.key[0], *columns]]
    for patient in ("x1", "x2", "x3"):
        cells = {"age": "6O" if patient == "x2" else "60", "sex": "1"}
        rows.append([patient, *(cells.get(column, "-999") for column in columns)])
    table = tmp_path / "new.csv"
    table.write_text("".join(f"{','.join(row)}\n" for row in rows))
    words = ["predict", "--model", str(left.write(tmp_path / "model")), "--data", str(table)]
    words += ["--source", "crlm", "--json", "--out"]
    assert main([*words, str(tmp_path / "refused"), "--strict"]) == 3
    assert "'6O' in 1 rows (row 3)" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    assert main([*words, str(tmp_path / "out")]) == SET_ASIDE
    told = json.loads(capsys.readouterr().out)
    assert (told["patients"], told["set aside"], told["left out"]) == (2, 1, 1)
    predicted = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in predicted[1:]] == ["x1", "x3"]
    _, aside = csv.reader((tmp_path / "out" / "left_out.csv").read_text().splitlines())
    assert aside == ["x2", "'6O' in column 'age' (row 3) (D01)"]


def test_a_run_signs_its_model_by_the_plan_key(left: Left, tmp_path: Path, caplog: Any) -> None:
    from server.config.enrolled_sites import KEY
    from server.config.run_config import Run
    from server.export import model_folder

    study = studies.load(STUDY)
    report = {
        "fedmets": "0", "state_hash": "ab" * 32, "ledger_head": "cd" * 32, "seed": 0,
        "synthetic": True, "alarms": [], "not_run": [], "research_use_only": "Research use only.",
        "interval": "", "sites": [{"name": "A", "n": 40, "events": 20}],
        "label": {"name": "y", "title": "", "classes": ["a", "b"], "source": "a"},
        "features": [], "results": [],
    }  # fmt: skip

    def write(folder: Path) -> Path:
        run, task = Run(study=STUDY, keys=str(tmp_path / "keys")), left.told["task"]
        model_folder.write(folder, run, study, task, left.state, HEADS, report)
        return folder

    key = signing.ensure(tmp_path / "keys" / KEY)
    signed = open_model(write(tmp_path / "a"), trust=Trust({key.public: "the run"})).files.signed
    assert signed.startswith("signed by the run")
    # a copy of the run without its keys says so, and keeps no signature of another model
    (tmp_path / "keys" / KEY).unlink()
    assert open_model(write(tmp_path / "a")).files.signed == UNSIGNED
    assert "is not signed" in caplog.text
