"""The command given what it cannot use: exit status, code, culprit, way out, and never a traceback
or a lost run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulation.__main__ import main, parser
from simulation.federation import options as simulation
from simulation.phantom.colorectal import writer
from simulation.phantom.faults import table_faults
from tests.guards.drill import STUDY, people, write
from tests.paths import ROOT

SMALL = ("--learners", "logistic", "--bootstraps", "100", "--evaluations", "within_site")
Done = subprocess.CompletedProcess[str]


def start(cwd: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulation", *options],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(cwd: Path, *options: str) -> Done:
    process = start(cwd, *options)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(options, process.returncode, out, err)


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The command in this process, from the folder `tmp_path`: what ends before any work takes a
    process of its own longer to start than to end. Some of each kind have one (`test_a_process...`).
    """

    def command(*options: str) -> Done:
        monkeypatch.chdir(tmp_path)
        try:
            status = main(options)
        except SystemExit as leaving:  # argparse
            status = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(options, status, out, err)

    return command


def refused(done: Done, status: int, code: str, *said: str) -> None:
    """It ended with this status, and what it wrote on stderr has the code, every word of `said`,
    and no traceback."""
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    assert done.returncode == status, done.stderr
    assert code in done.stderr
    for word in said:
        assert word in done.stderr, f"{word!r} is not in: {done.stderr}"


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `town.toml` and `data/`, which nobody writes to."""
    folder = tmp_path_factory.mktemp("town") / "town"
    write(folder, people(sizes={"Ash": 60, "Beech": 50}))
    return folder


def at(town: Path) -> tuple[str, ...]:
    return (
        "--study",
        str(town / "town.toml"),
        "--data",
        str(town / "data"),
        "--folds",
        "3",
        *SMALL,
    )


@pytest.fixture(scope="module")
def finished(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    cwd = tmp_path_factory.mktemp("finished")
    done = run(cwd, *at(town))
    assert done.returncode == 0, done.stderr
    return cwd / done.stdout.strip().splitlines()[-1]


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def state_hash(folder: Path) -> str:
    return str(json.loads((folder / "report.json").read_text())["state_hash"])


# ---- options -------------------------------------------------------------------------------------

OPTIONS: list[tuple[tuple[str, ...], int, str, tuple[str, ...]]] = [
    (("--unknown",), 2, "", ("unrecognized arguments: --unknown",)),
    (("--learner", "logistic"), 2, "", ("unrecognized arguments: --learner",)),
    (("--folds", "three"), 2, "", ("argument --folds: invalid int value: 'three'",)),
    (
        ("--study", "colorectal_metastases"),
        2,
        "C02",
        ("'colorectal_metastases'", "colorectal_metastasis", "liver_recurrence", "path of a .toml"),
    ),
    (("--study", "nowhere.toml"), 2, "C02", ("'nowhere.toml'", "check the path")),
    (("--study", "broken.toml"), 2, "C02", ("broken.toml", "is not valid TOML")),
    (("--task", "later"), 2, "C01", ("'later'", "early, late")),
    (("--learners", "logistik"), 2, "C02", ("'logistik'", "boosting", "logistic")),
    (("--set", "logistic.l3=1"), 2, "C01", ("'l3'", "it has", "l2")),
    (("--set", "logistic.l2=much"), 2, "C01", ("l2='much'", "expected float", "default 1.0")),
    (
        ("--set", "boosting.trees=2"),
        2,
        "C01",
        ("'boosting'", "does not train (importance, logistic, preprocessing)"),
    ),
    (("--set", "logistic"), 2, "C01", ("learner.key=value",)),
    (("--strategy", "best"), 2, "C01", ("'best'", "fedavg")),
    (("--folds", "1"), 2, "C01", ("parts = 1",)),
    (("--folds", "2"), 2, "C01", ("parts = 2", "3 to 20")),
    (("--folds", "400"), 2, "C01", ("parts = 400",)),
    (("--learners", "logistic,logistic"), 2, "C01", ("logistic, logistic", "each once")),
    (("--learners", "preprocessing"), 2, "C01", ("'preprocessing' predicts nothing",)),
    (("--seed", "-1"), 2, "C01", ("seed = -1",)),
    (("--permute-labels", "-1"), 2, "C01", ("--permute-labels -1",)),
    (("--accept-leak", "aeg"), 2, "C01", ("--accept-leak aeg", "age, marker, kind, nodes")),
    (("--deadline", "nan"), 2, "C01", ("deadline = nan",)),
    (("--images", "nowhere"), 2, "C01", ("--images nowhere",)),
    (("--phantom", "null"), 2, "C01", ("--phantom", "--data names a real one")),
    (("--study", "../town"), 2, "C02", ("'../town'",)),
    (("--resume", "other"), 6, "S01", ("'other'", "does not hold the options")),
    (("--quorum", "2"), 2, "C01", ("quorum = 2.0",)),
    (("--deadline", "0"), 2, "C01", ("deadline = 0.0",)),
    (("--evaluations", "within"), 2, "C01", ("unknown within", "within_site")),
    (("--epsilon", "3,none"), 2, "C01", ("'none' is no number",)),
    (("--epsilon", "0"), 2, "C01", ("different numbers above 0",)),
    (("--epsilon", "3", "--delta", "0.5"), 2, "C01", ("--delta 0.5", "below 1 / (patients)")),
    (("--epsilon", "3", "--evaluations", "leave_one_site_out"), 2, "C01", ("add within_site",)),
    (
        ("--audit", "--evaluations", "leave_one_site_out"),
        2,
        "C01",
        ("--audit needs", "add within_site"),
    ),
    (("--audit", "--delta", "0.5"), 2, "C01", ("--delta 0.5",)),
    (("--noise-seed", "3"), 2, "C01", ("give both, or neither",)),
    (("--bootstraps", "5"), 2, "C01", ("--bootstraps 5", "at least 100")),
    (("--minimum-site", "0"), 2, "C01", ("--minimum-site 0",)),
    (("--partition", "even", "--virtual-sites", "1"), 2, "C01", ("--virtual-sites 1",)),
    (
        ("--partition", "even", "--virtual-sites", "5000"),
        3,
        "D09",
        ("virtual sites would be empty", "fewer --virtual-sites"),
    ),
    (("--source", "elsewhere"), 2, "C02", ("elsewhere",)),
    (("--data", "nowhere"), 3, "D00", ("nowhere", "Check the path")),
    (("--data", "empty"), 3, "D00", ("empty", "patients.csv", "data folder")),
    (("--out", "file"), 6, "S03", ("'file/", "choose another --out")),
    (
        ("--resume", "empty"),
        6,
        "S01",
        ("'empty'", "not the folder of a simulation", "the folder that the run printed"),
    ),
    (("--resume", "file"), 6, "S01", ("'file'", "not the folder of a simulation")),
    (
        ("--minimum-patients", "1000"),
        3,
        "D09",
        ("a sum must cover 1000", "a lower --minimum-patients"),
    ),
]


@pytest.mark.parametrize(
    ("options", "status", "code", "said"), OPTIONS, ids=[" ".join(o[0]) for o in OPTIONS]
)
def test_a_wrong_option(
    town: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    status: int,
    code: str,
    said: tuple[str, ...],
    here: Callable[..., Done],
) -> None:
    in_the_way(tmp_path)
    refused(here(*at(town), *options), status, code, *said)


@pytest.mark.parametrize("option", [0, 3, 33, -1], ids=lambda n: " ".join(OPTIONS[n][0]))
def test_a_process_given_a_wrong_option(town: Path, tmp_path: Path, option: int) -> None:
    options, status, code, said = OPTIONS[option]
    in_the_way(tmp_path)
    refused(run(tmp_path, *at(town), *options), status, code, *said)


def in_the_way(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "file").touch()
    (folder / "other").mkdir()
    (folder / "other" / "simulation.json").write_text("{}")
    (folder / "broken.toml").write_text('name = "x"\n[')


def test_a_study_without_synthetic_cohort_asks_for_its_tables(
    tmp_path: Path, here: Callable[..., Done]
) -> None:
    renamed = (
        "import dataclasses\nfrom common.study.load import load\nSTUDY = "
        "dataclasses.replace(load('liver_recurrence'), name='mine')\n"
    )
    (tmp_path / "mine.py").write_text(renamed)
    refused(here("--study", str(tmp_path / "mine.py")), 2, "C01", "'mine'", "--data PATH")


def test_every_fault_of_a_study_file_at_once(town: Path, tmp_path: Path) -> None:
    broken = (
        STUDY.replace("question =", "questoin =")
        .replace("low = 18\n", "")
        .replace('column = "spread"', 'column = "spread"\ncolour = "red"')
    )
    (tmp_path / "town.toml").write_text(broken)
    done = run(tmp_path, "--study", "town.toml", "--data", str(town / "data"))
    refused(
        done,
        2,
        "C02",
        "3 faults",
        "'questoin'; did you mean 'question'?",
        "'age'",
        "lacks 'low'",
        "'colour'",
    )


# ---- data ----------------------------------------------------------------------------------------

REFUSED = [f for f in table_faults.FAULTS if f.answer == "error"]

CULPRIT = {
    "undeclared null token": (
        "clinical.tsv",
        "'demographic.age_at_index'",
        "'n.k.' in 6 rows",
        "nulls",
    ),
    "age in days": (
        "clinical.tsv",
        "'demographic.age_at_index'",
        "outside 0 to 120 years",
        "looks like days",
        "declared unit",
    ),
    "another CEA unit": (
        "follow_up.tsv",
        "'molecular_tests.test_units'",
        "'U/mL'",
        "Convert these rows",
    ),
    "value outside the vocabulary": (
        "clinical.tsv",
        "'diagnoses.tissue_or_organ_of_origin'",
        "'Stomach, NOS' in 2 rows",
        "Map ",
    ),
    "undeclared label value": (
        "clinical.tsv",
        "'diagnoses.ajcc_pathologic_m'",
        "'distant' in 2 rows",
        "Map ",
    ),
    "missing column": ("clinical.tsv", "'diagnoses.prior_malignancy'", "Rename the column"),
    "missing label column": ("clinical.tsv", "'diagnoses.ajcc_pathologic_m'", "Rename the column"),
    "missing key column": ("pathology_detail.tsv", "'cases.submitter_id'", "Rename the column"),
    "foreign ids": ("pathology_detail.tsv", "XTCGA-", "Check the key columns"),
    "truncated file": ("clinical.tsv", "line 6", "truncated", "export it again"),
    "empty file": ("follow_up.tsv", "0 bytes", "again"),
    "missing file": ("clinical.tsv", "--data"),
    "no known label": (
        "clinical.tsv",
        "631 are kept and none has a known label",
        "Check the filters",
    ),
    "patient at two sites": (
        "clinical.tsv",
        "'cases.case_id'",
        "10 persons",
        "TCGA-AA-Z23O = TCGA-CM-Z23O",
        "Give each person one id",
    ),
    "outcome as feature": (
        "'prior_malignancy'",
        "'diagnoses.ajcc_pathologic_stage'",
        "remove it from the features",
    ),
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    writer.write(folder)
    return folder


@pytest.fixture
def broken(phantom: Path, tmp_path: Path) -> Path:
    shutil.copytree(phantom, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("fault", REFUSED, ids=lambda f: f.name)
def test_a_table_that_cannot_be_used(
    broken: Path, fault: table_faults.Planted, here: Callable[..., Done]
) -> None:
    fault.plant(broken)
    source = (
        ("--source", str(broken / table_faults.MAPPING))
        if (broken / table_faults.MAPPING).exists()
        else ()
    )
    done = here("--data", "data", *SMALL, *source)
    refused(done, 4 if fault.code.startswith("L") else 3, fault.code, *CULPRIT[fault.name])


def test_every_fault_of_the_tables_at_once(broken: Path, here: Callable[..., Done]) -> None:
    for name in (
        "undeclared null token",
        "another CEA unit",
        "value outside the vocabulary",
        "undeclared label value",
    ):
        table_faults.named(name).plant(broken)
    done = here("--data", "data", *SMALL)
    refused(
        done,
        3,
        "4 faults",
        "D01 coad/clinical.tsv",
        "D03 coad/clinical.tsv",
        "D07 coad/follow_up.tsv",
        "'Stomach, NOS'",
    )


def test_a_copied_label_is_a_leak(broken: Path, tmp_path: Path) -> None:
    table_faults.named("copy of the label").plant(broken)
    done = run(tmp_path, "--data", "data", *SMALL)
    refused(done, 4, "[L03]", "'prior_malignancy'", "AUC 1.000", "--accept-leak prior_malignancy")
    assert not list(tmp_path.glob("runs/*/report.*"))


def test_a_site_with_one_class_runs_and_is_not_estimable(broken: Path, tmp_path: Path) -> None:
    table_faults.named("one-class site").plant(broken)
    done = run(tmp_path, "--data", "data", *SMALL)
    assert done.returncode == 0, done.stderr
    line = next(
        x for x in done.stdout.splitlines() if x.startswith("│ Christiana") and "not estimable" in x
    )
    assert re.findall(r"\d\.\d{3}", line) == []
    report = json.loads(
        (tmp_path / done.stdout.strip().splitlines()[-1] / "report.json").read_text()
    )
    mine = [
        r
        for r in report["results"]
        if r["site"] == "Christiana" and r["metric"] != "no_information_rate"
    ]
    assert mine
    assert all((r["estimable"], r["value"], r["events"]) == (False, None, 0) for r in mine)
    assert all(r["worst_site"] != "Christiana" for r in report["between_sites"])


@pytest.mark.slow
def test_contradicting_rows_are_set_aside_and_counted(broken: Path, tmp_path: Path) -> None:
    table_faults.named("contradicting rows").plant(broken)
    done = run(tmp_path, "--data", "data", *SMALL, "--json")
    report = json.loads(done.stdout)
    assert any("D02" in e["reason"] and e["n"] == 1 for e in report["flow"]["excluded"])
    assert report["flow"]["kept"] == 630


@pytest.mark.slow
def test_a_site_without_patients_is_no_site(broken: Path, tmp_path: Path) -> None:
    table_faults.named("empty site").plant(broken)
    done = run(tmp_path, "--data", "data", *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "Michigan" not in {s["name"] for s in report["sites"]}
    assert sum(e["n"] for e in report["flow"]["excluded"]) > 20


# ---- run folders ---------------------------------------------------------------------------------


def test_runs_begun_together_get_folders_of_their_own(
    town: Path, tmp_path: Path, finished: Path
) -> None:
    before = digests(finished)
    # into the folder that holds a finished run
    processes = [
        start(tmp_path, *at(town), "--prepare", "--out", str(finished.parent)) for _ in range(2)
    ]
    folders = []
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        folders.append(Path(out.strip().splitlines()[-1]))
    assert len(set(folders)) == 2
    assert finished not in folders
    assert all(
        (f / "simulation.json").is_file() and len(list((f / "sites").glob("*/site.toml"))) == 2
        for f in folders
    )
    assert digests(finished) == before


def test_a_name_that_is_taken_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation.time, "strftime", lambda form: "20260101-000000")
    args = parser().parse_args(["--out", str(tmp_path / "runs")])
    made = [simulation.new_folder(Path(args.out), args.study, {}) for _ in range(3)]
    assert [f.name for f in made] == [
        f"20260101-000000-colorectal_metastasis{n}" for n in ("", "-2", "-3")
    ]


def test_resuming_a_finished_run_changes_nothing_that_was_learnt(
    copy: Path, finished: Path
) -> None:
    states = digests(copy / "state")
    done = run(copy.parent, "--resume", str(copy), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state_hash"] == state_hash(finished)
    assert digests(copy / "state") == states


def test_resuming_with_other_data_is_refused(
    town: Path, tmp_path: Path, here: Callable[..., Done]
) -> None:
    shutil.copytree(town, tmp_path / "town")
    mine = tmp_path / "town"
    done = here(*at(mine), "--prepare")
    folder = done.stdout.strip().splitlines()[-1]
    table = mine / "data" / "patients.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    refused(
        here("--resume", folder),
        6,
        "S01",
        "the data changed",
        "put the old files back, or start a new run",
    )


def test_resuming_with_another_configuration_is_refused(
    copy: Path, here: Callable[..., Done]
) -> None:
    settings = json.loads((copy / "simulation.json").read_text())
    (copy / "simulation.json").write_text(json.dumps({**settings, "seed": 5}))
    refused(
        here("--resume", str(copy)),
        6,
        "S01",
        "another configuration",
        "seed: 0 then, 5 now",
    )


def _line_altered(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert '"contributed"' in lines[1]
    lines[1] = lines[1].replace('"contributed"', '"refused"', 1)
    path.write_text("".join(lines))


def _line_removed(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[4:]))


def _state_altered(folder: Path) -> None:
    newest = max((folder / "state").glob("*.state"))
    blob = bytearray(newest.read_bytes())
    blob[-1] ^= 1
    newest.write_bytes(bytes(blob))


def _state_truncated(folder: Path) -> None:
    newest = max((folder / "state").glob("*.state"))
    newest.write_bytes(newest.read_bytes()[:100])


def _state_gone(folder: Path) -> None:
    max((folder / "state").glob("*.state")).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_line_altered, ("ledger.jsonl' line 2", "altered or damaged")),
        (_line_removed, ("ledger.jsonl' line 4", "altered or damaged")),
        (_state_altered, (".state'", "is not the one that the ledger names")),
        (_state_truncated, (".state'", "is not the one that the ledger names")),
        (_state_gone, (".state'", "No such file")),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_damaged_run_is_not_gone_on_with(
    copy: Path, damage: Callable[[Path], None], said: tuple[str, ...], here: Callable[..., Done]
) -> None:
    damage(copy)
    after = digests(copy / "state") | {
        "ledger": hashlib.sha256((copy / "ledger.jsonl").read_bytes()).hexdigest()
    }
    refused(
        here("--resume", str(copy)),
        6,
        "S02",
        *said,
        "restore the run folder",
        "start a new run",
    )
    assert (
        digests(copy / "state")
        | {"ledger": hashlib.sha256((copy / "ledger.jsonl").read_bytes()).hexdigest()}
        == after
    )


def test_a_ledger_line_that_was_cut_short_is_not_damage(copy: Path, finished: Path) -> None:
    """What a loss of power leaves: the last line is taken off, and the run goes on from the one
    before."""
    path = copy / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    done = run(copy.parent, "--resume", str(copy), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state_hash"] == state_hash(finished)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (again,) = [line for line in lines if line["kind"] == "resume"]
    assert (again["torn"], again["lost"]) == (40, 1), (
        "that a whole line was lost, too, is on record"
    )


# ---- interruption and a full disk ----------------------------------------------------------------


def test_ctrl_c_and_going_on(town: Path, tmp_path: Path, finished: Path) -> None:
    process = start(tmp_path, *at(town))
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        found = list(tmp_path.glob("runs/*/ledger.jsonl"))
        if found and found[0].read_bytes().count(b'"kind":"exchange"') >= 1:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    told = re.search(r"python -m simulation --resume (\S+)", out)
    assert told, out
    assert not (tmp_path / told[1] / "report.json").exists()
    done = run(tmp_path, "--resume", told[1], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state_hash"] == state_hash(finished)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(kilobytes)`: a file system of that size; called again, it has another size and
    what it held."""
    at = tmp_path / "disk"
    at.mkdir()
    mounted = False

    def sized(kilobytes: int) -> Path:
        nonlocal mounted
        how = f"{'remount,' if mounted else ''}size={kilobytes}k"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(at)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted = True
        return at

    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("mounting a small file system takes root and mount(8)")
    try:
        yield sized
    finally:
        if mounted:
            subprocess.run(["umount", str(at)], check=True)


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(0.2, marks=pytest.mark.slow),
        0.4,
        pytest.param(0.6, marks=pytest.mark.slow),
        pytest.param(0.9, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_and_going_on(
    town: Path, tmp_path: Path, finished: Path, small_disk: Callable[[int], Path], share: float
) -> None:
    """`share`: of what a whole run takes."""
    takes = sum((p.stat().st_size + 4095) // 4096 * 4 for p in finished.rglob("*") if p.is_file())
    disk = small_disk(int(share * takes))
    done = run(tmp_path, *at(town), "--out", str(disk))
    refused(
        done,
        6,
        "[S03]",
        "cannot be written (No space left on device)",
        "free space",
        "resume the run",
    )
    (folder,) = disk.iterdir()
    assert not (folder / "model" / "checksums.sha256").exists()
    small_disk(20 * takes)
    again = run(tmp_path, "--resume", str(folder), "--json")
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["state_hash"] == state_hash(finished)
    assert report["results"] == json.loads((finished / "report.json").read_text())["results"]


def test_a_disk_that_is_full_before_the_first_round(
    tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    """The synthetic cohort itself does not fit."""
    disk = small_disk(100)
    done = run(tmp_path, *SMALL, "--partition", "even", "--virtual-sites", "2", "--out", str(disk))
    refused(done, 6, "[S03]", "cannot be written (No space left on device)", "resume the run")
    (folder,) = disk.iterdir()
    small_disk(30_000)
    again = run(tmp_path, "--resume", str(folder), "--json")
    assert again.returncode == 0, again.stderr
