"""The folders that commands of the documentation are executed in, each made by the tools
themselves: small synthetic data, kits, a site.

`make` fills a folder and says what stands in place of which placeholder. Folders are made once and
copied for each command.
"""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulation.federation import synthetic_cohorts
from tests.docs.pages import ROOT, every_block
from tests.paths import DATA

Fill = dict[str, str]


def call(line: str, folder: Path) -> str:
    """A command as it is written, with this Python for `python`."""
    return run(line, folder, check=True).stdout


def run(line: str, folder: Path, *, check: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not check or done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


def environment(folder: Path) -> dict[str, str]:
    """`python` is the Python of the tests, `fedmets` the checkout's command."""
    shim = folder.parent / "bin"
    shim.mkdir(exist_ok=True)
    for name, words in (("python", ""), ("fedmets", "-m fedmets ")):
        if not (shim / name).exists():
            (shim / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
            (shim / name).chmod(0o755)
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    return {**os.environ, **quiet, "PATH": f"{shim}{os.pathsep}{os.environ['PATH']}"}


def phantom(study: str, folder: Path, patients: int, mode: str = "default") -> None:
    """A synthetic cohort's files, with the images of a few."""
    synthetic_cohorts.write(
        study, folder, seed=0, mode=mode, patients=patients, tell=lambda at, of: None
    )
    for person in [
        p
        for pattern in ("*/CRLM-CT-*", "*/BraTS-MET-*", "TCGA-*/TCGA-*")
        for p in sorted(folder.glob(pattern))
    ][4:]:
        shutil.rmtree(person)


def nothing(folder: Path) -> Fill:
    return {}


def repository(folder: Path) -> Fill:
    """`make` in the project itself, where the environment is ready; else there would be a
    download."""
    if (
        not (ROOT / ".venv").is_dir()
        or subprocess.run(["make", "-q", "setup"], cwd=ROOT, capture_output=True).returncode
    ):
        pytest.skip("make setup would install something: .venv is not ready here")
    return {
        "make simulation": f"make -C {ROOT} simulation ARGS='--prepare --phantom-patients 150 "
        f"--out {folder}/runs'"
    }


def gdc(folder: Path) -> Fill:
    phantom("colorectal_metastasis", folder / "tcga-coadread", 250)
    return {"/path/to/tcga-coadread": "tcga-coadread"}


def gdc_with_ct(folder: Path) -> Fill:
    data = folder / "tcga-coadread"
    phantom("colorectal_metastasis", data, 150, "images")
    (folder / "tcga-ct").mkdir()
    for part in ("TCGA-COAD", "TCGA-READ", "metadata.csv"):
        shutil.move(data / part, folder / "tcga-ct" / part)
    return {}


def liver(folder: Path) -> Fill:
    phantom("liver_recurrence", folder / "Colorectal-Liver-Metastases", 20)
    return {"/path/to/Colorectal": "Colorectal"}


def yale(folder: Path) -> Fill:
    phantom("brain_primary", folder / "Pretreat-MetsToBrain-Masks", 20)
    return {}


def openbtai(folder: Path) -> Fill:
    """The real workbooks, where they are: nothing synthetic has their three header rows."""
    if not (DATA / "openbtai").is_dir():
        pytest.skip(f"no real data: {DATA / 'openbtai'} is not there (set FEDMETS_DATA)")
    (folder / "openbtai").symlink_to((DATA / "openbtai").resolve())
    return {}


def hospitals(folder: Path) -> Fill:
    """A table of one's own: three hospitals, a marker that tells something."""
    rng = random.Random(1)
    with (folder / "hospitals.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["patient", "hospital", "age", "sex", "marker", "spread"])
        for n in range(240):
            event = rng.random() < 0.35
            marker = round(rng.gauss(6 if event else 4, 2), 1)
            rows.writerow(
                [
                    f"P{n:04}",
                    f"Hospital {'ABC'[n % 3]}",
                    rng.randint(30, 85),
                    rng.choice("FM"),
                    marker,
                    "yes" if event else "no",
                ]
            )
    return {}


def drafted(folder: Path) -> Fill:
    """What `--draft` writes, its guesses left as they are."""
    hospitals(folder)
    call("fedmets simulate --draft hospitals.csv > my_study.toml", folder)
    return {}


def site(folder: Path) -> Fill:
    call("fedmets simulate --prepare --phantom-patients 150 --out made", folder)
    shutil.copy(sorted(folder.glob("made/*/sites/*/site.toml"))[0], folder)
    return {}


def federation(folder: Path) -> Fill:
    """The file that the runbook shows."""
    (shown,) = [b for b in every_block() if b.page == "deploy/README.md" and b.language == "toml"]
    (folder / "federation.toml").write_text(shown.body)
    return {}


def read_out(told: str) -> str:
    return re.findall(r"[0-9a-f]{4}(?:-[0-9a-f]{4})+", told)[-1]


def kits(folder: Path) -> Fill:
    federation(folder)
    key = read_out(call("fedmets deploy provision federation.toml --out kits", folder))
    shutil.copytree(folder / "kits/sites/north-hospital", folder / "kit")
    return {"XXXX-XXXX-...": key, "XXXX-...": key, "KIT": "kit"}


def enrolled(folder: Path) -> Fill:
    fill = kits(folder)
    call(f"fedmets deploy enroll kit --fingerprint {fill['XXXX-...']}", folder)
    shutil.copy(folder / "kit/enrolment.json", folder)
    back = read_out(call("fedmets deploy fingerprint enrolment.json", folder))
    return {"XXXX-XXXX-...": back, "XXXX-...": back, "KIT": "kit"}


def runs(folder: Path) -> Fill:
    (folder / "state" / "runs").mkdir(parents=True)
    # what stands before it lets it run in the coordinator's container
    return {
        "podman exec -d CONTAINER ": "",
        "--state /state": "--state state",
        "/state/room.sock": "state/room.sock",
    }


WORLDS: dict[str, Callable[[Path], Fill]] = {
    "nothing": nothing,
    "repository": repository,
    "gdc": gdc,
    "gdc with ct": gdc_with_ct,
    "liver": liver,
    "yale": yale,
    "openbtai": openbtai,
    "hospitals": hospitals,
    "drafted": drafted,
    "site": site,
    "federation": federation,
    "kits": kits,
    "enrolled": enrolled,
    "runs": runs,
}
