"""What `model/` holds for other programs gives what the learners themselves give; fedmets is not
needed to open it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from common.data.cohort import Cohort, Fold
from common.federated.learner import configured, fit, local_plan
from common.learners.autoencoder import Autoencoder
from common.learners.boosting import Boosting
from common.learners.fusion import Fusion
from common.learners.image import Image
from common.learners.logistic import Logistic
from common.learners.preprocessing import LEARNER as PREPARE
from common.learners.segmentation import Segmentation
from common.study.study import Study, Task
from common.types import State
from server.config.run_config import Run
from server.export import model_folder, onnx_export
from tests import pictures
from tests.paths import ROOT

pytestmark = pytest.mark.slow
"""torch's tracer alone takes seconds."""
IMAGE = configured(Image(), {"grid": (8, 12, 12), "rounds": 2, "epochs": 2, "segmentation": False})
CODER = configured(Autoencoder(), {"grid": (8, 12, 12), "dimensions": 4, "rounds": 1, "epochs": 1})
OUTLINER = configured(Segmentation(), {"grid": (16, 16, 16), "rounds": 1, "epochs": 1})
TREES = Boosting(trees=3)
FUSION = Fusion(learners={"image": {"segmentation": False, "grid": [8, 12, 12]}})


@dataclass(frozen=True)
class Left:
    """A model folder, and what it was made of."""

    folder: Path
    cohort: Cohort
    state: State
    study: Study
    report: dict[str, Any]

    def write(self, folder: Path) -> None:
        heads = (Logistic(), TREES, IMAGE, FUSION)
        model_folder.write(
            folder,
            Run(study="t", parts=3),
            self.study,
            next(iter(self.study.tasks)),
            self.state,
            heads,
            self.report,
        )


def result(name: str, metric: str, value: float | None, **more: Any) -> dict[str, Any]:
    row = {
        "model": name,
        "arm": "federated",
        "evaluation": "within_site",
        "site": "all",
        "metric": metric,
        "value": value,
    }
    known = value is not None
    limits = {
        "low": value - 0.1 if value is not None else None,
        "high": value + 0.1 if value is not None else None,
    }
    return {**row, **limits, "n": 40, "events": 20, "estimable": known, **more}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    cohort = dataclasses.replace((a := pictures.sites(40, 1)[0]), pictures=(None, *a.pictures[1:]))
    plan, state = local_plan(Fold(), 0, 3), {}
    for learner in (PREPARE, Logistic(), TREES, CODER, OUTLINER, IMAGE):
        state = fit(learner, state, [cohort], plan)
    classes, r = len(cohort.schema.label.classes), np.random.default_rng(1)
    codes = CODER.latent(state, cohort)[1:]
    state["fusion"] = {
        "coefficients": r.normal(0, 0.5, (4, classes - 1, 2 + 4)), "mean": codes.mean(0),
        "scale": codes.std(0), "rounds": np.array(3),
        "image_mean": np.zeros(classes - 1), "converged": np.array(True), "cases": np.array(39),
    }  # fmt: skip
    time = cohort.schema.times[-1]
    study = Study("t", 'Is it: "so"?', cohort.schema, {time: Task(time, "Not for use.")})
    report: dict[str, Any] = {
        "fedmets": "0.1.0", "state_hash": "ab" * 32, "ledger_head": "cd" * 32, "seed": 0,
        "synthetic": True, "alarms": ["one: two"],
        "not_run": [], "research_use_only": "Research use only.", "interval": "95 % bootstrap", 
        "sites": [{"name": "A", "n": 40, "events": 20}],
        "label": {"name": "y", "title": "", "classes": list(cohort.schema.label.classes),
        "source": "a: column #1"}, "features": [],
        "results": [result("image", "auc", 0.7), result("fusion", "auc", None), result("logistic",
        "brier", 0.2)],
    }  # fmt: skip
    made = Left(tmp_path_factory.mktemp("left") / "model", cohort, state, study, report)
    made.write(made.folder)
    return made


def crops_of(left: Left, i: int) -> np.ndarray[Any, Any]:
    rows = left.cohort.where(left.cohort.imaged)
    return np.asarray(IMAGE.crops(left.state, rows)[i], np.float32)


def test_onnx_gives_the_learners_log_odds(left: Left) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        left.folder / "image.onnx", providers=["CPUExecutionProvider"]
    )
    rows = left.cohort.where(left.cohort.imaged)
    counts = set()
    for i, expected in enumerate(IMAGE.logits(left.state, rows)):
        crops = crops_of(left, i)
        counts.add(len(crops))
        _, log_odds = session.run(
            None, {"crops": crops, "present": np.ones((len(crops), 2), np.float32)}
        )
        assert log_odds.mean(0) == pytest.approx(expected, abs=1e-5)
    assert len(counts) > 1
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(left.cohort.schema.label.classes)
    assert json.loads(told["grid"]) == [8, 12, 12]
    assert told["state_hash"] == left.report["state_hash"]
    assert {
        "study",
        "task",
        "channels",
        "spacing_mm",
        "crop_mm",
        "intensity",
        "version",
        "schema",
        "patient",
        "inputs",
    } <= set(told)


