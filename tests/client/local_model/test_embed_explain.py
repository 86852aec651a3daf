"""What a site makes of the final networks for itself: embeddings and its own page of pictures.
Nothing of it is sent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from client.__main__ import main
from client.local_model.embed import embed
from client.local_model.explain import explain
from client.local_model.model_folder import Networks, open_networks
from common.data.cohort import Cohort, Fold
from common.errors import DataError
from common.federated.learner import configured, fit, hyper_of, local_plan
from common.learners.image import Image
from common.types import flatten, pack
from tests import pictures

IMAGE = configured(
    Image(),
    {"grid": (8, 12, 12), "rounds": 2, "epochs": 2, "segmentation": False, "learning_rate": 0.01},
)


def silent(at: int, of: int) -> None: ...


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    a, _ = pictures.sites(40, 2)
    return dataclasses.replace(a, pictures=(None, *a.pictures[1:]))


def write_model(folder: Path, cohort: Cohort, image: Image = IMAGE) -> Path:
    state = fit(image, {}, [cohort], local_plan(Fold(), 0, 3))
    told = {
        "format": 1, "fedmets": "0", "study": "liver_recurrence", "study_file": "", "task": "",
        "schema": cohort.schema.hash,
        "learners": {"image": hyper_of(image)}, "heads": ["image"], "clinical": "",
        "thresholds": {},
    }  # fmt: skip
    files = {"model.state": pack(flatten(state)), "model.json": json.dumps(told).encode()}
    sums = "".join(f"{hashlib.sha256(b).hexdigest()}  {n}\n" for n, b in files.items())
    folder.mkdir()
    for name, blob in {**files, "SHA256SUMS": sums.encode()}.items():
        (folder / name).write_bytes(blob)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model", cohort)


@pytest.fixture(scope="module")
def networks(model: Path) -> Networks:
    return open_networks(model)


def private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


def test_embeddings_are_those_of_the_network(
    cohort: Cohort, networks: Networks, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    patients, slices = embed(cohort, networks, tmp_path, lambda at, of: told.append((at, of)))
    assert told[-1] == (19, 19) == (patients, patients)
    whole = parquet.read_table(tmp_path / "patients.parquet").to_pydict()
    assert whole["patient"] == list(cohort.ids[1:])
    assert set(whole["region"]) == {"expert"}
    width = sum(k.startswith("f") for k in whole)
    planes = parquet.read_table(tmp_path / "slices.parquet").to_pydict()
    assert len(planes["patient"]) == slices > patients
    assert private(tmp_path / "patients.parquet")
    assert private(tmp_path / "slices.parquet")
    # crops count alike, and so do the planes of a crop: the mean of the planes is the patient
    one = [i for i, p in enumerate(planes["patient"]) if p == cohort.ids[3]]
    mean = [np.mean([planes[f"f{j}"][i] for i in one]) for j in range(width)]
    np.testing.assert_allclose(
        mean, [whole[f"f{j}"][2] for j in range(width)], rtol=1e-4, atol=1e-6
    )


def test_embeddings_tell_the_classes_apart_that_the_network_learnt(
    networks: Networks, tmp_path: Path
) -> None:
    from sklearn.linear_model import LogisticRegression

    other = pictures.sites(80, 1, seed=5)[0]
    embed(other, networks, tmp_path, silent)
    t = parquet.read_table(tmp_path / "patients.parquet").to_pydict()
    x = np.array([t[k] for k in t if k.startswith("f")]).T
    half = np.arange(len(x)) % 2 == 0
    fitted = LogisticRegression(C=10, max_iter=500).fit(x[half], other.labels[half])
    assert fitted.score(x[~half], other.labels[~half]) > 0.8


def test_the_page_has_a_picture_for_each_patient_and_asks_nothing_of_the_network(
    cohort: Cohort, networks: Networks, tmp_path: Path
) -> None:
    hostile = dataclasses.replace(
        cohort,
        ids=("<script>x</script>", *cohort.ids[1:]),
        pictures=(cohort.pictures[1], *cohort.pictures[1:]),
    )
    path = tmp_path / "own" / "page.html"
    assert explain(hostile, networks, path, 6, silent) == 6
    text = path.read_text()
    assert private(path)
    assert text.count("<figure>") == text.count("data:image/png;base64,") == 6
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<script>" not in text
    assert "must not leave it" in text
    # the classes take turns, so that the page does not show the commonest alone
    assert text.count("true class class 0") == text.count("true class class 1") == 3


@pytest.mark.parametrize("how", ["nan", "shape", "missing", "grid"])
def test_networks_are_checked_before_they_are_used(
    cohort: Cohort, networks: Networks, tmp_path: Path, how: str
) -> None:
    arrays = dict(networks.state["image"])
    name = next(n for n, a in arrays.items() if a.ndim > 1)
    array = arrays.pop("grid" if how == "grid" else name)
    if how == "nan":
        arrays[name] = np.full_like(array, np.nan)
    elif how == "shape":
        arrays[name] = array[:1]
    elif how == "grid":
        arrays["grid"] = np.full_like(array, 10**6)
    hostile = dataclasses.replace(networks, state={**networks.state, "image": arrays})
    for work in (
        lambda: embed(cohort, hostile, tmp_path, silent),
        lambda: explain(cohort, hostile, tmp_path / "page.html", 1, silent),
    ):
        with pytest.raises(DataError) as caught:
            work()
        assert caught.value.code == "D00"


def test_who_has_no_image_is_told_so(cohort: Cohort, networks: Networks, tmp_path: Path) -> None:
    none = dataclasses.replace(cohort, pictures=(), modalities=frozenset({"table"}))
    for work in (
        lambda: embed(none, networks, tmp_path, silent),
        lambda: explain(none, networks, tmp_path / "x.html", 3, silent),
    ):
        with pytest.raises(DataError, match="no case has an image") as caught:
            work()
        assert caught.value.code == "D09"


@pytest.mark.parametrize("fault", ["altered", "lost", "another version"])
def test_a_model_that_is_not_the_runs_is_refused(
    fault: str, cohort: Cohort, model: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for f in model.iterdir():
        (folder / f.name).write_bytes(f.read_bytes())
    if fault == "altered":
        blob = bytearray((folder / "model.state").read_bytes())
        blob[-1] ^= 1
        (folder / "model.state").write_bytes(blob)
    elif fault == "lost":
        (folder / "model.json").unlink()
    else:
        text = json.dumps(
            {
                **json.loads((folder / "model.json").read_bytes()),
                "learners": {"image": {"colour": 3}},
            }
        ).encode()
        (folder / "model.json").write_bytes(text)
        known = (folder / "SHA256SUMS").read_text().splitlines()
        sums = [line for line in known if "json" not in line] + [
            f"{hashlib.sha256(text).hexdigest()}  model.json"
        ]
        (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    site = tmp_path / "site.toml"
    site.write_text('name = "A"\ndata = "."\nstudies = ["liver_recurrence"]\n')
    assert (
        main(
            [
                "embed",
                "--site",
                str(site),
                "--study",
                "liver_recurrence",
                "--model",
                str(folder),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 3
    )
    said = capsys.readouterr().err
    assert "[D00]" in said
    assert str(folder) in said


def test_options_out_of_range_are_refused(model: Path, tmp_path: Path, capsys: Any) -> None:
    given = [
        "--site",
        "x.toml",
        "--study",
        "liver_recurrence",
        "--model",
        str(model),
        "--out",
        str(tmp_path / "p.html"),
    ]
    assert main(["explain", *given, "--patients", "0"]) == 2
    assert "--patients 0" in capsys.readouterr().err