def test_the_other_networks_leave_too(left: Left) -> None:
    import onnxruntime
    import torch

    for network in onnx_export.trained_networks(left.cohort.schema, left.state):
        blob = onnx_export.onnx(network, onnx_export.traced(network), {})
        session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
        for n in (1, 4):
            r = np.random.default_rng(n)
            given = {
                name: r.random((n, *shape), dtype=np.float32)
                for name, (shape, _) in network.inputs.items()
            }
            with torch.inference_mode():
                truth = network.module.eval()(*map(torch.from_numpy, given.values()))
            for one, other in zip(
                session.run(None, given),
                truth if isinstance(truth, tuple) else (truth,),
                strict=True,
            ):
                assert one == pytest.approx(other.numpy(), abs=1e-5)


def test_the_same_state_leaves_the_same_bytes_in_another_process_too(
    left: Left, tmp_path: Path
) -> None:
    left.write(tmp_path / "again")
    names = sorted(str(p.relative_to(left.folder)) for p in left.folder.rglob("*") if p.is_file())
    assert names == sorted(
        str(p.relative_to(tmp_path / "again"))
        for p in (tmp_path / "again").rglob("*")
        if p.is_file()
    )
    assert [
        n for n in names if (left.folder / n).read_bytes() != (tmp_path / "again" / n).read_bytes()
    ] == []
    assert b"/site-packages/" not in (left.folder / "image.onnx").read_bytes()


def test_checksums_cover_every_file(left: Left) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"],
        cwd=left.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = {
        line.split("  ", 1)[1] for line in (left.folder / "SHA256SUMS").read_text().splitlines()
    }
    assert told | {"SHA256SUMS"} == {
        str(p.relative_to(left.folder)) for p in left.folder.rglob("*") if p.is_file()
    }
    assert "bundle/models/model.pt" in told


def outside(code: str, *argv: str, cwd: Path) -> str:
    """Run where fedmets cannot be imported: not even by its installation."""
    fence = (
        "import sys\n"
        "class Fence:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('common', 'client', 'server', 'simulation'): raise "
        "ImportError('fenced: ' + name)\n"
        "sys.meta_path.insert(0, Fence())\n"
    )
    env = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", fence + code, *argv],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_bundle_runs_without_fedmets_and_gives_the_learners_probabilities(
    left: Left, tmp_path: Path
) -> None:
    rows = left.cohort.where(left.cohort.imaged)
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", crops_of(left, i))
    words = [
        "run",
        "--config_file",
        "configs/inference.json",
        "--meta_file",
        "configs/metadata.json",
    ]
    outside(
        "import runpy, os; sys.path.insert(0, os.getcwd()); runpy.run_module('monai.bundle', "
        "run_name='__main__')",
        *words, "--dataset_dir", str(tmp_path), "--output_dir", str(tmp_path / "out"),
        cwd=left.folder / "bundle",
    )  # fmt: skip
    lines = [
        line.split(",") for line in (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    ]
    assert lines[0] == ["patient", *left.cohort.schema.label.classes]
    found = np.array([[float(v) for v in line[1:]] for line in lines[1:]])
    assert found == pytest.approx(IMAGE.predict(left.state, rows)[:6], abs=1e-5)


def test_the_bundle_s_program_needs_torch_alone(left: Left, tmp_path: Path) -> None:
    crops = crops_of(left, 2)
    np.save(tmp_path / "crops.npy", crops)
    code = (
        "import numpy, torch\n"
        "crops = torch.from_numpy(numpy.load(sys.argv[1]))\n"
        "program = torch.export.load('models/model.pt2').module()\n"
        "print(program(crops, torch.ones(len(crops), 2))[1].mean(0).tolist()[0])\n"
    )
    told = float(outside(code, str(tmp_path / "crops.npy"), cwd=left.folder / "bundle"))
    rows = left.cohort.where(left.cohort.imaged)
    assert told == pytest.approx(IMAGE.logits(left.state, rows)[2, 0], abs=1e-5)


def test_the_bundle_s_network_is_what_its_metadata_says(left: Left) -> None:
    meta = json.loads((left.folder / "bundle/configs/metadata.json").read_text())
    asked = {"version", "changelog", "monai_version", "pytorch_version", "numpy_version",
    "required_packages_version", "task",
             "description", "authors", "copyright", "data_source", "data_type", "intended_use",
             "network_data_format"}  # fmt: skip
    assert asked <= set(meta)
    assert meta["authors"] == "MISSING"
    words = [
        "verify_net_in_out",
        "network_def",
        "--config_file",
        "configs/inference.json",
        "--meta_file",
        "configs/metadata.json",
    ]
    code = (
        "import runpy, os; sys.path.insert(0, os.getcwd()); runpy.run_module('monai.bundle', "
        "run_name='__main__')"
    )
    outside(code, *words, cwd=left.folder / "bundle")


def test_the_fusion_can_be_recomputed_by_hand(left: Left) -> None:
    told = json.loads((left.folder / "fusion.json").read_text())
    assert told["clinical"] == "logistic"
    rows = left.cohort
    clinical = Logistic().predict(left.state, rows)
    image, codes = IMAGE.logits(left.state, rows), CODER.latent(left.state, rows)
    expected = FUSION.predict(left.state, rows)
    for i in range(len(rows)):
        eta = [0.0]
        for k, one in enumerate(told["classes"]):
            z = np.log(clinical[i, 1 + k]) - np.log(clinical[i, 0]) + one["intercept"]
            part = one["image_log_odds"]
            z += part["coefficient"] * (image[i, k] - part["mean"]) / part["spread"]
            z += sum(
                c["coefficient"] * (v - c["mean"]) / c["scale"]
                for c, v in zip(one["latent_code"], codes[i], strict=True)
            )
            eta.append(z)
        by_hand = np.exp(eta) / np.exp(eta).sum() if rows.imaged[i] else clinical[i]
        assert by_hand == pytest.approx(expected[i], abs=1e-9)


def test_the_card_opens_with_yaml_and_invents_nothing(left: Left) -> None:
    text = (left.folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["library_name"] == "fedmets"
    index = {r["task"]["name"].partition(":")[0]: r for r in told["model-index"][0]["results"]}
    assert set(index) == {"image", "logistic"}  # what is not estimable is in no index
    assert index["image"]["metrics"] == [
        {"type": "roc_auc", "name": "AUC of patient pairs within sites", "value": 0.7,
         "args": {"low": pytest.approx(0.6), "high": pytest.approx(0.8), "n": 40, "events": 20}}
    ]  # fmt: skip
    assert "fusion, within_site, auc: not estimable" in body
    for field in ("Developer", "Release", "Intended use", "Workflow", "Primary users",
    "Out of scope, cautions", "Licence",
                  "Usefulness", "Fairness", "Safety and reliability", "Training data",
                  "Known risks and limits", "Bias mitigation", "Maintenance"):  # fmt: skip
        assert field in body
    assert body.count("MISSING") > 8
    assert "Not for use." in body


def test_the_page_s_examples_run(left: Left, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "model.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    mine = [b for b in blocks if "site.toml" not in b]
    assert len(mine) == len(blocks) - 1 >= 5
    (tmp_path / "model").symlink_to(left.folder)
    np.save(tmp_path / "crops.npy", crops_of(left, 1))
    told = outside("".join(f"exec({b!r}, {{}})\n" for b in mine), cwd=tmp_path)
    odds = [float(x) for x in re.findall(r"log-odds: [^\d-]*(-?[\d.]+(?:e-?\d+)?)", told)]
    expected = IMAGE.logits(left.state, left.cohort.where(left.cohort.imaged))[1, 0]
    assert odds == pytest.approx([expected] * 2, abs=1e-4)
    for name in (p.name for p in left.folder.iterdir()):
        assert f"`{name}" in page, name


def test_what_cannot_be_exported_costs_no_model(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(network: onnx_export.Network) -> Any:
        raise RuntimeError("no such operator\nand a page of it")

    monkeypatch.setattr(onnx_export, "traced", broken)
    left.write(tmp_path)
    assert not list(tmp_path.glob("*.onnx"))
    assert (tmp_path / "model.state").read_bytes() == (left.folder / "model.state").read_bytes()
    assert (
        "Not exported for other programs: image: RuntimeError: no such operator\n"
        in (tmp_path / "README.md").read_text()
    )
    assert "image: RuntimeError" in caplog.text


def test_a_table_alone_leaves_no_network(left: Left, tmp_path: Path) -> None:
    state = {n: left.state[n] for n in ("preprocessing", "logistic")}
    model_folder.write(
        tmp_path,
        Run(study="t", parts=3),
        left.study,
        next(iter(left.study.tasks)),
        state,
        (Logistic(),),
        left.report,
    )
    assert {p.name for p in tmp_path.rglob("*")} == {
        "README.md", "SHA256SUMS", "coefficients.csv", "model.json", "model.state",
        "preprocessing.json", "schema.json",
    }  # fmt: skip
    told = json.loads((tmp_path / "model.json").read_text())
    assert (told["seed"], told["parts"], told["sites"]) == (0, 3, ["A"])
    assert io.BytesIO((tmp_path / "model.state").read_bytes()).getbuffer().nbytes > 100
